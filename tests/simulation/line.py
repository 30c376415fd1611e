"""The whole line, from a request to its record, between simulated clients and simulated backends."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

from msgspec import Struct

from hermes.admission import Admission
from hermes.api.app import Api
from hermes.api.cors import Cors
from hermes.api.door import Door
from hermes.api.inference import Inference
from hermes.api.routes import Route, RouteTable
from hermes.auth import Authenticator
from hermes.dialects.anthropic import Anthropic
from hermes.dialects.openai import OpenAI
from hermes.dialects.openai_completions import Completions
from hermes.dialects.prompt import Prompt
from hermes.dialects.responses import Responses
from hermes.errors import Outcome
from hermes.fleet.backend import Backend
from hermes.fleet.fleet import Fleet
from hermes.fleet.inventory import Inventory, LoadedModel
from hermes.fleet.ollama import Ollama
from hermes.fleet.watchdog import Watchdog
from hermes.flights.flights import Flights
from hermes.flights.retries import Retries
from hermes.flights.runs import Runs
from hermes.gateway import Gateway
from hermes.http.client import PoolLimits
from hermes.http.pool import Pool
from hermes.http.request import Head, Request
from hermes.http.response import Response
from hermes.http.wire import Deadlines
from hermes.journal import Journal
from hermes.meter import Meter
from hermes.metrics import Metrics
from hermes.policy.cache import Shelf
from hermes.policy.limiter import Limiter, Modes
from hermes.policy.pulse import Patience
from hermes.policy.retry import RetryBudget, RetryPolicy
from hermes.policy.routing import Catalog, Service
from hermes.policy.scheduler import Scheduler
from hermes.policy.ticket import Bounds, Load, ModelBounds, Phase, Ticket, Unload
from hermes.record import Record
from hermes.router import Router
from hermes.series import Gauge
from hermes.storage.ledger import Ledger
from hermes.storage.store import Store
from tests.simulation.backend import ENDINGS, PROBE, SECRET, Connecting, Script, SimulatedBackend, origin
from tests.simulation.loop import VirtualLoop

# Seconds. No pause is longer than 60 first ones, a quarter of that, and the probe at its end.
LONG_ENOUGH = 100


class Client:
    """A client's connection, as its response sees it. It reads at once, or `slow_s` late."""

    def __init__(self, loop: VirtualLoop, name: str, slow_s: float = 0.0) -> None:
        self.name = name
        self.lost = False
        self.left_at = 0.0
        self.resumed: asyncio.Future[None] | None = None
        self.may_keep_alive = True
        self.received = b""
        self.answers: list[Response] = []
        self.tries_when_content_came: int | None = None
        self.task: asyncio.Task[None]
        self._loop = loop
        self._slow_s = slow_s

    def date_line(self) -> bytes:
        return b""

    def write(self, data: bytes) -> None:
        self.received += data
        if self._slow_s and self.resumed is None:
            self.resumed = self._loop.create_future()
            self._loop.call_later(self._slow_s, self._resume)

    def cancel(self) -> None:
        self.task.cancel()

    def response_ended(self, response: Response) -> None:
        self.answers.append(response)

    def leave(self) -> None:
        """What the server does when a client's connection ends."""
        if not self.lost:
            self.lost, self.left_at = True, self._loop.time()
        self.task.cancel()

    def _resume(self) -> None:
        if self.resumed is not None:
            self.resumed.set_result(None)
            self.resumed = None

    @property
    def is_content(self) -> bool:
        """Whether a piece of an answer has come."""
        return b"200 OK" in self.received and (b'"delta"' in self.received or b'"content"' in self.received)

    @property
    def is_success(self) -> bool:
        """Whether the bytes claim that this is a whole answer."""
        whole = b'"result"' in self.received or b'"finish_reason":"stop"' in self.received
        return whole or b'"done":true' in self.received or b"[DONE]" in self.received


class Line:
    def __init__(
        self,
        loop: VirtualLoop,
        bounds: Bounds,
        backends: dict[str, SimulatedBackend],
        slots: int,
        heartbeat_s: float = 0.0,
        pause_s: float = 1e-6,
        silence_s: float = 0.0,
        reuse: str = "off",
    ) -> None:
        self.loop = loop
        self.reuse = reuse
        self.backends = backends
        self.slots = slots
        self.metrics = Metrics()
        self.journal = Journal(self.metrics)
        self.records: list[Record] = []
        self.journal.sinks.append(self.records.append)
        self.scheduler = Scheduler(bounds, ModelBounds(queue_limit=6))
        self.admission = Admission(self.scheduler, loop, lambda order: self.fleet.order(order))
        self.deadlines = Deadlines(loop)
        made = [self._backend(name) for name in backends]
        patience = Patience(silence_s, 1.0, pause_s)
        self.fleet = Fleet(made, self.admission, self.metrics, patience)
        self.watchdog = Watchdog(self.journal, self.fleet.health, patience)
        self._closed_to: set[tuple[str, str]] = set()  # what nothing starts on, after the last step
        self._started: set[Ticket] = set()
        self.clients: list[Client] = []
        self.api = self._api(heartbeat_s)
        loop.after_each_step = self.check

    def _backend(self, name: str) -> Backend:
        limits = PoolLimits(connections=64, idle_connections=2, idle_s=5.0, connect_timeout_s=2.0)
        pool = Pool(origin(self.backends[name]), limits, self.deadlines, self.loop)
        backend = Backend(name, "ollama", "http://sim", Ollama(pool), self.slots, 10.0)
        loaded = tuple(LoadedModel(name, 1, 0, 0, "") for name in ("m:latest", "n:latest"))
        backend.inventory = Inventory("0", {}, loaded, {"m": "m:latest", "n": "n:latest"})
        backend.state = "up"
        self.admission.observe(backend.facts)
        return backend

    def _api(self, heartbeat_s: float) -> Api:
        openai, prompt = OpenAI(), Prompt()
        service = Service("", "", timeout_s=8.0, stall_timeout_s=2.0, max_stream_s=6.0, reuse=self.reuse)
        budget = RetryBudget(RetryPolicy())
        meter = Meter(Limiter(Modes()), Ledger(Store(None), self.loop), self.loop.time)
        router = Router(Catalog({}, service), self.fleet)
        gateway = Gateway(router, self.fleet, self.admission, budget, self.metrics, meter, heartbeat_s)
        retries = Retries(self.journal, self.loop)
        self.runs = runs = Runs(gateway, self.journal, self.loop, retries.left)
        line = self.flights = Flights(runs, retries, Shelf(1 << 20, 60.0), self.metrics)
        alone = None if self.reuse == "off" else frozenset[str]()
        inference = Inference(gateway, openai, Completions(), Responses(), prompt, Anthropic(), line, alone=alone)
        table = RouteTable(
            (
                Route("POST", "/v1/chat/completions", "user", openai, inference.chat_completions, queues=True),
                Route("POST", "/v1/llm/{model}", "user", prompt, inference.prompt, queues=True),
            )
        )
        door = Door((), Cors(), instance="here")
        clock, left = self.loop.time, retries.left
        return Api(table, door, Authenticator({}), self.journal, self.metrics, openai, clock, {}, left, lambda _: ())

    # --- what happens -----------------------------------------------------------------------------------------------

    def ask(
        self,
        *,
        stream: bool = True,
        model: str = "m",
        openai: bool = False,
        slow_s: float = 0.0,
        as_of: str = "",
        again: bool = False,
    ) -> Client:
        """A client sends its request. Its name is in the prompt, and is the request's id; `as_of`: it asks what that
        one has asked, `again`: as another try of it.
        """
        client = Client(self.loop, f"client-{len(self.clients)}", slow_s)
        prompt = f"{SECRET} {as_of or client.name}"
        path, body = f"/v1/llm/{model}", {"prompt": prompt, "stream": stream}
        if openai:
            path = "/v1/chat/completions"
            body = {"model": model, "messages": [{"role": "user", "content": prompt}], "stream": stream}
        headers = {b"host": b"localhost", b"x-request-id": client.name.encode()}
        if again:
            headers[b"x-stainless-retry-count"] = b"1"
        request = Request(Head("POST", path.encode(), b"", headers), self.loop.time())
        request.body = json.dumps(body).encode()
        self.clients.append(client)
        client.task = self.loop.create_task(self.api.handle(request, Response(client, request.head)), name=client.name)
        return client

    def send_away(self, client: Client) -> None:
        """What an operator may do to a request, if it has come, and is not over."""
        for exchange in self.journal.exchanges:
            if exchange.request_id == client.name:
                exchange.dismiss()

    def switch(self, name: str, up: bool) -> None:
        backend = self.fleet.backends[name]
        backend.state = "up" if up else "down"
        self.fleet.health[name].looked()
        self.admission.observe(backend.facts)

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """While their health is seen to."""
        tasks = [self.loop.create_task(health.work()) for health in self.fleet.health.values()]
        tasks.append(self.loop.create_task(self.watchdog.watch()))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def recover(self) -> None:
        """All goes well from now on: whatever has happened, each backend serves as before in the end."""
        for name, backend in self.backends.items():
            backend.script = lambda client: Script()
            backend.connecting = Connecting
            self.switch(name, True)
            self.fleet.drain(name, False)
        for _ in range(LONG_ENOUGH):
            if not any(
                breaker.rests for backend in self.fleet.backends.values() for breaker in backend.breakers.values()
            ):
                return
            await asyncio.sleep(1.0)
        raise AssertionError("one never recovers")

    async def rest(self) -> None:
        while waiting := [client.task for client in self.clients if not client.task.done()]:
            await asyncio.wait(waiting)
        for client in self.clients:
            if not client.task.cancelled() and (error := client.task.exception()) is not None:
                raise error

    # --- what holds -------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """After every step."""
        for backend in self.backends.values():
            load = Counter(asked.model for asked in backend.working if asked.client != PROBE)
            assert all(count <= self.slots for count in load.values()), f"over the slots (I1): {load}"
        working = {asked.client for backend in self.backends.values() for asked in backend.working}
        for client in self.clients:
            if client.task.done():
                assert client.name not in working, f"{client.name} is gone, and its backend still at work (I9)"
            elif client.lost:
                assert self.loop.time() == client.left_at, f"{client.name} has left, and its request goes on (I9)"
            if client.is_content and client.tries_when_content_came is None:
                client.tries_when_content_came = self.tries(client)
            if client.tries_when_content_came is not None:
                assert self.tries(client) == client.tries_when_content_came, "tried again after content (I5)"
        self._check_starts()
        self._check_waiting()
        finished = sum(self.metrics.finished.read().values())
        assert self.metrics.accepted.read()[()] == finished + self.journal.open, "the outcomes do not add up (I3)"

    def _check_starts(self) -> None:
        """Nothing starts where it rests, or on a backend that drains or is down."""
        before, self._closed_to = self._closed_to, set(self._closed())
        for exchange in self.journal.exchanges:
            ticket = exchange.ticket
            if ticket is not None and ticket.phase is Phase.RUNNING and ticket not in self._started:
                self._started.add(ticket)
                place = ticket.backend, ticket.resident
                assert place not in before & self._closed_to, f"started on {place}, which is given nothing"

    def _check_waiting(self) -> None:
        """Where nothing runs, who waits has nowhere to run."""
        if self.scheduler.running or any(memory.settling for memory in self.scheduler._sites.in_memory()):
            return
        for exchange in self.journal.exchanges:
            ticket = exchange.ticket
            if ticket is not None and ticket.phase is Phase.WAITING:
                places = {(name, ticket.resident) for name in ticket.candidates}
                assert places <= self._closed_to, f"a slot is idle, and {ticket} waits"

    def _closed(self) -> Iterator[tuple[str, str]]:
        for name, backend in self.fleet.backends.items():
            for model in ("m:latest", "n:latest"):
                breaker = backend.breakers.get(model)
                if backend.state != "up" or backend.draining or (breaker is not None and breaker.rests):
                    yield name, model

    def tries(self, client: Client) -> int:
        return sum(asked.client == client.name for backend in self.backends.values() for asked in backend.asked)

    def check_end(self) -> None:
        """When all is over, and the last timer has gone off."""
        scheduler, admission = self.scheduler, self.admission
        assert (scheduler.running, scheduler.waiting, scheduler.waiting_bytes, admission._waiters) == (0, 0, 0, {})
        assert admission._timer is None
        for backend in self.fleet.backends.values():
            pool = backend.driver.pool
            assert (pool.open_connections, pool._connecting, list(pool._idle)) == (0, 0, [])
        assert not self.deadlines._watched
        assert not [asked for backend in self.backends.values() for asked in backend.working]
        assert self.journal.open == 0
        assert self.metrics.double_close.read()[()] == 0
        attempts = sum(self.tries(client) for client in self.clients)
        assert attempts <= 1.2 * len(self.clients) + 10, "too many attempts (I8)"
        labels = [list(family.series) for family in self.metrics.families() if not isinstance(family, Gauge)]
        assert SECRET not in repr((self.records, labels)), "what was said has leaked (I27)"
        records = {record.request_id: record for record in self.records}
        assert len(records) == len(self.records) == self.metrics.accepted.read()[()]
        for client in self.clients:
            assert sum(backend.crashed[client.name] for backend in self.backends.values()) <= 2, "it kills one by one"
            check_answer(client, records.get(client.name))


def check_answer(client: Client, record: Record | None) -> None:
    """I3, I5, I15: the record and what the client got agree, and nothing but a whole answer claims to be one."""
    if client.task.cancelled():
        assert record is None or record.outcome is Outcome.CLIENT_GONE  # None: gone before its task began
        return
    assert record is not None and record.outcome is not Outcome.INTERNAL_ERROR
    if client.lost and record.outcome is Outcome.CANCELLED:
        return
    [response] = client.answers
    assert client.is_success == (record.outcome is Outcome.OK)
    assert record.status == response.status != 0
    if record.outcome is Outcome.OK:
        assert (record.status, response.keep_alive) == (200, True)
    elif record.status == 200:
        assert not response.keep_alive and b'"error"' in client.received


# --- drawing one ------------------------------------------------------------------------------------------------------


class Odds(Struct, frozen=True):
    """How often a thing goes wrong."""

    connect: float
    answer: float
    leave: float


def draw(dice: random.Random, loop: VirtualLoop) -> Line:
    """A line with faulty backends, its requests planned, and clients that leave at any step."""
    odds = Odds(*(dice.choice((0.0, 0.3, 0.7)) for _ in range(3)))

    def connecting() -> Connecting:
        if dice.random() >= odds.connect:
            return Connecting(dice.choice((0.0, 0.01, 0.3)))
        return Connecting(dice.choice((0.0, 0.5, 9.0)), dice.choice(("refused", "dead", "made")))

    def script(client: str) -> Script:
        ending = dice.choice(ENDINGS) if dice.random() < odds.answer else "done"
        return Script(
            dice.choice((0.0, 0.2, 1.0, 7.9)), dice.randint(0, 5), dice.choice((0.01, 0.3)), ending, dice.random() < 0.8
        )

    backends = {name: SimulatedBackend(loop, connecting, script) for name in ("x", "y", "z")[: dice.randint(1, 3)]}
    bounds, slots = Bounds(max_concurrent=dice.choice((None, 2))), dice.randint(1, 2)
    heartbeat_s, silence_s = dice.choice((0.0, 0.05, 1.0)), dice.choice((0.0, 0.5))
    line = Line(loop, bounds, backends, slots, heartbeat_s, pause_s=0.1 * slots, silence_s=silence_s)
    for _ in range(dice.randint(3, 14)):
        loop.call_later(dice.random() * 6, lambda: draw_request(dice, line, odds))
    for happen in (line.switch, line.fleet.drain):
        for _ in range(dice.choice((0, 0, 2))):
            loop.call_later(dice.random() * 6, happen, dice.choice(list(backends)), dice.random() < 0.6)
    for _ in range(dice.choice((0, 0, 1, 3))):
        hangs_at, name = dice.random() * 4, dice.choice(list(backends))
        loop.call_later(hangs_at, backends[name].hang, hangs_at + dice.random() * 4)
    if dice.random() < 0.1:
        loop.call_later(dice.random() * 6, line.admission.close)
    return line


def draw_request(dice: random.Random, line: Line, odds: Odds) -> None:
    client = line.ask(
        stream=dice.random() < 0.6,
        model=dice.choice("mmn"),
        openai=dice.random() < 0.5,
        slow_s=dice.choice((0.0, 0.0, 0.5)),
    )
    for action in (client.leave, lambda: line.send_away(client)):
        if dice.random() < odds.leave:
            line.loop.at_step(line.loop.steps + dice.choice((1, 3, 10, 30, 80)) + dice.randrange(10), action)


def _no_orders(order: Load | Unload) -> None:
    raise AssertionError("nothing has to be loaded here")
