"""The last hour as it is told: numbers for operators, and what came into memory and went for who may use it."""

from typing import Any

from hermes.history import SPANS
from tests.fakes.backend import fail, loaded, ollama
from tests.fakes.gateway import PROMPT, Hermes, bearer, hermes, key, prompt, scenario
from tests.support import until

FEW = {"admin": True, "models": ["qwen*"]}
KEYS = [key("ann"), key("few", models=["qwen*"]), key("ops", admin=True), key("some", **FEW)]


async def hour(gateway: Hermes, user: str = "", query: str = "") -> Any:
    reply = await gateway.ask(f"/v1/history{query}", headers=bearer(user) if user else {})
    assert reply.status == 200
    return reply.json


async def moves(gateway: Hermes, user: str = "") -> list[tuple[str, str]]:
    return [(move["model"], move["what"]) for move in (await hour(gateway, user))["moves"]]


@scenario
async def test_operators_are_told_all_and_others_what_moved() -> None:
    """I21: how much others ask is nobody's but the operators'."""
    async with ollama() as backend, hermes(backend, keys=KEYS) as gateway:
        await gateway.ask(PROMPT, prompt(), bearer("ann"))
        told = await hour(gateway, "ops")
        (model, counts), *others = told["models"].items()
        assert model == "gemma:latest" and not others
        assert counts["requests"] == [*[0] * (SPANS - 1), 1] and counts["tokens_out"][-1] > 0
        assert told["from"] + (SPANS - 1) * told["span_s"] <= told["at"] < told["from"] + SPANS * told["span_s"]
        for name in ("wait_ms", "ttft_ms"):
            assert told[name].keys() == {"p50", "p95"} and len(told[name]["p50"]) == SPANS
        assert told["wait_ms"]["p50"][-1] is not None
        assert (await hour(gateway, "ops", "?model=qwen"))["wait_ms"]["p50"][-1] is None
        assert (await hour(gateway, "ann")).keys() == {"at", "span_s", "from", "moves"}
        assert await moves(gateway, "ann") == await moves(gateway, "ops") != []
        assert await moves(gateway, "few") == []
        assert (await gateway.ask("/v1/history")).status == 401


@scenario
async def test_an_operator_of_some_models_is_told_of_no_others() -> None:
    """I21: neither by name nor in a sum."""
    async with ollama("gemma:latest", "qwen:latest") as backend, hermes(backend, keys=KEYS) as gateway:
        await gateway.ask(PROMPT, prompt(), bearer("ann"))
        told = await hour(gateway, "some")
        assert told["models"] == {} and told["wait_ms"]["p50"][-1] is None
        refused = await gateway.ask("/v1/history?model=gemma:latest", headers=bearer("some"))
        assert (refused.status, refused.error["param"]) == (403, "model")
        principal = next(each for each in gateway.runtime.people.table.principals.values() if each.tenant == "some")
        rates = gateway.runtime.front.live._hour.rates(principal)
        assert rates["requests"] == 0 and rates["models"] == {}
        await gateway.ask("/v1/llm/qwen", prompt(), bearer("ann"))
        told = await hour(gateway, "some")
        assert [*told["models"]] == ["qwen:latest"] and told["wait_ms"]["p50"][-1] is not None
        assert gateway.runtime.front.live._hour.rates(principal)["requests"] > 0


@scenario
async def test_what_is_loaded_and_unloaded_is_told_in_turn() -> None:
    async with ollama() as backend:
        backend.loaded.clear()
        async with hermes(backend) as gateway:
            for verb, count in (("load", 1), ("unload", 2)):
                assert (await gateway.ask(f"/v1/llm/gemma/{verb}", {})).status in (200, 202)
                while len(await moves(gateway)) < count:
                    pass
                await gateway.runtime.fleet.backends["b0"].look(20.0)  # what it did itself does not surprise it
            assert await moves(gateway) == [("gemma:latest", "loaded"), ("gemma:latest", "unloaded")]
            (load, _) = (await hour(gateway))["moves"]
            assert (
                load["backend"] == "b0" and load["took_ms"] >= 0 and abs(load["at"] - (await hour(gateway))["at"]) < 60
            )


@scenario
async def test_what_others_load_and_unload_is_told_when_it_is_seen() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        watched = gateway.runtime.fleet.backends["b0"]
        await until(lambda: [move.what for move in watched.moves] == ["came"])
        backend.loaded = [loaded("qwen3:latest")]
        await watched.look(20.0)
        await until(lambda: len(watched.moves) == 3)
        assert {(move.model, move.what) for move in list(watched.moves)[1:]} == {
            ("gemma:latest", "went"),
            ("qwen3:latest", "came"),
        }


@scenario
async def test_a_load_that_fails_is_told_too() -> None:
    async with ollama() as backend:
        backend.loaded.clear()

        backend.management["/api/generate"] = fail(500, "out of memory")
        async with hermes(backend) as gateway:
            assert (await gateway.ask("/v1/llm/gemma/load", {})).status == 503
            assert ("gemma:latest", "failed") in await moves(gateway)
