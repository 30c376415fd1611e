"""The scheduler's rules, held against any sequence of events (invariants I1, I2, I4, I6).

The machine keeps books of its own, from the decisions alone, and checks every decision against them at its instant.
"""

from collections.abc import Container, Iterator
from math import inf

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec import Struct

from hermes.policy import concurrency
from hermes.policy.forecast import MOST_SETTLING_S
from hermes.policy.line import Line
from hermes.policy.scheduler import Scheduler
from hermes.policy.slots import BUSIER
from hermes.policy.station import Station, Stay
from hermes.policy.ticket import (
    EVERY,
    Admit,
    Bounds,
    Changed,
    Class,
    ClassRules,
    Decision,
    Expire,
    Load,
    ModelBounds,
    Phase,
    Reject,
    Rules,
    Settings,
    Ticket,
    Unload,
)
from tests.policy.box import PATIENT
from tests.policy.world import MEMORY, SIZES, Look, World

RESIDENT = {"a": "A", "alias": "A", "b": "B", "d": "D", "pinned": "C", "huge": "Huge"}
MODELS = st.sampled_from(("a", "alias", "b", "d", "pinned", "huge"))
CAPS, LIMITS = st.sampled_from((None, 1, 2, 3)), st.sampled_from((50, 50, 50, 50, 50, 50, 2, 0))
SLOTS = st.sampled_from((1, None, 2))
# One bound at a time is tight, or none: where all are, nothing ever waits.
BOUNDS = st.sampled_from(
    [
        Bounds(),
        Bounds(),
        Bounds(max_concurrent=2),
        Bounds(max_concurrent=1),
        Bounds(queue_tickets=3),
        Bounds(queue_bytes=60),
        Bounds(tenant_tickets=2),
        Bounds(tenant_bytes=40),
    ]
)
HURRIED = (ClassRules(16.0, 8.0), ClassRules(4.0, 30.0), ClassRules(1.0))
WAYS = st.sampled_from((PATIENT, Rules(HURRIED, give_up=inf, waste=1.0), Rules(HURRIED, floor=0.5, waste=1.0)))
TENANTS = {"t": 1.0, "u": 1.0, "v": 4.0}  # and their weights
CAPPED = {"u1": 2, "u2": 1, "um": 1, "v1": 1}
# Of a tenant's keys, what caps each one's runs: some of u's have two, some of them share one.
KEYS = {"t": [()], "u": [("u1",), ("u2", "um"), ("um",), ()], "v": [("v1",)]}
NAMES = ("x", "y", "z")
WHICH = st.integers(0, 1000)
SOON_S = 1.0  # what has to be loaded is thought of again so often


class Settling(Struct, frozen=True):
    """A slot that a client has left. `since`: the model has been there; one that comes again has all its slots."""

    backend: str
    model: str
    since: float | None
    until: float


class Passing(Struct, frozen=True):
    """One was let past `head`, which had been passed over `times` before. `lead_tokens`: what its tenant was served
    more than the head's, and a run; where tenants do not take turns -inf.
    """

    head: Ticket
    times: int
    slots: int
    run_s: float
    lead_tokens: float


class Machine(RuleBasedStateMachine):
    @initialize(
        bounds=BOUNDS,
        rules=WAYS,
        cap=CAPS,
        limit=LIMITS,
        slots=SLOTS,
        is_ours=st.sampled_from((True, True, False)),
        memory=st.sampled_from((MEMORY, 6)),
        managed=st.sampled_from((False, False, True)),
        weight=st.sampled_from((1.0, 1.0, 2.0, 0.5)),
        backlog=st.integers(4, 12),
        adaptive=st.booleans(),
    )
    def start(
        self,
        bounds: Bounds,
        rules: Rules,
        cap: int | None,
        limit: int,
        slots: int | None,
        is_ours: bool,
        memory: int,
        managed: bool,
        weight: float,
        backlog: int,
        adaptive: bool,
    ) -> None:
        self.now = 100.0
        self.bounds, self.rules = bounds, rules
        self.scheduler = Scheduler(bounds, ModelBounds(cap, limit), rules)
        self.adaptive = adaptive
        self.model_bounds = {model: self.bounds_of(model, cap, limit) for model in RESIDENT}
        for model, known in self.model_bounds.items():
            self.scheduler.configure(model, known)
        both = {"A"} if memory == MEMORY else set()
        self.worlds = {
            "x": World("x", slots, True, memory, holds={"A"}, settles=True),
            "y": World("y", slots, is_ours, memory, holds={"B", *both}, settles=True, weight=weight),
            "z": World("z", 2, True, memory=None),
        }
        if managed:
            room = memory if is_ours else None
            self.worlds["y"] = World("y", slots, True, room, holds={"B"}, is_managed=True, weight=weight, sizes={})
        self.told: set[str] = set()  # backends that were ever heard of
        self.looks: dict[str, Look] = {}
        self.named: dict[str, set[str]] = {}
        self.running: list[Ticket] = []
        self.waiting: list[Ticket] = []
        self.again: set[Ticket] = set()
        self.outcomes: dict[Ticket, list[str]] = {}
        self.failures: dict[tuple[str, str], int] = {}
        self.backs_off_until: dict[tuple[str, str], float] = {}
        self.missed: set[str] = set()  # models that somebody could not wait for
        self.plans: dict[str, object] = {}  # as of the end of the last event
        self.draining: set[tuple[str, str]] = set()
        self.settling: list[Settling] = []
        self.closed = False
        self.homes: dict[int, str] = {}  # of conversations
        self.passings: dict[Ticket, Passing] = {}  # by who was let past
        self.watch_who_is_let_past()
        self.tell("x")
        self.tell("y")
        for number in range(backlog):
            self.offer(
                "ab"[number % 2], "tu"[number // 2 % 2], ("x", "y"), 10, 0.0, 60.0, Class.NORMAL, 0, 1, number // 2 % 4
            )

    # --- events: requests -------------------------------------------------------------------------------------------

    @rule(
        model=MODELS,
        tenant=st.sampled_from(sorted(TENANTS)),
        candidates=st.sampled_from((("x",), ("x", "y"), ("x", "y"), ("x", "y", "z"), ("y", "z"), ())),
        size_bytes=st.sampled_from((10, 20, 0)),
        age_s=st.sampled_from((0.0, 0.5, 3.0)),
        patience_s=st.sampled_from((60.0, 5.0, 2.0, 60.0, 0.0)),
        urgency=st.sampled_from(Class),
        priority=st.sampled_from((0, 0, -1, 1)),
        count=st.integers(1, 4),
        prefix=st.sampled_from((0, 1, 2, 3, 5)),
        key=WHICH,
    )
    def offer(
        self,
        model: str,
        tenant: str,
        candidates: tuple[str, ...],
        size_bytes: int,
        age_s: float,
        patience_s: float,
        urgency: Class,
        priority: int,
        count: int,
        prefix: int = 0,
        key: int = 0,
    ) -> None:
        """`prefix`: of the first one's conversation; the others have others. 0: none has one."""
        weight, keys = TENANTS[tenant], KEYS[tenant]
        for number in range(count):
            caps = tuple((name, CAPPED[name]) for name in keys[(key + number) % len(keys)])
            ticket = Ticket(
                model, RESIDENT[model], tenant, candidates, size_bytes, self.now - age_s, self.now + patience_s,
                urgency=urgency, priority=priority, caps=caps, weight=weight, prompt_tokens=100 * number,
                prefix=prefix and 100 * ord(RESIDENT[model][0]) + prefix + number,
            )  # fmt: skip
            self.take_in(ticket)

    @rule(
        model=st.sampled_from(("b", "d", "a", "pinned")),
        count=st.integers(4, 16),
        start_s=st.sampled_from((0.2, 2.0)),
        urgency=st.sampled_from((Class.NORMAL, Class.INTERACTIVE)),
    )
    def rush(self, model: str, count: int, start_s: float, urgency: Class) -> None:
        """So many for one model that others may have to go for it."""
        for number in range(count):
            self.offer(model, "tu"[number % 2], ("x", "y"), 1, 0.0, 60.0, urgency, 0, 1, number % 5)
        self.let_time_pass(start_s, False)

    @rule(
        talks=st.lists(st.integers(1, 4), min_size=6, max_size=12),
        ends=st.lists(WHICH, min_size=2, max_size=8),
        patience_s=st.sampled_from((60.0, 600.0)),
        urgency=st.sampled_from((Class.NORMAL, Class.BATCH)),
    )
    def converse(self, talks: list[int], ends: list[int], patience_s: float, urgency: Class) -> None:
        """Turns of conversations, some of which are at home somewhere."""
        for talk in talks:
            self.offer("a", "tvu"[talk % 3], ("x", "y"), 1, 0.0, patience_s, urgency, 0, 1, talk)
        for which in ends:
            self.finish(which, 100)

    @rule(which=WHICH, tokens=st.none() | st.sampled_from((0, 100, 1000)))
    def finish(self, which: int, tokens: int | None) -> None:
        """`tokens` that were generated; None: nobody knows."""
        if self.running:
            ticket = self.running[which % len(self.running)]
            if tokens is not None:
                self.scheduler.settle(ticket, ticket.prompt_tokens, tokens)
            self.end(ticket, self.scheduler.finish(ticket, self.now))

    @rule(which=WHICH)
    def begin(self, which: int) -> None:
        """The first byte has come."""
        if self.running:
            self.scheduler.begun(self.running[which % len(self.running)], self.now)

    @rule(which=WHICH)
    def break_off(self, which: int) -> None:
        """A client leaves: before the first byte, the backend goes on reading for a while."""
        if self.running:
            ticket = self.running[which % len(self.running)]
            world, rate = self.worlds[ticket.backend], self.scheduler._stations[ticket.resident].prefill_s
            until = ticket.started_at + min(rate.of(ticket.prompt_tokens), MOST_SETTLING_S)
            if world.settles and ticket.begun_at is None and until > self.now:
                since = world.known[ticket.resident] if world.is_ours else None
                self.settling.append(Settling(world.name, ticket.resident, since, until))
            self.end(ticket, self.scheduler.cancel(ticket, self.now, broken_off=True))

    @rule(which=WHICH)
    def offer_again(self, which: int) -> None:
        """An attempt has failed, and its request comes back."""
        if self.running:
            ticket = self.running[which % len(self.running)]
            self.end(ticket, self.scheduler.cancel(ticket, self.now))
            second = ticket.again()
            assert (second.phase, second.avoid, second.deadline) == (Phase.NEW, ticket.backend, ticket.deadline)
            self.again.add(second)
            self.take_in(second)

    @rule(which=WHICH)
    def cancel(self, which: int) -> None:
        if held := self.waiting + self.running:
            ticket = held[which % len(held)]
            self.end(ticket, self.scheduler.cancel(ticket, self.now))

    @rule()
    def end_what_has_ended(self) -> None:
        """Twice is once; and what waits has no run to finish."""
        over = [ticket for ticket in self.outcomes if ticket.phase is Phase.DONE]
        assert not [decision for ticket in over for decision in self.scheduler.cancel(ticket, self.now)]
        assert not [decision for ticket in over + self.waiting for decision in self.scheduler.finish(ticket, self.now)]

    @rule(seconds=st.sampled_from((0.5, 1.9, 2.0, 5.0, 20.0)), is_late=st.booleans())
    def let_time_pass(self, seconds: float, is_late: bool) -> None:
        """`is_late`: the timer has not fired yet."""
        until = self.now + seconds
        while not is_late and (due := self.due()) <= until:
            self.now = max(self.now, due)
            for world in self.worlds.values():
                if world.wakes(self.now):
                    self.tell(world.name)
            self.settling = [each for each in self.settling if each.until > self.now]
            self.check(self.scheduler.expire(self.now))
            again = self.scheduler.next_deadline()
            assert again is None or again > self.now, "a timer that fires again and again"
        self.now = until
        if not is_late:
            assert not [ticket for ticket in self.waiting if self.start_by(ticket) < self.now]

    def due(self) -> float:
        """When the timer fires, or a pause ends."""
        due = self.scheduler.next_deadline()
        pauses = [until for world in self.worlds.values() for until in world.resting.values()]
        return min(pauses, default=inf) if due is None else min(due, *pauses, inf)

    # --- events: backends -------------------------------------------------------------------------------------------

    @precondition(lambda self: any(world.loading for world in self.worlds.values()))
    @rule(which=WHICH, seconds=st.sampled_from((0.0, 3.0)), how=st.sampled_from(("well", "failed", "unheard")))
    def end_a_load(self, which: int, seconds: float, how: str) -> None:
        self.now += seconds
        loading = [world for world in self.worlds.values() if world.loading]
        world = loading[which % len(loading)]
        if how == "unheard":
            model = world.loading
            world.has_stopped(self.now)
            assert self.scheduler.unheard(world.name, model, self.now) == []
            return
        if how == "well":
            self.failures.pop((world.name, world.loading), None)
            model = world.has_loaded(self.now)
            self.check(self.scheduler.loaded(world.name, model, self.now))
            assert not self.scheduler.loaded(world.name, model, self.now), "a load ends once"
            return
        model, tries = world.loading, world.tries
        if tries:
            world.has_stopped(self.now)
            failures = self.failures[world.name, model] = self.failures.get((world.name, model), 0) + 1
            self.backs_off_until[world.name, model] = self.now + min(600.0, 15.0 * 2 ** (failures - 1))
        else:
            world.loading, world.tries = "", 1
        decisions = self.scheduler.failed(world.name, model, "out of memory", self.now)
        assert tries or [(type(each), each.backend, each.model) for each in decisions] == [(Load, world.name, model)]
        self.check(decisions)

    @rule(name=st.sampled_from(NAMES), up=st.sampled_from((True, True, True, False)), slots=SLOTS, keeps=st.booleans())
    def observe(self, name: str, up: bool, slots: int | None, keeps: bool) -> None:
        """`keeps`: if it goes down, it keeps what is in its memory."""
        world = self.worlds[name]
        world.slots = slots
        if world.up and not up:
            if world.loading:
                world.has_stopped(self.now)
            if not keeps:
                world.holds.clear()
        world.up = up
        self.tell(name)

    @rule(
        name=st.sampled_from(NAMES),
        model=st.sampled_from(("A", "B", "A", "B", "D", EVERY)),
        limit=st.sampled_from((0, 1, 2)),
        rest_s=st.sampled_from((-inf, -inf, 1.0, 10.0, inf)),
    )
    def get_into_trouble(self, name: str, model: str, limit: int, rest_s: float) -> None:
        """A breaker changes: what is told of it may end it, too. `rest_s`: inf until somebody says otherwise."""
        until = self.now + rest_s if model != EVERY else -inf  # slow starts are of all, rests of one model each
        self.worlds[name].is_in_trouble(model, limit, until)
        self.tell(name)

    @rule(name=st.sampled_from(NAMES), drained=st.booleans())
    def drain(self, name: str, drained: bool) -> None:
        """What is being loaded there comes, though nobody has any use for it."""
        world = self.worlds[name]
        coming = world.loading if drained else ""
        if coming:
            world.has_stopped(self.now)
        world.drained = drained
        self.tell(name)
        if coming:
            world.holds.add(coming)

    @rule(name=st.sampled_from(NAMES), model=st.sampled_from(("A", "B", "C", "D")))
    def others_load_or_unload(self, name: str, model: str) -> None:
        world = self.worlds[name]
        if not world.up or model == world.loading:
            return
        if model in world.holds:
            world.holds.discard(model)
        elif world.is_managed:
            return
        elif model not in world.leaving and world.taken + SIZES[model] <= (world.memory or MEMORY):
            world.holds.add(model)
        self.tell(name)

    @rule(name=st.sampled_from(NAMES))
    def look(self, name: str) -> None:
        """A look whose answer comes later."""
        self.looks[name] = self.worlds[name].look(self.now)

    @rule(name=st.sampled_from(NAMES))
    def hear_of_an_old_look(self, name: str) -> None:
        look = self.looks.pop(name, None)
        if look is not None and name in self.told and not set(look.loaded) - {*self.worlds[name].look(self.now).loaded}:
            self.tell(name, look)

    @rule(model=st.sampled_from(sorted(RESIDENT)), cap=CAPS, limit=LIMITS)
    def resize(self, model: str, cap: int | None, limit: int) -> None:
        bounds = self.model_bounds[model] = self.bounds_of(model, cap, limit)
        self.check(self.scheduler.resize(model, bounds, self.now))

    @rule(bounds=BOUNDS, cap=CAPS, limit=LIMITS)
    def adopt(self, bounds: Bounds, cap: int | None, limit: int) -> None:
        """Another configuration: other bounds of everything, at once."""
        self.bounds = bounds
        self.model_bounds = {model: self.bounds_of(model, cap, limit) for model in RESIDENT}
        settings = Settings(bounds, ModelBounds(cap, limit), self.rules, self.model_bounds)
        self.check(self.scheduler.adopt(settings, Changed(), self.now))

    def bounds_of(self, model: str, cap: int | None, limit: int) -> ModelBounds:
        return ModelBounds(cap, limit, pinned=model == "pinned", adaptive=self.adaptive)

    # --- the books --------------------------------------------------------------------------------------------------

    def tell(self, name: str, look: Look | None = None) -> None:
        world = self.worlds[name]
        self.told.add(name)
        look = look or world.look(self.now)
        world.is_told(look, {ticket.resident for ticket in self.running if ticket.backend == name})
        self.check(self.scheduler.observe(world.facts(look), self.now))
        assert all(self.up(ticket) for ticket in self.waiting)

    def take_in(self, ticket: Ticket) -> None:
        again = ticket in self.again
        is_heard = ticket.deadline > self.now and not self.closed
        if is_heard:
            self.named.setdefault(ticket.resident, set()).add(ticket.model)
        self.outcomes[ticket] = []
        self.waiting.append(ticket)
        self.check(self.scheduler.offer(ticket, self.now, again=again), offered=ticket)
        assert ticket.phase is not Phase.WAITING or (
            is_heard and self.up(ticket) and (again or not self.is_full_for(ticket))
        )

    def end(self, ticket: Ticket, decisions: list[Decision]) -> None:
        (self.running if ticket in self.running else self.waiting).remove(ticket)
        self.outcomes[ticket].append("left")
        self.check(decisions)

    def check(self, decisions: list[Decision], offered: Ticket | None = None) -> None:
        for decision in decisions:
            if isinstance(decision, Load):
                self.check_load(decision, decisions)
                continue
            if isinstance(decision, Unload):
                self.check_unload(decision)
                continue
            ticket = decision.ticket
            assert ticket in self.waiting, "decided upon twice"
            match decision:
                case Admit():
                    self.check_admission(decision)
                    if ticket is not offered:
                        self.check_turn(ticket, offered)
                    self.running.append(ticket)
                    if ticket.prefix:
                        self.homes[ticket.prefix] = decision.backend
                case Expire():
                    assert self.start_by(ticket) <= self.now
                    self.outcomes[ticket].append("expired")
                case Reject():
                    self.check_refusal(decision)
                    self.outcomes[ticket].append(decision.reason)
            self.waiting.remove(ticket)
        self.plans = self.all_plans()
        self.draining = self.all_draining()

    def all_plans(self) -> dict[str, object]:
        return {name: site.plan for name, site in self.scheduler._residency.sites.items()}

    def all_draining(self) -> set[tuple[str, str]]:
        """What has to go, by plans that are as old as the last event."""
        return {
            (name, model)
            for name, site in self.scheduler._residency.sites.items()
            for model, stay in site.stays.items()
            if stay.draining and site.plan is self.plans.get(name)
        }

    def check_admission(self, decision: Admit) -> None:
        ticket, backend = decision.ticket, decision.backend
        assert (backend, ticket.resident) not in self.draining & self.all_draining(), "it has to go"
        assert backend in self.places(ticket, {backend}), "over a cap, or nowhere to run"
        others = {name for name in self.places(ticket) if (name, ticket.resident) not in self.draining}
        assert backend != ticket.avoid or others <= {backend}
        self.check_place(decision, others)
        assert (ticket.backend, ticket.started_at) == (decision.backend, self.now)
        assert self.now < self.start_by(ticket), "too late"
        assert not self.closed

    def check_place(self, decision: Admit, others: set[str]) -> None:
        """At home, where that is no more than somewhat busier than the others are; else where least is to do."""
        ticket, resident = decision.ticket, decision.ticket.resident
        leaves = any(self.is_draining(name, resident) for name in self.up(ticket))  # since it was let in, perhaps
        if leaves or any(model == resident for _, model in self.draining):
            return
        open_ = [name for name in self.up(ticket) if self.is_open(name, resident)]
        runs = {name: self.running_on(name, ticket) for name in open_}
        loads = {name: runs[name] / self.worlds[name].weight for name in others - {ticket.avoid}}
        allowed = 1 + BUSIER * sum(runs.values()) / sum(self.worlds[name].weight for name in open_)
        home = self.homes.get(ticket.prefix, "")
        if ticket.prefix and loads.get(home, inf) <= allowed:
            assert decision.backend == home, "away from home"
        elif loads:
            assert loads[decision.backend] == min(loads.values()), "another has less to do"

    def check_turn(self, ticket: Ticket, offered: Ticket | None) -> None:
        """Nobody of the same tenant was before it who could go, unless its home had room when who was next could not go
        home.
        """
        beside = [other for other in self.waiting if other is not offered and group(other) == group(ticket)]
        own = [other for other in beside if not self.is_capped(other)]
        first = min(own, key=lambda each: (-inf if each in self.again else each.priority, each.start_by, each.sequence))
        passing = self.passings.pop(ticket, None)
        if passing is None:
            assert ticket is first
            return
        head = passing.head
        assert head in self.waiting and group(head)[:-1] == group(ticket)[:-1]
        home = self.homes[head.prefix]
        assert self.is_open(home, head.resident), "passed over for a home that gets nothing"
        assert self.running_on(home, head) >= self.slots(home, head), "its home had room"
        assert passing.times < passing.slots, "passed over too often"
        assert head.start_by > self.now + passing.run_s, "it has to start"
        assert ticket.priority == first.priority, "its own priorities"
        assert passing.lead_tokens <= 0, "who was served more"
        own_home = self.homes.get(ticket.prefix, "")
        is_away = self.is_open(own_home, ticket.resident) and own_home in ticket.candidates
        assert not is_away or self.running_on(own_home, ticket) < self.slots(own_home, ticket)

    def watch_who_is_let_past(self) -> None:
        slots, following = self.scheduler._slots, self.scheduler._next
        nearer = slots.nearer
        of_lines: dict[Ticket, Passing] = {}  # one of them goes

        def watched(
            head: Ticket, stay: Stay, line: Line, station: Station, now: float, pace_s: float
        ) -> tuple[Ticket, Stay]:
            times, backlog = head.passed, line.backlogs[head.urgency]
            served = station.tenants[head.urgency].counter
            crowded, own = backlog.crowded(now, pace_s), served(head.tenant)
            cost = (head.prompt_tokens + station.output_tokens.expected(head.tenant)) / head.weight
            found, place = nearer(head, stay, line, station, now, pace_s)
            if found is not head:
                lead = served(found.tenant) - own - cost if crowded else -inf
                of_lines[found] = Passing(head, times, line.slots, pace_s * line.slots, lead)
            return found, place

        def watched_next(station: Station, now: float) -> tuple[Ticket, Stay, Station] | None:
            of_lines.clear()
            if (found := following(station, now)) is not None:
                self.passings.pop(found[0], None)
                if found[0] in of_lines:
                    self.passings[found[0]] = of_lines[found[0]]
            return found

        slots.nearer = watched  # type: ignore[method-assign]
        self.scheduler._next = watched_next  # type: ignore[method-assign]

    def check_refusal(self, decision: Reject) -> None:
        ticket, reason = decision.ticket, decision.reason
        assert decision.retry_after_s >= 1.0
        if reason == "moved":
            assert not self.up(ticket) and {*ticket.candidates} - self.told, "all of its backends are known"
            return
        if reason in ("no_backend", "draining"):
            rests = self.back_at(ticket) > self.start_by(ticket)
            assert self.closed if reason == "draining" else rests or not self.up(ticket)
            return
        assert not self.places(ticket), "refused, and could have started"
        match reason:
            case "queue_full":
                assert self.is_full_for(ticket)
                self.missed.add(ticket.resident)
            case "insufficient_memory":
                assert decision.retry_after_s == inf
                assert not [
                    name for name in ticket.candidates if name in self.told and self.can_hold(name, ticket.resident)
                ]
            case "load_failed":
                assert decision.why == "out of memory"
                assert not self.is_anywhere(ticket)
                could = [name for name in self.up(ticket) if self.can_hold(name, ticket.resident)]
                assert could and all(self.rests_until(name, ticket.resident) > self.now for name in could)
            case "deadline_unreachable":
                is_absent = not self.is_anywhere(ticket) and not self.is_coming(ticket.resident, ticket.candidates)
                assert is_absent or self.rules.give_up < inf
                assert self.start_by(ticket) < inf
                self.missed.add(ticket.resident)
            case _:
                raise AssertionError(reason)

    def check_load(self, load: Load, decisions: list[Decision]) -> None:
        world, model = self.worlds[load.backend], load.model
        assert world.takes_work and world.is_ours and not world.loading, "one load at a time per backend"
        assert not self.is_coming(model), "one load of a model at a time"
        assert model not in world.known, "loaded already"
        if not world.tries:
            deciding = [each for each in decisions if isinstance(each, Admit) and each.ticket.resident == model]
            asking = [ticket for ticket in self.waiting if ticket.resident == model]
            assert asking or deciding or model in self.missed, "nobody asks for it"
            assert self.rests_until(world.name, model) <= self.now
            assert model not in world.resting, "it rests there"
            assert world.max_loaded is None or len(world.known) < world.max_loaded, "one at a time"
            assert world.memory is None or sum(SIZES[each] for each in (*world.known, model)) <= world.memory, "no room"
        world.begins_to_load(model)

    def check_unload(self, unload: Unload) -> None:
        world = self.worlds[unload.backend]
        assert unload.model in world.known, "not there"
        assert not self.is_pinned(unload.model)
        assert not [
            ticket for ticket in self.running if (ticket.backend, ticket.resident) == (world.name, unload.model)
        ]
        world.drops(unload.model)

    # --- what the books say -----------------------------------------------------------------------------------------

    def start_by(self, ticket: Ticket) -> float:
        """A request that comes again has started in time once."""
        if ticket in self.again:
            return ticket.deadline
        return min(ticket.deadline, ticket.arrived_at + self.rules.classes[ticket.urgency].max_wait_s)

    def up(self, ticket: Ticket) -> list[str]:
        return [name for name in ticket.candidates if name in self.told and self.worlds[name].takes_work]

    def back_at(self, ticket: Ticket) -> float:
        """When its model rests on none of its backends any more; -inf: on one it does not."""
        return min((self.worlds[name].resting.get(ticket.resident, -inf) for name in self.up(ticket)), default=inf)

    def is_open(self, backend: str, model: str) -> bool:
        """Whether it is given requests for the model, which it has."""
        return backend in self.told and self.worlds[backend].runs(model) and self.is_here(backend, model)

    def is_here(self, backend: str, model: str) -> bool:
        """Whether the model can be run there without being loaded, as far as was told."""
        world = self.worlds[backend]
        return not world.is_ours or model in world.known

    def is_anywhere(self, ticket: Ticket) -> bool:
        """Whether its model is in the memory of a backend that it can run on."""
        station = self.scheduler._stations.get(ticket.resident)
        return station is not None and any(name in station.stays for name in self.up(ticket))

    def is_coming(self, model: str, backends: Container[str] = NAMES) -> bool:
        return any(world.loading == model for world in self.worlds.values() if world.name in backends)

    def rests_until(self, backend: str, model: str) -> float:
        """It could not be loaded there."""
        return self.backs_off_until.get((backend, model), 0.0)

    def is_pinned(self, model: str) -> bool:
        """As soon as it was asked for: before, nobody knows what the name stands for."""
        return model == "C" and "pinned" in self.named.get(model, ())

    def can_hold(self, backend: str, model: str) -> bool:
        world = self.worlds[backend]
        pinned = sum(SIZES[each] for each in world.known if each != model and self.is_pinned(each))
        if world.max_loaded is not None and pinned:
            return False
        return not world.is_ours or world.memory is None or pinned + world.sizes[model] <= world.memory

    def is_capped(self, ticket: Ticket) -> bool:
        return any(sum(cap in other.caps for other in self.running) >= cap[1] for cap in ticket.caps)

    def places(self, ticket: Ticket, drained: Container[str] = ()) -> list[str]:
        """Where the ticket could run now, by the caps and by what is loaded. `drained`: even if it has to go there."""
        cap = self.model_bounds[ticket.model].max_concurrency
        if cap is not None and sum(other.model == ticket.model for other in self.running) >= cap:
            return []
        if self.bounds.max_concurrent is not None and len(self.running) >= self.bounds.max_concurrent:
            return []
        if self.is_capped(ticket):
            return []
        return [
            name
            for name in self.up(ticket)
            if self.is_open(name, ticket.resident)
            and (name in drained or not self.is_draining(name, ticket.resident))
            and self.running_on(name, ticket) < self.slots(name, ticket)
        ]

    def is_draining(self, backend: str, model: str) -> bool:
        """The one thing that no decision tells."""
        stay = self.scheduler._residency.sites[backend].stays.get(model)
        return stay is not None and stay.draining

    def running_on(self, backend: str, ticket: Ticket) -> int:
        """Settling slots are taken, too."""
        here = (backend, ticket.resident)
        return sum((other.backend, other.resident) == here for other in self.running) + self.settling_on(*here)

    def settling_on(self, backend: str, model: str) -> int:
        world = self.worlds[backend]
        since = world.known.get(model) if world.is_ours else None
        return sum((each.backend, each.model, each.since) == (backend, model, since) for each in self.settling)

    def slots(self, backend: str, ticket: Ticket) -> int:
        named = self.named.get(ticket.resident, set())
        cap = self.worlds[backend].slots or max(
            (self.model_bounds[name].max_concurrency or 1 for name in named), default=1
        )
        found = self.scheduler.concurrency(ticket.model).get(backend)
        assert found is None or 1 <= found.limit <= cap
        return self.worlds[backend].limit(ticket.resident, cap if found is None else found.limit)

    def is_full_for(self, ticket: Ticket) -> bool:
        """Whether what waits besides the ticket leaves no room for it."""
        others = [other for other in self.waiting if other is not ticket]
        mine = [other for other in others if other.tenant == ticket.tenant]
        return (
            sum(other.model == ticket.model for other in others) >= self.model_bounds[ticket.model].queue_limit
            or len(others) >= self.bounds.queue_tickets
            or len(mine) >= self.bounds.tenant_tickets
            or sum(other.size_bytes for other in (*others, ticket)) > self.bounds.queue_bytes
            or sum(other.size_bytes for other in (*mine, ticket)) > self.bounds.tenant_bytes
        )

    def drains(self) -> Iterator[tuple[str, str]]:
        """Backends where room is made, and for which model."""
        for name, site in self.scheduler._residency.sites.items():
            if site.plan is not None and site.plan.loading_since is None:
                yield name, site.plan.station.name

    # --- what holds after every event -------------------------------------------------------------------------------

    @invariant()
    def books_agree(self) -> None:
        scheduler = self.scheduler
        assert (scheduler.running, scheduler.waiting) == (len(self.running), len(self.waiting))
        assert scheduler.waiting_bytes == sum(ticket.size_bytes for ticket in self.waiting)
        for model in RESIDENT:
            load = scheduler.occupancy(model)
            assert load.running == sum(ticket.model == model for ticket in self.running)
            assert load.waiting == sum(ticket.model == model for ticket in self.waiting)
        assert all(ticket.phase is Phase.RUNNING for ticket in self.running)
        assert all(ticket.phase is Phase.WAITING for ticket in self.waiting)
        for name, most in CAPPED.items():
            running = sum((name, most) in ticket.caps for ticket in self.running)
            assert running == scheduler._slots._capped.get(name, 0) <= most

    @invariant()
    def no_slot_is_idle_while_a_ticket_waits_that_could_take_it(self) -> None:
        assert not [ticket for ticket in self.waiting if self.places(ticket) and self.start_by(ticket) > self.now]

    @invariant()
    def memory_is_as_told_and_never_overfull(self) -> None:
        for name in self.told:
            world, site = self.worlds[name], self.scheduler._residency.sites[name]
            if world.is_ours:
                assert set(site.stays) == set(world.known)
                assert world.memory is None or not world.up or world.taken <= world.memory
                assert world.max_loaded is None or len(world.holds) + bool(world.loading) <= world.max_loaded
                loading = site.plan.station.name if site.plan and site.plan.loading_since is not None else ""
                assert loading == world.loading

    @invariant()
    def room_is_made_only_for_who_waits_and_by_who_is_busy(self) -> None:
        for name, model in self.drains():
            asking = [ticket for ticket in self.waiting if ticket.resident == model]
            assert [ticket for ticket in asking if name in ticket.candidates], "a drain for nobody"
            draining = [each for each in self.worlds[name].known if self.is_draining(name, each)]
            running = [ticket for ticket in self.running if ticket.backend == name and ticket.resident in draining]
            assert running or any(self.settling_on(name, each) for each in draining)

    @invariant()
    def the_timer_is_set_for_whoever_waits(self) -> None:
        due = self.scheduler.next_deadline()
        assert due is not None or not self.waiting
        coming = {model for _, model in self.drains()} | {world.loading for world in self.worlds.values()}
        idle = {name for name in self.told if name not in dict(self.drains()) and not self.worlds[name].loading}
        for ticket in self.waiting:
            assert due is not None and due <= self.start_by(ticket)
            ours = [
                name
                for name in self.up(ticket)
                if name in idle and self.worlds[name].is_ours and self.is_to_be_loaded(name, ticket.resident)
            ]
            is_open = any(self.is_open(name, ticket.resident) for name in self.up(ticket))
            if ours and not is_open and ticket.resident not in coming:
                rest_s = min(self.rests_until(name, ticket.resident) for name in ours)
                assert due <= max(self.now + SOON_S, rest_s)

    def is_to_be_loaded(self, backend: str, model: str) -> bool:
        world = self.worlds[backend]
        return model not in world.known and model not in world.resting

    @invariant()
    def nobody_waits_in_vain_for_the_end_of_a_rest(self) -> None:
        assert not [ticket for ticket in self.waiting if self.back_at(ticket) > max(self.start_by(ticket), self.now)]

    @invariant()
    def every_ticket_has_one_outcome_at_most(self) -> None:
        assert all(len(outcomes) <= 1 for outcomes in self.outcomes.values())

    def teardown(self) -> None:
        """In the end nothing waits, nothing starts, every slot comes back, and every ticket has had its one outcome."""
        self.closed = True
        self.check(self.scheduler.close())
        assert not self.waiting
        self.offer("a", "t", ("x", "y"), 0, 0.0, 60.0, Class.NORMAL, 0, 1)
        while self.running:
            self.end(self.running[0], self.scheduler.finish(self.running[0], self.now))
            self.books_agree()
        assert all(len(self.outcomes[ticket]) == 1 for ticket in self.outcomes)
        assert all(ticket.phase is Phase.DONE for ticket in self.outcomes)
        assert (
            not self.scheduler._slots._capped
            and not self.scheduler._queue.stations
            and not self.scheduler._queue._by_tenant
        )
        for station in self.scheduler._stations.values():
            assert not station.lines and not station.classes._wanting
            assert not [shares for shares in station.tenants if shares._wanting]
            assert not [stay for stay in station.stays.values() if stay.running]


def group(ticket: Ticket) -> tuple[object, ...]:
    """Those among which one tenant's order is kept."""
    return ticket.model, ticket.resident, ticket.candidates, ticket.urgency, ticket.tenant


Machine.TestCase.settings = settings(max_examples=200, stateful_step_count=40)
test_the_rules_hold_for_any_sequence_of_events = pytest.mark.usefixtures("eager")(Machine.TestCase)


def test_what_is_pinned_stays_so_when_other_bounds_come_while_nobody_asks_for_it() -> None:
    machine = Machine()
    rules = Rules((ClassRules(16.0), ClassRules(4.0), ClassRules(1.0)))
    machine.start(Bounds(), rules, None, 50, 1, True, 6, False, 1.0, 4, False)
    machine.adopt(Bounds(), None, 2)
    machine.converse([1] * 6, [0] * 5, 60.0, Class.NORMAL)
    machine.rush("pinned", 4, 0.2, Class.NORMAL)
    machine.adopt(Bounds(), None, 0)
    machine.end_a_load(0, 0.0, "well")
    machine.converse([1] * 6, [0] * 2, 60.0, Class.NORMAL)
    machine.adopt(Bounds(), None, 50)
    machine.converse([1] * 6, [0] * 2, 60.0, Class.NORMAL)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that adapt change after every few runs."""
    for name, value in {"FIRST": 2, "LEAST_RUNS": 1, "LEAST_S": 0.0, "FULL": 0.1, "REST": 1}.items():
        monkeypatch.setattr(concurrency, name, value)
