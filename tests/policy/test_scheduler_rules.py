"""The scheduler's rules, held against any sequence of events (invariants I1, I2, I4, I6).

The machine keeps books of its own, from the decisions alone, and checks every decision against them at its instant.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from hermes.policy.scheduler import (
    Admit,
    BackendFacts,
    Bounds,
    Decision,
    Expire,
    ModelBounds,
    Phase,
    Reject,
    Scheduler,
    Ticket,
)

RESIDENT = {"a": "A:latest", "alias": "A:latest", "b": "B:7b"}
MODELS = st.sampled_from(sorted(RESIDENT))
MODEL_BOUNDS = st.builds(ModelBounds, st.sampled_from((1, 2, None, 3)), st.sampled_from((50, 50, 50, 50, 2, 0)))
SLOTS = st.sampled_from((1, None, 2))
# One bound at a time is tight, or none: where all are, nothing ever waits.
BOUNDS = st.sampled_from(
    [
        Bounds(),
        Bounds(max_concurrent=2),
        Bounds(max_concurrent=1),
        Bounds(queue_tickets=3),
        Bounds(queue_bytes=60),
        Bounds(tenant_tickets=2),
        Bounds(tenant_bytes=40),
    ]
)
WHICH = st.integers(0, 1000)


class Rules(RuleBasedStateMachine):
    @initialize(bounds=BOUNDS, unlisted=MODEL_BOUNDS, slots_x=SLOTS, slots_y=SLOTS, backlog=st.integers(4, 12))
    def start(
        self, bounds: Bounds, unlisted: ModelBounds, slots_x: int | None, slots_y: int | None, backlog: int
    ) -> None:
        self.now = 100.0
        self.bounds = bounds
        self.scheduler = Scheduler(bounds, unlisted)
        self.model_bounds = dict.fromkeys(RESIDENT, unlisted)
        self.facts: dict[str, BackendFacts] = {}
        self.named: dict[str, set[str]] = {}
        self.running: list[Ticket] = []
        self.waiting: list[Ticket] = []
        self.outcomes: dict[Ticket, list[str]] = {}
        self.closed = False
        self.learn(BackendFacts("x", True, slots_x))
        self.learn(BackendFacts("y", True, slots_y))
        for number in range(backlog):
            self.offer("ab"[number % 2], "tu"[number // 2 % 2], ("x", "y"), 10, 0.0, 60.0, 1)

    # --- events -----------------------------------------------------------------------------------------------------

    @rule(
        model=MODELS,
        tenant=st.sampled_from(("t", "u")),
        candidates=st.sampled_from((("x",), ("x", "y"), ("x", "y"), ("y", "z"), ())),
        size_bytes=st.sampled_from((10, 20, 0)),
        age_s=st.sampled_from((0.0, 0.5, 3.0)),
        patience_s=st.sampled_from((60.0, 5.0, 2.0, 60.0, 0.0)),
        count=st.integers(1, 4),
    )
    def offer(
        self,
        model: str,
        tenant: str,
        candidates: tuple[str, ...],
        size_bytes: int,
        age_s: float,
        patience_s: float,
        count: int,
    ) -> None:
        arrived_at, deadline = self.now - age_s, self.now + patience_s
        for _ in range(count):
            self.take_in(Ticket(model, RESIDENT[model], tenant, candidates, size_bytes, arrived_at, deadline))

    @rule(which=WHICH)
    def finish(self, which: int) -> None:
        if self.running:
            ticket = self.running[which % len(self.running)]
            self.end(ticket, self.scheduler.finish(ticket, self.now))

    @rule(which=WHICH)
    def offer_again(self, which: int) -> None:
        """An attempt has failed, and its request comes back."""
        if self.running:
            ticket = self.running[which % len(self.running)]
            self.end(ticket, self.scheduler.finish(ticket, self.now))
            second = ticket.again()
            assert (second.phase, second.avoid, second.deadline) == (Phase.NEW, ticket.backend, ticket.deadline)
            self.take_in(second, again=True)

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

    @rule(seconds=st.sampled_from((0.5, 1.9, 2.0, 5.0)), is_late=st.booleans())
    def let_time_pass(self, seconds: float, is_late: bool) -> None:
        """`is_late`: the timer has not fired yet."""
        self.now += seconds
        if not is_late:
            self.check(self.scheduler.expire(self.now))
            assert not [ticket for ticket in self.waiting if ticket.deadline <= self.now]

    @rule(name=st.sampled_from(("x", "y", "z")), up=st.sampled_from((True, True, True, False)), slots=SLOTS)
    def observe(self, name: str, up: bool, slots: int | None) -> None:
        self.learn(BackendFacts(name, up, slots))

    @rule(model=MODELS, bounds=MODEL_BOUNDS)
    def resize(self, model: str, bounds: ModelBounds) -> None:
        self.model_bounds[model] = bounds
        self.check(self.scheduler.resize(model, bounds, self.now))

    # --- the books --------------------------------------------------------------------------------------------------

    def learn(self, facts: BackendFacts) -> None:
        self.facts[facts.name] = facts
        self.check(self.scheduler.observe(facts, self.now))
        assert all(self.up(ticket) for ticket in self.waiting)

    def take_in(self, ticket: Ticket, *, again: bool = False) -> None:
        is_heard = ticket.deadline > self.now and not self.closed
        if is_heard:
            self.named.setdefault(ticket.resident, set()).add(ticket.model)
        self.outcomes[ticket] = []
        self.waiting.insert(0 if again else len(self.waiting), ticket)
        self.check(self.scheduler.offer(ticket, self.now, again=again), offered=ticket)
        assert ticket.phase is not Phase.WAITING or (is_heard and self.up(ticket) and not self.is_full_for(ticket))

    def end(self, ticket: Ticket, decisions: list[Decision]) -> None:
        (self.running if ticket in self.running else self.waiting).remove(ticket)
        self.outcomes[ticket].append("left")
        self.check(decisions)

    def check(self, decisions: list[Decision], offered: Ticket | None = None) -> None:
        for decision in decisions:
            ticket = decision.ticket
            assert ticket in self.waiting, "decided upon twice"
            match decision:
                case Admit():
                    self.check_admission(decision)
                    if ticket is not offered:
                        self.check_turn(ticket, [other for other in self.waiting if other is not offered])
                    self.running.append(ticket)
                case Expire():
                    assert ticket.deadline <= self.now
                    self.outcomes[ticket].append("expired")
                case Reject():
                    self.check_refusal(decision)
                    self.outcomes[ticket].append(decision.reason)
            self.waiting.remove(ticket)

    def check_admission(self, decision: Admit) -> None:
        ticket, places = decision.ticket, self.places(decision.ticket)
        assert decision.backend in places, "over a cap, or nowhere to run"
        assert decision.backend != ticket.avoid or places == [ticket.avoid]
        assert (ticket.backend, ticket.started_at) == (decision.backend, self.now)
        assert ticket.deadline > self.now
        assert not self.closed

    def check_turn(self, ticket: Ticket, queue: list[Ticket]) -> None:
        """First come, first served: in its line, and among the heads of the lines that can run."""
        heads = list({line(other): other for other in reversed(queue)}.values())
        assert ticket in heads
        assert ticket.arrived_at == min(head.arrived_at for head in heads if self.places(head))

    def check_refusal(self, decision: Reject) -> None:
        assert 1.0 <= decision.retry_after_s <= 60.0
        match decision.reason:
            case "no_backend":
                assert not self.up(decision.ticket)
            case "draining":
                assert self.closed
            case "queue_full":
                assert self.is_full_for(decision.ticket) and not self.places(decision.ticket)

    def up(self, ticket: Ticket) -> list[str]:
        return [name for name in ticket.candidates if name in self.facts and self.facts[name].up]

    def places(self, ticket: Ticket) -> list[str]:
        """Where the ticket could run now, by the caps."""
        cap = self.model_bounds[ticket.model].max_concurrency
        if cap is not None and sum(other.model == ticket.model for other in self.running) >= cap:
            return []
        if self.bounds.max_concurrent is not None and len(self.running) >= self.bounds.max_concurrent:
            return []
        return [name for name in self.up(ticket) if self.running_on(name, ticket) < self.slots(name, ticket)]

    def running_on(self, backend: str, ticket: Ticket) -> int:
        return sum((other.backend, other.resident) == (backend, ticket.resident) for other in self.running)

    def slots(self, backend: str, ticket: Ticket) -> int:
        named = self.named.get(ticket.resident, set())
        return self.facts[backend].slots or max(
            (self.model_bounds[name].max_concurrency or 1 for name in named), default=1
        )

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

    # --- what holds after every event -------------------------------------------------------------------------------

    @invariant()
    def books_agree(self) -> None:
        scheduler = self.scheduler
        assert (scheduler.running, scheduler.waiting) == (len(self.running), len(self.waiting))
        assert scheduler.waiting_bytes == sum(ticket.size_bytes for ticket in self.waiting)
        for model in RESIDENT:
            load = scheduler.load(model)
            assert load.running == sum(ticket.model == model for ticket in self.running)
            assert load.waiting == sum(ticket.model == model for ticket in self.waiting)
        assert all(ticket.phase is Phase.RUNNING for ticket in self.running)
        assert all(ticket.phase is Phase.WAITING for ticket in self.waiting)

    @invariant()
    def no_slot_is_idle_while_a_ticket_waits_that_could_take_it(self) -> None:
        assert not [ticket for ticket in self.waiting if self.places(ticket) and ticket.deadline > self.now]

    @invariant()
    def the_next_deadline_is_the_earliest_of_what_waits(self) -> None:
        assert self.scheduler.next_deadline() == min((ticket.deadline for ticket in self.waiting), default=None)

    @invariant()
    def every_ticket_has_one_outcome_at_most(self) -> None:
        assert all(len(outcomes) <= 1 for outcomes in self.outcomes.values())

    def teardown(self) -> None:
        """In the end nothing waits, nothing starts, every slot comes back, and every ticket has had its one outcome."""
        self.closed = True
        self.check(self.scheduler.close())
        assert not self.waiting
        self.offer("a", "t", ("x", "y"), 0, 0.0, 60.0, 1)
        while self.running:
            self.end(self.running[0], self.scheduler.finish(self.running[0], self.now))
            self.books_agree()
        assert all(len(self.outcomes[ticket]) == 1 for ticket in self.outcomes)
        assert all(ticket.phase is Phase.DONE for ticket in self.outcomes)


def line(ticket: Ticket) -> tuple[object, ...]:
    return ticket.model, ticket.resident, ticket.candidates


Rules.TestCase.settings = settings(max_examples=200, stateful_step_count=40)
test_the_rules_hold_for_any_sequence_of_events = Rules.TestCase
