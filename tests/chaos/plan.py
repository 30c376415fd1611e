"""What every client of a run is going to do, drawn from a seed: what it asks, when, and in which moment it leaves."""

import json
import random
from collections.abc import Iterator, Sequence
from typing import Literal

from msgspec import Struct

from hermes.simulator import SimulatedModel, SimulatorConfig

RATE_PER_S = 95.0
# Of every so many clients, that many come in one moment: more than run and wait at once.
CROWD_EVERY, CROWD = 250, 60
# All backends are gone for a while, so that two probes in a row fail.
OUTAGE_EVERY, OUTAGE_S = 2500, 2.5
# One of them is, in turn: it dies, or its models hang, though it lists them (`for` half a second after the last).
TROUBLE_EVERY, TROUBLE_S = 400, 1.0
BACKENDS = ("first", "second", "third")
# Conversations whose names some requests tell.
SESSIONS = 12

KEYS = {"sk-writer": "writer", "sk-editor": "editor", "sk-editor-2": "editor", "sk-crowd": "crowd"}
OPERATOR_KEY = "sk-operator"
# Of everything more than they take: nobody is refused by it, everything is counted.
PLENTY = {"rpm": 10**6, "tpm": 10**9, "daily_tokens": 10**12, "monthly_tokens": 10**12}

Way = Literal["reset", "close", "half"]


class WhileSending(Struct, frozen=True):
    """The client leaves when this share of its request has been sent."""

    share: float


class After(Struct, frozen=True):
    """The client leaves so long after it has sent its request, whatever has become of that."""

    delay_s: float


class InStream(Struct, frozen=True):
    """The client leaves when it has read so many pieces of the answer."""

    pieces: int


Leave = WhileSending | After | InStream


class Ask(Struct, frozen=True):
    """One client's request. `content_chars` is the length of a whole answer's text.

    `named`: it brings an id of its own. Heads that do not come again and again, but for the body's length.
    """

    number: int
    at_s: float
    path: str
    key: str
    body: bytes
    stream: bool
    named: bool
    session: str
    content_chars: int
    reuses: bool
    leave: Leave | None
    way: Way

    @property
    def id(self) -> str:
        return name(self.number)

    @property
    def bytes(self) -> bytes:
        named = f"x-request-id: {self.id}\r\n" if self.named else ""
        named += f"x-hermes-session: {self.session}\r\n" if self.session else ""
        head = (
            f"POST {self.path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {self.key}\r\n"
            f"{named}content-length: {len(self.body)}\r\n\r\n"
        )
        return head.encode() + self.body


def name(number: int) -> str:
    return f"chaos-{number:06}"


def asks(count: int, seed: int) -> Iterator[Ask]:
    """A run, in the order of arrival."""
    rng = random.Random(seed)
    at_s = 0.0
    for number in range(count):
        if number % CROWD_EVERY >= CROWD:
            at_s += rng.expovariate(RATE_PER_S * (1 - CROWD / CROWD_EVERY))
        yield _ask(number, at_s, rng)


def outages(count: int) -> Iterator[int]:
    """The numbers of the clients with whose arrival all backends go away."""
    yield from range(OUTAGE_EVERY // 2, count, OUTAGE_EVERY)


def troubles(count: int) -> Iterator[tuple[int, int, str]]:
    """With whose arrival one backend fails, which, and how."""
    for turn, number in enumerate(range(TROUBLE_EVERY // 4, count, TROUBLE_EVERY)):
        yield number, turn % len(BACKENDS), ("reset;after=0", "hang;for=10")[turn % 2]


def _ask(number: int, at_s: float, rng: random.Random) -> Ask:
    asking, stream = rng.choice(_ASKING), rng.random() < 0.6
    leave = _leave(stream, rng) if rng.random() < 0.48 else None
    # Those who leave mostly ask for more than they would ever get: only their leaving ends the run.
    tokens = 5000 if leave is not None and rng.random() < 0.75 else rng.randint(3, 45)
    model = rng.choices(("gemma", "fast", "mistral", "qwen3", "llama3.2"), (36, 10, 20, 20, 14))[0]
    key = rng.choices(tuple(KEYS), (3, 2, 1, 4))[0]
    content = f"[[tag:{name(number)}]] [[tokens:{tokens}]] Tell me about tides, harbours and lighthouses."
    match _mistake(rng):
        case "key":
            key = "sk-unknown"
        case "model":
            model = "missing"
        case "overlong":
            content += " wave" * rng.randint(4000, 60_000)
        case "json":
            content = content.replace("Tell", "\ud800")
        case "field":
            stream = "yes"  # type: ignore[assignment]  # a boolean is expected
    path, body = asking(model, content, stream)
    return Ask(
        number=number,
        at_s=at_s,
        path=path,
        key=key,
        body=json.dumps(body).encode(),
        stream=stream is True,
        # Who leaves before the answer would never be told the id that its request got.
        session=f"talk-{rng.randrange(SESSIONS)}" if rng.random() < 0.5 else "",
        named=isinstance(leave, After | InStream) or rng.random() < 0.3,
        content_chars=4 * tokens,
        reuses=rng.random() < 0.4,
        leave=leave,
        way=rng.choice(("reset", "close", "half")),
    )


def _leave(stream: bool, rng: random.Random) -> Leave:
    kind = rng.random()
    if kind < 0.15:
        return WhileSending(rng.choice((0.0, rng.random(), rng.random(), 0.999)))
    if kind < 0.25:
        return After(0.0)
    if stream and kind < 0.55:
        return InStream(rng.randint(1, 60))
    return After(10 ** rng.uniform(-3.0, 0.1))


def _mistake(rng: random.Random) -> str:
    return rng.choices(("", "key", "model", "overlong", "json", "field"), (94, 2, 1, 1, 1, 1))[0]


def _chat(model: str, content: str, stream: bool) -> tuple[str, dict[str, object]]:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": content}]
    return "/v1/chat/completions", {"model": model, "messages": messages, "stream": stream}


def _messages(model: str, content: str, stream: bool) -> tuple[str, dict[str, object]]:
    said = [{"role": "user", "content": [{"type": "text", "text": content}]}]
    return "/v1/messages", {"model": model, "system": "Be brief.", "messages": said, "stream": stream}


def _responses(model: str, content: str, stream: bool) -> tuple[str, dict[str, object]]:
    said = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": content}]
    return "/v1/responses", {"model": model, "input": said, "stream": stream}


def _completions(model: str, content: str, stream: bool) -> tuple[str, dict[str, object]]:
    return "/v1/completions", {"model": model, "prompt": content, "max_tokens": 9999, "stream": stream}


def _prompt(model: str, content: str, stream: bool) -> tuple[str, dict[str, object]]:
    return f"/v1/llm/{model}", {"prompt": content, "stream": stream}


def _ollama_chat(model: str, content: str, stream: bool) -> tuple[str, dict[str, object]]:
    return "/api/chat", _chat(model, content, stream)[1]


def _generate(model: str, content: str, stream: bool) -> tuple[str, dict[str, object]]:
    return "/api/generate", {"model": model, "system": "Be brief.", "prompt": content, "stream": stream}


_ASKING = (_chat, _messages, _prompt, _responses, _completions, _ollama_chat, _generate)

# --- all servers ---------------------------------------------------------------------------------------------------

_SLOTS = {"gemma": 6, "mistral": 3, "qwen3": 3, "llama3.2": 1}
_MAX_CONCURRENT = 8
_FAST = 2  # of the model with two names
# By model, by model and backend, and in all. A backend's slots are shared by all names of a model, its caps are not.
MOST_AT_ONCE = _SLOTS | {"gemma": _SLOTS["gemma"] + _FAST, "*": _MAX_CONCURRENT}
MOST_AT_ONCE |= {f"{model} on {name}": slots for model, slots in _SLOTS.items() for name in BACKENDS}

_FAULTS = {
    "stall": 0.01, "stall;for=0.3": 0.02, "cut": 0.02, "reset": 0.02, "error-line": 0.02, "crash": 0.005, "busy": 0.02,
    "html": 0.01, "html;status=502": 0.01, "slow-load;for=0.4": 0.05, "load-fail": 0.05, "garbage": 0.02,
    "long-line": 0.005, "drip": 0.03, "repeat-abort": 0.01, "endless": 0.01, "wrong-usage": 0.02,
}  # fmt: skip


def backend(seed: int) -> SimulatorConfig:
    models = (
        SimulatedModel("gemma", load_s=2.5, slots=6, decode_tps=40, capabilities=("completion", "tools", "vision")),
        SimulatedModel("mistral", load_s=1.5, slots=3, decode_tps=55, capabilities=("completion", "tools")),
        SimulatedModel(
            "qwen3", load_s=2.0, slots=3, decode_tps=60, capabilities=("completion", "thinking"), built_in_parser=True
        ),
        SimulatedModel("llama3.2", load_s=1.0, slots=1, decode_tps=50),
    )
    return SimulatorConfig(models=models, max_loaded_models=0, speed=20, jitter=0.5, seed=seed, faults=_FAULTS)


def gateway(urls: Sequence[str], access_log: str) -> dict[str, object]:
    """Small bounds and short deadlines: some wait, some wait too long, some are refused."""
    patience = {"timeout_s": 2, "stall_timeout_s": 0.5, "max_stream_s": 3}
    models: dict[str, dict[str, object]] = {
        model: {"max_concurrency": slots, "queue_limit": 3 * slots} for model, slots in _SLOTS.items()
    }
    models["fast"] = {"backend_model": "gemma", "max_concurrency": _FAST, "queue_limit": 4}
    models["llama3.2"] |= {"timeout_s": 0.7, "queue_limit": 20}
    return {
        "server": {"port": 0, "keep_alive_s": 600},
        "backends": [
            {"name": name, "url": url, "probe_interval_s": 1, "weight": weight}
            for name, url, weight in zip(BACKENDS, urls, (1, 1, 2), strict=True)
        ],
        "health": {"silence_s": 0.3, "probe_timeout_s": 0.3, "pause_s": 0.2},
        "models": models,
        "defaults": patience,
        "limits": {
            "max_concurrent": _MAX_CONCURRENT,
            "queue_total": 36,
            "queue_bytes": "256KiB",
            "per_tenant_queue": 16,
        },
        "logging": {"access_log": access_log},
    }
