"""Who runs next, and where: the scheduler's pure core.

Events go in: what requests do (`offer`, `settle`, `finish`, `cancel`), what backends do (`observe`, `loaded`,
`failed`, `unheard`, `lost`), what operators do (`configure`, `resize`, `unload`, `close`), and time (`expire`).
Decisions come out, in the order they were made. Rules:
- No more runs of a model than its cap, none over a backend's slots, none over the process's or the tenant's cap (I1).
- What waits is bounded by count and bytes: per model, per tenant, and in all (I4).
- After every event, nothing waits that could run, unless its model has to go for another; nothing that waits starts
  after the time by which it had to, whatever was thought of how long things take.
- Models do not hold each other up, except that there is not memory for all: `residency`.
- A slot is taken and given back by synchronous changes of this object only, and giving it back twice is nothing (I2).
"""

from collections.abc import Iterable, Iterator, Mapping
from math import inf

from hermes.policy.estimates import Learned, Outlook
from hermes.policy.fairness import Shares
from hermes.policy.line import Line
from hermes.policy.queue import Queue
from hermes.policy.residency import (
    MAX_WEIGHT,
    SHARE_OF_LAST,
    WEIGHT_STEP,
    Plan,
    Rest,
    Site,
    Station,
    Stay,
    choose,
)
from hermes.policy.ticket import (
    STANDARD,
    Admit,
    BackendFacts,
    Bounds,
    Change,
    Decision,
    Expire,
    InMemory,
    Load,
    ModelBounds,
    Occupancy,
    Phase,
    Reject,
    Rules,
    Ticket,
    Unload,
    Why,
)
from hermes.principal import CLASS_NAMES, Class

# While a model is wanted that is not loaded, swaps are weighed again so often, and at events no oftener than that.
WEIGH_EVERY_S = 1.0
WEIGH_AGAIN_S = 0.1

# Nobody is refused by what is thought of a model of which less was seen.
ENOUGH_RUNS = 5
# Who was refused because of a load may come again within so long.
MISSED_S = 60.0
# So much of its time is kept for a whole answer at most, however long some runs are: the rest it may wait.
MOST_FOR_RUN = 0.8
# Who is likely to be cut is let through so often, for it to be seen whether that is so.
TRY_EVERY_S = 60.0
# A run in so many seconds tells enough of how long runs take: thousands a second are all alike.
LEARN_EVERY_S = 0.05
# A run that its deadline has cut would have taken longer: probably so many times what it had.
CUT_RUNS_NEED = 1.5


class _Lane:
    """One model's bounds and runs, under one of its names."""

    __slots__ = ("bounds", "running", "station")

    def __init__(self, bounds: ModelBounds) -> None:
        self.bounds = bounds
        self.running = 0
        self.station: Station | None = None


class Scheduler:
    """`bounds` are those of the process; `unlisted` those of every model that `configure` was not called for."""

    def __init__(self, bounds: Bounds, unlisted: ModelBounds, rules: Rules = STANDARD) -> None:
        self._bounds = bounds
        self._unlisted = unlisted
        self._rules = rules
        self._queue = Queue(bounds)
        self._lanes: dict[str, _Lane] = {}
        self._stations: dict[str, Station] = {}
        self._sites: dict[str, Site] = {}
        self._tenants: dict[str, int] = {}  # the runs of those that have a cap
        # Where the process has a cap, models hold each other up: what classes and tenants were served by all of them.
        self._is_shared = bounds.max_concurrent is not None
        self._classes: Shares[Class] = Shares()
        self._shares: tuple[Shares[str], ...] = (Shares(), Shares(), Shares())
        self._waiting: dict[Station, None] = {}  # stations where something waits
        self._missed: dict[Station, None] = {}  # absent ones that somebody could not wait for
        self._running = 0
        self._sequence = 0
        self._arrived = 0.0  # of the last few hundred requests, for `Rules.floor`
        self._in_time = 0.0
        self._closed = False

    # --- events: requests -------------------------------------------------------------------------------------------

    def offer(self, ticket: Ticket, now: float, *, again: bool = False) -> list[Decision]:
        """Take in a request; `again`: it has had its turn, failed early, and goes to the head of its queue."""
        assert ticket.phase is Phase.NEW, "a ticket is offered once"
        if ticket.deadline <= now:
            ticket.phase = Phase.DONE
            return [Expire(ticket)]
        if self._closed:
            return [self._reject(ticket, "draining")]
        lane = self._lanes.get(ticket.model) or self._lane(ticket.model)
        station = lane.station
        decisions: list[Decision] = []
        if station is None or station.name != ticket.resident:
            station = self._station(ticket.resident)
            decisions = self._join(lane, station, now)
        if ticket.candidates is not station.candidates:
            self._meet(station, ticket.candidates, now)
        if stay := self._place(ticket, lane, station):  # nothing that waits can run, so this overtakes nobody
            if ticket.whole and self._is_too_long(ticket, station, now):
                return [*decisions, self._reject(ticket, "deadline_unreachable")]
            if self._waiting and not again:
                self._count_arrival(station)
                self._count_in_time(station)
            decisions.append(self._start(ticket, lane, station, stay, now))
            return decisions
        if not again:
            self._count_arrival(station)
        ticket.start_by = self._start_by(ticket, station, again)
        self._sequence += 1
        ticket.sequence = self._sequence
        if refusal := self._refusal(ticket, lane, station, now, again) or self._predict(ticket, station, now, again):
            return [*decisions, refusal, *(self._weigh(now) if self._missed else ())]
        self._put(ticket, station)
        if changes := self._weigh(now, station):
            decisions += changes
            self._predict(ticket, station, now, again=True)
        return decisions

    def settle(self, ticket: Ticket, prompt_tokens: int, output_tokens: int) -> None:
        """A run's true tokens are known: its tenant's share is corrected by what was charged in advance."""
        ticket.settled, ticket.output_tokens = True, output_tokens
        if ticket.charged_tokens:
            self._correct(ticket, self._stations[ticket.resident], prompt_tokens + output_tokens)

    def finish(self, ticket: Ticket, now: float) -> list[Decision]:
        """A run has ended by itself. Ending it again changes nothing (I2)."""
        if ticket.phase is not Phase.RUNNING:
            return []
        station = self._stations[ticket.resident]
        if now >= station.learns_at:
            station.learns_at = now + LEARN_EVERY_S
            took_s = (now - ticket.started_at) * self._rules.service_error
            station.service_s.add(took_s)
            if ticket.whole:
                station.whole_s.add(took_s)
            if ticket.settled:
                station.output_tokens.add(ticket.output_tokens)
        return self._end(ticket, now)

    def cancel(self, ticket: Ticket, now: float) -> list[Decision]:
        """Its client has left, in whatever phase, or its run has failed: nothing is learned of how long it takes."""
        if ticket.phase is Phase.WAITING:
            self._take(ticket, Phase.DONE)
            return [*self._dispatch((self._stations[ticket.resident],), now), *self._advance_all(now)]
        if ticket.phase is not Phase.RUNNING:
            return []
        station, ran_s = self._stations[ticket.resident], now - ticket.started_at
        if ticket.whole and now >= ticket.deadline:
            station.service_s.add(CUT_RUNS_NEED * ran_s)
            station.whole_s.add(CUT_RUNS_NEED * ran_s)
        if ticket.charged_tokens and not ticket.settled:
            self._correct(ticket, station, ticket.charged_tokens * ran_s / station.service_s.mean)
        return self._end(ticket, now)

    def expire(self, now: float) -> list[Decision]:
        """Time has passed: refuse what cannot start in time any more, and weigh again what to load."""
        return [*self._dispatch(self._waiting, now), *self._weigh(now)]

    # --- events: backends -------------------------------------------------------------------------------------------

    def configure(self, model: str, bounds: ModelBounds) -> None:
        """Set a model's bounds, before anything waits for it."""
        lane = self._lane(model)
        lane.bounds = bounds
        if lane.station is not None:
            self._fit(lane.station)

    def resize(self, model: str, bounds: ModelBounds, now: float) -> list[Decision]:
        """Change a model's bounds. A lower cap stops new runs until enough have ended; none is killed (I1)."""
        self.configure(model, bounds)
        return self._dispatch(self._waiting, now)

    def observe(self, facts: BackendFacts, now: float) -> list[Decision]:
        """A backend has come, gone or changed. What no live backend can serve is refused now, not after its wait."""
        site = self._sites.get(facts.name)
        if site is None:
            site = self._sites[facts.name] = Site(facts)
        seen_before, site.facts = site.facts.seen_at, facts
        if facts.loaded is None:
            for station in self._stations.values():
                if facts.name in station.candidates:
                    self._move_in(station, site, now)
        else:
            self._compare(site, seen_before, now)
        for stay in site.stays.values():
            stay.fit()
        decisions: list[Decision] = []
        if site.plan is not None and (not facts.up or site.plan.station.name in site.stays):  # others loaded it
            decisions += self._abandon(site, now)
        hopeless = [ticket for line in self._lines() if not self._has_hope(line.candidates) for ticket in line]
        decisions += self._send_away(hopeless, "no_backend")
        return [*decisions, *self._dispatch(self._waiting, now), *self._weigh(now)]

    def loaded(self, backend: str, model: str, now: float) -> list[Decision]:
        """A `Load` is done."""
        site = self._sites[backend]
        plan = site.plan
        if plan is None or plan.station.name != model or plan.loading_since is None:
            return []
        station, site.plan, site.changed_at = plan.station, None, now
        took_s = now - plan.loading_since
        station.load_s.add(took_s)
        site.rests.pop(model, None)
        stay = self._move_in(station, site, now)
        stay.found, stay.load_s = "swap" if plan.victims else "load", took_s
        return [*self._dispatch((station,), now), *self._weigh(now)]

    def failed(self, backend: str, model: str, why: str, now: float) -> list[Decision]:
        """A `Load` has failed. It is tried once more; then its waiters hear why, and the model backs off."""
        site = self._sites[backend]
        plan = site.plan
        if plan is None or plan.station.name != model or plan.loading_since is None:
            return []
        if not plan.tries and site.facts.up:
            plan.tries, plan.loading_since = 1, now
            return [Load(backend, model)]
        station, site.plan = plan.station, None
        station.why_failed = why
        site.rests.setdefault(model, Rest()).fail(now)
        hopeless = [line for line in station.lines.values() if self._rests_until(line.candidates, station) > now]
        waiting = [ticket for line in hopeless for ticket in line]
        return [*self._send_away(waiting, "load_failed"), *self._weigh(now)]

    def unheard(self, backend: str, model: str, now: float) -> list[Decision]:
        """A `Load` did not reach its backend. Whether that is up is about to be seen; its waiters wait on."""
        site = self._sites[backend]
        plan = site.plan
        if plan is not None and plan.station.name == model and plan.loading_since is not None:
            site.plan, site.chosen_at, site.changed_at = None, now, now
        return []

    def lost(self, backend: str, model: str, now: float) -> list[Decision]:
        """A backend has not the model that it had: whoever counts on it is told to ask again who has it."""
        self.unheard(backend, model, now)
        station = self._station(model)
        waiting = [ticket for line in station.lines.values() if backend in line.candidates for ticket in line]
        return [*self._send_away(waiting, "model_lost"), *self._advance_all(now), *self._weigh(now)]

    def unload(self, model: str, now: float) -> list[Decision]:
        """An operator wants a model gone: nothing starts where it is any more, what runs ends first."""
        decisions: list[Decision] = []
        for stay in list(self._station(model).stays.values()):
            if stay.site.is_ours:
                stay.leaving = stay.draining = True
                stay.fit()
                decisions += self._let_go(stay, now)
        return decisions

    def close(self) -> list[Decision]:
        """The process is about to end: nothing starts any more, and nothing waits (invariant I33)."""
        self._closed = True
        return self._send_away([ticket for line in self._lines() for ticket in line], "draining")

    # --- questions --------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When `expire` should next be called; None while nothing waits, and nothing is left to be weighed."""
        due = inf
        for station in self._waiting:
            for line in station.lines.values():
                if line.slots:
                    due = min(due, line.start_by())
                    continue
                due = min(due, line.start_by() - self._lead_s(line.candidates, station))
                if not self._is_coming(station):
                    due = min(due, self._weighs_at(line.candidates, station))
        for station in self._missed:
            if station not in self._waiting and not self._is_coming(station):
                due = min(due, self._weighs_at(station.candidates, station, since=station.missed_at))
        return due if due < inf else None

    def _weighs_at(self, candidates: tuple[str, ...], station: Station, since: float = inf) -> float:
        """When it is next asked whether to load it; only of backends where that was not asked after `since`."""
        return min(
            (
                max(site.chosen_at + WEIGH_EVERY_S, site.rests_until(station))
                for site in self._ours(candidates)
                if site.plan is None and station.name not in site.stays and site.chosen_at <= since
                if station.name not in site.facts.pulling
            ),
            default=inf,
        )

    def outlook(self, ticket: Ticket, now: float) -> Outlook:
        """When a waiting ticket will start, as things are."""
        station = self._stations[ticket.resident]
        position, kind, thought_s = self._think(ticket, station, now)
        return Outlook(position, *station.calibrations[kind].apply(thought_s))

    def explain(self, ticket: Ticket) -> Why | None:
        """Why a ticket waits that has just begun to; None if it does not."""
        if ticket.told is None or ticket.phase is not Phase.WAITING:
            return None
        line = self._stations[ticket.resident].lines[ticket.model, ticket.candidates]
        waiting = {CLASS_NAMES[each]: line.backlogs[each].waiting for each in Class if line.backlogs[each].waiting}
        loaded = tuple(
            InMemory(site.name, stay.station.name, len(stay.running), stay.slots, stay.station.waiting)
            for site in self._sites.values()
            for stay in site.stays.values()
        )
        return Why(ticket.told, ticket.kind, waiting, loaded, tuple(self.changes()))

    @property
    def running(self) -> int:
        return self._running

    @property
    def waiting(self) -> int:
        return self._queue.all.tickets

    @property
    def waiting_bytes(self) -> int:
        return self._queue.all.size_bytes

    def occupancy(self, model: str) -> Occupancy:
        lane = self._lanes.get(model)
        return Occupancy(lane.running if lane else 0, self._queue.tickets_of(model))

    def bounds(self, model: str) -> ModelBounds:
        lane = self._lanes.get(model)
        return lane.bounds if lane else self._unlisted

    def models(self) -> Iterable[str]:
        return self._lanes.keys()

    def changes(self) -> Iterator[Change]:
        """What is under way in the backends' memories."""
        for site in self._sites.values():
            if plan := site.plan:
                victims = tuple(stay.station.name for stay in plan.victims)
                yield Change(site.name, plan.station.name, victims, plan.decided_at, plan.loading_since)

    def where(self, resident: str) -> dict[str, int]:
        """The backends where a model is loaded, and how many runs it has there."""
        stays = self._station(resident).stays
        return {name: len(stay.running) for name, stay in stays.items() if stay.site.facts.up}

    def slots(self, model: str, backend: str) -> int:
        """How many runs of a model a backend takes at once."""
        site, lane = self._sites.get(backend), self._lanes.get(model)
        own = lane.bounds.max_concurrency if lane else None
        return (site.facts.slots if site else None) or (lane.station.slots if lane and lane.station else own) or 1

    # --- what survives a restart ------------------------------------------------------------------------------------

    def learned(self) -> dict[str, Learned]:
        """By the names that backends have for models."""
        found = {
            name: Learned(station.load_s.learned, station.service_s.learned, station.output_tokens.learned)
            for name, station in self._stations.items()
        }
        return {name: learned for name, learned in found.items() if learned != Learned()}

    def learn(self, learned: Mapping[str, Learned]) -> None:
        """What was learned earlier, before anything is: better than any first estimate, and corrected by what comes."""
        for name, known in learned.items():
            station = self._station(name)
            if known.load_s is not None:
                station.load_s.add(known.load_s)
            if known.service_s is not None:
                station.service_s.first = known.service_s
                station.service_s.add(known.service_s)
            if known.output_tokens is not None:
                station.output_tokens.add(known.output_tokens)

    # --- who is where -----------------------------------------------------------------------------------------------

    def _lane(self, model: str) -> _Lane:
        lane = self._lanes.get(model)
        if lane is None:
            lane = self._lanes[model] = _Lane(self._unlisted)
        return lane

    def _station(self, resident: str) -> Station:
        station = self._stations.get(resident)
        if station is None:
            station = self._stations[resident] = Station(resident, self._rules)
        return station

    def _join(self, lane: _Lane, station: Station, now: float) -> list[Decision]:
        """Count this lane's name among those of a resident model: its bounds may tell of more slots for all of them."""
        before, lane.station = lane.station, station
        if before is not None:
            self._fit(before)
        bounds = lane.bounds
        if bounds.load_s is not None:
            station.load_s.first(bounds.load_s)
        if bounds.service_s is not None:
            station.service_s.first = bounds.service_s
        self._fit(station)
        return self._dispatch((station,), now) if station in self._waiting else []

    def _fit(self, station: Station) -> None:
        """The bounds of one of its names have changed, or its names have."""
        lanes = [lane for lane in self._lanes.values() if lane.station is station]
        # Of a backend that does not say: the most that the operator says for any name, else one.
        station.slots = max((lane.bounds.max_concurrency or 1 for lane in lanes), default=1)
        station.pinned = any(lane.bounds.pinned for lane in lanes)
        station.size_bytes = max((lane.bounds.size_bytes or 0 for lane in lanes), default=0)
        for stay in station.stays.values():
            stay.fit()

    def _meet(self, station: Station, candidates: tuple[str, ...], now: float) -> None:
        """It is known where the model can be: where nothing has to be loaded for it, it is."""
        others = [name for line in station.lines.values() for name in line.candidates if name not in candidates]
        station.candidates = (*candidates, *dict.fromkeys(others)) if others else candidates
        for name in candidates:
            site = self._sites.get(name)
            if site is not None and not site.is_ours:
                self._move_in(station, site, now)
            elif site is not None and not station.stays:
                station.usual_slots = site.facts.slots or station.slots

    def _move_in(self, station: Station, site: Site, now: float) -> Stay:
        stay = site.stays.get(station.name)
        if stay is None:
            stay = site.stays[station.name] = station.stays[site.name] = Stay(station, site, now, site.size_of(station))
            station.count_slots()
        return stay

    def _move_out(self, stay: Stay) -> None:
        del stay.site.stays[stay.station.name]
        del stay.station.stays[stay.site.name]
        stay.station.count_slots()

    def _compare(self, site: Site, seen_before: float, now: float) -> None:
        """What is loaded against what was thought to be: others load and unload too, and models expire."""
        facts = site.facts
        sizes = facts.loaded or {}
        going = site.plan if site.plan is not None and site.plan.loading_since is not None else None
        unsure = facts.memory_bytes is None or facts.may_be_less
        has_loaded = going is not None or any(name not in site.stays for name in sizes)
        has_loaded = has_loaded or (seen_before <= site.changed_at and bool(sizes))
        for stay in list(site.stays.values()):
            if stay.station.name not in sizes and not stay.running and stay.since < facts.seen_at:
                if unsure and has_loaded and not stay.draining:
                    # It went for another though we let it stay: count on no more room than there has been.
                    site.learned_bytes = site.most_bytes
                self._move_out(stay)
        for name, size_bytes in sizes.items():
            if name not in site.stays:
                if facts.seen_at < site.changed_at or (going is not None and going.changes(name)):
                    continue  # what was seen may be gone by now, or about to go or come
                self._move_in(self._station(name), site, now)
            site.stays[name].size_bytes = size_bytes
        site.most_bytes = max(site.most_bytes, sum(sizes.values()))
        if site.learned_bytes is not None:
            site.learned_bytes = site.most_bytes

    def _ours(self, candidates: tuple[str, ...]) -> Iterator[Site]:
        """Those of these backends that load what we say."""
        for name in candidates:
            site = self._sites.get(name)
            if site is not None and site.facts.up and site.is_ours:
                yield site

    def _stays(self, candidates: tuple[str, ...], station: Station) -> list[Stay]:
        """Where it is in memory, of these backends."""
        stays = station.stays
        return [stay for name in candidates if (stay := stays.get(name)) is not None and stay.site.facts.up]

    def _rests_until(self, candidates: tuple[str, ...], station: Station) -> float:
        """Until when it can be run on none of these backends, because it could not be loaded."""
        if self._stays(candidates, station):
            return -inf
        return min(
            (site.rests_until(station) for site in self._ours(candidates) if site.can_hold(station)), default=-inf
        )

    def _lines(self) -> Iterator[Line]:
        return (line for station in self._waiting for line in station.lines.values())

    def _has_hope(self, candidates: tuple[str, ...]) -> bool:
        return any(name in self._sites and self._sites[name].facts.up for name in candidates)

    # --- placing and starting ---------------------------------------------------------------------------------------

    def _is_capped(self, ticket: Ticket) -> bool:
        cap = ticket.tenant_cap
        return cap is not None and self._tenants.get(ticket.tenant, 0) >= cap

    def _place(self, ticket: Ticket, lane: _Lane, station: Station) -> Stay | None:
        """Where to run: the least busy backend with a free slot; None if the ticket has to wait."""
        cap, process_cap = lane.bounds.max_concurrency, self._bounds.max_concurrent
        if (cap is not None and lane.running >= cap) or (process_cap is not None and self._running >= process_cap):
            return None
        if ticket.tenant_cap is not None and self._is_capped(ticket):
            return None
        best, fewest = None, (False, 0)
        for name in ticket.candidates:
            stay = station.stays.get(name)
            if stay is None or not stay.open:
                continue
            running = len(stay.running)
            if running >= stay.slots:
                continue
            if best is None or (name == ticket.avoid, running) < fewest:
                best, fewest = stay, (name == ticket.avoid, running)
        return best

    def _start(self, ticket: Ticket, lane: _Lane, station: Station, stay: Stay, now: float) -> Admit:
        ticket.phase = Phase.RUNNING
        ticket.backend = stay.site.name
        ticket.started_at = now
        self._running += 1
        lane.running += 1
        stay.start(ticket, now)
        if self._waiting and (station.waiting or self._is_shared):  # else nobody goes short of it
            cost = ticket.charged_tokens = ticket.prompt_tokens + station.output_tokens.value
            for classes, tenants in self._ledgers(station):
                classes.serve(ticket.urgency, cost / self._rules.classes[ticket.urgency].weight)
                tenants[ticket.urgency].serve(ticket.tenant, cost / ticket.weight)
        if ticket.tenant_cap is not None:
            self._tenants[ticket.tenant] = self._tenants.get(ticket.tenant, 0) + 1
        self._turn(ticket, station)
        return Admit(ticket, ticket.backend)

    def _end(self, ticket: Ticket, now: float) -> list[Decision]:
        station, lane = self._stations[ticket.resident], self._lanes[ticket.model]
        stay = station.stays[ticket.backend]
        ticket.phase = Phase.DONE
        self._running -= 1
        lane.running -= 1
        stay.end(ticket, now)
        left = self._let_go(stay, now) if stay.leaving else []
        if not self._queue.all.tickets and ticket.tenant_cap is None:
            return left
        freed: Iterable[Station] = self._waiting if self._is_shared else (station,)
        if ticket.tenant_cap is not None:
            freed = self._uncap(ticket.tenant)
        decisions = [*left, *self._dispatch(freed, now)]
        if stay.draining:
            decisions += self._advance(stay.site, now)
        else:
            decisions += self._weigh(now)
        return decisions

    def _uncap(self, name: str) -> Iterable[Station]:
        """One run of a tenant with a cap has ended. The stations where it may go on."""
        self._tenants[name] -= 1
        if not self._tenants[name]:
            del self._tenants[name]
        for station in self._waiting:
            for line in station.lines.values():
                for backlog in line.backlogs:
                    backlog.turn(name)
        return self._waiting

    def _correct(self, ticket: Ticket, station: Station, tokens: float) -> None:
        off = tokens - ticket.charged_tokens
        ticket.charged_tokens = tokens
        for classes, tenants in self._ledgers(station):
            classes.correct(ticket.urgency, off / self._rules.classes[ticket.urgency].weight)
            tenants[ticket.urgency].correct(ticket.tenant, off / ticket.weight)
        self._turn(ticket, station)

    def _ledgers(self, station: Station) -> Iterator[tuple[Shares[Class], tuple[Shares[str], ...]]]:
        """What was served, to classes and to tenants, of what is short: the model's slots, and the process's."""
        yield station.classes, station.tenants
        if self._is_shared:
            yield self._classes, self._shares

    def _turn(self, ticket: Ticket, station: Station) -> None:
        """What its tenant was served has changed."""
        for line in station.lines.values():
            line.backlogs[ticket.urgency].turn(ticket.tenant)

    def _dispatch(self, stations: Iterable[Station], now: float) -> list[Decision]:
        """Start all that can start; of several models, where that matters, who was served least by all of them."""
        if not self._queue.all.tickets:
            return []
        stations = [station for station in stations if station in self._waiting]
        decisions = self._send_hopeless(stations, now)
        while ready := [found for station in stations if (found := self._next(station, now))]:
            ticket, stay, station = ready[0] if len(ready) == 1 else min(ready, key=self._served)
            if self._is_shared:
                self._classes.advance(self._classes.counter(ticket.urgency))
                self._shares[ticket.urgency].advance(self._shares[ticket.urgency].counter(ticket.tenant))
            self._take(ticket, Phase.RUNNING)
            self._learn_wait(ticket, stay, now)
            self._count_in_time(station)
            decisions.append(self._start(ticket, self._lanes[ticket.model], station, stay, now))
        if any(station not in self._waiting for station in stations):
            decisions += self._advance_all(now)
        return decisions

    def _served(self, ready: tuple[Ticket, Stay, Station]) -> tuple[float, float, float]:
        """What its class and its tenant were served by all models, where that matters; and when it came."""
        ticket = ready[0]
        if not self._is_shared:
            return 0.0, 0.0, ticket.arrived_at
        counters = self._classes.counter(ticket.urgency), self._shares[ticket.urgency].counter(ticket.tenant)
        return *counters, ticket.arrived_at

    def _next(self, station: Station, now: float) -> tuple[Ticket, Stay, Station] | None:
        """Who of a model's lines starts next, and where.

        The class whose turn it is; then, where tenants take turns, the one served least; then the earliest arrival.
        """
        ready = [
            (head, stay, station)
            for line in station.lines.values()
            if (head := line.head(station.classes, now, self._pace_s(line, station), self._is_capped))
            and (stay := self._place(head, self._lanes[head.model], station))
        ]
        if len(ready) <= 1:
            return ready[0] if ready else None
        lines = [(head, station.lines[head.model, head.candidates]) for head, _, _ in ready]
        in_turns = any(line.backlogs[head.urgency].crowded(now, self._pace_s(line, station)) for head, line in lines)

        def turn(each: tuple[Ticket, Stay, Station]) -> tuple[float, float, float]:
            ticket = each[0]
            served = station.tenants[ticket.urgency].counter(ticket.tenant) if in_turns else 0.0
            return station.classes.counter(ticket.urgency), served, ticket.arrived_at

        return min(ready, key=turn)

    # --- waiting ----------------------------------------------------------------------------------------------------

    def _put(self, ticket: Ticket, station: Station) -> None:
        ticket.phase = Phase.WAITING
        key = ticket.model, ticket.candidates
        line = station.lines.get(key)
        if line is None:
            line = station.lines[key] = Line(ticket.model, ticket.candidates, station.tenants)
            line.slots = station.slots_on(ticket.candidates)
            self._waiting[station] = None
        if not line.backlogs[ticket.urgency].waiting:
            station.classes.enter(ticket.urgency)
        line.put(ticket)
        station.waiting += 1
        self._queue.hold(ticket, 1)
        if self._is_shared:
            self._classes.enter(ticket.urgency)
            self._shares[ticket.urgency].enter(ticket.tenant)

    def _take(self, ticket: Ticket, phase: str) -> None:
        """It waits no longer: it runs, or is done."""
        ticket.phase = phase
        station = self._stations[ticket.resident]
        key = ticket.model, ticket.candidates
        line = station.lines[key]
        line.take(ticket)
        station.waiting -= 1
        if not line.backlogs[ticket.urgency].waiting:
            station.classes.leave(ticket.urgency)
        if not line.waiting:
            del station.lines[key]
            if not station.lines:
                del self._waiting[station]
        self._queue.hold(ticket, -1)
        if self._is_shared:
            self._classes.leave(ticket.urgency)
            self._shares[ticket.urgency].leave(ticket.tenant)

    def _start_by(self, ticket: Ticket, station: Station, again: bool) -> float:
        """When it must start at the latest: so that it can end in time, and the first time within its longest wait."""
        rules = self._rules
        max_wait_s = rules.classes[ticket.urgency].max_wait_s
        if max_wait_s < inf:
            max_wait_s = max(max_wait_s, rules.load_waits * station.load_s.value)
        by = ticket.deadline if again else min(ticket.arrived_at + max_wait_s, ticket.deadline)
        if ticket.whole and rules.waste < 1 and station.whole_s.count >= ENOUGH_RUNS:
            needs_s = min(station.whole_s.enough(rules.waste), MOST_FOR_RUN * (ticket.deadline - ticket.arrived_at))
            by = min(by, ticket.deadline - needs_s)
        return by

    def _is_too_long(self, ticket: Ticket, station: Station, now: float) -> bool:
        """Whether a run probably lasts beyond the deadline. An idle model tries, others do now and then, to learn."""
        samples = station.whole_s
        if samples.count < ENOUGH_RUNS or now + samples.median <= ticket.deadline:
            return False
        if now - station.tried_at < TRY_EVERY_S and any(stay.running for stay in station.stays.values()):
            return True
        station.tried_at = now
        return False

    def _lead_s(self, candidates: tuple[str, ...], station: Station) -> float:
        """How long before its time a ticket has no chance any more: nothing is under way, and loading takes so long."""
        if not station.load_s.is_known or self._stays(candidates, station) or self._is_coming(station, candidates):
            return 0.0
        return station.load_s.value

    def _is_coming(self, station: Station, candidates: tuple[str, ...] | None = None) -> bool:
        """Whether it is being loaded, or room is made for it, on one of these backends, or any."""
        return any(
            site.plan is not None and site.plan.station is station and (candidates is None or site.name in candidates)
            for site in self._sites.values()
        )

    def _let_go(self, stay: Stay, now: float) -> list[Decision]:
        """It goes as soon as nothing runs on it."""
        if stay.running or stay.site.stays.get(stay.station.name) is not stay:
            return []
        self._move_out(stay)
        stay.site.changed_at = now
        return [Unload(stay.site.name, stay.station.name), *self._advance(stay.site, now), *self._weigh(now)]

    # --- residency --------------------------------------------------------------------------------------------------

    def _weigh(self, now: float, arrived: Station | None = None) -> list[Decision]:
        """Decide what to load next, where nothing is under way. `arrived`: only for a request for this model."""
        decisions: list[Decision] = []
        if not self._waiting and not self._missed:
            return decisions
        for site in self._sites.values():
            if now - site.chosen_at >= WEIGH_AGAIN_S and (plan := site.plan) and plan.is_draining:
                site.chosen_at = now
                if self._is_in_vain(site, plan, now):
                    decisions += [*self._abandon(site, now), *self._send_hopeless((plan.station,), now)]
        coming = {site.plan.station for site in self._sites.values() if site.plan}
        for site in self._sites.values():
            if not site.is_ours or not site.facts.up or site.plan is not None:
                continue
            if now - site.chosen_at < WEIGH_AGAIN_S and (arrived is None or arrived.waiting > 1):
                continue
            wanting = [
                station
                for station in (*self._waiting, *self._still_missed(now))
                if site.name in station.candidates
                and station.name not in site.stays
                and station.name not in site.facts.pulling
                and now >= site.rests_until(station)
                and station not in coming
            ]
            if not wanting:
                continue
            site.chosen_at = now
            site.plan = choose(site, wanting, now)
            if site.plan is not None:
                coming.add(site.plan.station)
                for stay in site.plan.victims:
                    stay.draining = True
                    stay.fit()
                decisions += self._advance(site, now)
        return decisions

    def _is_in_vain(self, site: Site, plan: Plan, now: float) -> bool:
        """Whether the runs that are waited for last so long that nobody is left to load for."""
        ready_at = now + plan.station.load_known_s + max(stay.idle_in_s(now) for stay in plan.victims)
        return not plan.station.waiting_in_time(now, ready_at, site.name)

    def _miss(self, ticket: Ticket, station: Station, now: float) -> None:
        """Somebody had to go because the model was not loaded: where there is room, it is loaded all the same."""
        station.missed_at = now
        station.is_slow = station.load_known_s >= ticket.start_by - ticket.arrived_at
        self._missed[station] = None

    def _still_missed(self, now: float) -> list[Station]:
        for station in list(self._missed):
            if station.missed_at + MISSED_S <= now or self._stays(station.candidates, station):
                del self._missed[station]
        return [station for station in self._missed if station not in self._waiting]

    def _advance(self, site: Site, now: float) -> list[Decision]:
        """Go on with a backend's plan as far as its runs allow."""
        plan = site.plan
        if plan is None or plan.loading_since is not None:
            return []
        is_busy = any(stay.running for stay in plan.victims)
        if plan.victims and plan.station not in self._waiting and (is_busy or plan.station not in self._missed):
            return self._abandon(site, now)
        if is_busy:
            return []
        # Others have loaded something meanwhile.
        if site.missing_bytes(plan.station, plan.victims) or site.surplus(plan.victims):
            return [*self._abandon(site, now), *self._weigh(now)]
        gone = [stay for stay in plan.victims if site.stays.get(stay.station.name) is stay]  # or others unloaded it
        for stay in gone:
            self._move_out(stay)
        plan.loading_since = now
        return [*(Unload(site.name, stay.station.name) for stay in gone), Load(site.name, plan.station.name)]

    def _advance_all(self, now: float) -> list[Decision]:
        return [decision for site in self._sites.values() if site.plan for decision in self._advance(site, now)]

    def _abandon(self, site: Site, now: float) -> list[Decision]:
        """Nobody waits for what was to be loaded, or it cannot be."""
        plan, site.plan, site.changed_at = site.plan, None, now
        assert plan is not None
        for stay in plan.victims:
            stay.draining = stay.leaving
            stay.fit()
        return self._dispatch([stay.station for stay in plan.victims], now)

    def _count_arrival(self, station: Station) -> None:
        """Give a model that falls behind more weight, one that does not less (`Rules.floor`)."""
        floor = self._rules.floor
        if not floor:
            return
        fade = 1 - 1 / SHARE_OF_LAST
        self._arrived, self._in_time = self._arrived * fade + 1, self._in_time * fade
        station.arrived, station.in_time = station.arrived * fade + 1, station.in_time * fade
        behind = station.in_time * self._arrived < floor * self._in_time * station.arrived
        weight = station.weight * WEIGHT_STEP if behind else station.weight / WEIGHT_STEP
        station.weight = min(MAX_WEIGHT, max(1.0, weight))

    def _count_in_time(self, station: Station) -> None:
        station.in_time += 1
        self._in_time += 1

    # --- estimates --------------------------------------------------------------------------------------------------

    def _slots(self, here: int, model: str, station: Station) -> int:
        """How many can run at once, of a line that has so many slots here; of one that has none, as many as usual."""
        slots = here or station.usual_slots
        cap, process_cap = self._lanes[model].bounds.max_concurrency, self._bounds.max_concurrent
        if cap is not None and cap < slots:
            slots = cap
        if process_cap is not None and process_cap < slots:
            slots = process_cap
        return slots or 1

    def _pace_s(self, line: Line, station: Station) -> float:
        """From one start to the next, when all these slots are busy."""
        return station.service_s.mean / self._slots(line.slots, line.model, station)

    def _think(self, ticket: Ticket, station: Station, now: float) -> tuple[int, str, float]:
        """Its place in the line, how its model is found, and seconds until it starts, before calibration."""
        position = 1 + self._ahead(ticket, station, now)
        here = station.slots_on(ticket.candidates)
        slots = self._slots(here, ticket.model, station)
        pace_s = station.service_s.mean / slots
        if here:
            return position, "hit", position * pace_s
        rounds_s = max(0, position - slots) * pace_s
        for site in self._ours(ticket.candidates):
            if (there_at := site.facts.pulling.get(station.name)) is not None:
                return position, "pulling", max(0.0, there_at - now) + station.load_s.value + rounds_s
            plan = site.plan
            if plan is not None and plan.station is station:
                load_s = station.load_s.value
                if plan.loading_since is not None:
                    return position, "coming", max(load_s + plan.loading_since - now, 0.1 * load_s) + rounds_s
                idle_s = max((stay.idle_in_s(now) for stay in plan.victims), default=0.0)
                return position, "coming", idle_s + load_s + rounds_s
        idle_s = min(
            (stay.idle_in_s(now) for site in self._ours(ticket.candidates) for stay in site.stays.values()), default=0.0
        )
        return position, "absent", idle_s + station.load_s.value + rounds_s

    def _ahead(self, ticket: Ticket, station: Station, now: float) -> int:
        line = station.lines.get((ticket.model, ticket.candidates))
        if line is None:
            return 0
        pace_s, classes = self._pace_s(line, station), self._rules.classes
        own = line.backlogs[ticket.urgency].ahead(ticket, now, pace_s)
        others = 0
        for each in Class:
            if each is not ticket.urgency and (waiting := line.backlogs[each].waiting):
                turns = (own + 1) * classes[each].weight / classes[ticket.urgency].weight
                others += min(waiting, int(turns))
        return own + others

    def _predict(self, ticket: Ticket, station: Station, now: float, again: bool) -> Reject | None:
        """How long it will wait, for it to be told; or that this would be too long."""
        position, kind, thought_s = self._think(ticket, station, now)
        eta_s, eta_high_s = station.calibrations[kind].apply(thought_s)
        left_s = ticket.start_by - now
        is_known = station.service_s.count >= ENOUGH_RUNS and (kind == "hit" or station.load_s.is_known)
        if not again and (left_s <= 0 or (is_known and eta_s > self._rules.give_up * left_s)):
            if kind == "absent":
                self._miss(ticket, station, now)
            return self._reject(ticket, "deadline_unreachable")
        ticket.kind, ticket.thought_s = kind, thought_s
        ticket.told = Outlook(position, eta_s, eta_high_s)
        return None

    def _learn_wait(self, ticket: Ticket, stay: Stay, now: float) -> None:
        # One that comes again arrived long before it began to wait; one with a cap may wait for its own runs.
        if ticket.told is not None and not ticket.avoid and ticket.tenant_cap is None:
            stay.station.calibrations[ticket.kind].learn(ticket.thought_s, now - ticket.arrived_at)
        if stay.since > ticket.arrived_at:
            ticket.found = stay.found
            ticket.load_s = min(stay.load_s, now - ticket.arrived_at)

    # --- refusing ---------------------------------------------------------------------------------------------------

    def _refusal(self, ticket: Ticket, lane: _Lane, station: Station, now: float, again: bool) -> Reject | None:
        """Why it may not even wait."""
        if not self._has_hope(ticket.candidates):
            return self._reject(ticket, "no_backend")
        if not self._stays(ticket.candidates, station):
            sites = [self._sites[name] for name in ticket.candidates if name in self._sites]
            if not any(site.can_hold(station) for site in sites):
                return self._reject(ticket, "insufficient_memory")
            if (until := self._rests_until(ticket.candidates, station)) > now:
                return self._reject(ticket, "load_failed", until - now)
        if not again and self._queue.is_full(ticket, lane.bounds.queue_limit):
            return self._reject(ticket, "queue_full")
        return None

    def _send_hopeless(self, stations: Iterable[Station], now: float) -> list[Decision]:
        """Refuse what cannot start in time any more."""
        decisions: list[Decision] = []
        for station in list(stations):
            for line in list(station.lines.values()):
                lead_s = self._lead_s(line.candidates, station)
                while line.waiting and line.start_by() - lead_s <= now:
                    ticket = line.earliest()
                    self._take(ticket, Phase.DONE)
                    if ticket.start_by <= now:
                        decisions.append(Expire(ticket))
                    else:
                        self._miss(ticket, station, now)
                        decisions.append(self._reject(ticket, "deadline_unreachable"))
        if decisions:
            decisions += self._advance_all(now)
        return decisions

    def _send_away(self, tickets: Iterable[Ticket], reason: str) -> list[Decision]:
        """Refuse these, which wait."""
        decisions: list[Decision] = []
        for ticket in tickets:
            self._take(ticket, Phase.DONE)
            decisions.append(self._reject(ticket, reason))
        return decisions

    def _reject(self, ticket: Ticket, reason: str, retry_after_s: float | None = None) -> Reject:
        ticket.phase = Phase.DONE
        if reason == "insufficient_memory":
            return Reject(ticket, reason, inf)
        if reason == "draining":
            return Reject(ticket, reason, 1.0)
        station = self._stations.get(ticket.resident)
        why = station.why_failed if station is not None and reason == "load_failed" else ""
        if retry_after_s is None:
            waiting = self._queue.tickets_of(ticket.model) + 1
            retry_after_s = 1.0
            if station is not None:
                slots = self._slots(station.slots_on(ticket.candidates), ticket.model, station)
                retry_after_s = waiting * station.service_s.mean / slots
        return Reject(ticket, reason, max(1.0, retry_after_s), why)
