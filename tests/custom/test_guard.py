"""A class with a bug in it: each harms its own request (or look), is in the log, and leaves no slot behind (I2, I3)."""

import asyncio
import functools
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec

import pytest

from hermes.chat import ChatRequest, Message
from hermes.custom.guard import Guarded
from tests.custom.aviary import Aviary, module, on_the_page
from tests.fakes.backend import DONE, FakeOllama, answer, listening, play
from tests.fakes.gateway import CHAT, chat, hermes
from tests.support import run

P = ParamSpec("P")


def scenario(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Where bugs are logged, as they have to be."""

    @functools.wraps(test)
    def on_a_loop(*args: P.args, **kwargs: P.kwargs) -> None:
        run(test(*args, **kwargs), may_log_errors=True)

    return on_a_loop


STREAM_OR_NOT = pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
# What comes after the class on the page; the parrot is only hurt where it is asked by this name.
BUGGED = """
def broken(says):
    raise {raised}

class Bugged(Parrots):
    def {method}(self, *asked):
        says = super().{method}(*asked)
        return {made}
"""
DECODER = """
from hermes import custom

class Wrong(Words):
    def feed(self, chunk): {feed}
    def finish(self): {finish}

class Bugged(Parrots):
    def decoder(self, request, answer_id): return Wrong()
"""


@contextmanager
def bugged(more: str) -> Iterator[None]:
    with module("parrots", on_the_page("python") + more):
        yield


def method(name: str, made: str, raised: str = "ZeroDivisionError") -> str:
    return BUGGED.format(method=name, made=made, raised=raised)


def feed(body: str, finish: str = "return ()") -> str:
    return DECODER.format(feed=body, finish=finish)


BUGS = {
    "render raises": method("render_request", "broken(says)"),
    "render ends the process": method("render_request", "broken(says)", "SystemExit(1)"),
    "render gives nothing": method("render_request", "None"),
    "render gives a text": method("render_request", "(says[0], says[1].decode())"),
    "render gives no path": method("render_request", "('say', says[1])"),
    "render smuggles a line": method("render_request", "('/say HTTP/1.1\\r\\nx: y', says[1])"),
    "no decoder": method("decoder", "None"),
    "decoder raises": method("decoder", "broken(says)"),
    "feed raises": feed("1 / 0"),
    "feed ends the process": feed("raise SystemExit"),
    "feed gives nothing": feed("return None"),
    "feed gives no events": feed("return ['Hi']"),
    "feed gives events of other types": feed("return [TextDelta(7), Stop('stop')]"),
    "feed gives what no JSON can say": feed("return [TextDelta('\\ud800'), Stop('stop')]"),
    "feed gives a time that is none": feed("return [custom.Usage(load_s=float('nan')), Stop('stop')]"),
    "feed gives another reason": feed("return [Stop('tired')]"),
    "feed goes on after the end": feed("return [Stop('stop'), TextDelta('more')]"),
    "feed recurs for ever": feed("return self.feed(chunk)"),
    "finish raises": feed("return ()", "1 / 0"),
    "finish gives no events": feed("return ()", "return [b'']"),
}


@pytest.mark.parametrize("bug", BUGS)
@STREAM_OR_NOT
@scenario
async def test_a_bug_harms_its_own_request(bug: str, stream: bool) -> None:
    with bugged(BUGS[bug]):
        async with listening(Aviary()) as aviary, listening(FakeOllama("gemma:latest")) as other:
            named = {"name": "birds", "kind": "custom", "plugin": "parrots:Bugged", "url": aviary.url}
            backends = [named, {"name": "other", "url": other.url}]
            async with hermes(backends=backends, limits={"max_attempts": 1}) as gateway:
                gate = asyncio.Event()
                other.default = play(gate, "Hel", "lo", DONE)
                well = await gateway.open(CHAT, chat())
                await other.request(0)
                reply = await gateway.ask(CHAT, chat(model="polly", stream=stream))
                assert (reply.status, reply.error["code"]) == (502, "backend_error")
                assert (await gateway.record()).outcome == "upstream_error"
                gate.set()
                assert (await well.reply()).json["choices"][0]["message"]["content"] == "Hello"
                assert gateway.runtime.fleet.backends["birds"].state == "up"


@scenario
async def test_counts_that_cannot_be_are_not_told() -> None:
    """I15: the class passes on what its server says."""
    said = "[TextDelta('Hi'), custom.Usage(-5, 1 << 60, cached_tokens=9), Stop('stop')]"
    with bugged(feed(f"return {said} if b'Hi' in chunk else ()")):
        async with listening(Aviary()) as aviary:
            named = {"name": "birds", "kind": "custom", "plugin": "parrots:Bugged", "url": aviary.url}
            async with hermes(backends=[named]) as gateway:
                aviary.default = play("Hi", DONE)
                reply = await gateway.ask(CHAT, chat(model="polly"))
                assert reply.json["usage"] == {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


@scenario
async def test_a_bug_in_the_middle_breaks_the_stream_off() -> None:
    with bugged(feed("return [TextDelta('Hi')] if b'Hi' in chunk else 1 / 0")):
        async with listening(Aviary()) as aviary:
            named = {"name": "birds", "kind": "custom", "plugin": "parrots:Bugged", "url": aviary.url}
            async with hermes(backends=[named]) as gateway:
                gate = asyncio.Event()
                aviary.default = play("Hi", gate, "there", DONE)
                call = await gateway.open(CHAT, chat(model="polly", stream=True))
                await call.head()
                first = await call.event()
                gate.set()
                *_, last = [first, *await call.events()]
                assert last["error"]["code"] == "backend_error" and not call.whole
                async with asyncio.timeout(1.0):
                    await aviary.asked[0].ended.wait()


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (method("listing", "broken(says)"), "plugin met a bug"),
        (method("listing", "['polly']"), "plugin met a bug"),
        (method("listing", "Listing((ModelInfo(7),))"), "plugin met a bug"),
        (method("listing", "Listing((ModelInfo('polly', size_bytes='heavy'),))"), "plugin met a bug"),
        (method("listing", "Listing(says.models, slots='many')"), "plugin met a bug"),
        (method("listing", "broken(says)", "BackendError('molting')"), "molting"),
    ],
)
@scenario
async def test_a_bug_in_a_look_takes_that_backend_down_and_no_other(more: str, why: str) -> None:
    with bugged(more):
        async with listening(Aviary()) as aviary, listening(FakeOllama("gemma:latest")) as other:
            named = {"name": "birds", "kind": "custom", "plugin": "parrots:Bugged", "url": aviary.url}
            async with hermes(backends=[named, {"name": "other", "url": other.url}]) as gateway:
                backend = gateway.runtime.fleet.backends["birds"]
                assert backend.state == "down" and why in backend.error
                assert (await gateway.ask(CHAT, chat())).status == 200


@pytest.mark.parametrize("made", ["broken(says)", "'yes'"])
@scenario
async def test_a_bug_in_what_it_can_do_means_that_it_cannot(made: str) -> None:
    asked = {"model": "polly", "prompt": "Hi", "raw": True, "stream": False}
    with bugged(method("completes", made)):
        async with listening(Aviary()) as aviary, listening(FakeOllama("polly")) as other:
            named = {"name": "birds", "kind": "custom", "plugin": "parrots:Bugged", "url": aviary.url}
            async with hermes(backends=[named]) as gateway:
                assert (await gateway.ask("/api/generate", asked)).status == 400
            async with hermes(backends=[named, {"name": "other", "url": other.url}]) as gateway:
                assert (await gateway.ask("/api/generate", asked)).status == 200
            assert not aviary.asked


@scenario
async def test_what_is_no_name_of_a_model_is_not_served() -> None:
    """I25."""
    with bugged(method("listing", "Listing((*says.models, ModelInfo('../polly'), ModelInfo('')))")):
        async with listening(Aviary()) as aviary:
            named = {"name": "birds", "kind": "custom", "plugin": "parrots:Bugged", "url": aviary.url}
            async with hermes(backends=[named]) as gateway:
                assert [each["id"] for each in (await gateway.ask("/v1/models")).json["data"]] == ["polly"]


@pytest.mark.parametrize("made", ["None", "ValueError('x')", "broken(says)"])
@scenario
async def test_a_bug_in_what_an_error_means_is_one_too(made: str) -> None:
    with bugged(method("error", made)):
        async with listening(Aviary()) as aviary:
            named = {"name": "birds", "kind": "custom", "plugin": "parrots:Bugged", "url": aviary.url}
            async with hermes(backends=[named], limits={"max_attempts": 1}) as gateway:
                aviary.default = answer(429, b"")
                reply = await gateway.ask(CHAT, chat(model="polly"))
                assert (reply.status, reply.error["code"]) == (502, "backend_error")


EMBEDS = """
class Bugged(Parrots):
    embeds = True
    def render_embed(self, request, model): return "/vectors", b"{}"
    def embeddings(self, body, request):
        from hermes.custom import Embeddings
        return %s
"""


@pytest.mark.parametrize(
    ("made", "status"),
    [
        ("Embeddings([[0.5]], Usage(1))", 200),
        ("Embeddings([], Usage(1))", 502),
        ("Embeddings([['x']], Usage(1))", 502),
        ("[[0.5]]", 502),
        ("1 / 0", 502),
    ],
)
@scenario
async def test_vectors_are_looked_at_too(made: str, status: int) -> None:
    with bugged(EMBEDS % made):
        async with listening(Aviary()) as aviary:
            named = {"name": "birds", "kind": "custom", "plugin": "parrots:Bugged", "url": aviary.url}
            async with hermes(backends=[named], limits={"max_attempts": 1}) as gateway:
                aviary.management["/vectors"] = answer(200, b"{}")
                assert (await gateway.ask("/v1/embeddings", {"model": "polly", "input": "a"})).status == status


def test_the_log_has_what_it_was(caplog: pytest.LogCaptureFixture) -> None:
    with module("parrots", on_the_page("python") + BUGS["render raises"]) as parrots:
        kind = Guarded(parrots.Bugged(), "birds")
        with pytest.raises(Exception, match="the log has its cause"):
            kind.render_request(ChatRequest("polly", (Message("user", "Hi"),)), "polly")
    assert "the plugin of backend birds met a bug" in caplog.text and "ZeroDivisionError" in caplog.text
