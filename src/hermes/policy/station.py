"""A model as backends know it: who waits for it under any of its names, where it is, and what was learned of it."""

from math import exp, inf

from hermes.policy.concurrency import Concurrency
from hermes.policy.estimates import Average, Calibration, Learned, Lengths, Rate, Samples
from hermes.policy.fairness import Shares
from hermes.policy.line import Line
from hermes.policy.ticket import EVERY, STANDARD, BackendFacts, Rules, Ticket
from hermes.principal import Class

FIRST_LOAD_S = 10.0
FIRST_SERVICE_S = 5.0
FIRST_OUTPUT_TOKENS = 200.0

# What ran lately is an average over about so long, brought up to date no oftener than in these steps.
LATELY_S = 60.0
LATELY_STEP_S = 0.05
# Of what a run may still take, so much is reckoned with (docs/scheduling.md: a flat optimum).
IDLE_QUANTILE = 0.6
# A model of which less ran lately is in nobody's way.
HARDLY_USED = 0.02


class Station:
    """`candidates` are all backends where it is known to be to be had."""

    __slots__ = (
        "adaptive",
        "arrived",
        "calibrations",
        "candidates",
        "classes",
        "concurrency",
        "counts",
        "in_time",
        "is_slow",
        "learns_at",
        "lines",
        "load_s",
        "missed_at",
        "name",
        "output_tokens",
        "pinned",
        "prefill_s",
        "service_s",
        "size_bytes",
        "slots",
        "stays",
        "tenants",
        "tried_at",
        "usual_slots",
        "waiting",
        "waiting_of",
        "weight",
        "whole_s",
        "why_failed",
    )

    def __init__(self, name: str, rules: Rules = STANDARD) -> None:
        self.name = name
        self.candidates: tuple[str, ...] = ()
        self.stays: dict[str, Stay] = {}  # by backend
        # Its bounds, of all its names.
        self.slots = 1
        self.size_bytes = 0
        self.pinned = False
        self.adaptive = False
        # Who waits.
        self.lines: dict[tuple[str, tuple[str, ...]], Line] = {}  # those where something waits
        self.waiting = 0
        self.waiting_of = [0, 0, 0]  # by class
        self.classes: Shares[Class] = Shares()
        self.tenants: tuple[Shares[str], ...] = (Shares(), Shares(), Shares())
        self.weigh(rules)
        # Who could not wait.
        self.missed_at = -inf  # somebody was refused because it is not loaded, and may come again
        self.is_slow = False  # a load takes longer than they can wait
        self.why_failed = ""
        # What was learned.
        self.concurrency: dict[str, Concurrency] = {}  # by backend, where it is adaptive
        self.usual_slots = 1  # those it had when it was last somewhere, or would have
        self.load_s = Average(FIRST_LOAD_S)
        self.service_s = Samples(FIRST_SERVICE_S)
        self.whole_s = Samples(FIRST_SERVICE_S)  # of whole answers only
        self.prefill_s = Rate()  # from a start to the first byte, per token of the prompt
        self.output_tokens = Lengths(FIRST_OUTPUT_TOKENS)
        self.calibrations = {kind: Calibration() for kind in ("hit", "coming", "absent", "pulling")}
        self.learns_at = -inf
        self.tried_at = -inf  # one that was likely to take too long
        # Its share of requests in time beside other models': `floor`.
        self.weight = 1.0
        self.arrived = 0.0
        self.in_time = 0.0

    def weigh(self, rules: Rules) -> None:
        heaviest = max(each.weight for each in rules.classes)
        self.counts = tuple(each.weight / heaviest for each in rules.classes)  # what one of a class counts in swaps

    @property
    def load_known_s(self) -> float:
        """Nobody is given up because of a load time that was never seen."""
        return self.load_s.value if self.load_s.is_known else 0.0

    @property
    def has_room(self) -> bool:
        """Whether a slot of it is free anywhere."""
        return any(stay.open and stay.held < stay.slots for stay in self.stays.values())

    @property
    def learned(self) -> Learned:
        """What is worth keeping over a restart."""
        return Learned(self.load_s.learned, self.service_s.learned, self.output_tokens.all.learned)

    def learn(self, known: Learned) -> None:
        if known.load_s is not None:
            self.load_s.add(known.load_s)
        if known.service_s is not None:
            self.service_s.begin(known.service_s)
            self.service_s.add(known.service_s)
        if known.output_tokens is not None:
            self.output_tokens.all.add(known.output_tokens)

    def share(self, ticket: Ticket) -> float:
        """The weight of its class and tenant beside others."""
        return self.counts[ticket.urgency] * ticket.weight

    def goes_first(self, ticket: Ticket) -> bool:
        """Whether it is its tenant's next, of those that wait."""
        return self.lines[ticket.model, ticket.candidates].backlogs[ticket.urgency].goes_first(ticket)

    def turn(self, ticket: Ticket) -> None:
        """What its tenant was served has changed."""
        for line in self.lines.values():
            line.backlogs[ticket.urgency].turn(ticket.tenant)

    def slots_on(self, backends: tuple[str, ...]) -> int:
        """Where it can be run on these."""
        slots = 0
        for name in backends:
            stay = self.stays.get(name)
            if stay is not None and stay.open:
                slots += stay.slots
        return slots

    def stays_on(self, backends: tuple[str, ...]) -> "list[Stay]":
        """Where it is in memory, of these."""
        return [stay for name in backends if (stay := self.stays.get(name)) is not None and stay.up]

    def concurrency_on(self, backend: str, cap: int) -> Concurrency:
        """How many runs that backend does well at once, as far as is known: it outlasts the model's stays there."""
        known = self.concurrency.get(backend)
        if known is None:
            known = self.concurrency[backend] = Concurrency(cap)
        known.fit(cap)
        return known

    def count_slots(self) -> None:
        """A stay has begun, ended or changed."""
        self.usual_slots = sum(stay.slots for stay in self.stays.values() if stay.open) or self.usual_slots
        for line in self.lines.values():
            line.slots = self.slots_on(line.candidates)


class Stations(dict[str, Station]):
    """By the names that backends have for models; one that is asked for is there."""

    def __init__(self, rules: Rules) -> None:
        super().__init__()
        self._rules = rules

    def adopt(self, rules: Rules) -> None:
        self._rules = rules
        for station in self.values():
            station.weigh(rules)

    def __missing__(self, name: str) -> Station:
        station = self[name] = Station(name, self._rules)
        return station


class Stay:
    """A model in a backend's memory, where it can be run unless it has to go or rests (`open`). It holds `held` of its
    slots.
    """

    __slots__ = (
        "_lately",
        "_lately_at",
        "_lately_counted",
        "_limit",
        "_told_slots",
        "backend",
        "concurrency",
        "draining",
        "found",
        "held",
        "leaving",
        "load_s",
        "open",
        "rests_until",
        "running",
        "settles",
        "settling",
        "since",
        "size_bytes",
        "slots",
        "station",
        "up",
        "used_at",
        "weight",
    )

    def __init__(self, station: Station, facts: BackendFacts, since: float, size_bytes: int) -> None:
        self.station = station
        self.backend = facts.name
        self.since = self.used_at = since
        self.size_bytes = size_bytes
        self.found = "hit"  # what those waited for that had been there before: a `load`, or a `swap`
        self.load_s = 0.0
        self.running: dict[Ticket, None] = {}
        self.settling: dict[Ticket, float] = {}  # until then the backend may still read for a client that has left
        self.held = 0
        self.draining = False
        self.leaving = False  # an operator wants it gone, whoever else does not
        self._lately = 0.0
        self._lately_counted = 0.0
        self._lately_at = since
        self.see(facts)

    def see(self, facts: BackendFacts) -> None:
        """Its backend has changed."""
        self.up = facts.up
        self.settles = facts.settles
        self.weight = facts.weight
        self._told_slots = facts.slots_for(self.station.name)
        self._limit = facts.limits.get(self.station.name) or facts.limits.get(EVERY)
        self.rests_until = facts.resting.get(self.station.name, -inf)
        self.fit()

    def fit(self) -> None:
        """Its backend or its bounds have changed, or whether it has to go."""
        self.open = self.up and not self.draining and self.rests_until == -inf
        self.slots = cap = self._told_slots or self.station.slots
        self.concurrency = self.station.concurrency_on(self.backend, cap) if self.station.adaptive else None
        if self.concurrency is not None:
            self.slots = self.concurrency.limit
        if self._limit is not None:
            self.slots = max(1, min(self.slots, self._limit))
        self.station.count_slots()

    def drain(self, draining: bool) -> None:
        self.draining = draining or self.leaving
        self.fit()

    def start(self, ticket: Ticket, now: float) -> None:
        if now - self._lately_at >= LATELY_STEP_S:
            self._note(now)
            self.used_at = now
        self.running[ticket] = None
        self.held += 1
        if self.concurrency is not None:
            self.concurrency.started(ticket, now)

    def end(self, ticket: Ticket, now: float, settles_at: float = -inf) -> None:
        """It runs no more; its slot is free, or will be when the backend has settled."""
        if now - self._lately_at >= LATELY_STEP_S:
            self._note(now)
            self.used_at = now
        del self.running[ticket]
        if settles_at > now:
            self.settling[ticket] = settles_at
        else:
            self.held -= 1
        if self.concurrency is not None and self.concurrency.ended(ticket, now, wanted=self.station.waiting > 0):
            self.fit()

    def settle(self, now: float) -> None:
        """Free the slots whose time has passed."""
        for ticket in [ticket for ticket, until in self.settling.items() if until <= now]:
            del self.settling[ticket]
            self.held -= 1

    def _note(self, now: float) -> None:
        part = 1 - exp((self._lately_at - now) / LATELY_S)
        self._lately += (len(self.running) - self._lately) * part
        self._lately_counted += (self.counted - self._lately_counted) * part
        self._lately_at = now

    def lately(self, now: float) -> tuple[float, float]:
        """How many runs it had over the last minute: as a part of its slots, and by the weights of their classes."""
        self._note(now)
        return self._lately / self.slots, self._lately_counted

    @property
    def is_unused(self) -> bool:
        """Nothing waits for it, has a slot of it, or ran on it lately."""
        return not self.held and not self.station.waiting and self._lately < HARDLY_USED

    @property
    def counted(self) -> float:
        """Its runs, by the weights of their classes."""
        counts, counted = self.station.counts, 0.0
        for run in self.running:
            counted += counts[run.urgency]
        return counted

    def idle_in_s(self, now: float) -> float:
        """How long until its runs have ended, probably."""
        if not self.running:
            return 0.0
        left = self.station.service_s.left
        return max([left(now - run.started_at, IDLE_QUANTILE) for run in self.running])
