"""Which models are in which backend's memory, and which should be: docs/scheduling.md has the reasons and the figures.

A model stays until its memory is wanted. A swap is made when the index says that it lets more requests start in time
than it holds up: `weight x (those of the model that could still start once it is loaded)` against, for each model that
has to go, `weight x (3 x running + 4 x waiting)`. One whose slots were all in use lately counts as if they were, even
while it rests: the next burst will want them. What has to go starts nothing new, ends what it runs, and is unloaded;
nothing is cancelled. One load at a time per backend.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from math import exp, inf

from msgspec import Struct

from hermes.policy.estimates import Average, Samples
from hermes.policy.fairness import Shares
from hermes.policy.line import Line
from hermes.policy.ticket import BackendFacts, Ticket
from hermes.principal import Class

# Flat optima, every one: see docs/scheduling.md.
RUNNING_COSTS = 3.0
WAITING_COSTS = 4.0
IDLE_QUANTILE = 0.6
LATELY_S = 60.0
LATELY_STEP_S = 0.05
FULLNESS = 4
BATCH_COUNTS = 0.25

FIRST_LOAD_S = 10.0
FIRST_SERVICE_S = 5.0
FIRST_OUTPUT_TOKENS = 200.0

MAX_WEIGHT = 20.0
WEIGHT_STEP = 1.03
# Shares are those of about so many requests.
SHARE_OF_LAST = 500.0

# More victims for one load than this are not looked for, except all.
MAX_VICTIMS = 4

BACK_OFF_S = 15.0
MAX_BACK_OFF_S = 600.0


class Station:
    """A model as backends know it: who waits for it under any of its names, where it is, and what was learned of it."""

    __slots__ = (
        "arrived",
        "back_off_until",
        "candidates",
        "classes",
        "failures",
        "in_time",
        "learns_at",
        "lines",
        "load_s",
        "missed_until",
        "name",
        "open_slots",
        "output_tokens",
        "pinned",
        "service_s",
        "size_bytes",
        "slots",
        "stays",
        "tenants",
        "usual_slots",
        "waiting",
        "weight",
        "why_failed",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.stays: dict[str, Stay] = {}  # by backend
        self.lines: dict[tuple[str, tuple[str, ...]], Line] = {}  # those where something waits
        self.waiting = 0
        self.missed_until = -inf  # somebody was refused because it is not loaded, and may come again
        self.open_slots = 0
        self.usual_slots = 1  # those it had when it was last somewhere, or would have
        self.candidates: tuple[str, ...] = ()
        self.classes: Shares[Class] = Shares()
        self.tenants: tuple[Shares[str], ...] = (Shares(), Shares(), Shares())
        self.slots = 1
        self.size_bytes = 0
        self.pinned = False
        self.load_s = Average(FIRST_LOAD_S)
        self.service_s = Samples(FIRST_SERVICE_S)
        self.learns_at = -inf
        self.output_tokens = Average(FIRST_OUTPUT_TOKENS)
        self.weight = 1.0
        self.arrived = 0.0
        self.in_time = 0.0
        self.failures = 0
        self.back_off_until = -inf
        self.why_failed = ""

    @property
    def pace_s(self) -> float:
        """From one start to the next, when all slots are busy."""
        return self.service_s.mean / (self.open_slots or self.usual_slots)

    def count_slots(self) -> None:
        """A stay has begun, ended or changed."""
        self.open_slots = sum(stay.slots for stay in self.stays.values() if stay.open)
        self.usual_slots = self.open_slots or self.usual_slots

    def waiting_in_time(self, when: float, backend: str) -> float:
        """How many that `backend` can serve could still start then; batch counts less."""
        count = 0.0
        for line in self.lines.values():
            if backend in line.candidates:
                interactive, normal, batch = line.backlogs
                count += interactive.in_time(when) + normal.in_time(when) + BATCH_COUNTS * batch.in_time(when)
        return count


class Stay:
    """A model on a backend, where it can be run unless it has to go (`open`)."""

    __slots__ = (
        "_lately",
        "_lately_at",
        "draining",
        "found",
        "leaving",
        "load_s",
        "open",
        "running",
        "since",
        "site",
        "size_bytes",
        "slots",
        "station",
    )

    def __init__(self, station: Station, site: "Site", since: float, size_bytes: int) -> None:
        self.station = station
        self.site = site
        self.since = since
        self.size_bytes = size_bytes
        self.found = "hit"  # what those waited for that had been there before: a `load`, or a `swap`
        self.load_s = 0.0
        self.running: dict[Ticket, None] = {}
        self.draining = False
        self.leaving = False  # an operator wants it gone, whoever else does not
        self._lately = 0.0
        self._lately_at = since
        self.fit()

    def fit(self) -> None:
        """Its backend or its bounds have changed."""
        facts = self.site.facts
        self.open = facts.up and not self.draining
        self.slots = facts.slots or self.station.slots
        self.station.count_slots()

    def start(self, ticket: Ticket, now: float) -> None:
        self._note(now)
        self.running[ticket] = None

    def end(self, ticket: Ticket, now: float) -> None:
        self._note(now)
        del self.running[ticket]

    def _note(self, now: float) -> None:
        if now - self._lately_at < LATELY_STEP_S:
            return
        self._lately += (len(self.running) - self._lately) * (1 - exp((self._lately_at - now) / LATELY_S))
        self._lately_at = now

    def worth(self, now: float) -> float:
        """What is lost if it has to go."""
        self._note(now)
        station = self.station
        running = max(len(self.running), self.slots * (self._lately / self.slots) ** FULLNESS)
        waiting = station.waiting / len(station.stays)
        return station.weight * (RUNNING_COSTS * running + WAITING_COSTS * waiting)

    def idle_in_s(self, now: float) -> float:
        """How long until its runs have ended, probably."""
        service_s = self.station.service_s
        return max((service_s.left(now - run.started_at, IDLE_QUANTILE) for run in self.running), default=0.0)


class Plan(Struct, eq=False):
    """A model is to be loaded. `loading_since` is None while the victims end what they run."""

    station: Station
    victims: tuple[Stay, ...]
    decided_at: float
    loading_since: float | None = None
    tries: int = 0

    def changes(self, model: str) -> bool:
        """Whether the model comes or goes by it."""
        return model == self.station.name or any(stay.station.name == model for stay in self.victims)


class Site:
    """One backend, what is in its memory, and the one change under way."""

    __slots__ = ("changed_at", "chosen_at", "facts", "learned_bytes", "most_bytes", "plan", "stays")

    def __init__(self, facts: BackendFacts) -> None:
        self.facts = facts
        self.stays: dict[str, Stay] = {}  # by model
        self.plan: Plan | None = None
        self.learned_bytes: int | None = None
        self.most_bytes = 0  # ever seen loaded at once
        self.changed_at = -inf  # when a load last ended; an older look tells nothing of what came or went
        self.chosen_at = -inf

    @property
    def name(self) -> str:
        return self.facts.name

    @property
    def memory_bytes(self) -> int | None:
        known = [size for size in (self.facts.memory_bytes, self.learned_bytes) if size is not None]
        return min(known, default=None)

    @property
    def is_ours(self) -> bool:
        """Whether we decide what is in its memory."""
        return self.facts.loaded is not None

    def size_of(self, station: Station) -> int:
        return station.size_bytes or self.facts.sizes.get(station.name, 0)

    def can_hold(self, station: Station) -> bool:
        """Whether the model would fit if nothing that may go were there."""
        memory_bytes, max_loaded = self.facts.memory_bytes, self.facts.max_loaded
        if not self.is_ours:
            return True
        kept = [stay.size_bytes for stay in self.stays.values() if stay.station.pinned and stay.station != station]
        if max_loaded is not None and len(kept) >= max_loaded:
            return False
        return memory_bytes is None or sum(kept) + self.size_of(station) <= memory_bytes

    def missing_bytes(self, station: Station, going: tuple[Stay, ...] = ()) -> int:
        """How much room the model lacks, when those that go are gone."""
        if self.memory_bytes is None:
            return 0
        kept = [stay for stay in self.stays.values() if stay not in going]
        missing = max(0, self.size_of(station) + sum(stay.size_bytes for stay in kept) - self.memory_bytes)
        if self.facts.memory_bytes is None or self.facts.may_be_less:
            # There may be more than there was need of: alone, every model is tried.
            missing = min(missing, sum(stay.size_bytes for stay in kept if not stay.station.pinned))
        return missing

    def surplus(self, going: tuple[Stay, ...] = ()) -> int:
        """How many models are too many for another one, when those that go are gone."""
        if self.facts.max_loaded is None:
            return 0
        return max(0, sum(stay not in going for stay in self.stays.values()) + 1 - self.facts.max_loaded)

    def victims(self, station: Station) -> Iterator[tuple[Stay, ...]]:
        """Each smallest set of models that have to go for this one; an empty one if there is room.

        Under pressure there is none for more than there was: what takes another's place takes nothing from anybody.
        """
        missing, surplus = self.missing_bytes(station), self.surplus()
        if not missing and not surplus:
            if not self.facts.pressed:
                yield ()
            return
        may_go = [stay for stay in self.stays.values() if not stay.station.pinned]
        found: list[frozenset[Stay]] = []
        for count in (*range(1, min(MAX_VICTIMS, len(may_go) - 1) + 1), len(may_go)):
            for some in combinations(may_go, count):
                enough = len(some) >= surplus and sum(stay.size_bytes for stay in some) >= missing
                if enough and not any(map(frozenset(some).issuperset, found)):
                    found.append(frozenset(some))
                    yield some


def choose(site: Site, wanting: Sequence[Station], now: float) -> Plan | None:
    """The swap that gains most, if any gains."""
    best, most = None, 0.0
    losses = {stay: (stay.worth(now), stay.idle_in_s(now)) for stay in site.stays.values()}
    for station in wanting:
        if not station.waiting and best is None and next(site.victims(station), None) == ():
            best = Plan(station, (), now)  # for those that could not wait for it, and may come again
        if station.weight * station.waiting <= most:
            continue
        # Nobody is given up because of a load time that was never seen.
        load_s = station.load_s.value if station.load_s.is_known else 0.0
        elsewhere = station.open_slots / max(station.service_s.mean, 0.001)
        for victims in site.victims(station):
            lost = sum(losses[stay][0] for stay in victims)
            if station.weight * station.waiting - lost <= most:
                continue
            ready_at = now + load_s + max((losses[stay][1] for stay in victims), default=0.0)
            waiting = station.waiting_in_time(ready_at, site.name)
            if elsewhere:  # what runs already where it is loaded goes on meanwhile
                waiting -= elsewhere * (ready_at - now) + station.open_slots
            if station.weight * waiting - lost > most:
                best, most = Plan(station, victims, now), station.weight * waiting - lost
    return best
