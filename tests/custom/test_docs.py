"""docs/custom-backends.md: what stands there works as it stands there, in every dialect."""

import asyncio
from typing import Any

import pytest

from hermes import custom
from hermes.config.build import build
from tests.custom.aviary import PAGE, Aviary, module, on_the_page
from tests.fakes.backend import DONE, Done, Then, answer, listening, play
from tests.fakes.gateway import CHAT, MESSAGES, OLLAMA, chat, hermes, scenario, serving
from tests.support import until

SHOWN = on_the_page("python")
POLLY = chat("How are you?", model="polly")
DIALECTS = pytest.mark.parametrize("path", [CHAT, MESSAGES, OLLAMA, "/v1/llm/polly"])
STREAM_OR_NOT = pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])


def body(path: str, stream: bool) -> dict[str, Any]:
    if path == "/v1/llm/polly":
        return {"prompt": "How are you?", "stream": stream}
    return POLLY | {"stream": stream} | ({"max_tokens": 9} if path == MESSAGES else {})


def aviary_config(aviary: Aviary) -> dict[str, Any]:
    return {"backends": [{"name": "birds", "kind": "custom", "plugin": "parrots:Parrots", "url": aviary.url}]}


@DIALECTS
@STREAM_OR_NOT
@scenario
async def test_the_class_on_the_page_answers_in_every_dialect(path: str, stream: bool) -> None:
    with module("parrots", SHOWN):
        async with listening(Aviary()) as aviary, hermes(**aviary_config(aviary)) as gateway:
            aviary.default = play("How ", "are ", Done("length", 3, 2))
            reply = await gateway.ask(path, body(path, stream))
            assert reply.status == 200 and reply.whole
            assert "How " in (said := reply.body.decode()) and "are " in said
            assert "length" in said or "max_tokens" in said
            record = await gateway.record()
            assert (record.outcome, record.tokens_in, record.tokens_out) == ("ok", 3, 2)
            asked = aviary.asked[0].body
            assert (asked["parrot"], asked["text"]) == ("polly", "How are you?")


@scenario
async def test_what_it_lists_is_what_can_be_asked_for_as_often_as_it_says() -> None:
    with module("parrots", SHOWN):
        async with listening(Aviary()) as aviary, hermes(**aviary_config(aviary)) as gateway:
            assert [each["id"] for each in (await gateway.ask("/v1/models")).json["data"]] == ["polly"]
            gate = asyncio.Event()
            aviary.default = play(gate, "Hi", DONE)
            calls = [await gateway.open(CHAT, POLLY) for _ in range(3)]
            await gateway.until_waiting(1)
            await aviary.request(1)
            gate.set()
            assert [(await call.reply()).status for call in calls] == [200] * 3
            assert aviary.most_running == 2


ENDS: list[tuple[Any, int, str]] = [
    (play({"sad": "no seeds"}), 503, "backend_busy"),
    (play("How ", b"squawk\n"), 502, "backend_error"),
    (play("How "), 502, "backend_error"),
    (play("How ", then=Then.RESET), 502, "backend_error"),
    (answer(429, b'{"error":"all asleep"}'), 503, "backend_busy"),
    (answer(401, b""), 502, "backend_refused"),
    (answer(400, b'{"error":"maximum context length is 4"}'), 400, "context_length_exceeded"),
]


@pytest.mark.parametrize(("script", "status", "code"), ENDS, ids=range(len(ENDS)))
@scenario
async def test_what_goes_wrong_there_is_told_as_of_any_backend(script: Any, status: int, code: str) -> None:
    with module("parrots", SHOWN):
        once = {"limits": {"max_attempts": 1}}
        async with listening(Aviary()) as aviary, hermes(**aviary_config(aviary), **once) as gateway:
            aviary.default = script
            reply = await gateway.ask(CHAT, POLLY)
            assert (reply.status, reply.error["code"]) == (status, code)


@scenario
async def test_what_it_refuses_is_refused() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    with module("parrots", SHOWN):
        async with listening(Aviary()) as aviary, hermes(**aviary_config(aviary)) as gateway:
            image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
            seen = {"messages": [{"role": "user", "content": [image]}]}
            for more in ({"tools": tools}, {"tools": tools, "tool_choice": "required"}, seen):
                reply = await gateway.ask(CHAT, POLLY | more)
                assert reply.status == 400 and not aviary.asked
            reply = await gateway.ask("/v1/embeddings", {"model": "polly", "input": "a"})
            assert (reply.status, reply.error["code"]) == (400, "unsupported_by_backend")


@STREAM_OR_NOT
@scenario
async def test_a_client_that_leaves_is_noticed_there_at_once(stream: bool) -> None:
    """I9."""
    with module("parrots", SHOWN):
        async with listening(Aviary()) as aviary, hermes(**aviary_config(aviary)) as gateway:
            aviary.default = play("How ", then=Then.STALL)
            call = await gateway.open(CHAT, POLLY | {"stream": stream})
            asked = await aviary.request(0)
            call.leave()
            async with asyncio.timeout(1.0):
                await asked.left.wait()
            await until(lambda: gateway.running == 0)


@scenario
async def test_the_configuration_on_the_page_is_one() -> None:
    import yaml

    with module("parrots", SHOWN):
        async with serving(build(yaml.safe_load(on_the_page("yaml")) | {"server": {"port": 0}})) as gateway:
            assert gateway.runtime.fleet.backends["birds"].kind == "custom"


def test_the_page_names_all_that_a_class_may_say() -> None:
    said = {name for name in vars(custom.Backend) if not name.startswith("_")} | {"asks"}
    assert [name for name in said if f"`{name}" not in PAGE] == []
