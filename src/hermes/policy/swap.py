"""Which model to load next, and which have to go for it: docs/scheduling.md has the reasons and the figures.

A model stays until its memory is wanted. A swap is made when the index says that it lets more requests start in time
than it holds up: `weight x (those of the model that could still start once it is loaded)` against, for each model that
has to go, `weight x (3 x running + 4 x waiting)`; requests count by the weights of their classes. One whose slots were
all in use lately counts as if they were, even while it rests: the next burst will want them. Where the index keeps
somebody from a fair share of the backend's time, `timeshare` has the last word.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations, islice
from math import inf
from operator import itemgetter

from hermes.policy.site import Plan, Site
from hermes.policy.station import Station, Stay
from hermes.policy.ticket import Ticket
from hermes.principal import CLASSES

# Flat optima, every one: see docs/scheduling.md.
RUNNING_COSTS = 3.0
WAITING_COSTS = 4.0
FULLNESS = 4
# Of those that wait, no more are counted than could start within so long.
HELD_UP_S = 30.0

# More victims for one load than this are not looked for, except all.
MAX_VICTIMS = 4
# Together with others only these go: of all that are loaded those that are worth least.
MAX_TOGETHER = 8

# Who is owed time is looked for among so many tenants of a class.
LOOKED_AT = 32

# A run takes at least so long, for what is reckoned with it.
_LEAST_S = 0.001


def choose(site: Site, wanting: Sequence[Station], now: float, floor: float = 0.0) -> Plan | None:
    """The swap that gains most, if any gains; else one for somebody who is owed it (`timeshare`)."""
    best, most = None, 0.0
    losses = {stay: worth(stay, now) for stay in site.stays.values()}
    idles_in_s: dict[Stay, float] = {}
    stays = sorted(losses, key=losses.__getitem__)
    found: dict[tuple[int, int], list[tuple[float, tuple[Stay, ...]]]] = {}
    for station in wanting:
        lacks = site.lacks(station)
        if lacks not in found:
            sets = sets_of_victims(site, *lacks, stays)
            found[lacks] = [(sum([losses[stay] for stay in victims]), victims) for victims in sets]
        if not station.waiting and best is None:  # for those that could not wait for it, and may come again
            for _, victims in found[lacks]:
                if not victims or (station.is_slow and all(stay.is_unused for stay in victims)):
                    best = Plan(station, victims, now)
                    break
        at_best = station.weight * sum(
            [count * each for count, each in zip(station.counts, station.waiting_of, strict=True)]
        )
        ready_at = now + station.load_known_s
        is_exact = False
        for lost, victims in found[lacks]:
            if at_best - lost <= most:
                continue
            if not is_exact:
                at_best, is_exact = station.weight * waiting_in_time(station, site.name, now, ready_at), True
            if at_best - lost <= most:
                continue
            for stay in victims:
                if stay not in idles_in_s:
                    idles_in_s[stay] = stay.idle_in_s(now)
            idle_s = max([idles_in_s[stay] for stay in victims], default=0.0)
            gain = at_best
            if idle_s:
                gain = station.weight * waiting_in_time(station, site.name, now, ready_at + idle_s)
            if gain - lost > most:
                best, most = Plan(station, victims, now), gain - lost
    if best is None and floor:
        balance = site.timeshare.balance(now)
        for station in wanting:
            if ways := found[site.lacks(station)]:
                cheapest = min(ways, key=itemgetter(0))[1]
                idle_s = max([stay.idle_in_s(now) for stay in cheapest], default=0.0)
                ready_at = now + idle_s + station.load_known_s
                for ticket in _in_time_for(station, site.name, ready_at):
                    if balance.owes(ticket, station.share(ticket), floor):
                        return Plan(station, cheapest, now, payer=ticket)
    return best


def too_much(site: Site, now: float) -> tuple[Stay, ...]:
    """What has to go of what is there, where it takes more than there is: what least is lost by.

    Not what came last, if others can go: for that room was to be made.
    """
    losses = {stay: worth(stay, now) for stay in site.stays.values() if not stay.leaving}
    missing = sum([stay.size_bytes for stay in losses]) - (site.facts.memory_bytes or inf)
    if missing <= 0:
        return ()
    last = max(losses, key=lambda stay: stay.since)
    stays = sorted(losses, key=losses.__getitem__)
    for some in ([stay for stay in stays if stay != last], stays):
        if sets := [*sets_of_victims(site, int(missing), 0, some)]:
            return min(sets, key=lambda victims: sum([losses[stay] for stay in victims]))
    return ()


def _in_time_for(station: Station, backend: str, when: float) -> Iterator[Ticket]:
    """Of each class and tenant one that can start nowhere yet, and could there then."""
    for line in station.lines.values():
        if backend in line.candidates and not line.slots:
            for backlog in line.backlogs:
                yield from (ticket for ticket in islice(backlog.firsts(), LOOKED_AT) if ticket.start_by >= when)


def sets_of_victims(site: Site, missing: int, surplus: int, stays: Sequence[Stay]) -> Iterator[tuple[Stay, ...]]:
    """Each smallest set of models that have to go for one that lacks so much room; an empty one if there is room.

    `missing` counts bytes, `surplus` models. `stays` are those that are there, the least worth first: sets of several
    are looked for among a few only. Under pressure there is none for more than there was: what takes another's place
    takes nothing from anybody.
    """
    if not missing and not surplus:
        if not site.facts.pressed:
            yield ()
        return
    may_go = [stay for stay in stays if not stay.station.pinned]
    found: list[frozenset[Stay]] = []
    for count in (*range(1, min(MAX_VICTIMS, len(may_go) - 1) + 1), len(may_go)):
        for some in combinations(may_go if count in (1, len(may_go)) else may_go[:MAX_TOGETHER], count):
            enough = len(some) >= surplus and sum([stay.size_bytes for stay in some]) >= missing
            if enough and not (found and any(map(frozenset(some).issuperset, found))):
                found.append(frozenset(some))
                yield some


def waiting_in_time(station: Station, backend: str, now: float, when: float) -> float:
    """How many that `backend` can serve could still start then, by their classes' weights.

    Not those that start until then where the model is loaded already.
    """
    in_time: dict[tuple[str, ...], tuple[int, float]] = {}
    for line in station.lines.values():
        if backend in line.candidates:
            number, count = in_time.get(line.candidates, (0, 0.0))
            for each, backlog in enumerate(line.backlogs):
                if backlog.waiting:
                    some = backlog.in_time(when)
                    number, count = number + some, count + some * station.counts[each]
            in_time[line.candidates] = number, count
    rounds = (when - now) / max(station.service_s.mean, _LEAST_S) + 1
    total = 0.0
    for candidates, (number, count) in in_time.items():
        if number:
            total += count * max(0.0, 1 - station.slots_on(candidates) * rounds / number)
    return total


def worth(stay: Stay, now: float) -> float:
    """What is lost if it has to go."""
    fullness, counted = stay.lately(now)
    runs = max(stay.counted, counted * fullness ** (FULLNESS - 1))
    return stay.station.weight * (RUNNING_COSTS * runs + WAITING_COSTS * _held_up(stay))


def _held_up(stay: Stay) -> float:
    """Those that wait for it, by their classes' weights: its part of them, where they may start elsewhere too."""
    station = stay.station
    if not station.waiting:
        return 0.0
    waiting = [0.0] * len(CLASSES)
    for line in station.lines.values():
        if stay.backend in line.candidates:
            places = sum([name in station.stays for name in line.candidates])
            for each, backlog in enumerate(line.backlogs):
                waiting[each] += backlog.waiting / places
    most = stay.slots * HELD_UP_S / max(station.service_s.mean, _LEAST_S)
    return sum([count * min(most, each) for count, each in zip(station.counts, waiting, strict=True)])
