"""A crowd at the admission: visitors with fake work, and all that can happen to them meanwhile."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterable

from msgspec import Struct

from hermes.admission import Admission
from hermes.errors import BackendError, BackendUnreachable, GatewayError, Outcome
from hermes.policy.scheduler import Scheduler
from hermes.policy.ticket import (
    STANDARD,
    BackendFacts,
    Bounds,
    Load,
    ModelBounds,
    Phase,
    Rules,
    Ticket,
    Unload,
)
from tests.policy.box import PATIENT
from tests.simulation.loop import VirtualLoop


class Failed(Exception):
    """The fake work has failed and may be tried again."""


class Visit(Struct, frozen=True):
    """Who comes when, for what, and how long the work takes at each attempt; a negative time: it fails after it."""

    arrives_s: float
    model: str
    work_s: tuple[float, ...]
    patience_s: float = 60.0
    on: str = "xy"


class Memory:
    """A backend that holds some models at a time, each of size 1: it loads and unloads as ordered, and may fail."""

    def __init__(self, size: int, load_s: Callable[[], float], holds: Iterable[str] = ()) -> None:
        self.size = size
        self.load_s = load_s  # how long the next load takes; a negative time: it fails after it
        self.holds = set(holds)
        self.loading: Load | None = None
        self.has_failed = False


class Crowd:
    """`outcomes` has every visit's; `tickets` counts those of every ticket. `memories`: of backends that are ours."""

    def __init__(
        self,
        loop: VirtualLoop,
        bounds: Bounds,
        caps: dict[str, ModelBounds],
        slots: dict[str, int],
        memories: dict[str, Memory] | None = None,
        rules: Rules = PATIENT,
    ) -> None:
        self.loop = loop
        self.scheduler = Scheduler(bounds, ModelBounds(), rules)
        self.admission = Admission(self.scheduler, loop, self._obey)
        self.visits: list[asyncio.Task[None]] = []
        self.outcomes: list[str] = []
        self.tickets: list[tuple[Ticket, list[str]]] = []
        self.inside: Counter[tuple[str, str]] = Counter()
        self._bounds = bounds
        self._caps = caps
        self._slots = slots
        self._memories = memories or {}
        self.orders: list[Load | Unload] = []
        for model, cap in caps.items():
            self.scheduler.configure(model, cap)
        for name in slots:
            self.switch(name, True)
        loop.after_each_step = self.check

    def send(self, visit: Visit) -> None:
        self.visits.append(self.loop.create_task(self._visit(visit)))

    def switch(self, backend: str, up: bool) -> None:
        """What goes down forgets what it holds, and what it loads fails."""
        memory, now = self._memories.get(backend), self.loop.time()
        if memory is None:
            self.admission.observe(BackendFacts(backend, up, self._slots[backend]))
            return
        if not up:
            memory.holds.clear()
            memory.loading, memory.has_failed = None, True
        loaded = dict.fromkeys(sorted(memory.holds), 1)
        sizes = dict.fromkeys("abcm", 1)
        self.admission.observe(BackendFacts(backend, up, self._slots[backend], loaded, sizes, memory.size, now))

    def _obey(self, order: Load | Unload) -> None:
        self.orders.append(order)
        memory = self._memories[order.backend]
        if isinstance(order, Unload):
            assert not self.inside[order.backend, order.model], "unloaded while busy"
            assert order.model in memory.holds or memory.has_failed
            memory.holds.discard(order.model)
            return
        assert memory.loading is None and order.model not in memory.holds
        loading = [other.loading.model for other in self._memories.values() if other.loading is not None]
        assert order.model not in loading, "loaded twice at once"
        assert len(memory.holds) + 1 <= memory.size, "no room"
        memory.loading = order
        load_s = memory.load_s()
        self.loop.call_later(abs(load_s), self._end_load, memory, order, load_s > 0)

    def _end_load(self, memory: Memory, order: Load, is_well: bool) -> None:
        if memory.loading is not order:  # it went down meanwhile
            if memory.loading is not None and memory.loading.model == order.model:
                return  # and has been ordered again since, as the fleet sees to it
            self.admission.load_failed(order.backend, order.model, BackendUnreachable("gone"))
            return
        memory.loading = None
        if is_well:
            memory.holds.add(order.model)
            self.admission.loaded(order.backend, order.model)
        else:
            self.admission.load_failed(order.backend, order.model, BackendError("out of memory"))

    async def rest(self) -> None:
        """Wait until all visits are over, and end them properly."""
        await asyncio.gather(*self.visits, return_exceptions=True)
        for visit in self.visits:
            if not visit.cancelled() and (error := visit.exception()) is not None:
                raise error
        self.outcomes += ["never came"] * (len(self.visits) - len(self.outcomes))

    async def _visit(self, visit: Visit) -> None:
        await asyncio.sleep(visit.arrives_s)
        outcome = "cancelled"
        try:
            outcome = await self._attempts(visit)
        finally:
            self.outcomes.append(outcome)

    async def _attempts(self, visit: Visit) -> str:
        now = self.loop.time()
        ticket = Ticket(visit.model, visit.model, "t", tuple(visit.on), 1, now, now + visit.patience_s)
        for number, work_s in enumerate(visit.work_s):
            try:
                await self._attempt(ticket, work_s, again=number > 0)
            except Failed:
                await asyncio.sleep(0.1)
                ticket = ticket.again()
            except GatewayError as error:
                return error.outcome
            else:
                return Outcome.OK
        return Outcome.UPSTREAM_ERROR

    async def _attempt(self, ticket: Ticket, work_s: float, again: bool) -> None:
        outcomes: list[str] = []
        self.tickets.append((ticket, outcomes))
        outcome = "cancelled"
        try:
            async with self.admission.admit(ticket, again=again):
                outcome = "cancelled inside"
                await self._work(ticket, work_s)
                outcome = "done"
        except (Failed, GatewayError) as error:
            outcome = type(error).__name__
            raise
        finally:
            outcomes.append(outcome)

    async def _work(self, ticket: Ticket, work_s: float) -> None:
        place = (ticket.backend, ticket.resident)
        memory = self._memories.get(ticket.backend)
        assert memory is None or memory.has_failed or ticket.resident in memory.holds, "sent where it is not loaded"
        self.inside[place] += 1
        try:
            await asyncio.sleep(abs(work_s) / 2)
            await asyncio.sleep(abs(work_s) / 2)
            if work_s < 0:
                raise Failed
        finally:
            self.inside[place] -= 1

    # --- what holds -------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """After every step. I1, by who really is inside; and nobody sleeps on a decision, a slot or a deadline."""
        for (backend, resident), count in self.inside.items():
            assert count <= self._slots[backend], f"{count} runs of {resident} on {backend}"
        for model, cap in self._caps.items():
            count = sum(count for (_, resident), count in self.inside.items() if resident == model)
            assert cap.max_concurrency is None or count <= cap.max_concurrency
        if self._bounds.max_concurrent is not None:
            assert self.inside.total() <= self._bounds.max_concurrent
        assert self.inside.total() <= self.scheduler.running
        if not self._memories:  # else what waits may have to be weighed against what has just run
            assert self.scheduler.running or not self.scheduler.waiting, "a slot is idle"
        assert not self.scheduler.waiting or self.admission._timer is not None, "nobody wakes who waits"
        for ticket, waiter in self.admission._waiters.items():
            assert waiter.done() or ticket.phase is Phase.WAITING, "a wake-up is lost"
            assert waiter.done() or ticket.deadline >= self.loop.time(), "a deadline is missed"

    def check_end(self) -> None:
        """I2, I3: nothing is held, nobody waits, no timer is left, and every ticket and visit has had one outcome."""
        assert (self.scheduler.running, self.scheduler.waiting, self.scheduler.waiting_bytes) == (0, 0, 0)
        assert not self.inside.total()
        assert self.admission._waiters == {}
        assert self.admission._timer is None
        assert all(len(outcomes) == 1 and ticket.phase is Phase.DONE for ticket, outcomes in self.tickets)
        assert len(self.outcomes) == len(self.visits)


def draw(dice: random.Random, loop: VirtualLoop) -> Crowd:
    """A crowd, its visits sent, and what befalls it planned: backends that go and come, caps, clients that leave."""
    slots = {"x": dice.randint(1, 3), "y": dice.randint(1, 2)}
    caps = {model: ModelBounds(dice.choice((None, 1, 2)), dice.choice((2, 50))) for model in "abc"}
    bounds = Bounds(max_concurrent=dice.choice((None, 2, 4)), queue_tickets=dice.choice((4, 100)))
    memories = {}
    if dice.random() < 0.5:
        for name in slots:
            holds = dice.sample("abc", dice.randint(0, 2))
            memories[name] = Memory(
                dice.randint(max(1, len(holds)), 3), lambda: dice.choice((0.5, 3.0, -0.1, -0.3)), holds
            )
    crowd = Crowd(loop, bounds, caps, slots, memories, dice.choice((PATIENT, STANDARD)))
    for _ in range(dice.randint(4, 25)):
        work_s = tuple(dice.choice((0.0, 0.5, 1.0, 3.0, -0.5, -2.0)) for _ in range(3))
        patience_s = dice.choice((0.0, 0.5, 2.0, 60.0, 60.0))
        on = dice.choice(("xy", "xy", "yx", "x", "y"))
        crowd.send(Visit(dice.choice((0.0, 0.5, 1.0, dice.random() * 4)), dice.choice("aabc"), work_s, patience_s, on))
    for _ in range(dice.randint(0, 3)):
        loop.call_later(dice.random() * 6, crowd.switch, dice.choice("xy"), dice.random() < 0.5)
    if dice.random() < 0.2:
        loop.call_later(dice.random() * 6, crowd.admission.close)
    for _ in range(dice.choice((0, 0, 1, 5, 10))):
        loop.at_step(dice.randrange(200), dice.choice(crowd.visits).cancel)
    return crowd
