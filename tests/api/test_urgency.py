"""How urgent a request is, by what it says and by who asks: its class, its priority, its deadline."""

import asyncio
from statistics import median
from typing import Any

import pytest

from hermes.policy.forecast import ENOUGH_RUNS
from hermes.policy.ticket import Ticket
from tests.fakes.backend import DONE, FakeOllama, Then, ollama, play
from tests.fakes.gateway import CHAT, PROMPT, WHOLE, Call, Hermes, bearer, chat, hermes, key, prompt, scenario
from tests.support import until

# --- the class --------------------------------------------------------------------------------------------------------

BACKGROUND = {"x-app": "cli-bg"}


def says(name: str) -> dict[str, str]:
    return {"x-hermes-class": name}


def tier(name: str) -> dict[str, str]:
    return {"service_tier": name}


# headers, members of the body, the key's settings, the model's highest, the usual one; the class that comes of it
SAID: list[tuple[dict[str, str], dict[str, Any], dict[str, Any], str | None, str, str]] = [
    ({}, {}, {}, None, "normal", "normal"),
    ({}, {}, {}, None, "batch", "batch"),
    ({}, {}, {"usual_class": "interactive"}, None, "batch", "interactive"),
    (BACKGROUND, {}, {"usual_class": "interactive"}, None, "normal", "normal"),
    (BACKGROUND, {}, {"usual_class": "batch"}, None, "normal", "normal"),
    ({}, tier("priority"), {"usual_class": "batch"}, None, "normal", "interactive"),
    ({}, tier("default"), {"usual_class": "interactive"}, None, "normal", "normal"),
    ({}, tier("auto"), {"usual_class": "batch"}, None, "normal", "normal"),
    ({}, tier("flex"), {}, None, "normal", "batch"),
    ({}, tier("scale"), {"usual_class": "interactive"}, None, "normal", "interactive"),
    (BACKGROUND, tier("flex"), {}, None, "normal", "batch"),
    (says("interactive"), tier("flex"), {}, None, "normal", "interactive"),
    (says("batch") | BACKGROUND, tier("priority"), {"usual_class": "interactive"}, None, "normal", "batch"),
    (says("interactive"), {}, {"max_class": "normal"}, None, "normal", "normal"),
    (says("interactive"), {}, {"max_class": "batch"}, None, "normal", "batch"),
    (says("interactive"), {}, {}, "batch", "normal", "batch"),
    ({}, tier("priority"), {"max_class": "normal"}, "interactive", "normal", "normal"),
    (BACKGROUND, {}, {"max_class": "batch"}, None, "normal", "batch"),
    ({}, {}, {"max_class": "batch"}, None, "interactive", "batch"),
    ({}, {}, {"max_class": "normal", "usual_class": "interactive"}, None, "normal", "normal"),
    ({}, {}, {}, "normal", "interactive", "normal"),
    (says("batch"), {}, {"max_class": "normal"}, "normal", "normal", "batch"),
]


@pytest.mark.parametrize(("headers", "body", "settings", "highest", "usual", "expected"), SAID)
@scenario
async def test_the_class_is_what_is_said_first_and_never_above_the_ceilings(
    headers: dict[str, str],
    body: dict[str, Any],
    settings: dict[str, Any],
    highest: str | None,
    usual: str,
    expected: str,
) -> None:
    sections = {"keys": [key("ann", **settings)], "scheduling": {"usual_class": usual}}
    async with ollama() as backend, hermes(backend, models={"gemma": {"max_class": highest}}, **sections) as gateway:
        reply = await gateway.ask(CHAT, chat(**body), headers | bearer("ann"))
        assert reply.status == 200
        told = await gateway.ask(f"/v1/requests/{reply.headers['x-request-id']}", headers=bearer("ann"))
        assert told.json["class"] == expected


@scenario
async def test_without_keys_the_usual_class_is_the_configurations() -> None:
    async with ollama() as backend, hermes(backend, scheduling={"usual_class": "batch"}) as gateway:
        reply = await gateway.ask(PROMPT, prompt())
        assert (await gateway.ask(f"/v1/requests/{reply.headers['x-request-id']}")).json["class"] == "batch"


@pytest.mark.parametrize(("path", "body"), [(PROMPT, prompt()), (CHAT, chat(stream=True))])
@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("x-hermes-class", "urgent"),
        ("x-hermes-class", ""),
        ("x-hermes-deadline-ms", "1.5"),
        ("x-hermes-deadline-ms", "0"),
    ],
)
@scenario
async def test_what_cannot_be_understood_is_400_and_names_the_header(
    header: str, said: str, path: str, body: dict[str, Any]
) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        for _ in range(2):  # the second time the head is known
            reply = await gateway.ask(path, body, {header: said})
            assert (reply.status, reply.error["code"], reply.error["param"]) == (400, "invalid_value", header)
        assert not backend.asked


@scenario
async def test_what_cannot_be_understood_does_no_harm_where_nothing_waits_and_is_told_to_nobody_without_a_key() -> None:
    nonsense = says("urgent") | {OURS: "soon"}
    async with ollama() as backend, hermes(backend, keys=[key("ann")]) as gateway:
        for path in ("/health", "/readyz"):
            assert (await gateway.ask(path, headers=nonsense)).status == 200
        for path in ("/v1/models", "/v1/queue", "/v1/status"):
            assert (await gateway.ask(path, headers=nonsense | bearer("ann"))).status == 200
        assert (await gateway.ask(PROMPT, prompt(), nonsense)).status == 401
        assert (await gateway.ask(PROMPT, prompt(), nonsense | bearer("ann"))).status == 400


@pytest.mark.parametrize(("path", "body"), WHOLE)
@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("1", "invalid_type"),
        (1.5, "invalid_type"),
        (True, "invalid_type"),
        (2**31, "invalid_value"),
        (-(2**31) - 1, "invalid_value"),
    ],
)
@scenario
async def test_a_priority_that_is_no_integer_of_32_bits_is_400(
    path: str, body: dict[str, Any], said: Any, code: str
) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        reply = await gateway.ask(path, {**body, "priority": said})
        assert (reply.status, reply.error["code"], reply.error["param"]) == (400, code, "priority")
        for good in (None, 0, 2**31 - 1, -(2**31)):
            assert (await gateway.ask(path, {**body, "priority": good})).status == 200


@scenario
async def test_a_service_tier_that_is_no_text_is_400() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        reply = await gateway.ask(CHAT, chat(service_tier=1))
        assert (reply.status, reply.error["param"]) == (400, "service_tier")


# --- the order --------------------------------------------------------------------------------------------------------


class Crowd:
    """One slot, held until `free`: who waits for it comes in this order, and is served in another."""

    def __init__(self, gateway: Hermes, backend: FakeOllama) -> None:
        self.free = asyncio.Event()
        self._gateway = gateway
        self._backend = backend
        self._calls: list[Call] = []
        backend.default = play(self.free, "Hel", DONE)

    async def come(self, text: str, headers: dict[str, str] | None = None, **more: Any) -> None:
        self._calls.append(await self._gateway.open(PROMPT, prompt(text, **more), headers))
        if len(self._calls) == 1:
            await self._backend.request(0)
        else:
            await self._gateway.until_waiting(len(self._calls) - 1)

    async def served(self) -> list[str]:
        """What is served, in order, after the one that holds the slot now."""
        self.free.set()
        for call in self._calls:
            assert (await call.reply()).status == 200
        return [asked.body["prompt"] for asked in self._backend.asked[1:]]


@scenario
async def test_the_more_urgent_class_goes_first() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        crowd = Crowd(gateway, backend)
        await crowd.come("holds the slot")
        for name in ("batch", "normal", "interactive"):
            await crowd.come(name, says(name))
        assert await crowd.served() == ["interactive", "normal", "batch"]


@scenario
async def test_classes_that_wait_together_share_by_weight_and_none_starves() -> None:
    weights = {"interactive": {"weight": 4}, "normal": {"weight": 2}, "batch": {"weight": 1}}
    async with ollama() as backend, hermes(backend, scheduling=weights) as gateway:
        crowd = Crowd(gateway, backend)
        await crowd.come("holds the slot")
        for name in ("batch", "normal", "interactive"):
            for _ in range(8):
                await crowd.come(name, says(name))
        first = (await crowd.served())[:14]
        assert [first.count(name) for name in ("interactive", "normal", "batch")] == [8, 4, 2]


@scenario
async def test_of_one_users_requests_the_lowest_priority_goes_first() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        crowd = Crowd(gateway, backend)
        await crowd.come("holds the slot")
        for priority in (5, 0, -3, 5, 1):
            await crowd.come(str(priority), priority=priority)
        assert await crowd.served() == ["-3", "0", "1", "5", "5"]


@scenario
async def test_a_priority_is_nothing_to_other_users() -> None:
    keys = [key("ann"), key("bob")]
    async with ollama() as backend, hermes(backend, keys=keys) as gateway:
        crowd = Crowd(gateway, backend)
        await crowd.come("holds the slot", bearer("ann"))
        await crowd.come("ann", bearer("ann"), priority=9)
        await crowd.come("bob", bearer("bob"), priority=-9)
        assert await crowd.served() == ["ann", "bob"]


@scenario
async def test_users_share_by_the_weight_of_their_keys_where_nobody_is_in_a_hurry() -> None:
    keys = [key("ann", weight=3), key("bob")]
    async with ollama() as backend, hermes(backend, keys=keys, scheduling={"usual_class": "batch"}) as gateway:
        crowd = Crowd(gateway, backend)
        await crowd.come("holds the slot", bearer("ann"))
        for user in ("bob", "ann"):
            for _ in range(9):
                await crowd.come(user, bearer(user))
        assert (await crowd.served())[:12].count("ann") == 9


@scenario
async def test_how_many_tokens_a_prompt_has_is_learned_by_its_bytes() -> None:
    """The first guess is a quarter of them; here each prompt, however long, has 7."""
    async with ollama() as backend, hermes(backend) as gateway:
        long, free = prompt("a word " * 500), asyncio.Event()
        backend.scripts += [play(free, "Hi", DONE), play("Hi", DONE), play("Hi", DONE)]
        calls = [await gateway.open(PROMPT, long) for _ in range(3)]
        await gateway.until_waiting(2)
        assert all(ticket.prompt_tokens == ticket.size_bytes // 4 > 800 for ticket in tickets(gateway))
        free.set()
        for call in calls:
            assert (await call.reply()).status == 200
        backend.default = play(then=Then.STALL)
        await gateway.open(PROMPT, long)
        await until(lambda: gateway.running == 1)
        (ticket,) = tickets(gateway)
        assert ticket.prompt_tokens < 20


def tickets(gateway: Hermes) -> list[Ticket]:
    return [each.ticket for each in gateway.runtime.journal.exchanges if each.ticket is not None]


@scenario
async def test_who_has_as_many_running_as_it_may_waits_and_holds_nobody_up() -> None:
    keys = [key("ann", concurrency=1), key("bob")]
    async with ollama() as backend, hermes(backend, keys=keys, defaults={"max_concurrency": 3}) as gateway:
        free = asyncio.Event()
        backend.default = play(free, "Hel", DONE)
        calls = [await gateway.open(PROMPT, prompt("ann"), bearer("ann"))]
        await backend.request(0)
        for number in range(2):
            calls.append(await gateway.open(PROMPT, prompt("ann"), bearer("ann")))
            await gateway.until_waiting(number + 1)
        for number in range(2):
            calls.append(await gateway.open(PROMPT, prompt("bob"), bearer("bob")))
            await backend.request(number + 1)
        assert [asked.body["prompt"] for asked in backend.asked] == ["ann", "bob", "bob"]
        assert (gateway.running, gateway.waiting) == (3, 2)
        free.set()
        assert {(await call.reply()).status for call in calls} == {200}


# --- the deadline -----------------------------------------------------------------------------------------------------

OURS, TIMEOUT = "x-hermes-deadline-ms", "x-request-timeout"
PYTHON, NODE = "x-stainless-read-timeout", "x-stainless-timeout"


async def deadline_of(body: dict[str, Any], headers: dict[str, str], **sections: Any) -> float:
    """Seconds that such a request has."""
    async with ollama() as backend, hermes(backend, **sections) as gateway:
        backend.default = play(then=Then.STALL)
        call = await gateway.open(PROMPT, body, headers)
        await backend.request(0)
        (told,) = (await gateway.ask("/v1/queue")).json["data"]
        call.leave()
        return float(told["deadline_ms"]) / 1000


@pytest.mark.parametrize(
    ("headers", "stream", "within_s"),
    [
        ({}, False, 100),
        ({OURS: "60000"}, False, 60),
        ({OURS: "60000"}, True, 60),
        ({OURS: "300000"}, False, 100),
        ({TIMEOUT: "50"}, True, 50),
        ({TIMEOUT: "50", OURS: "40000"}, True, 40),
        ({TIMEOUT: "30", OURS: "40000"}, False, 30),
        ({PYTHON: "70"}, False, 70),
        ({NODE: "70"}, False, 70),
        ({PYTHON: "70", NODE: "65", TIMEOUT: "80"}, False, 65),
        ({PYTHON: "70", NODE: "65"}, True, 100),
        ({PYTHON: "not-given", TIMEOUT: "soon"}, False, 100),
    ],
)
@scenario
async def test_the_deadline_is_the_smallest_that_is_said(headers: dict[str, str], stream: bool, within_s: int) -> None:
    deadline_s = await deadline_of(prompt(stream=stream), headers, models={"gemma": {"timeout_s": 100}})
    assert deadline_s == pytest.approx(within_s, abs=2)


@pytest.mark.parametrize(
    ("settings", "defaults", "headers", "within_s"),
    [
        ({"load_time_s": 70}, {}, {}, 140),
        ({"load_time_s": 70}, {"timeout_s": 60}, {}, 140),
        ({"load_time_s": 50}, {}, {}, 120),
        ({"load_time_s": 70, "timeout_s": 120}, {}, {}, 120),
        ({"load_time_s": 70}, {}, {OURS: "130000"}, 130),
    ],
)
@scenario
async def test_the_usual_timeout_lasts_for_two_loads_one_that_is_said_is_as_it_is_said(
    settings: dict[str, Any], defaults: dict[str, Any], headers: dict[str, str], within_s: int
) -> None:
    deadline_s = await deadline_of(prompt(), headers, models={"gemma": settings}, defaults=defaults)
    assert deadline_s == pytest.approx(within_s, abs=2)


@pytest.mark.parametrize(("header", "said"), [(OURS, "200"), (TIMEOUT, "0.2"), (PYTHON, "0.2"), (NODE, "0.2")])
@scenario
async def test_who_waits_past_the_deadline_it_has_said_gets_504(header: str, said: str) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        backend.default = play(then=Then.STALL)
        runs = await gateway.open(PROMPT, prompt())
        await backend.request(0)
        reply = await gateway.ask(PROMPT, prompt(), {header: said})
        assert (reply.status, reply.error["code"]) == (504, "queue_timeout")
        assert reply.headers["x-should-retry"] == "false" and "retry-after" not in reply.headers
        record = await gateway.record()
        assert (record.outcome, record.attempts) == ("queue_timeout", 0)
        assert 199 <= record.duration_ms < 1500  # of 200.0 less a rounding error 199 are whole
        runs.leave()


@pytest.mark.parametrize(("path", "body"), WHOLE)
@scenario
async def test_a_whole_answer_that_is_not_whole_by_its_deadline_is_504_and_no_shortened_200(
    path: str, body: dict[str, Any]
) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        backend.default = play("Hel", then=Then.STALL)
        reply = await gateway.ask(path, body, {OURS: "300"})
        assert (reply.status, reply.error["code"]) == (504, "backend_timeout")
        async with asyncio.timeout(1.0):
            await backend.asked[0].left.wait()


@scenario
async def test_the_deadline_of_a_stream_is_that_of_its_first_content() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        go = asyncio.Event()
        backend.default = play("Hel", go, "lo", DONE)
        call = await gateway.open(PROMPT, prompt(stream=True), {OURS: "400"})
        assert await call.head() == 200
        assert await call.event() == {"delta": "Hel"}
        asyncio.get_running_loop().call_later(0.9, go.set)
        assert [event.get("delta") for event in await call.events()] == ["lo", None]
        assert call.whole
        backend.default = play(then=Then.STALL)
        assert (await gateway.ask(PROMPT, prompt(stream=True), {OURS: "300"})).error["code"] == "backend_timeout"


async def learn(gateway: Hermes, backend: FakeOllama) -> Call:
    """Show how long runs take, then take the only slot."""
    for _ in range(ENOUGH_RUNS + 1):
        pause = asyncio.Event()
        asyncio.get_running_loop().call_later(0.06, pause.set)  # too many in a short time teach nothing
        backend.scripts.append(play(pause, "Hel", DONE))
        assert (await gateway.ask(PROMPT, prompt())).status == 200
    backend.default = play(then=Then.STALL)
    runs = await gateway.open(PROMPT, prompt())
    await backend.request(ENOUGH_RUNS + 1)
    return runs


@pytest.mark.parametrize("body", [prompt(), prompt(stream=True)])
@scenario
async def test_what_cannot_be_in_time_is_refused_at_once(body: dict[str, Any]) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        runs = await learn(gateway, backend)
        asked, told = len(backend.asked), len(gateway.records)
        for _ in range(9):
            reply = await gateway.ask(PROMPT, body, {OURS: "150"})
            assert (reply.status, reply.error["code"]) == (503, "deadline_unreachable")
            assert 1 <= int(reply.headers["retry-after"]) <= 60
            assert 1000 <= int(reply.headers["retry-after-ms"]) <= 60_000
            assert reply.headers["x-should-retry"] == "true"
        refused = gateway.records[told:]
        assert {record.outcome for record in refused} == {"deadline_refused"}
        assert median(record.duration_ms for record in refused) <= 10
        assert (gateway.waiting, len(backend.asked)) == (0, asked)
        runs.leave()


@scenario
async def test_who_would_have_to_come_again_after_more_than_a_minute_is_told_not_to() -> None:
    models = {"gemma": {"decode_tps": 0.1}}  # it takes long, as far as one knows
    async with ollama() as backend, hermes(backend, models=models) as gateway:
        runs = await learn(gateway, backend)
        reply = await gateway.ask(PROMPT, prompt(), {OURS: "5000"})
        assert reply.error["code"] == "deadline_unreachable"
        assert (reply.headers["retry-after"], reply.headers["retry-after-ms"]) == ("60", "60000")
        assert reply.headers["x-should-retry"] == "false"
        runs.leave()


@scenario
async def test_nobody_is_refused_by_what_is_thought_of_a_model_that_was_hardly_seen() -> None:
    models = {"gemma": {"decode_tps": 0.1}}
    async with ollama() as backend, hermes(backend, models=models) as gateway:
        free = asyncio.Event()
        backend.default = play(free, "Hel", DONE)
        runs = await gateway.open(PROMPT, prompt())
        await backend.request(0)
        waits = await gateway.open(PROMPT, prompt(), {OURS: "5000"})
        await gateway.until_waiting(1)
        free.set()
        assert [(await call.reply()).status for call in (runs, waits)] == [200, 200]
