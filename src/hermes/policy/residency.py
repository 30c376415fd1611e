"""Which models are in which backend's memory, and which should be: docs/scheduling.md has the reasons and the figures.

A model stays until its memory is wanted. A swap is made when the index says that it lets more requests start in time
than it holds up: `weight x (those of the model that could still start once it is loaded)` against, for each model that
has to go, `weight x (3 x running + 4 x waiting)`; requests count by the weights of their classes. One whose slots were
all in use lately counts as if they were, even while it rests: the next burst will want them. What has to go starts
nothing new, ends what it runs, and is unloaded; nothing is cancelled. One load at a time per backend.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from math import exp, inf

from msgspec import Struct

from hermes.policy.estimates import Average, Calibration, Samples
from hermes.policy.fairness import Shares
from hermes.policy.line import Line
from hermes.policy.ticket import STANDARD, BackendFacts, Rules, Ticket
from hermes.principal import Class

# Flat optima, every one: see docs/scheduling.md.
RUNNING_COSTS = 3.0
WAITING_COSTS = 4.0
IDLE_QUANTILE = 0.6
LATELY_S = 60.0
LATELY_STEP_S = 0.05
FULLNESS = 4
# A model of which less ran lately is in nobody's way.
HARDLY_USED = 0.02
# Of those that wait, no more are counted than could start within so long.
HELD_UP_S = 30.0

FIRST_LOAD_S = 10.0
FIRST_SERVICE_S = 5.0
FIRST_OUTPUT_TOKENS = 200.0

MAX_WEIGHT = 20.0
WEIGHT_STEP = 1.03
# Shares are those of about so many requests.
SHARE_OF_LAST = 500.0

# More victims for one load than this are not looked for, except all.
MAX_VICTIMS = 4
# Together with others only these go: of all that are loaded those that are worth least.
MAX_TOGETHER = 8

BACK_OFF_S = 15.0
MAX_BACK_OFF_S = 600.0
MAX_DOUBLINGS = 10


class Station:
    """A model as backends know it: who waits for it under any of its names, where it is, and what was learned of it."""

    __slots__ = (
        "arrived",
        "calibrations",
        "candidates",
        "classes",
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
        "service_s",
        "size_bytes",
        "slots",
        "stays",
        "tenants",
        "tried_at",
        "usual_slots",
        "waiting",
        "weight",
        "whole_s",
        "why_failed",
    )

    def __init__(self, name: str, rules: Rules = STANDARD) -> None:
        self.name = name
        heaviest = max(each.weight for each in rules.classes)
        self.counts = tuple(each.weight / heaviest for each in rules.classes)  # what one of a class counts in swaps
        self.stays: dict[str, Stay] = {}  # by backend
        self.lines: dict[tuple[str, tuple[str, ...]], Line] = {}  # those where something waits
        self.waiting = 0
        self.missed_at = -inf  # somebody was refused because it is not loaded, and may come again
        self.is_slow = False  # a load takes longer than they can wait
        self.usual_slots = 1  # those it had when it was last somewhere, or would have
        self.candidates: tuple[str, ...] = ()
        self.classes: Shares[Class] = Shares()
        self.tenants: tuple[Shares[str], ...] = (Shares(), Shares(), Shares())
        self.slots = 1
        self.size_bytes = 0
        self.pinned = False
        self.load_s = Average(FIRST_LOAD_S)
        self.service_s = Samples(FIRST_SERVICE_S)
        self.calibrations = {kind: Calibration() for kind in ("hit", "coming", "absent", "pulling")}
        self.whole_s = Samples(FIRST_SERVICE_S)  # of whole answers only
        self.tried_at = -inf  # one that was likely to take too long
        self.learns_at = -inf
        self.output_tokens = Average(FIRST_OUTPUT_TOKENS)
        self.weight = 1.0
        self.arrived = 0.0
        self.in_time = 0.0
        self.why_failed = ""

    def count_slots(self) -> None:
        """A stay has begun, ended or changed."""
        self.usual_slots = sum(stay.slots for stay in self.stays.values() if stay.open) or self.usual_slots
        for line in self.lines.values():
            line.slots = self.slots_on(line.candidates)

    @property
    def load_known_s(self) -> float:
        """Nobody is given up because of a load time that was never seen."""
        return self.load_s.value if self.load_s.is_known else 0.0

    def waiting_in_time(self, now: float, when: float, backend: str) -> float:
        """How many that `backend` can serve could still start then, by their classes' weights.

        Not those that start until then where the model is loaded already.
        """
        in_time: dict[tuple[str, ...], tuple[int, float]] = {}
        for line in self.lines.values():
            if backend in line.candidates:
                number, count = in_time.get(line.candidates, (0, 0.0))
                for backlog, counts in zip(line.backlogs, self.counts, strict=True):
                    if some := backlog.waiting and backlog.in_time(when):
                        number, count = number + some, count + some * counts
                in_time[line.candidates] = number, count
        rounds = (when - now) / max(self.service_s.mean, 0.001) + 1
        return sum(
            [
                count * max(0.0, 1 - self.slots_on(candidates) * rounds / number)
                for candidates, (number, count) in in_time.items()
                if number
            ]
        )

    def slots_on(self, backends: tuple[str, ...]) -> int:
        """Where it can be run on these."""
        stays = self.stays
        return sum([stay.slots for name in backends if (stay := stays.get(name)) is not None and stay.open])


class Stay:
    """A model on a backend, where it can be run unless it has to go (`open`)."""

    __slots__ = (
        "_lately",
        "_lately_at",
        "_lately_counted",
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
        self._lately_counted = 0.0
        self._lately_at = since
        self.fit()

    def fit(self) -> None:
        """Its backend or its bounds have changed."""
        facts = self.site.facts
        self.open = facts.up and not self.draining
        self.slots = facts.slots or self.station.slots
        self.station.count_slots()

    def start(self, ticket: Ticket, now: float) -> None:
        if now - self._lately_at >= LATELY_STEP_S:
            self._note(now)
        self.running[ticket] = None

    def end(self, ticket: Ticket, now: float) -> None:
        if now - self._lately_at >= LATELY_STEP_S:
            self._note(now)
        del self.running[ticket]

    def _note(self, now: float) -> None:
        part = 1 - exp((self._lately_at - now) / LATELY_S)
        self._lately += (len(self.running) - self._lately) * part
        self._lately_counted += (self._counted - self._lately_counted) * part
        self._lately_at = now

    @property
    def is_unused(self) -> bool:
        """Nothing waits for it, runs on it, or did lately."""
        return not self.running and not self.station.waiting and self._lately < HARDLY_USED

    @property
    def _counted(self) -> float:
        counts = self.station.counts
        return sum([counts[run.urgency] for run in self.running])

    def worth(self, now: float) -> float:
        """What is lost if it has to go."""
        self._note(now)
        station = self.station
        lately = self._lately_counted * (self._lately / self.slots) ** (FULLNESS - 1)
        return station.weight * (RUNNING_COSTS * max(self._counted, lately) + WAITING_COSTS * self._held_up())

    def _held_up(self) -> float:
        """Those that wait for it, its part of them if they may start elsewhere too."""
        if not self.station.waiting:
            return 0.0
        most = self.slots * HELD_UP_S / max(self.station.service_s.mean, 0.001)
        waiting = [0.0] * len(Class)
        for line in self.station.lines.values():
            if self.site.name in line.candidates:
                places = sum(name in self.station.stays for name in line.candidates)
                for each in Class:
                    waiting[each] += line.backlogs[each].waiting / places
        return sum(count * min(most, each) for count, each in zip(self.station.counts, waiting, strict=True))

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

    @property
    def is_draining(self) -> bool:
        return self.loading_since is None and bool(self.victims)

    def changes(self, model: str) -> bool:
        """Whether the model comes or goes by it."""
        return model == self.station.name or any(stay.station.name == model for stay in self.victims)


class Rest(Struct):
    """A model could not be loaded somewhere, and is not tried there again before `until`."""

    failures: int = 0
    until: float = -inf

    def fail(self, now: float) -> None:
        self.until = now + min(MAX_BACK_OFF_S, BACK_OFF_S * 2.0 ** min(self.failures, MAX_DOUBLINGS))
        self.failures += 1


class Site:
    """One backend, what is in its memory, and the one change under way."""

    __slots__ = ("changed_at", "chosen_at", "facts", "learned_bytes", "most_bytes", "plan", "rests", "stays")

    def __init__(self, facts: BackendFacts) -> None:
        self.facts = facts
        self.stays: dict[str, Stay] = {}  # by model
        self.rests: dict[str, Rest] = {}  # by model
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

    def rests_until(self, station: Station) -> float:
        rest = self.rests.get(station.name)
        return rest.until if rest is not None else -inf

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

    def lacks(self, station: Station) -> tuple[int, int]:
        """How many bytes of room the model lacks, and how many places."""
        return self.missing_bytes(station), self.surplus()

    def victims(self, lacks: tuple[int, int], stays: Sequence[Stay]) -> Iterator[tuple[Stay, ...]]:
        """Each smallest set of models that have to go for one that lacks so much; an empty one if there is room.

        `stays` are those that are here, the least worth first: sets of several are looked for among a few only.
        Under pressure there is none for more than there was: what takes another's place takes nothing from anybody.
        """
        missing, surplus = lacks
        if not missing and not surplus:
            if not self.facts.pressed:
                yield ()
            return
        may_go = [stay for stay in stays if not stay.station.pinned]
        found: list[frozenset[Stay]] = []
        for count in (*range(1, min(MAX_VICTIMS, len(may_go) - 1) + 1), len(may_go)):
            for some in combinations(may_go if count in (1, len(may_go)) else may_go[:MAX_TOGETHER], count):
                enough = len(some) >= surplus and sum(stay.size_bytes for stay in some) >= missing
                if enough and not any(map(frozenset(some).issuperset, found)):
                    found.append(frozenset(some))
                    yield some


def choose(site: Site, wanting: Sequence[Station], now: float) -> Plan | None:
    """The swap that gains most, if any gains."""
    best, most = None, 0.0
    losses = {stay: (stay.worth(now), stay.idle_in_s(now)) for stay in site.stays.values()}
    stays = sorted(losses, key=lambda stay: losses[stay][0])
    found: dict[tuple[int, int], list[tuple[Stay, ...]]] = {}
    for station in wanting:
        lacks = site.lacks(station)
        if lacks not in found:
            found[lacks] = list(site.victims(lacks, stays))
        if not station.waiting and best is None:  # for those that could not wait for it, and may come again
            for victims in found[lacks]:
                if not victims or (station.is_slow and all(stay.is_unused for stay in victims)):
                    best = Plan(station, victims, now)
                    break
        if station.weight * station.waiting <= most:
            continue
        ready_at = now + station.load_known_s
        at_best = station.weight * station.waiting_in_time(now, ready_at, site.name)
        for victims in found[lacks]:
            lost = sum(losses[stay][0] for stay in victims)
            if at_best - lost <= most:
                continue
            idle_s = max((losses[stay][1] for stay in victims), default=0.0)
            gain = station.weight * station.waiting_in_time(now, ready_at + idle_s, site.name) if idle_s else at_best
            if gain - lost > most:
                best, most = Plan(station, victims, now), gain - lost
    return best
