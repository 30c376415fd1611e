"""What can be asked, and pulling more."""

import asyncio

import pytest

from tests.fakes.backend import DONE, FakeOllama, Step, Then, fail, loaded, model, ollama, play
from tests.fakes.gateway import PROMPT, Hermes, hermes, scenario
from tests.support import until

LIBRARY = "hf.co/unsloth/gemma-3:Q4_K_M"


@scenario
async def test_models_are_listed_as_openai_has_it() -> None:
    async with ollama("gemma:latest", LIBRARY) as backend, hermes(backend) as gateway:
        listing = (await gateway.ask("/v1/models")).json
        assert listing["object"] == "list"
        assert [item["id"] for item in listing["data"]] == ["gemma:latest", LIBRARY]
        assert listing["data"][0] == {
            "id": "gemma:latest",
            "object": "model",
            "created": 1795168800,
            "owned_by": "library",
            "capabilities": ["completion", "tools"],
        }
        assert listing["data"][1]["owned_by"] == "hf.co/unsloth"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("gemma", "gemma"),
        ("gemma:latest", "gemma:latest"),
        ("gemma%3Alatest", "gemma:latest"),
        (LIBRARY, LIBRARY),
        (LIBRARY.replace("/", "%2F"), LIBRARY),
        (LIBRARY.replace("/", "%2f").replace(":", "%3A"), LIBRARY),
    ],
)
@scenario
async def test_one_model_is_found_by_its_name_encoded_or_not(path: str, name: str) -> None:
    async with ollama("gemma:latest", LIBRARY) as backend, hermes(backend) as gateway:
        reply = await gateway.ask(f"/v1/models/{path}")
        assert (reply.status, reply.json["id"]) == (200, name)


@scenario
async def test_a_model_that_nobody_has_is_404() -> None:
    async with ollama() as backend, hermes(backend, models={"listed": {}}) as gateway:
        for name in ("phi", "listed"):
            reply = await gateway.ask(f"/v1/models/{name}")
            assert (reply.status, reply.error["param"], reply.error["code"]) == (404, "model", "model_not_found")


@scenario
async def test_listed_names_stand_beside_the_backends_own_or_alone() -> None:
    async with ollama("gemma3:12b", "phi:latest") as backend:
        models = {"gemma": {"backend_model": "gemma3:12b"}, "absent": {}}
        async with hermes(backend, models=models) as gateway:
            names = [item["id"] for item in (await gateway.ask("/v1/models")).json["data"]]
            assert names == ["gemma", "gemma3:12b", "phi:latest"]
        async with hermes(backend, models=models, serve_unlisted=False) as gateway:
            assert [item["id"] for item in (await gateway.ask("/v1/models")).json["data"]] == ["gemma"]
            assert (await gateway.ask("/v1/models/phi")).status == 404


@scenario
async def test_an_older_ollama_is_asked_what_its_models_can_do() -> None:
    async with ollama() as backend:
        backend.models = [{**model("gemma:latest"), "capabilities": None}]
        backend.management["/api/show"] = play({"capabilities": ["vision"], "model_info": {"llama.context_length": 8}})
        async with hermes(backend) as gateway:
            assert (await gateway.ask("/v1/models/gemma")).json["capabilities"] == ["vision"]
            await gateway.runtime.fleet.backends["b0"].look(20.0)
        assert len([asked for asked in backend.managed if asked.path == "/api/show"]) == 1


# --- pulling ------------------------------------------------------------------------------------------------------

LAYER = {"status": "pulling 0123456789ab", "digest": "sha256:0123456789ab", "total": 1000}
SUCCESS = {"status": "success"}


def pulls(backend: FakeOllama, *steps: Step, then: Then = Then.END) -> None:
    backend.management["/api/pull"] = play(*steps, then=then)


def loads(backend: FakeOllama) -> list[str]:
    return [asked.body["model"] for asked in backend.managed if asked.path == "/api/generate"]


@scenario
async def test_a_pull_tells_its_progress_as_it_comes_then_loads() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        half = asyncio.Event()
        pulls(backend, {"status": "pulling manifest"}, LAYER, half, {**LAYER, "completed": 1000}, SUCCESS)
        call = await gateway.open("/v1/llm/phi/pull", b"", method="POST")
        assert await call.head() == 200
        assert [await call.event(), await call.event()] == [{"status": "pulling manifest"}, LAYER]
        backend.models.append(model("phi:latest"))
        half.set()
        assert await call.events() == [
            {**LAYER, "completed": 1000},
            SUCCESS,
            {"status": "loading"},
            {"done": True, "model": "phi", "loaded": True},
        ]
        assert call.whole
        assert loads(backend) == ["phi:latest"]
        assert (await gateway.ask("/v1/models/phi")).status == 200
        assert (await gateway.record()).outcome == "ok"


@scenario
async def test_a_pull_may_leave_the_model_on_the_disk() -> None:
    models = {"gemma": {"backend_model": "gemma3:12b"}}
    async with ollama("gemma3:12b") as backend, hermes(backend, models=models) as gateway:
        pulls(backend, SUCCESS)
        reply = await gateway.ask(PROMPT + "/pull", {"load": False})
        assert reply.events == [SUCCESS, {"done": True, "model": "gemma", "loaded": False}]
        asked = [asked.body for asked in backend.managed if asked.path == "/api/pull"]
        assert (asked, loads(backend)) == ([{"model": "gemma3:12b", "stream": True}], [])


@pytest.mark.parametrize("told", [fail(500, "pull model manifest: file does not exist"), play({"error": "no space"})])
@scenario
async def test_a_pull_that_fails_at_once_is_an_error_status(told: object) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        backend.management["/api/pull"] = told  # type: ignore[assignment]  # a script; its name is no use in an id
        reply = await gateway.ask("/v1/llm/phi/pull", {})
        assert reply.status == 502
        assert "file does not exist" in reply.error["message"] or "no space" in reply.error["message"]
        assert loads(backend) == []


@pytest.mark.parametrize(
    ("steps", "then"),
    [
        ([LAYER, {"error": "digest mismatch"}], Then.END),
        ([LAYER], Then.CUT),
        ([LAYER], Then.RESET),
        ([LAYER], Then.END),  # no success was told
        ([LAYER, b"garbage\n"], Then.END),
        ([LAYER, b'{"status": 5}\n'], Then.END),
    ],
)
@scenario
async def test_a_pull_that_fails_later_ends_in_an_error_line_and_uncleanly(steps: list[Step], then: Then) -> None:
    """I5, I15: never a `done` that is not true."""
    async with ollama() as backend, hermes(backend) as gateway:
        go = asyncio.Event()
        pulls(backend, steps[0], go, *steps[1:], then=then)
        call = await gateway.open("/v1/llm/phi/pull", {})
        assert await call.head() == 200
        assert await call.event() == LAYER
        go.set()
        *_, last = await call.events()
        assert last.keys() == {"error"} and last["error"].keys() == {"message", "type", "param", "code"}
        assert not call.whole
        assert loads(backend) == []
        assert (await gateway.record()).outcome == "upstream_error"


@scenario
async def test_a_pull_whose_load_fails_says_so() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        pulls(backend, SUCCESS)
        backend.models.append(model("phi:latest"))
        backend.management["/api/generate"] = fail(500, "llama-server process no longer running: out of memory")
        *_, loading, last = (await gateway.ask("/v1/llm/phi/pull", {})).events
        assert loading == {"status": "loading"}
        assert "out of memory" in last["error"]["message"]


@scenario
async def test_who_leaves_stops_the_pull() -> None:
    """I9: Ollama keeps what it has and goes on the next time."""
    async with ollama() as backend, hermes(backend) as gateway:
        pulls(backend, LAYER, then=Then.STALL)
        call = await gateway.open("/v1/llm/phi/pull", {})
        await call.head()
        pulling = next(asked for asked in backend.managed if asked.path == "/api/pull")
        call.leave()
        async with asyncio.timeout(1.0):
            await pulling.left.wait()
        assert (await gateway.record()).outcome == "client_gone"


@pytest.mark.parametrize(
    ("body", "param"), [(b"[]", None), ({"load": "no"}, "load"), (b'{"load":true,"load":false}', "load")]
)
@scenario
async def test_a_wrong_pull_is_refused(body: object, param: str | None) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        reply = await gateway.ask("/v1/llm/phi/pull", body)
        assert (reply.status, reply.error["param"]) == (400, param)
        assert not [asked for asked in backend.managed if asked.path == "/api/pull"]


@scenario
async def test_nothing_is_pulled_that_may_not_be_served_or_that_nobody_could() -> None:
    async with ollama() as backend, hermes(backend, serve_unlisted=False, models={"gemma": {}}) as gateway:
        assert (await gateway.ask("/v1/llm/phi/pull", {})).status == 404
    async with hermes(backend) as gateway:
        assert (await gateway.ask("/v1/llm/phi/pull", {})).error["code"] == "no_backend"


@scenario
async def test_a_pull_waits_for_the_first_look_at_the_backends() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        pulls(backend, SUCCESS)
        backend.models.append(model("phi:latest"))
        told = asyncio.Event()
        backend.management["/api/version"] = play(told, {"version": "0.33.0"})
        seen, looks = gateway.runtime.fleet.backends["b0"], len(backend.managed)
        seen.suspect()
        await until(lambda: any(asked.path == "/api/version" for asked in backend.managed[looks:]))
        seen.state = "starting"
        call = await gateway.open("/v1/llm/phi/pull", {"load": False})
        await until(lambda: gateway.runtime.journal.open == 1 or bool(gateway.records))
        told.set()
        assert (await call.reply()).status == 200


async def loaded_names(gateway: Hermes) -> list[str]:
    return [item["name"] for item in (await gateway.ask("/v1/status")).json["backends"][0]["loaded"]]


@scenario
async def test_after_a_pull_the_model_is_seen_loaded() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        pulls(backend, SUCCESS)
        backend.models.append(model("phi:latest"))
        backend.loaded = []
        await gateway.ask("/v1/llm/phi/pull", {})
        assert await loaded_names(gateway) == ["phi:latest"]


@scenario
async def test_a_pull_of_what_is_not_there_afterwards_does_not_end_well() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        pulls(backend, SUCCESS)
        *_, last = (await gateway.ask("/v1/llm/phi/pull", {})).events
        assert last["error"]["code"] == "model_not_found"


# --- loading and unloading --------------------------------------------------------------------------------------------

LOAD, UNLOAD = PROMPT + "/load", PROMPT + "/unload"


@scenario
async def test_a_load_is_answered_when_the_model_is_loaded() -> None:
    async with ollama() as backend:
        backend.loaded = []
        async with hermes(backend) as gateway:
            gate = asyncio.Event()
            backend.management["/api/generate"] = play(gate, {"done": True, "done_reason": "load"})
            call = await gateway.open(LOAD, b"", method="POST")
            await until(lambda: backend.orders == ["load gemma:latest"])
            assert not gateway.records
            gate.set()
            reply = await call.reply()
            assert (reply.status, reply.json) == (200, {"model": "gemma", "loaded": ["b0"]})
            assert backend.asked == []
            assert gateway.runtime.scheduler.learned()["gemma:latest"].service_s is None


@scenario
async def test_a_load_of_what_is_loaded_and_busy_is_answered_at_once() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        backend.default = play(then=Then.STALL)
        call = await gateway.open(PROMPT, {"prompt": "Hi"})
        await backend.request(0)
        assert (await gateway.ask(LOAD, b"")).json == {"model": "gemma", "loaded": ["b0"]}
        assert backend.orders == []
        call.leave()


@scenario
async def test_who_asks_for_a_load_that_fails_hears_why() -> None:
    async with ollama() as backend:
        backend.loaded = []
        async with hermes(backend) as gateway:
            backend.management["/api/generate"] = fail(500, "out of memory")
            reply = await gateway.ask(LOAD, b"")
            assert (reply.status, reply.error["code"]) == (503, "load_failed")
            assert "out of memory" in reply.error["message"]


@pytest.mark.parametrize("pinned", [False, True])
@scenario
async def test_a_load_takes_the_place_of_what_is_idle_but_not_of_what_is_pinned(pinned: bool) -> None:
    async with ollama("gemma:latest", "phi:latest") as backend:
        backend.loaded = [loaded("gemma:latest")]
        own = {"name": "b0", "url": backend.url, "max_loaded": 1}
        async with hermes(backends=[own], models={"gemma": {"pinned": pinned}, "phi": {}}) as gateway:
            assert (await gateway.ask(PROMPT, {"prompt": "Hi"})).status == 200  # its model is known by then
            reply = await gateway.ask("/v1/llm/phi/load", b"")
            if pinned:
                assert (reply.status, reply.error["code"], backend.orders) == (503, "insufficient_memory", [])
            else:
                assert (reply.status, backend.orders) == (200, ["unload gemma:latest", "load phi:latest"])


@scenario
async def test_an_unload_of_an_idle_model_is_carried_out_at_once() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        reply = await gateway.ask(UNLOAD, b"")
        assert (reply.status, reply.json) == (202, {"model": "gemma", "unloading": ["b0"], "active": 0})
        await until(lambda: backend.loaded == [])
        reply = await gateway.ask(UNLOAD, b"")
        assert (reply.status, reply.json) == (200, {"model": "gemma", "unloading": [], "active": 0})
        assert backend.orders == ["unload gemma:latest"]


@scenario
async def test_an_unload_of_a_busy_model_ends_first_what_runs_and_starts_nothing() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        free = asyncio.Event()
        backend.default = play(free, "Hel", DONE)
        runs = await gateway.open(PROMPT, {"prompt": "runs"})
        await backend.request(0)
        assert (await gateway.ask(UNLOAD, b"")).json["active"] == 1
        waits = await gateway.open(PROMPT, {"prompt": "waits"})
        await gateway.until_waiting(1)
        assert backend.orders == []
        free.set()
        assert (await runs.reply()).status == (await waits.reply()).status == 200
        assert backend.orders == ["unload gemma:latest", "load gemma:latest"]
        assert backend.most_running == 1


@scenario
async def test_a_model_that_is_being_unloaded_is_not_taken_for_loaded_again() -> None:
    """A look may still see it."""
    async with ollama() as backend, hermes(backend) as gateway:
        gate = asyncio.Event()
        backend.management["/api/generate"] = play(gate, {"done": True, "done_reason": "unload"})
        await gateway.ask(UNLOAD, b"")
        await gateway.runtime.fleet.backends["b0"].look(20.0)
        call = await gateway.open(PROMPT, {"prompt": "Hi"})
        await gateway.until_waiting(1)
        assert backend.asked == []
        backend.loaded = []
        del backend.management["/api/generate"]
        gate.set()
        assert (await call.reply()).status == 200
        assert backend.orders == ["unload gemma:latest", "load gemma:latest"]


@scenario
async def test_a_model_that_could_not_be_unloaded_is_there_as_before() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        backend.management["/api/generate"] = fail(500, "no")
        await gateway.ask(UNLOAD, b"")
        await until(lambda: gateway.runtime.scheduler.where("gemma:latest"))
        assert (await gateway.ask(PROMPT, {"prompt": "Hi"})).status == 200
        assert backend.orders == ["unload gemma:latest"]


@scenario
async def test_what_others_load_after_an_unload_is_seen() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        await gateway.ask(UNLOAD, b"")
        fleet = gateway.runtime.fleet
        seen, orders = fleet.backends["b0"], fleet.orders["b0"]
        await until(lambda: orders.idle and not backend.loaded)
        clock, backend.loaded = asyncio.get_running_loop().time, [loaded("gemma:latest")]
        await until(lambda: clock() > seen.gone_at["gemma:latest"])  # it has a grain
        await seen.look(20.0)
        assert gateway.runtime.scheduler.where("gemma:latest") == {"b0": 0}


@pytest.mark.parametrize("verb", ["load", "unload"])
@scenario
async def test_what_nobody_has_can_be_neither_loaded_nor_unloaded(verb: str) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        assert (await gateway.ask(f"/v1/llm/phi/{verb}", b"")).error["code"] == "model_not_found"
    async with hermes(backend) as gateway:
        assert (await gateway.ask(f"/v1/llm/phi/{verb}", b"")).error["code"] == "no_backend"


@pytest.mark.parametrize("path", ["/v1/llm/{}/load", "/v1/llm/{}/unload", "/api/chat", "/api/generate"])
@scenario
async def test_a_name_that_nobody_has_is_no_label_and_not_logged(path: str) -> None:
    """I27: also of what is no request for tokens; else anybody could make up series."""
    async with ollama() as backend, hermes(backend) as gateway:
        body = {"model": "made-up"} if path.startswith("/api/") else {}
        assert (await gateway.ask(path.format("made-up"), body)).status == 404
        assert (await gateway.record()).model == ""
        assert not [labels for labels in gateway.counted("hermes_requests_total") if "made-up" in labels]
