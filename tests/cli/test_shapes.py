"""Whatever a server answers, a verb ends with what it was asked for or with a sentence, never with a traceback."""

import asyncio
import copy
import json
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from io import BytesIO
from typing import Any

import pytest

from hermes.cli import remote
from tests.cli.verbs import Run, ask
from tests.fakes.backend import DONE, loaded, ollama, play
from tests.fakes.gateway import CHAT, PROMPT, bearer, chat, hermes, hold_slot, key, prompt, scenario

ODD: list[Any] = [None, True, 0, -1, 1e300, 10**400, float("nan"), "", "x", "\ud800", [], [None], {}, {"x": 1}]
LOOKS = {
    "/v1/status": (["status"], ["ps"]),
    "/v1/queue": (["queue"],),
    "/v1/requests?limit=20": (["logs"],),
    "/v1/models": (["models"],),
    "/v1/usage": (["usage"],),
    "/v1/requests/waits": (["why", "waits"],),
    "/v1/requests/runs": (["why", "runs"],),
    "/v1/events": (["top", "--once"], ["top", "--once", "--json"]),
    "/v1/requests?limit=1000": (["top", "--once"],),
    "/v1/queue/end": (["cancel", "end"],),
    "/v1/llm/gemma/load": (["load", "gemma"],),
    "/v1/llm/gemma/unload": (["unload", "gemma"],),
    "/v1/llm/gemma": (["ask", "gemma", "Hi", "--stats"],),
    "/v1/llm/gemma/pull": (["pull", "gemma"],),
    "/v1/reload": (["reload"],),
    "/v1/backends/b0/drain": (["drain", "b0"],),
}
DONE_BY: dict[str, Any] = {
    "/v1/queue/end": {"request_id": "end", "user": "ann", "model": "gemma"},
    "/v1/llm/gemma/load": {"model": "gemma", "loaded": ["b0"]},
    "/v1/llm/gemma/unload": {"model": "gemma", "unloading": ["b0"], "active": 1},
    "/v1/llm/gemma": {
        "done": True,
        "delta": "Hi",
        "reason": "stop",
        "usage": {"prompt_tokens": 1, "completion_tokens": 2},
        "timings": {"queue_ms": 1.0},
    },
    "/v1/llm/gemma/pull": {"status": "pulling", "digest": "sha256:1", "total": 2, "completed": 1},
    "/v1/reload": {"needs_restart": ["server.port"]},
    "/v1/backends/b0/drain": {"backend": "b0", "draining": True, "active": 1},
    "/v1/events": None,
}


@scenario
async def gather(verb: Run, answers: dict[str, Any]) -> None:
    """What a Hermes answers on which something is going on, by path."""
    models = {"gemma": {"max_concurrency": 1}, "phi": {}}
    config = {"keys": [key("ann", admin=True)], "models": models}
    async with ollama("gemma:latest", "phi:latest") as backend, hermes(backend, **config) as gateway:
        ann = bearer("ann")
        backend.loaded.append(loaded("gemma:latest"))
        await gateway.ask(CHAT, chat(), ann)
        backend.default = play(asyncio.Event(), DONE)
        calls = [await hold_slot(gateway, backend, headers={**ann, "x-request-id": "runs"})]
        calls.append(await gateway.open(PROMPT, prompt(), {**ann, "x-request-id": "waits"}))
        await gateway.until_waiting(1)
        answers |= {path: (await gateway.ask(path, None, ann)).json for path in LOOKS if path not in DONE_BY}
        state = await ask(verb, gateway, "top", "--once", "--json", HERMES_API_KEY="sk-ann")
        for call in calls:
            call.leave()
    answers |= DONE_BY | {"/v1/events": json.loads(state.stdout)}


def paths(tree: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield above
    for name, part in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield from paths(part, (*above, name))


GONE = object()
TRIED = int(os.environ.get("HERMES_SHAPES", "20"))


def changed(tree: Any, path: tuple[Any, ...], odd: Any) -> Any:
    """Its copy, with `odd` there instead; GONE: with nothing there."""
    if not path:
        return odd
    tree = copy.deepcopy(tree)
    at = tree
    for step in path[:-1]:
        at = at[step]
    if odd is GONE:
        del at[path[-1]]
    else:
        at[path[-1]] = odd
    return tree


class Answer(BytesIO):
    headers = Message()
    headers["content-type"] = "text/event-stream"


def framed(path: str, told: Any) -> bytes:
    text = json.dumps(told)
    form = {"/v1/events": "event: state\ndata: {}\n\n", "/v1/llm/gemma/pull": '{}\n{{"done": true}}'}.get(path, "{}\n")
    return form.format(text).encode()


@pytest.fixture(scope="module")
def answers() -> dict[str, Any]:
    return {}


@pytest.mark.parametrize(("path", "arguments"), [(path, each) for path, verbs in LOOKS.items() for each in verbs])
def test_whatever_is_told_instead_ends_in_an_answer_or_a_sentence(
    verb: Run, answers: dict[str, Any], monkeypatch: pytest.MonkeyPatch, path: str, arguments: list[str]
) -> None:
    """HERMES_SHAPES=100000 tries each odd thing in each place."""
    if not answers:
        gather(verb, answers)
    said: dict[str, bytes] = {each: framed(each, told) for each, told in answers.items()}

    @contextmanager
    def answer(url: str, method: str, asked: str, *_: Any) -> Iterator[Answer]:
        yield Answer(said[asked])

    monkeypatch.setattr(remote, "_answer", answer)
    assert verb(*arguments).exit_code == 0
    every = [(place, odd) for place in paths(answers[path]) for odd in (*ODD, GONE) if place or odd is not GONE]
    for place, odd in random.Random(0).sample(every, min(len(every), TRIED)):
        said[path] = framed(path, changed(answers[path], place, odd))
        result = verb(*arguments)
        assert result.exit_code in (0, 1, 3) and isinstance(result.exception, SystemExit | None), (place, odd)
        assert not result.exit_code or "hermes: " in result.stderr, (place, odd)
