"""A model that nobody has is downloaded for whoever asks, where the operator has said so; and no other name."""

import asyncio
from typing import Any, Literal

import pytest

from hermes.fleet.download import Download
from hermes.fleet.driver import PullProgress
from tests.fakes.backend import Asked, FakeOllama, Script, Step, Then, endless, fail, model, ollama, play
from tests.fakes.gateway import Hermes, hermes, prompt, scenario
from tests.support import run, until

PHI = "/v1/llm/phi"
ON_DEMAND = {"phi": {"pull": "on_demand"}}
LAYER = {"status": "pulling 0123456789ab", "digest": "sha256:0123456789ab", "total": 1000}
HALF: Step = {**LAYER, "completed": 430}
SUCCESS: Step = {"status": "success"}


class Gate(asyncio.Event):
    """Behind it the model is there."""

    def __init__(self, backend: FakeOllama) -> None:
        super().__init__()
        self._backend = backend

    async def wait(self) -> Literal[True]:
        await super().wait()
        self._backend.models.append(model("phi:latest"))
        return True


def pulls(backend: FakeOllama, *steps: Step) -> Gate:
    """What pulls are answered with, and what their end waits for."""
    gate = Gate(backend)
    backend.management["/api/pull"] = play(LAYER, *steps, gate, SUCCESS)
    return gate


def pulled(backend: FakeOllama) -> list[Any]:
    """What it was asked to pull."""
    return [asked.body for asked in backend.managed if asked.path == "/api/pull"]


def the_pull(backend: FakeOllama) -> Asked:
    return next(asked for asked in backend.managed if asked.path == "/api/pull")


def percent(gateway: Hermes) -> int | None:
    download = gateway.runtime.fleet.download("phi:latest", ["b0"])
    return download.percent if download else None


# --- for whoever asks -------------------------------------------------------------------------------------------------


@scenario
async def test_a_model_that_nobody_has_is_pulled_and_loaded_and_then_runs() -> None:
    async with ollama() as backend, hermes(backend, models=ON_DEMAND) as gateway:
        pulls(backend).set()
        assert (await gateway.ask(PHI, prompt())).status == 200
        assert pulled(backend) == [{"model": "phi:latest", "stream": True}]
        assert backend.orders == ["load phi:latest"]
        assert (await gateway.ask(PHI, prompt())).status == 200
        assert len(pulled(backend)) == 1
        assert gateway.counted("hermes_model_pulls_total") == {("b0", "phi:latest", "pulled"): 1.0}


@scenario
async def test_a_model_is_pulled_once_however_many_ask() -> None:
    async with ollama() as backend, hermes(backend, models=ON_DEMAND) as gateway:
        gate = pulls(backend)
        calls = [await gateway.open(PHI, prompt()) for _ in range(10)]
        await gateway.until_waiting(10)
        assert backend.orders == [], "there is nothing to be loaded yet"
        gate.set()
        assert {(await call.reply()).status for call in calls} == {200}
        assert (len(pulled(backend)), backend.orders) == (1, ["load phi:latest"])


@scenario
async def test_a_pull_outlives_who_asked_for_it_and_the_next_one_finds_the_model() -> None:
    async with ollama() as backend, hermes(backend, models=ON_DEMAND) as gateway:
        gate = pulls(backend)
        call = await gateway.open(PHI, prompt())
        await until(lambda: bool(pulled(backend)))
        call.leave()
        await gateway.settle()
        assert not the_pull(backend).left.is_set()
        gate.set()
        await until(lambda: "phi:latest" in gateway.runtime.fleet.backends["b0"].inventory.models)
        assert (await gateway.ask(PHI, prompt())).status == 200
        assert len(pulled(backend)) == 1


@scenario
async def test_who_cannot_wait_so_long_hears_how_far_it_is_and_when_to_come_back() -> None:
    models = {"phi": {"pull": "on_demand", "timeout_s": 0.2}}
    async with ollama() as backend, hermes(backend, models=models) as gateway:
        pulls(backend, HALF)
        reply = await gateway.ask(PHI, prompt())
        assert (reply.status, reply.error["code"]) == (503, "model_pulling")
        assert "43 %" in reply.error["message"]
        assert int(reply.headers["retry-after-ms"]) >= 1
        assert (await gateway.record()).outcome == "no_backend"
        assert not the_pull(backend).left.is_set()
        assert (await gateway.ask(PHI, prompt())).error["code"] == "model_pulling"
        assert len(pulled(backend)) == 1


@scenario
async def test_other_models_are_loaded_and_run_meanwhile() -> None:
    async with ollama("gemma:latest") as backend:
        backend.loaded = []
        async with hermes(backend, models=ON_DEMAND) as gateway:
            pulls(backend)
            call = await gateway.open(PHI, prompt())
            await gateway.until_waiting(1)
            assert (await gateway.ask("/v1/llm/gemma", prompt())).status == 200
            assert backend.orders == ["load gemma:latest"]
            call.leave()


@scenario
async def test_of_how_long_a_load_takes_the_pull_teaches_nothing() -> None:
    async with ollama() as backend, hermes(backend, models=ON_DEMAND) as gateway:
        gate, clock = pulls(backend), asyncio.get_running_loop().time
        call = await gateway.open(PHI, prompt())
        await gateway.until_waiting(1)
        began = clock()
        await until(lambda: clock() > began + 0.3)
        gate.set()
        assert (await call.reply()).status == 200
        assert (gateway.runtime.scheduler.learned()["phi:latest"].load_s or 0.0) < 0.25


@scenario
async def test_how_far_it_is_is_seen_in_the_queue_in_status_and_by_who_asks_why() -> None:
    async with ollama() as backend, hermes(backend, models=ON_DEMAND) as gateway:
        gate = pulls(backend, HALF)
        call = await gateway.open(PHI, prompt(), {"x-request-id": "mine"})
        await until(lambda: gateway.waiting == 1 and percent(gateway) == 43)
        (waiting,) = (await gateway.ask("/v1/queue")).json["data"]
        assert waiting["pulled_percent"] == 43
        (seen,) = (await gateway.ask("/v1/status")).json["backends"]
        assert seen["pulling"] == [{"model": "phi:latest", "percent": 43}]
        gate.set()
        assert (await call.reply()).status == 200
        past = (await gateway.ask("/v1/requests/mine")).json
        assert past["why"]["model_was"] == "pulling"
        assert "pulling" not in (await gateway.ask("/v1/status")).json["backends"][0]


@scenario
async def test_a_model_that_is_pulled_to_one_backend_is_not_pulled_to_another_that_comes_up() -> None:
    async with ollama() as first, ollama() as second:
        await first.vanish()
        async with hermes(first, second, models=ON_DEMAND) as gateway:
            gate = pulls(second)
            calls = [await gateway.open(PHI, prompt())]
            await until(lambda: bool(pulled(second)))
            await first.listen()
            await gateway.runtime.fleet.backends["b0"].look(20.0)
            calls.append(await gateway.open(PHI, prompt()))
            await gateway.until_waiting(2)
            gate.set()
            assert {(await call.reply()).status for call in calls} == {200}
            assert (pulled(first), len(pulled(second))) == ([], 1)


@scenario
async def test_a_model_that_is_there_is_loaded_and_served_while_a_newer_one_of_its_name_is_pulled() -> None:
    async with ollama("phi:latest") as backend:
        backend.loaded = []
        async with hermes(backend) as gateway:
            pulls(backend, HALF)
            operator = await gateway.open(PHI + "/pull", b"", method="POST")
            assert await operator.head() == 200
            assert (await gateway.ask(PHI, prompt())).status == 200
            assert backend.orders == ["load phi:latest"]
            operator.leave()


@scenario
async def test_of_a_model_that_is_there_the_queue_is_told_and_not_the_pull_of_a_newer_one() -> None:
    models = {"phi": {"pull": "on_demand", "max_concurrency": 1}}
    async with ollama("phi:latest") as backend, hermes(backend, models=models) as gateway:
        pulls(backend, HALF)
        backend.default = play("Hel", then=Then.STALL)
        operator = await gateway.open(PHI + "/pull", b"", method="POST")
        assert await operator.head() == 200
        runs = await gateway.open(PHI, prompt(stream=True))
        await backend.request(0)
        waits = await gateway.open(PHI, prompt(), {"x-hermes-deadline-ms": "300"})
        await gateway.until_waiting(1)
        waiting = (await gateway.ask("/v1/queue")).json["data"][1]
        assert "pulled_percent" not in waiting
        assert (await waits.reply()).error["code"] == "queue_timeout"
        for call in (runs, operator):
            call.leave()


# --- for nobody else --------------------------------------------------------------------------------------------------


@scenario
async def test_a_name_that_is_not_listed_never_causes_a_pull() -> None:
    """Whoever may ask could have gigabytes fetched, from wherever the name says."""
    async with ollama() as backend, hermes(backend, defaults={"pull": "on_demand"}, models={"phi": {}}) as gateway:
        pulls(backend).set()
        reply = await gateway.ask("/v1/llm/registry.example/evil", prompt())
        assert (reply.status, reply.error["code"]) == (404, "model_not_found")
        assert pulled(backend) == []
        assert (await gateway.ask(PHI, prompt())).status == 200


@pytest.mark.parametrize("models", [{"phi": {}}, {"phi": {"pull": "never"}}])
@scenario
async def test_without_being_told_so_nothing_is_pulled(models: dict[str, Any]) -> None:
    defaults = {"pull": "on_demand"} if models["phi"] else {}
    async with ollama() as backend, hermes(backend, defaults=defaults, models=models) as gateway:
        assert (await gateway.ask(PHI, prompt())).error["code"] == "model_not_found"
        assert pulled(backend) == []


@scenario
async def test_a_model_is_pulled_only_where_it_may_be_served() -> None:
    async with ollama() as first, ollama() as second:
        models = {"phi": {"pull": "on_demand", "backends": ["b1"]}}
        async with hermes(first, second, models=models) as gateway:
            pulls(second).set()
            assert (await gateway.ask(PHI, prompt())).status == 200
            assert (pulled(first), len(pulled(second))) == ([], 1)


# --- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (play(LAYER, {"error": "write /models/blobs/sha256: no space left on device"}), "no space left on device"),
        (fail(500, "max retries exceeded"), "max retries exceeded"),
        (play(LAYER, then=Then.CUT), "backend"),
        (play(LAYER), "broke off"),
        (play(SUCCESS), "does not list it"),
    ],
    ids=["disk full", "at once", "cut", "no success", "another name"],
)
@scenario
async def test_who_waits_for_a_pull_that_fails_hears_why_and_it_is_not_tried_again_at_once(
    told: Script, why: str
) -> None:
    async with ollama() as backend, hermes(backend, models=ON_DEMAND) as gateway:
        backend.management["/api/pull"] = told
        calls = [await gateway.open(PHI, prompt()) for _ in range(3)]
        for reply in [await call.reply() for call in calls] + [await gateway.ask(PHI, prompt())]:
            assert (reply.status, reply.error["code"]) == (503, "pull_failed")
            assert why in reply.error["message"]
            assert 0 < int(reply.headers["retry-after-ms"]) <= 15_000
        assert (len(pulled(backend)), backend.orders) == (1, [])
        assert gateway.counted("hermes_model_pulls_total") == {("b0", "phi:latest", "failed"): 1.0}


@scenario
async def test_a_model_that_the_registry_does_not_have_is_404() -> None:
    async with ollama() as backend, hermes(backend, models=ON_DEMAND) as gateway:
        gone = {"error": "pull model manifest: file does not exist"}
        backend.management["/api/pull"] = play({"status": "pulling manifest"}, gone)
        for _ in range(3):
            reply = await gateway.ask(PHI, prompt())
            assert (reply.status, reply.error["code"]) == (404, "model_not_found")
        assert len(pulled(backend)) == 1


@scenario
async def test_after_its_rest_a_pull_that_failed_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hermes.policy.site.BACK_OFF_S", 0.05)
    async with ollama() as backend, hermes(backend, models=ON_DEMAND) as gateway:
        backend.management["/api/pull"] = fail(500, "max retries exceeded")
        assert (await gateway.ask(PHI, prompt())).error["code"] == "pull_failed"
        pulls(backend).set()
        failure = gateway.runtime.fleet.pulls["b0"].failure
        await until(lambda: failure("phi:latest") is None)
        assert (await gateway.ask(PHI, prompt())).status == 200


@scenario
async def test_another_backend_pulls_what_one_could_not() -> None:
    async with ollama() as first, ollama() as second, hermes(first, second, models=ON_DEMAND) as gateway:
        first.management["/api/pull"] = fail(500, "no space left on device")
        pulls(second).set()
        assert (await gateway.ask(PHI, prompt())).error["code"] == "pull_failed"
        reply = await gateway.ask(PHI, prompt())
        assert (reply.status, reply.headers["x-hermes-backend"]) == (200, "b1")


@scenario
async def test_a_pull_that_does_not_get_on_is_given_up_though_it_goes_on_telling_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ollama does, every 60 ms, and tries again for ever."""
    monkeypatch.setattr("hermes.fleet.download.STALL_S", 0.1)
    async with ollama() as backend, hermes(backend, models=ON_DEMAND) as gateway:
        backend.management["/api/pull"] = endless(b'{"status":"pulling","digest":"d","total":9,"completed":3}\n')
        reply = await gateway.ask(PHI, prompt())
        assert (reply.status, reply.error["code"]) == (503, "pull_failed")
        assert "has not got on" in reply.error["message"]
        async with asyncio.timeout(1.0):
            await the_pull(backend).left.wait()


@scenario
async def test_who_waits_for_a_pull_during_which_the_backend_falls_silent_hears_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hermes.fleet.backend.RETRY_S", 0.01)
    monkeypatch.setattr("hermes.fleet.backend.HICCUP_S", 0.009)
    async with ollama() as backend, hermes(backend, models=ON_DEMAND) as gateway:
        pulls(backend, HALF)
        call = await gateway.open(PHI, prompt())
        await gateway.until_waiting(1)
        backend.management["/api/version"] = fail(500, "no")
        gateway.runtime.fleet.backends["b0"].suspect()
        assert (await call.reply()).error["code"] == "no_backend"
        await until(lambda: percent(gateway) is None)
        async with asyncio.timeout(1.0):
            await the_pull(backend).left.wait()


@scenario
async def test_stopping_ends_a_pull_under_way() -> None:
    async with ollama() as backend:
        async with hermes(backend, models=ON_DEMAND) as gateway:
            pulls(backend)
            call = await gateway.open(PHI, prompt())
            await until(lambda: bool(pulled(backend)))
            call.leave()
            await gateway.settle()
        async with asyncio.timeout(1.0):
            await the_pull(backend).left.wait()
        assert gateway.counted("hermes_model_pulls_total") == {("b0", "phi:latest", "left"): 1.0}


def test_a_bug_in_a_pull_is_told_like_a_failure() -> None:
    async def bug() -> None:
        async with ollama() as backend, hermes(backend, models=ON_DEMAND) as gateway:

            def broken(*_: object) -> None:
                raise KeyError("bug")

            gateway.runtime.fleet.backends["b0"].driver.pull = broken  # type: ignore[method-assign, assignment]
            reply = await gateway.ask(PHI, prompt())
            assert (reply.status, reply.error["code"]) == (503, "pull_failed")

    run(bug(), may_log_errors=True)


# --- beside an operator's ---------------------------------------------------------------------------------------------


@scenario
async def test_an_operators_pull_joins_one_that_requests_wait_for_and_does_not_end_it_by_leaving() -> None:
    async with ollama() as backend, hermes(backend, models=ON_DEMAND) as gateway:
        gate = pulls(backend, HALF)
        waits = await gateway.open(PHI, prompt())
        await until(lambda: percent(gateway) == 43)
        operator = await gateway.open(PHI + "/pull", b"", method="POST")
        assert await operator.head() == 200
        assert await operator.event() == HALF
        operator.leave()
        await gateway.record()
        assert not the_pull(backend).left.is_set()
        gate.set()
        assert (await waits.reply()).status == 200
        assert len(pulled(backend)) == 1


@scenario
async def test_an_operators_pull_that_requests_have_come_to_wait_for_goes_on_without_him() -> None:
    async with ollama() as backend, hermes(backend, models=ON_DEMAND) as gateway:
        gate = pulls(backend, HALF)
        operator = await gateway.open(PHI + "/pull", b"", method="POST")
        assert await operator.head() == 200
        waits = await gateway.open(PHI, prompt())
        await gateway.until_waiting(1)
        operator.leave()
        await gateway.record()
        gate.set()
        assert (await waits.reply()).status == 200
        assert len(pulled(backend)) == 1


@scenario
async def test_who_comes_to_wait_for_a_pull_that_is_just_being_left_hears_so() -> None:
    async with ollama() as backend, hermes(backend, models=ON_DEMAND) as gateway:
        pulls(backend)
        fleet = gateway.runtime.fleet
        followed = fleet.pulls["b0"].follow("phi:latest")
        await anext(followed)
        await followed.aclose()
        fleet.fetch("phi:latest", ())
        await until(lambda: percent(gateway) is None)
        assert "was broken off" in str(fleet.unfetched("phi:latest", ["b0"]))


@scenario
async def test_who_follows_a_pull_and_reads_slowly_misses_lines_but_not_the_end() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        many = [{**LAYER, "completed": number} for number in range(200)]
        gate = pulls(backend, *many)
        gate.set()
        followed = gateway.runtime.fleet.pulls["b0"].follow("phi:latest")
        assert (await anext(followed)).total == 1000
        await until(lambda: percent(gateway) is None)
        rest = [line async for line in followed]
        assert len(rest) < 100
        assert rest[-1].status == "success"


def test_how_far_a_download_is_counts_all_layers_and_how_long_it_takes_what_has_come_since() -> None:
    download = Download("phi:latest", 0.0)
    assert (download.percent, download.left_s(0.0)) == (0, 60.0)
    download.take(PullProgress("pulling a", "a", 900, 300), 10.0)  # these were there before
    download.take(PullProgress("pulling b", "b", 100, 0), 11.0)
    assert download.percent == 30
    download.take(PullProgress("pulling a", "a", 900, 500), 20.0)
    assert (download.percent, download.left_s(20.0)) == (50, 25.0)
