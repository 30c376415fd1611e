"""The backends as they are seen: up, down, back again, whatever they answer."""

import asyncio
from typing import Any

import pytest

from hermes.config import Secret
from hermes.fleet.backend import RETRY_S, Backend
from hermes.fleet.inventory import Inventory
from hermes.policy.ticket import BackendFacts
from tests.fakes.backend import Script, Then, answer, endless, fail, loaded, model, ollama, play
from tests.fakes.gateway import PROMPT, Hermes, hermes, prompt, scenario
from tests.support import run, until


def seen(gateway: Hermes, name: str = "b0") -> Backend:
    return gateway.runtime.fleet.backends[name]


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second is a hundredth of one."""
    monkeypatch.setattr("hermes.fleet.backend.RETRY_S", 0.01)
    monkeypatch.setattr("hermes.fleet.backend.HICCUP_S", 0.009)


@scenario
async def test_one_lost_probe_is_a_hiccup_and_two_in_turn_mean_down() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        await backend.vanish()
        await seen(gateway).look(20.0)
        assert (seen(gateway).state, seen(gateway).failures) == ("up", 1)
        await until(lambda: seen(gateway).state == "down", limit_s=RETRY_S + 1)
        assert (seen(gateway).failures, seen(gateway).error) == (2, "the backend cannot be reached")
        await backend.listen()
        await seen(gateway).look(20.0)
        assert (seen(gateway).state, seen(gateway).failures, seen(gateway).error) == ("up", 0, "")


@scenario
async def test_requests_that_fail_within_a_hiccup_do_not_take_a_backend_down() -> None:
    """A server that restarts refuses several at once, and each makes us look."""
    async with ollama() as backend, hermes(backend, limits={"max_attempts": 1}) as gateway:
        await backend.vanish()
        for _ in range(5):
            assert (await gateway.ask(PROMPT, prompt())).error["code"] == "backend_unreachable"
            await seen(gateway).look(20.0)
        assert (seen(gateway).state, seen(gateway).failures) == ("up", 1)
        await backend.listen()
        assert (await gateway.ask(PROMPT, prompt())).status == 200


@scenario
async def test_requests_that_go_on_failing_do_not_keep_a_dead_backend_up(hurried: None) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        await backend.vanish()

        def suspected_until_down() -> bool:
            seen(gateway).suspect()
            return seen(gateway).state == "down"

        await until(suspected_until_down)


@scenario
async def test_a_backend_that_comes_back_is_noticed_without_being_asked() -> None:
    async with ollama() as backend:
        await backend.vanish()
        async with hermes(backend) as gateway:
            assert seen(gateway).state == "down"
            await backend.listen()
            await until(lambda: seen(gateway).state == "up", limit_s=RETRY_S + 1)


@scenario
async def test_a_failed_connection_makes_us_look_at_once() -> None:
    async with ollama() as backend, hermes(backend, limits={"max_attempts": 1}) as gateway:
        await backend.vanish()
        assert (await gateway.ask(PROMPT, prompt())).error["code"] == "backend_unreachable"
        await until(lambda: seen(gateway).failures == 1)


@scenario
async def test_a_look_sees_what_is_from_now_on_not_what_a_probe_under_way_has_seen() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        asked, tell = asyncio.Event(), asyncio.Event()

        async def late(request: Any) -> None:
            asked.set()
            await tell.wait()
            await play({"models": [model("old:latest")]})(request)

        backend.management["/api/tags"] = late
        seen(gateway).suspect()
        await asked.wait()
        looking = asyncio.get_running_loop().create_task(seen(gateway).look(20.0))
        await asyncio.sleep(0)
        del backend.management["/api/tags"]
        backend.models = [model("new:latest")]
        tell.set()
        await looking
        assert list(seen(gateway).inventory.models) == ["new:latest"]


HOSTILE: list[tuple[str, Script]] = [
    ("garbage", answer(200, b"}{")),
    ("HTML", answer(200, b"<html>hello</html>", b"text/html")),
    ("not UTF-8", answer(200, b'{"models":[{"name":"\xff"}],"version":"\xff"}')),
    ("bottomless", answer(200, b'{"models":%b,"version":%b}' % ((b"[" * 100_000 + b"]" * 100_000,) * 2))),
    ("wrong types", answer(200, b'{"models":{},"version":5}')),
    ("numbers beyond any machine", answer(200, b'{"models":[{"name":"a","size":1%s}]}' % (b"0" * 30))),
    ("an error", fail(500, "no")),
    ("not found", fail(404, "no")),
    ("a redirect", answer(302, b"", headers=b"location: http://127.0.0.1:1/\r\n")),
    ("cut", play(b'{"models"', then=Then.CUT)),
    ("reset", play(then=Then.RESET)),
    ("too long", play(b" " * (17 << 20))),
]


@pytest.mark.parametrize(("name", "script"), HOSTILE, ids=[name for name, _ in HOSTILE])
@pytest.mark.parametrize("path", ["/api/tags", "/api/ps"])
@scenario
async def test_what_is_no_ollama_is_down_and_harms_no_other(path: str, name: str, script: Script) -> None:
    """I15: a backend is not trusted for bytes."""
    async with ollama() as bad, ollama() as good:
        bad.management[path] = script
        async with hermes(bad, good) as gateway:
            assert (seen(gateway, "b0").state, seen(gateway, "b1").state) == ("down", "up")
            assert seen(gateway, "b0").error
            status = (await gateway.ask("/v1/status")).json
            assert [told["state"] for told in status["backends"]] == ["down", "up"]
            bad.management.clear()
            await seen(gateway, "b0").look(20.0)
            assert seen(gateway, "b0").state == "up"


@pytest.mark.parametrize("script", [play(then=Then.STALL), play(b"{", then=Then.STALL), endless(b" ")])
@scenario
async def test_a_probe_that_takes_too_long_has_failed(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ollama can hang with its port open."""
    monkeypatch.setattr("hermes.fleet.backend.PROBE_TIMEOUT_S", 0.1)
    async with ollama() as backend:
        backend.management["/api/version"] = script
        async with hermes(backend) as gateway:
            assert seen(gateway).state == "down"
            backend.management.clear()
            await seen(gateway).look(20.0)
            assert seen(gateway).state == "up"


def test_a_bug_in_one_watcher_is_logged_and_ends_none(hurried: None) -> None:
    async def bug() -> None:
        async with ollama() as one, ollama() as two, hermes(one, two) as gateway:

            async def broken(timeout_s: float) -> Inventory:
                raise KeyError("bug")

            driver = seen(gateway, "b0").driver
            whole = driver.inventory
            driver.inventory = broken  # type: ignore[method-assign]
            seen(gateway, "b0").suspect()
            await until(lambda: seen(gateway, "b0").state == "down")
            assert seen(gateway, "b1").state == "up"
            driver.inventory = whole  # type: ignore[method-assign]
            await seen(gateway, "b0").look(20.0)
            await seen(gateway, "b1").look(20.0)
            assert (seen(gateway, "b0").state, seen(gateway, "b1").state) == ("up", "up")

    run(bug(), may_log_errors=True)


class Deaf:
    """Hears of each look, and meets a bug at the first that it hears of `b0` being down."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, bool]] = []

    def observe(self, facts: BackendFacts) -> None:
        self.heard.append((facts.name, facts.up))
        if self.heard.count(("b0", False)) == 1:
            raise KeyError("bug")


def test_a_bug_in_who_hears_of_what_is_seen_ends_no_watcher(monkeypatch: pytest.MonkeyPatch, hurried: None) -> None:
    async def bug() -> None:
        async with ollama() as one, ollama() as two, hermes(one, two) as gateway:
            deaf = Deaf()
            monkeypatch.setattr(gateway.runtime.admission, "observe", deaf.observe)
            await one.vanish()
            seen(gateway, "b0").suspect()
            await until(lambda: deaf.heard.count(("b0", False)) >= 2)
            await one.listen()
            for name in ("b0", "b1"):
                await seen(gateway, name).look(20.0)
            assert {("b0", True), ("b1", True)} <= set(deaf.heard[deaf.heard.index(("b0", False)) :])

    run(bug(), may_log_errors=True)


@scenario
async def test_loaded_models_and_their_memory_are_seen() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        backend.loaded = [loaded("gemma:latest", 5 << 30, 4 << 30)]
        await seen(gateway).look(20.0)
        (found,) = seen(gateway).inventory.loaded
        assert (found.name, found.size_bytes, found.vram_bytes) == ("gemma:latest", 5 << 30, 4 << 30)
        backend.loaded = []
        await seen(gateway).look(20.0)
        assert seen(gateway).inventory.loaded == ()


@scenario
async def test_a_backends_key_is_sent_to_it_and_shown_to_nobody() -> None:
    async with ollama() as backend:
        secret = Secret("s3cret-key").reveal()
        own = {"name": "b0", "url": backend.url, "api_key": secret}
        async with hermes(backends=[own]) as gateway:
            await gateway.ask(PROMPT, prompt(), {"authorization": "Bearer mine"})
            for asked in (*backend.asked, *backend.managed):
                assert asked.headers["authorization"] == f"Bearer {secret}"
            shown = (await gateway.ask("/v1/status")).body + (await gateway.ask("/metrics")).body
            assert secret.encode() not in shown and secret not in repr(gateway.runtime.config)


@scenario
async def test_what_a_backend_runs_at_once_comes_from_its_slots() -> None:
    async with ollama() as backend, hermes(backends=[{"name": "b0", "url": backend.url, "slots": 3}]) as gateway:
        status = (await gateway.ask("/v1/status")).json
        assert "hint" not in status["backends"][0]
        backend.default = play(then=Then.STALL)
        calls = [await gateway.open(PROMPT, prompt()) for _ in range(4)]
        await backend.request(2)
        await gateway.until_waiting(1)
        assert backend.most_running == 3
        for call in calls:
            call.leave()
