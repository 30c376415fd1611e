"""What every client is to do, and what has to come of it: the one place where anything is judged."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.conformance.engines import Engine
from tests.conformance.environments import Client
from tests.conformance.gateway import AWAY, BROKEN, KEY, NARROW, STORY, Gateway
from tests.conformance.running import until
from tests.conformance.script import Script

Facts = dict[str, Any]

# A dot.
_PNG = "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAAF0lEQVR42mNk+M9AEmAiTfmohlENQ0kDAD+gAh/oY2y9AAAAAElFTkSuQmCC"
_TOOL = {
    "name": "get_weather",
    "description": "The weather in a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
_SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "people": {"type": "integer"}},
    "required": ["city", "people"],
    "additionalProperties": False,
}
# Where a client's own retries do no harm to the test they are left to it (None).
_ASK: Facts = {
    "key": KEY,
    "model": "chat",
    "prompt": "Explain relativity.",
    "max_tokens": 400,
    "retries": None,
    "patience_s": None,
    "extra": {},
    "long": False,
    "tool": _TOOL,
    "result": "cold",
    "schema": _SCHEMA,
    "image": _PNG,
    "texts": ["a cold day", "a warm night"],
}
# An answer that is not over by itself.
_LONG: Facts = {"model": "endless", "prompt": STORY, "long": True}
_FREED_WITHIN_S = 1.0
_PATIENCE_S = 1.5


class Wrong(Exception):
    """It did not come out as it has to. The text says what did, without anything that differs from run to run."""


@dataclass(slots=True)
class Case:
    """One client in front of one engine."""

    client: Client
    engine: Engine
    gateway: Gateway
    script: Script
    told: Facts = field(default_factory=dict)

    def do(self, what: str, **ask: Any) -> Facts:
        """The facts. Raises Wrong where there are none because the client raised an error."""
        facts = self.try_(what, **ask)
        if "raised" in facts:
            raise Wrong(f"{facts['raised'][0]}: {facts['message']}")
        return facts

    def try_(self, what: str, **ask: Any) -> Facts:
        return self.script.do({"do": what, "url": self.gateway.url, **_ASK, **ask})


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Wrong(otherwise)


# --- what succeeds --------------------------------------------------------------------------------------------------


def chat(case: Case) -> None:
    facts = case.do("chat")
    _require(bool(facts["text"]), "there is no text")
    _require(bool(facts["tokens"]), "the tokens are not counted")
    case.told["text"] = facts["text"]


def stream(case: Case) -> None:
    pieces = case.do("stream")["pieces"]
    _require(len(pieces) > 1, "it came in one piece")
    _require("".join(pieces) == case.told.get("text"), "streamed it is another text")


def tools(case: Case) -> None:
    known = case.client.tools or {_TOOL["name"]: "city"}
    for what in ("tool", "tool_streamed"):
        facts = case.do(what, prompt="Use a tool: how is the weather in Oslo?")
        _require(facts["name"] in known, f"{facts['name']} was called")
        _require(isinstance(facts["arguments"].get(known[facts["name"]]), str), "the arguments are none")
        _require(facts.get("text") != "", "there is no text after the tool")


def schema(case: Case) -> None:
    value = case.do("schema", prompt="Tell me of a city.")["value"]
    _require(isinstance(value["city"], str) and isinstance(value["people"], int), "it is not of the schema")


def image(case: Case) -> None:
    if "seer" in case.engine.models:
        _require(bool(case.do("image", model="seer")["text"]), "there is no text")
    _refused(case, "image", "400", "image", model="chat")


def embeddings(case: Case) -> None:
    first, second = case.do("embeddings", model="embedder")["vectors"]
    _require(len(first) == len(second) > 1 and first != second, "the vectors are none")


def thoughts(case: Case) -> None:
    facts = case.do("thoughts", model="thinker")
    _require(bool(facts["thoughts"]), "there are no thoughts")
    _require(bool(facts["text"]), "there is no text")


# --- what fails -----------------------------------------------------------------------------------------------------


def wrong_key(case: Case) -> None:
    _refused(case, "chat", "401", "key", key="sk-wrong")


def unknown_model(case: Case) -> None:
    _refused(case, "chat", "404", "nobody", model="nobody")


def bad_value(case: Case) -> None:
    _refused(case, "chat", "400", "temperature", extra={"temperature": 9})


def overlong(case: Case) -> None:
    _refused(case, "chat", "overlong", "", prompt="x " * 90_000)


def queue_full(case: Case) -> None:
    with case.gateway.full():
        _refused(case, "chat", "429", "queue", model=NARROW, retries=0)


def no_backend(case: Case) -> None:
    _refused(case, "chat", "503", AWAY, model=AWAY, retries=0)
    with case.gateway.drained(BROKEN):
        _refused(case, "chat", "503", BROKEN, model=BROKEN, retries=0)


def cut(case: Case) -> None:
    _refused(case, "stream", "cut", "backend", **_LONG | {"model": BROKEN})


# What a client says may be the status, if it says any. LiteLLM has one for all that is a server's fault.
_STATUSES = {"401": [401], "404": [404], "400": [400], "overlong": [400], "429": [429], "503": [503, 500]}


def _refused(case: Case, what: str, kind: str, words: str, **ask: Any) -> None:
    """It is the client's own class of error, with our words, and was asked for once."""
    before = case.gateway.asked()
    facts = case.try_(what, **ask)
    _require("raised" in facts, "it was taken for a success")
    expected = case.client.errors[kind]
    _require(expected in facts["raised"], f"{facts['raised'][0]}, not {expected}: {facts['message']}")
    _require(words in facts["message"], f"our words are missing: {facts['message']}")
    status = facts["status"]
    _require(status is None or status in _STATUSES.get(kind, [status]), f"the status is {status}")
    times = case.gateway.asked() - before
    _require(times == 1, f"asked {times} times")


def cancel(case: Case) -> None:
    """Who leaves in the middle of a stream frees the engine, as the engine itself shows."""
    until(lambda: not case.gateway.busy(), "the engine was busy before")
    case.do("hold", **_LONG)
    _require(case.gateway.busy(), "the engine does not run it")
    case.do("leave")
    _freed(case)


def timeout(case: Case) -> None:
    """Who waits for a whole answer no longer frees the engine, likewise."""
    until(lambda: not case.gateway.busy(), "the engine was busy before")
    with ThreadPoolExecutor() as threads:
        asking = threads.submit(case.try_, "chat", **_LONG | {"max_tokens": 3500}, retries=0, patience_s=_PATIENCE_S)
        until(lambda: case.gateway.busy() or asking.done(), "the engine does not run it")
        facts = asking.result()
    _require("raised" in facts, "it was taken for a success")
    _freed(case)


def _freed(case: Case) -> None:
    try:
        until(lambda: not case.gateway.busy(), "", _FREED_WITHIN_S)
    except TimeoutError:
        raise Wrong("the slot is not free within a second") from None


class Task(NamedTuple):
    told: str
    do: Callable[[Case], None]


# In the order in which they are done, by what the page calls them.
TASKS = {
    "chat": Task("a whole answer, its tokens counted", chat),
    "stream": Task("the same text, in pieces", stream),
    "tools": Task(
        "a tool is called, whole and streamed; its result goes back, the model answers (of agents: their own tools)",
        tools,
    ),
    "schema": Task("an answer of a JSON Schema, by the client's own means", schema),
    "image": Task("a model that sees is shown one; one that does not refuses it clearly", image),
    "embeddings": Task("vectors of two texts", embeddings),
    "thoughts": Task("a model that thinks is asked to; its thoughts come apart from its answer", thoughts),
    "401": Task("a wrong key", wrong_key),
    "404": Task("an unknown model", unknown_model),
    "400": Task("a value out of its range", bad_value),
    "overlong": Task("a prompt that is longer than the context", overlong),
    "429": Task("the queue is full", queue_full),
    "503": Task("the only backend that may serve the model is down, then one that is drained", no_backend),
    "cut": Task("the backend goes away in the middle of a stream", cut),
    "cancel": Task("the client leaves a stream: the engine is idle within a second, as it says itself", cancel),
    "timeout": Task("the client waits no longer for a whole answer, by its own time limit: likewise", timeout),
}


def outcomes(client: Client, engine: Engine, gateway: Gateway) -> dict[str, str | None]:
    """By task what was wrong; None: nothing."""
    told: dict[str, str | None] = {}
    refused = client.refused_by_ollama if engine.kind == "ollama" else {}
    with ExitStack() as stack:
        case = Case(client, engine, gateway, stack.enter_context(Script(client)))
        for name, task in TASKS.items():
            if client.why_not(name):
                continue
            wrong = _wrong(task.do, case)
            if name in refused:
                wrong = None if wrong and "cannot be forced" in wrong else wrong or "it was not refused"
            told[name] = wrong
            print(f"    {name}: {wrong or 'ok'}", flush=True)
    return told


def _wrong(task: Callable[[Case], None], case: Case) -> str | None:
    try:
        task(case)
    except (Wrong, RuntimeError, OSError) as error:
        return str(error)
    return None
