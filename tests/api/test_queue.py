"""What waits and runs, what became of it, and sending it away (I2, I9, I21)."""

import asyncio
from typing import Any
from urllib.parse import quote

import pytest

from hermes import past
from hermes.api import queue as api_queue
from hermes.record import Record
from tests.fakes.backend import DONE, Asked, FakeOllama, Then, fail, ollama, play
from tests.fakes.gateway import (
    CHAT,
    PROMPT,
    STREAMS,
    WHOLE,
    Call,
    Hermes,
    bearer,
    chat,
    error_in,
    hermes,
    hold_slot,
    key,
    prompt,
    request_bytes,
    scenario,
)
from tests.support import until

KEYS = [key("ann"), key("bob"), key("ops", admin=True)]
ASKED = WHOLE + STREAMS


def named(name: str, user: str = "") -> dict[str, str]:
    return {"x-request-id": name, **(bearer(user) if user else {})}


async def hold(gateway: Hermes, backend: FakeOllama, name: str = "runs", user: str = "") -> Call:
    """Somebody has the slot, and keeps it."""
    return await hold_slot(gateway, backend, headers=named(name, user))


async def queue(gateway: Hermes, user: str = "") -> list[dict[str, Any]]:
    reply = await gateway.ask("/v1/queue", headers=bearer(user) if user else {})
    assert reply.status == 200
    found: list[dict[str, Any]] = reply.json["data"]
    states = [each["state"] for each in found]
    assert reply.json == {
        "object": "list",
        "waiting": states.count("waiting"),
        "running": states.count("running"),
        "has_more": False,
        "data": found,
    }
    return found


async def record_of(gateway: Hermes, name: str = "x") -> Record:
    """The last of this id that asked for tokens."""

    def found() -> list[Record]:
        return [each for each in gateway.records if each.request_id == name and each.method == "POST"]

    await until(found)
    return found()[-1]


def check(told: dict[str, Any], **expected: Any) -> None:
    assert {name: told.get(name) for name in expected} == expected


async def cancel(gateway: Hermes, name: str, user: str = "") -> Any:
    """Send it away; what is told of it."""
    reply = await gateway.ask(f"/v1/queue/{name}", None, bearer(user) if user else {}, "DELETE")
    assert reply.status == 200, reply.body
    return reply.json


# --- what there is ----------------------------------------------------------------------------------------------------


@scenario
async def test_the_queue_tells_what_runs_and_what_waits_in_the_order_of_arrival() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        assert await queue(gateway) == []
        calls = [await hold(gateway, backend)]
        for number, (path, body) in enumerate([(PROMPT, prompt()), (CHAT, chat(stream=True))]):
            calls.append(await gateway.open(path, body, named(f"waits-{number}")))
            await gateway.until_waiting(number + 1)
        running, first, second = await queue(gateway)
        same = {"model": "gemma:latest", "user": "anonymous", "class": "normal"}
        for told in (running, first, second):
            check(told, **same)
            assert 0 <= told["age_ms"] < 5000 and 110_000 < told["deadline_ms"] <= 120_000
        check(running, request_id="runs", state="running", backend="b0", loaded="hit")
        assert 0 <= running["running_ms"] <= running["age_ms"]
        check(first, request_id="waits-0", state="waiting", position=1, stream=False)
        check(second, request_id="waits-1", state="waiting", position=2, stream=True)
        for told in (first, second):
            assert 0 < told["eta_ms"] <= told["eta_high_ms"]
            assert (await gateway.ask(f"/v1/queue/{told['request_id']}")).json["position"] == told["position"]
        for call in calls:
            call.leave()
        await gateway.settle()
        assert await queue(gateway) == []


@scenario
async def test_everybody_sees_what_is_his_own_and_operators_see_all() -> None:
    """I21."""
    async with ollama() as backend, hermes(backend, keys=KEYS) as gateway:
        calls = [await hold(gateway, backend, "a", "ann")]
        calls.append(await gateway.open(PROMPT, prompt(), named("b", "bob")))
        await gateway.until_waiting(1)
        seen = {user: [each["request_id"] for each in await queue(gateway, user)] for user in ("ann", "bob", "ops")}
        assert seen == {"ann": ["a"], "bob": ["b"], "ops": ["a", "b"]}
        for route in ("/v1/queue/b", "/v1/requests/b"):
            missing = await gateway.ask(route, headers=bearer("ann"))
            unknown = await gateway.ask(route.replace("/b", "/c"), headers=bearer("ann"))
            assert (missing.status, missing.error["code"], missing.error["param"]) == (
                404,
                "request_not_found",
                "request_id",
            )
            assert missing.error["message"].replace("'b'", "'c'") == unknown.error["message"]
            assert (await gateway.ask(route)).status == 401
            assert (await gateway.ask(route, headers=bearer("ops"))).json["user"] == "bob"
        refused = await gateway.ask("/v1/queue/b", None, bearer("ann"), "DELETE")
        assert (refused.status, refused.error["code"]) == (404, "request_not_found")
        assert (await gateway.ask("/v1/queue/b", None, {}, "DELETE")).status == 401
        assert gateway.waiting == 1
        assert (await cancel(gateway, "b", "ops"))["user"] == "bob"
        await gateway.until_waiting(0)
        calls[0].leave()


@scenario
async def test_a_place_is_that_among_all_though_only_ones_own_are_seen() -> None:
    async with ollama() as backend, hermes(backend, keys=KEYS) as gateway:
        calls = [await hold(gateway, backend, "a", "ann")]
        for number, user in enumerate(("ann", "bob")):
            calls.append(await gateway.open(PROMPT, prompt(), bearer(user)))
            await gateway.until_waiting(number + 1)
        (told,) = await queue(gateway, "bob")
        assert told["position"] == 2
        for call in calls:
            call.leave()


# --- sending away -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "body"), ASKED)
@scenario
async def test_who_waits_and_is_sent_away_is_told_so_and_may_ask_again(path: str, body: dict[str, Any]) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        runs = await hold(gateway, backend)
        peer = await gateway.connect()
        call = await gateway.open(path, body, named("x"), on=peer)
        await gateway.until_waiting(1)
        told = await cancel(gateway, "x")
        assert (told["request_id"], told["state"], told["position"]) == ("x", "cancelled", 1)
        reply = await call.reply()
        assert (reply.status, reply.error["code"]) == (499, "cancelled")
        assert reply.headers["x-request-id"] == "x" and "retry-after" not in reply.headers
        assert gateway.waiting == 0
        record = await record_of(gateway)
        assert (record.outcome, record.code, record.status, record.attempts) == ("cancelled", "cancelled", 499, 0)
        counted = gateway.counted("hermes_requests_total")
        assert counted[record.route, "gemma:latest", "cancelled"] == 1
        runs.leave()
        assert (await gateway.ask(path, body, on=peer)).status == 200


@pytest.mark.parametrize(("path", "body"), ASKED)
@scenario
async def test_who_runs_and_has_got_nothing_is_told_so_and_its_backend_stops(path: str, body: dict[str, Any]) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        backend.scripts.append(play(b"\n" if body.get("stream") else "Hel", then=Then.STALL))
        peer = await gateway.connect()
        call = await gateway.open(path, body, named("x"), on=peer)
        asked = await backend.request(0)
        waits = await gateway.open(PROMPT, prompt())
        await gateway.until_waiting(1)
        assert (await cancel(gateway, "x"))["backend"] == "b0"
        async with asyncio.timeout(1.0):
            await asked.left.wait()
        reply = await call.reply()
        assert (reply.status, reply.error["code"]) == (499, "cancelled")
        assert (await waits.reply()).status == 200
        record = await record_of(gateway)
        assert (record.outcome, record.status, record.attempts) == ("cancelled", 499, 1)
        assert gateway.attempts()["b0", "cancelled"] == 1
        assert (await gateway.ask(path, body, on=peer)).status == 200


@pytest.mark.parametrize(("path", "body"), STREAMS)
@scenario
async def test_a_stream_that_is_sent_away_ends_uncleanly_with_the_error_event(path: str, body: dict[str, Any]) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        backend.scripts.append(play("Hel", then=Then.STALL))
        call = await gateway.open(path, body, named("x"))
        assert await call.head() == 200
        while "Hel" not in str(await call.event()):
            pass
        assert "deadline_ms" not in (await gateway.ask("/v1/queue/x")).json  # it has met it
        await cancel(gateway, "x")
        (last,) = await call.events()
        assert error_in(last)["code"] == "cancelled" and not call.whole
        async with asyncio.timeout(1.0):
            await backend.asked[0].left.wait()
        record = await record_of(gateway)
        assert (record.outcome, record.code, record.status) == ("cancelled", "cancelled", 200)
        assert (await gateway.ask(PROMPT, prompt())).status == 200


@pytest.mark.parametrize(("path", "body"), STREAMS)
@scenario
async def test_a_stream_that_waits_with_signs_of_life_is_told_in_it(path: str, body: dict[str, Any]) -> None:
    async with ollama() as backend, hermes(backend, scheduling={"queue_heartbeat_s": 0.02}) as gateway:
        runs = await hold(gateway, backend)
        call = await gateway.open(path, body, named("x"))
        assert await call.head() == 200
        assert b"queued" in await call.piece()
        await cancel(gateway, "x")
        assert error_in((await call.events())[-1])["code"] == "cancelled"
        assert not call.whole
        record = await record_of(gateway)
        assert (record.outcome, record.status) == ("cancelled", 200)
        runs.leave()


@scenario
async def test_who_is_between_two_attempts_is_sent_away_too() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        backend.scripts.append(fail(500, "out of memory"))
        call = await gateway.open(PROMPT, prompt(), named("x"))
        while not (told := await queue(gateway)) or told[0]["state"] != "retrying":
            assert (await gateway.ask("/v1/requests/x")).json.get("state") != "done", "over before it could be seen"
        assert (await cancel(gateway, "x"))["state"] == "cancelled"
        assert (await call.reply()).status == 499
        assert len(backend.asked) == 1
        assert (await record_of(gateway)).outcome == "cancelled"


@scenario
async def test_of_several_with_one_id_each_has_a_handle_of_its_own() -> None:
    """Ids are their clients' choice, and some are no part of a path (`..`) to a browser."""
    async with ollama() as backend, hermes(backend) as gateway:
        calls = [await hold(gateway, backend)]
        for number in range(1, 4):
            calls.append(await gateway.open(PROMPT, prompt(), named("twice")))
            await gateway.until_waiting(number)
        handles = [each["handle"] for each in await queue(gateway)]
        assert len(set(handles)) == 4 and handles == [each["handle"] for each in await queue(gateway)]
        calls.append(await gateway.open(PROMPT, prompt(), named(handles[2])))  # who calls himself so is not meant
        await gateway.until_waiting(4)
        assert (await gateway.ask(f"/v1/queue/{handles[2]}")).json["position"] == 2
        assert (await cancel(gateway, handles[2]))["handle"] == handles[2]
        assert (await calls[2].reply()).status == 499
        assert (await cancel(gateway, "twice"))["handle"] == handles[1]
        assert [each["handle"] for each in (await queue(gateway))[:2]] == [handles[0], handles[3]]
        for call in (calls[0], calls[3], calls[4]):
            call.leave()


@scenario
async def test_who_waits_for_a_load_is_sent_away_too() -> None:
    async with ollama() as backend:
        backend.loaded.clear()
        go = asyncio.Event()

        async def load(asked: Asked) -> None:
            await go.wait()
            await backend._manage(asked)

        backend.management["/api/generate"] = load
        own = {"name": "b0", "url": backend.url, "max_loaded": 1}
        async with hermes(backends=[own]) as gateway:
            call = await gateway.open(PROMPT, prompt(), named("x"))
            await gateway.until_waiting(1)
            await cancel(gateway, "x")
            assert (await call.reply()).status == 499
            go.set()
            assert (await gateway.ask(PROMPT, prompt())).status == 200


@scenario
async def test_to_send_away_twice_is_to_send_away_once() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        runs = await hold(gateway, backend)
        peer = await gateway.connect()
        call = await gateway.open(PROMPT, prompt(), named("x"), on=peer)
        await gateway.until_waiting(1)
        twice = await gateway.connect()
        await twice.send(2 * request_bytes("DELETE", "/v1/queue/x", None, {}))
        assert [(await twice.answer()).status for _ in range(2)] == [200, 404]
        assert (await call.reply()).status == 499
        runs.leave()
        assert (await gateway.ask(PROMPT, prompt(), on=peer)).status == 200
        assert sum(record.outcome == "cancelled" for record in gateway.records) == 1


@scenario
async def test_what_comes_after_it_on_its_connection_is_answered() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        runs = await hold(gateway, backend)
        call = await gateway.open(PROMPT, prompt(), named("x"))
        await gateway.until_waiting(1)
        await gateway.open("/v1/models", on=call.peer)
        await cancel(gateway, "x")
        assert [(await call.reply()).status for _ in range(2)] == [499, 200]
        runs.leave()


@scenario
async def test_of_a_hundred_that_are_sent_away_at_any_moment_none_leaves_a_trace() -> None:
    """I2, I3: while slots are given, used and freed, and some leave by themselves."""
    often = {"queue_heartbeat_s": 0.005}
    async with ollama() as backend, hermes(backend, defaults={"max_concurrency": 3}, scheduling=often) as gateway:
        sending_away = await gateway.connect()
        for turn in range(5):
            calls = []
            for number in range(20):
                path, body = ASKED[number % 4]
                calls.append(await gateway.open(path, body, named(f"{turn}/{number}")))
            for number, call in enumerate(calls):
                for _ in range(number % 7 + turn):
                    await asyncio.sleep(0)
                if number % 3 != 0:
                    path = f"/v1/queue/{turn}/{number}"
                    assert (await gateway.ask(path, None, {}, "DELETE", sending_away)).status in (200, 404)
                if number % 5 == 0:
                    call.leave()
                elif number % 3 == 0:
                    assert (await call.reply()).status == 200
        await gateway.settle()
        asked = [record for record in gateway.records if record.method == "POST"]
        assert len(asked) == 100 and backend.most_running <= 3
        assert {record.outcome for record in asked} <= {"ok", "cancelled", "client_gone"}


@scenario
async def test_who_leaves_as_it_is_sent_away_leaves_nothing_behind() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        for number in range(20):
            backend.scripts.append(play("Hel", then=Then.STALL))
            call = await gateway.open(PROMPT, prompt(stream=number % 2 == 0), named("x"))
            await backend.request(number)
            deleting = await gateway.open("/v1/queue/x", method="DELETE")
            for _ in range(number // 4):
                await asyncio.sleep(0)
            call.leave()
            await deleting.reply()
            await gateway.settle()
        outcomes = {record.outcome for record in gateway.records if record.method == "POST"}
        assert outcomes <= {"cancelled", "client_gone"}


@scenario
async def test_who_has_its_whole_answer_cannot_be_sent_away_any_more() -> None:
    """The backend has said its last word, and has yet to end the body."""
    async with ollama() as backend, hermes(backend) as gateway:
        go = asyncio.Event()
        backend.scripts.append(play("Hel", DONE, go))
        call = await gateway.open(PROMPT, prompt(stream=True), named("x"))
        assert [event.get("done") for event in await (await head(call)).events()] == [None, True]
        assert call.whole
        reply = await gateway.ask("/v1/queue/x", None, {}, "DELETE")
        assert (reply.status, reply.error["code"]) == (404, "request_not_found")
        go.set()
        assert (await record_of(gateway)).outcome == "ok"
        assert gateway.attempts() == {("b0", "ok"): 1}


async def head(call: Call) -> Call:
    assert await call.head() == 200
    return call


# --- which one is meant -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a/b", "a//b", "/a", "a/", "a+b", "a=b@c:d", "...", "x" * 128, "cancel", "queue/x"])
@pytest.mark.parametrize("encoded", [True, False])
@scenario
async def test_an_id_may_hold_whatever_an_id_may_hold(name: str, encoded: bool) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        runs = await hold(gateway, backend)
        call = await gateway.open(PROMPT, prompt(), named(name))
        await gateway.until_waiting(1)
        path = quote(name, safe="") if encoded else name
        assert (await gateway.ask(f"/v1/queue/{path}")).json["request_id"] == name
        assert (await gateway.ask(f"/v1/requests/{path}")).json["state"] == "waiting"
        await cancel(gateway, path)
        assert (await call.reply()).status == 499
        assert (await gateway.ask(f"/v1/requests/{path}")).json["outcome"] == "cancelled"
        runs.leave()


@pytest.mark.parametrize("path", ["", "nobody", "%00", "%ff", "a%252Fb"])
@scenario
async def test_an_id_that_nobody_has_is_404(path: str) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        await gateway.ask(PROMPT, prompt(), named("a/b"))
        for method, route in (("GET", "queue"), ("DELETE", "queue"), ("GET", "requests")):
            reply = await gateway.ask(f"/v1/{route}/{path}", None, {}, method)
            assert (reply.status, reply.error["code"]) == (404, "request_not_found" if path else "not_found")


@scenario
async def test_of_several_with_one_id_the_oldest_is_meant_and_the_last_that_ended() -> None:
    """Clients choose their ids, and are free to choose badly."""
    async with ollama() as backend, hermes(backend) as gateway:
        runs = await hold(gateway, backend, "x")
        backend.default = play(then=Then.STALL)
        calls = [runs]
        for number in range(2):
            calls.append(await gateway.open(PROMPT, prompt(stream=number == 1), named("x")))
            await gateway.until_waiting(number + 1)
        assert [told["request_id"] for told in await queue(gateway)] == ["x"] * 3
        for call in calls:
            assert (await gateway.ask("/v1/requests/x")).json["state"] == "running"
            await cancel(gateway, "x")
            assert (await call.reply()).status == 499
        assert (await gateway.ask("/v1/queue/x")).status == 404
        assert (await gateway.ask("/v1/requests/x")).json["stream"] is True


@scenario
async def test_another_tenants_request_of_the_same_id_is_not_touched() -> None:
    """I21."""
    async with ollama() as backend, hermes(backend, keys=KEYS) as gateway:
        runs = await hold(gateway, backend, "x", "bob")
        call = await gateway.open(PROMPT, prompt(), named("x", "ann"))
        await gateway.until_waiting(1)
        assert (await gateway.ask("/v1/queue/x", headers=bearer("ann"))).json["state"] == "waiting"
        await cancel(gateway, "x", "ann")
        assert (await call.reply()).status == 499
        assert gateway.running == 1
        assert (await gateway.ask("/v1/requests/x", headers=bearer("ann"))).json["outcome"] == "cancelled"
        assert (await gateway.ask("/v1/requests/x", headers=bearer("bob"))).json["state"] == "running"
        runs.leave()


@pytest.mark.parametrize(
    ("method", "path"), [("DELETE", "/v1/queue"), ("POST", "/v1/queue/x"), ("DELETE", "/v1/requests/x")]
)
@scenario
async def test_what_makes_no_sense_on_these_routes_is_405(method: str, path: str) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        reply = await gateway.ask(path, {} if method == "POST" else None, {}, method)
        assert (reply.status, reply.error["code"]) == (405, "method_not_allowed")
        assert "GET" in reply.headers["allow"]


@scenario
async def test_head_works_where_get_does_and_cancels_nothing() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        runs = await hold(gateway, backend, "x")
        for path in ("/v1/queue", "/v1/queue/x", "/v1/requests/x"):
            assert (await gateway.ask(path, method="HEAD")).status == 200
        assert gateway.running == 1
        runs.leave()


# --- what became of one -----------------------------------------------------------------------------------------------


@scenario
async def test_what_became_of_a_request_is_told_with_why_it_waited() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        free = asyncio.Event()
        backend.scripts.append(play(free, "Hel", DONE))
        runs = await gateway.open(PROMPT, prompt(), named("runs"))
        await backend.request(0)
        waits = await gateway.open(CHAT, chat(stream=True), named("waits"))
        await gateway.until_waiting(1)
        path = "/v1/requests/waits"
        told = (await gateway.ask(path)).json
        assert (told["state"], told["position"]) == ("waiting", 1)
        why = told["why"]
        free.set()
        assert [(await call.reply()).status for call in (runs, waits)] == [200, 200]
        told = (await gateway.ask(path)).json
        assert told["why"] == why
        record = await record_of(gateway, "waits")
        check(told, state="done", request_id="waits", outcome="ok", status=200, attempts=1)
        check(told, model="gemma:latest", backend="b0", loaded="hit", tokens_out=3, stream=True)
        check(told, **{"class": "normal"}, queue_ms=record.queue_ms, ttft_ms=record.ttft_ms)
        assert why["position"] == 1 and 0 < why["eta_ms"] <= why["eta_high_ms"]
        assert (why["model_was"], why["waiting"], why["changes"]) == ("hit", {"normal": 1}, [])
        held = {"running": 1, "settling": 0, "slots": 1, "waiting": 1}
        assert why["in_memory"] == [{"backend": "b0", "model": "gemma:latest", **held}]
        assert "why" not in (await gateway.ask("/v1/requests/runs")).json


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"queue_limit": 0}, {}, "queue_full"),
    ({}, {"x-hermes-deadline-ms": "100"}, "queue_timeout"),
]


@pytest.mark.parametrize(("defaults", "headers", "outcome"), REFUSED)
@scenario
async def test_what_was_refused_is_told_too(defaults: dict[str, Any], headers: dict[str, str], outcome: str) -> None:
    async with ollama() as backend, hermes(backend, defaults=defaults) as gateway:
        runs = await hold(gateway, backend)
        status = (await gateway.ask(PROMPT, prompt(), named("x") | headers)).status
        told = (await gateway.ask("/v1/requests/x")).json
        assert (told["state"], told["outcome"], told["code"], told["status"]) == ("done", outcome, outcome, status)
        assert not {"attempts", "backend", "loaded", "urgency"} & told.keys()  # it never ran
        runs.leave()


@scenario
async def test_why_a_load_was_waited_for_names_what_holds_the_memory() -> None:
    async with ollama("gemma:latest", "phi:latest") as backend:
        backend.loaded = [each for each in backend.loaded if each["name"] == "gemma:latest"]
        own = {"name": "b0", "url": backend.url, "max_loaded": 1}
        async with hermes(backends=[own]) as gateway:
            runs = await hold(gateway, backend)
            call = await gateway.open("/v1/llm/phi", prompt(), named("x"))
            await gateway.until_waiting(1)
            why = (await gateway.ask("/v1/requests/x")).json["why"]
            assert (why["model_was"], why["in_memory"][0]["model"]) == ("absent", "gemma:latest")
            runs.leave()
            assert (await call.reply()).status == 200
            told = (await gateway.ask("/v1/requests/x")).json
            assert (told["loaded"], told["why"]) == ("swap", why)


@scenario
async def test_only_the_last_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(past, "REMEMBERED", 3)
    monkeypatch.setattr(past, "PACKED_TOGETHER", 1)
    async with ollama() as backend, hermes(backend) as gateway:
        for number in range(5):
            await gateway.ask(PROMPT, prompt(), named(f"r{number}"))
            await gateway.ask("/v1/models")  # what asks for no tokens is not counted
        found = [(await gateway.ask(f"/v1/requests/r{number}")).status for number in range(5)]
        assert found == [404, 404, 200, 200, 200]


@scenario
async def test_the_last_that_are_over_are_told_the_last_one_first() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        for number in range(5):
            await gateway.ask(PROMPT, prompt(), named(f"r{number}"))
        await gateway.ask("/v1/models")  # asks for no tokens
        told = (await gateway.ask("/v1/requests?limit=3")).json
        assert [each["request_id"] for each in told["data"]] == ["r4", "r3", "r2"] and told["has_more"] is True
        told = (await gateway.ask("/v1/requests")).json
        assert len(told["data"]) == 5 and told["has_more"] is False
        record = (await gateway.ask("/v1/requests/r4")).json
        assert told["data"][0] == {name: value for name, value in record.items() if name != "state"}
        for query, count in (("model=gemma:latest", 5), ("model=qwen", 0), ("outcome=ok", 5), ("outcome=denied", 0)):
            assert len((await gateway.ask(f"/v1/requests?{query}")).json["data"]) == count


@pytest.mark.parametrize("limit", ["0", "-1", "1001", "x", "", "²", "9" * 5000])
@scenario
async def test_a_limit_that_is_none_is_refused(limit: str) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        reply = await gateway.ask(f"/v1/requests?limit={quote(limit)}")
        assert (reply.status, reply.error["param"]) == (400, "limit")
        assert (await gateway.ask("/v1/requests?user=a&user=b")).error["param"] == "user"


@scenario
async def test_of_the_last_everybody_sees_his_own_and_operators_all() -> None:
    """I21."""
    async with ollama() as backend, hermes(backend, keys=[*KEYS, key("few", admin=True, models=["qwen*"])]) as gateway:
        for user in ("ann", "bob"):
            await gateway.ask(PROMPT, prompt(), bearer(user))

        async def users(who: str, query: str = "") -> list[str]:
            reply = await gateway.ask(f"/v1/requests{query}", headers=bearer(who))
            return [each["user"] for each in reply.json["data"]]

        assert await users("ann") == await users("ann", "?user=ann") == ["ann"] and await users("bob") == ["bob"]
        assert await users("ops") == ["bob", "ann"] and await users("ops", "?user=ann") == ["ann"]
        assert await users("ann", "?user=bob") == await users("few") == []
        assert (await gateway.ask("/v1/requests")).status == 401


@scenario
async def test_what_was_said_is_not_told() -> None:
    """I27."""
    async with ollama() as backend, hermes(backend, keys=KEYS) as gateway:
        backend.default = play("sesame", DONE)
        await gateway.ask(PROMPT, prompt("open sesame"), named("x", "ann"))
        body = (await gateway.ask("/v1/requests/x", headers=bearer("ann"))).body
        assert b"sesame" not in body and b"sk-ann" not in body


@scenario
async def test_of_a_long_queue_the_first_are_told_and_how_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """I36: telling takes time for each."""
    monkeypatch.setattr(api_queue, "LISTED", 2)
    async with ollama() as backend, hermes(backend) as gateway:
        backend.default = play(then=Then.STALL)
        for _ in range(4):
            await gateway.open(PROMPT, prompt())
        await gateway.until_waiting(3)
        told = (await gateway.ask("/v1/queue")).json
        assert (told["running"], told["waiting"], told["has_more"], len(told["data"])) == (1, 3, True, 2)
