"""Who runs next, and where: the scheduler's pure core.

Events go in: what requests do (`offer`, `begun`, `settle`, `finish`, `cancel`), what backends do (`observe`, `loaded`,
`failed`, `unheard`, `lost`), what operators do (`configure`, `resize`, `adopt`, `unload`, `close`), and
time (`expire`). Decisions come out, in the order they were made. Rules:
- No more runs of a model than its cap, none over a backend's slots, the process's cap, or a ticket's own (I1).
- What waits is bounded by count and bytes: per model, per tenant, and in all (I4).
- After every event, nothing waits that could run, unless its model has to go for another; nothing that waits starts
  after the time by which it had to, whatever was thought of how long things take.
- Models do not hold each other up, except that there is not memory for all: `residency`.
- A slot is taken and given back by synchronous changes of this object only, and giving it back twice is nothing (I2).
"""

from collections.abc import Iterable, Mapping
from math import inf

from hermes.policy.estimates import Learned
from hermes.policy.floor import Floor
from hermes.policy.ledger import Ledger
from hermes.policy.places import Place
from hermes.policy.residency import Residency
from hermes.policy.slots import Lane
from hermes.policy.standing import Standing
from hermes.policy.station import Station, Stay
from hermes.policy.ticket import (
    STANDARD,
    Admit,
    BackendFacts,
    Bounds,
    Changed,
    Decision,
    Expire,
    ModelBounds,
    Phase,
    Reject,
    Rules,
    Settings,
    Ticket,
)

# A run that failed is not reckoned as longer than this.
FAILURE_COSTS_S = 1.0


class Scheduler(Standing):
    """What may be asked of it is in `Standing`."""

    def __init__(self, bounds: Bounds, unlisted: ModelBounds, rules: Rules = STANDARD) -> None:
        super().__init__(bounds, unlisted, rules)
        self._freed: dict[Station, None] = {}  # where something may start now that could not before
        self._residency = Residency(self._stations, self._sites, self._queue.stations, self._freed, rules.floor)
        self._ledger = Ledger(rules, is_shared=bounds.max_concurrent is not None)
        self._floor = Floor(rules.floor)
        self._settling: dict[Stay, None] = {}
        self._sequence = 0
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
        lane = self._slots.lanes.get(ticket.model) or self._slots.lane(ticket.model)
        station = lane.station
        decisions: list[Decision] = []
        if station is None or station.name != ticket.resident:
            station = self._join(lane, ticket.resident)
            decisions = self._follow(now)
        if ticket.candidates is not station.candidates:
            self._residency.meet(station, ticket.candidates, now)
        if stay := self._slots.place(ticket, lane, station):  # nothing that waits can run, so this overtakes nobody
            if ticket.whole and self._forecast.is_too_long(ticket, station, now):
                return [*decisions, self._reject(ticket, "deadline_unreachable")]
            if self._queue.tickets and not again:
                self._floor.arrived(station)
                self._floor.started(station)
            decisions.append(self._start(ticket, lane, station, stay, now))
            return decisions
        if not again:
            self._floor.arrived(station)
        self._sequence += 1
        ticket.sequence = self._sequence
        ticket.start_by = self._forecast.start_by(ticket, station, again)
        if ticket.place is not None:
            self._give_back(ticket, ticket.place)
        if refusal := self._refusal(ticket, lane, station, now, again):
            return [*decisions, refusal, *(self._follow(now) if self._residency.missed else ())]
        ticket.phase = Phase.WAITING
        self._queue.put(ticket, station)
        self._ledger.enter(ticket)
        if followed := self._follow(now, station):
            decisions += followed
            if ticket.phase is Phase.WAITING:
                self._forecast.tell(ticket, station, now, anyway=True)
        return decisions

    def resume(self, ticket: Ticket, now: float) -> None:
        """It runs already, started by who was here before us: it counts, whatever the caps are.

        One whose backend there is no more counts nowhere.
        """
        site = self._sites.get(ticket.backend)
        if site is None:
            ticket.phase = Phase.DONE
            return
        lane = self._slots.lane(ticket.model)
        if (station := lane.station) is None or station.name != ticket.resident:
            station = self._join(lane, ticket.resident)
        if ticket.candidates is not station.candidates:
            self._residency.meet(station, ticket.candidates, now)
        ticket.phase = Phase.RUNNING
        self._slots.start(ticket, lane, site.move_in(station, now), now)

    def begun(self, ticket: Ticket, when: float) -> None:
        """The first byte of a streamed answer came then."""
        if ticket.phase is Phase.RUNNING and ticket.begun_at is None:
            ticket.begun_at = when
            self._forecast.learn_prefill(ticket, self._stations[ticket.resident], when)

    def settle(self, ticket: Ticket, prompt_tokens: int, output_tokens: int) -> None:
        """A run's true tokens are known: its tenant's share is corrected by what was charged in advance."""
        ticket.settled, ticket.prompt_tokens, ticket.output_tokens = True, prompt_tokens, output_tokens
        if ticket.charged_tokens:
            self._correct(ticket, self._stations[ticket.resident], prompt_tokens + output_tokens)

    def finish(self, ticket: Ticket, now: float) -> list[Decision]:
        """A run has ended by itself. Ending it again changes nothing (I2)."""
        if ticket.phase is not Phase.RUNNING:
            return []
        station = self._stations[ticket.resident]
        self._forecast.learn_run(ticket, station, now)
        return self._end(ticket, station, now)

    def cancel(self, ticket: Ticket, now: float, *, broken_off: bool = False, failed: bool = False) -> list[Decision]:
        """Its client has left, in whatever phase, or its run has failed: nothing is learned of how long it takes.

        `broken_off`: the backend was at work for it, and may be for a while: its slot is *settling* until then.
        `failed`: the backend is to blame. Where another could have taken it, that takes it as long as a run does, or
        whoever fails at once would be the least busy always.
        """
        station = self._stations.get(ticket.resident)
        if station is None:
            return []
        if ticket.phase in (Phase.WAITING, Phase.RUNNING):
            ticket.place = self._place(ticket, station)
        if ticket.phase is Phase.WAITING:
            self._take(ticket, Phase.DONE)
            self._freed[station] = None
            return self._follow(now)
        if ticket.phase is not Phase.RUNNING:
            return []
        self._forecast.learn_cut(ticket, station, now)
        if ticket.charged_tokens and not ticket.settled:
            part = (now - ticket.started_at) / station.service_s.mean
            self._correct(ticket, station, ticket.charged_tokens * part)
        stay, settles_at = station.stays[ticket.backend], -inf
        if broken_off:
            settles_at = self._forecast.settles_at(ticket, stay)
        elif failed and any(other.open and other is not stay for other in station.stays.values()):
            settles_at = now + min(station.service_s.median, FAILURE_COSTS_S)
        return self._end(ticket, station, now, settles_at)

    def expire(self, now: float) -> list[Decision]:
        """Time has passed: refuse what cannot start in time any more, and weigh again what to load."""
        for stay in list(self._settling):
            stay.settle(now)
            if not stay.settling:
                del self._settling[stay]
        self._freed.update(self._queue.stations)
        return self._follow(now)

    def next_deadline(self) -> float | None:
        """When `expire` should next be called; None while nothing waits, and nothing is left to be weighed."""
        due = self._residency.missed.weighs_at() if self._residency.missed else inf
        for line, station in self._queue.lines.items():
            if line.start_by < due:
                due = line.start_by
            if not line.slots:
                lead_s = self._sites.lead_s(line.candidates, station)
                weighs_at = self._sites.weighs_at(line.candidates, station)
                due = min(due, line.start_by - lead_s, weighs_at)
        for stay in self._settling:
            due = min(due, *stay.settling.values())
        return due if due < inf else None

    def _place(self, ticket: Ticket, station: Station) -> Place:
        """Where it stands, or stood."""
        by = (
            min(ticket.start_by, ticket.turn_by)
            if ticket.sequence
            else self._forecast.start_by(ticket, station, again=False)
        )
        tag = station.tenants[ticket.urgency].tag(ticket.tenant)
        return Place(station.name, ticket.urgency, by, ticket.sequence, tag, self._ledger.tag(ticket))

    def _give_back(self, ticket: Ticket, place: Place) -> None:
        """It stands where its earlier try did, if it waits for the same."""
        if (place.resident, place.urgency) != (ticket.resident, ticket.urgency):
            ticket.place = None
            return
        ticket.turn_by = place.turn_by
        ticket.sequence = place.sequence or ticket.sequence

    # --- events: backends -------------------------------------------------------------------------------------------

    def configure(self, model: str, bounds: ModelBounds) -> None:
        """Set a model's bounds, before anything waits for it."""
        lane = self._slots.lane(model)
        lane.bounds = bounds
        if lane.station is not None:
            self._slots.fit(lane.station)

    def learn(self, learned: Mapping[str, Learned]) -> None:
        """What was learned earlier, before anything is: better than any first estimate, and corrected by what comes."""
        for name, known in learned.items():
            self._stations[name].learn(known)

    def resize(self, model: str, bounds: ModelBounds, now: float) -> list[Decision]:
        """Change a model's bounds. A lower cap stops new runs until enough have ended; none is killed (I1)."""
        self.configure(model, bounds)
        self._freed.update(self._queue.stations)
        return self._follow(now)

    def adopt(self, settings: Settings, change: Changed, now: float) -> list[Decision]:
        """The configuration has changed, all of it at once. What runs goes on; what was learned stays.

        Who waits for a model that is served otherwise now, or for a backend that is gone, is sent to ask anew.
        """
        decisions: list[Decision] = []
        gone = frozenset(change.gone)
        for line in list(self._queue.lines):
            if line.model in change.models or not gone.isdisjoint(line.candidates):
                decisions += self._send_away(list(line), "moved")
        rules, bounds, waiting = settings.rules, settings.bounds, self._queue.lines
        self._queue.bounds = bounds
        self._slots.adopt(settings, change, self._queue.tickets_of)
        self._ledger.adopt(rules, bounds.max_concurrent is not None, (ticket for line in waiting for ticket in line))
        self._stations.adopt(rules)
        self._forecast.rules = rules
        self._residency.floor = self._floor.part = rules.floor
        for lane in self._slots.lanes.values():
            if lane.station is not None:
                self._expect(lane.station, lane.bounds)
        for name in change.gone:
            self._residency.retire(name, now)
        for facts in change.backends:
            self._see(facts, now)
        for backend, model in change.stale:
            self._residency.renew(backend, model, now)
        self._residency.sweep()
        for station in self._stations.values():
            self._slots.fit(station)
        self._freed.update(self._queue.stations)
        return decisions + self._refuse_lost(now) + self._follow(now)

    def observe(self, facts: BackendFacts, now: float) -> list[Decision]:
        """A backend has come, gone or changed. What no live backend can serve is refused now, not after its wait."""
        self._see(facts, now)
        return self._refuse_lost(now) + self._follow(now)

    def _see(self, facts: BackendFacts, now: float) -> None:
        self._residency.observe(facts, now)
        for model, lane in self._slots.lanes.items():
            if lane.station is None and (resident := facts.names.get(lane.bounds.backend_model or model)):
                self._join(lane, resident)  # what is pinned stays from now on, whether anybody asks for it or not

    def _refuse_lost(self, now: float) -> list[Decision]:
        decisions: list[Decision] = []
        for line, station in list(self._queue.lines.items()):
            if reason := self._sites.cannot_have(line.candidates, station):
                decisions += self._send_away(list(line), reason)
            elif (back_at := self._sites.back_at(line.candidates, station)) > now:
                in_vain = [ticket for ticket in line if ticket.start_by < back_at]
                decisions += self._send_away(in_vain, "no_backend", back_at - now)
        return decisions

    def loaded(self, backend: str, model: str, now: float) -> list[Decision]:
        """A `Load` is done."""
        payer = self._residency.loaded(backend, model, now)
        decisions: list[Decision] = []
        if payer is not None and payer.phase is Phase.WAITING and payer.start_by > now:
            # Whom the swap was for goes first, or it would have paid for others.
            station, lane = self._stations[model], self._slots.lanes[payer.model]
            if station.goes_first(payer) and (stay := self._slots.place(payer, lane, station)):
                decisions.append(self._let_run(payer, stay, station, now))
        return decisions + self._follow(now)

    def failed(self, backend: str, model: str, why: str, now: float, *, late: bool = False) -> list[Decision]:
        """A `Load` has failed. It is tried once more; then its waiters hear why, and the model backs off.

        One that was `late` may have waited for room: then what is in its way has to go first.
        """
        if again := self._residency.failed(backend, model, why, now, late):
            return [again]
        station = self._stations[model]
        hopeless = [line for line in station.lines.values() if self._sites.rests_until(line.candidates, station) > now]
        return self._send_away([ticket for line in hopeless for ticket in line], "load_failed") + self._follow(now)

    def unheard(self, backend: str, model: str, now: float) -> list[Decision]:
        """A `Load` did not reach its backend. Whether that is up is about to be seen; its waiters wait on."""
        self._residency.unheard(backend, model, now)
        return []

    def lost(self, backend: str, model: str, now: float) -> list[Decision]:
        """A backend has not the model that it had: whoever counts on it is told to ask again who has it."""
        self._residency.unheard(backend, model, now)
        lines = [line for line in self._stations[model].lines.values() if backend in line.candidates]
        return self._send_away([ticket for line in lines for ticket in line], "model_lost") + self._follow(now)

    def unload(self, model: str, now: float) -> list[Decision]:
        """An operator wants a model gone: nothing starts where it is any more, what runs ends first."""
        return [*self._residency.unload(model), *self._follow(now)]

    def close(self) -> list[Decision]:
        """The process is about to end: nothing starts any more, and nothing waits (invariant I33)."""
        self._closed = True
        self._residency.missed.clear()  # who could not wait need not come again
        return self._send_away([ticket for line in self._queue.lines for ticket in line], "draining")

    # --- what follows -----------------------------------------------------------------------------------------------

    def _follow(self, now: float, arrived: Station | None = None) -> list[Decision]:
        """Start what can start, go on with loads, and decide on new ones, until nothing more follows.

        `arrived`: one that begins to wait has just come for this model.
        """
        decisions: list[Decision] = []
        while True:
            if self._freed:
                decisions += self._dispatch(now)
            if self._residency.is_changing:
                decisions += self._residency.advance(now)
            if not self._freed:
                decisions += self._residency.weigh(now, self._queue.tickets, arrived)
                if not self._freed:
                    return decisions

    def _dispatch(self, now: float) -> list[Decision]:
        """Refuse what cannot start in time any more, start all that can."""
        stations = [station for station in self._freed if station.waiting]
        self._freed.clear()
        decisions = self._refuse_hopeless(stations, now)
        while ready := [found for station in stations if (found := self._next(station, now))]:
            ticket, stay, station = (
                ready[0] if len(ready) == 1 else min(ready, key=lambda each: self._ledger.turn(each[0]))
            )
            decisions.append(self._let_run(ticket, stay, station, now))
        return decisions

    def _let_run(self, ticket: Ticket, stay: Stay, station: Station, now: float) -> Admit:
        """It has waited; its turn has come."""
        self._ledger.advance(ticket)
        self._take(ticket, Phase.RUNNING)
        self._forecast.learn_wait(ticket, stay, now)
        if not ticket.avoid:  # it has started before
            self._floor.started(station)
        return self._start(ticket, self._slots.lanes[ticket.model], station, stay, now)

    def _next(self, station: Station, now: float) -> tuple[Ticket, Stay, Station] | None:
        """Who of a model's lines starts next, and where.

        The class whose turn it is; then, where tenants take turns, the one served least; then the earliest arrival.
        """
        if not station.waiting or not station.has_room:
            return None
        ready = []
        for line in station.lines.values():
            pace_s = self._forecast.pace_s(line, station)
            head = line.head(station.classes, now, pace_s, self._slots.is_capped)
            if head is not None and (stay := self._slots.place(head, self._slots.lanes[head.model], station)):
                if head.prefix and len(station.stays) > 1:
                    head, stay = self._slots.nearer(head, stay, line, station, now, pace_s)
                ready.append((head, stay, station, line, pace_s))
        if not ready:
            return None
        best = ready[0]
        if len(ready) > 1:
            in_turns = any(line.backlogs[head.urgency].crowded(now, pace_s) for head, _, _, line, pace_s in ready)

            def turn(each: tuple[Ticket, object, object, object, object]) -> tuple[float, float, float]:
                ticket = each[0]
                served = station.tenants[ticket.urgency].counter(ticket.tenant) if in_turns else 0.0
                return station.classes.counter(ticket.urgency), served, ticket.arrived_at

            best = min(ready, key=turn)
        return best[:3]

    def _start(self, ticket: Ticket, lane: Lane, station: Station, stay: Stay, now: float) -> Admit:
        ticket.phase = Phase.RUNNING
        ticket.backend = stay.backend
        ticket.started_at = now
        self._slots.start(ticket, lane, stay, now)
        if station.waiting or (self._ledger.is_shared and self._queue.tickets):  # else nobody goes short of it
            self._ledger.charge(ticket, station)
            station.turn(ticket)
        return Admit(ticket, ticket.backend)

    def _end(self, ticket: Ticket, station: Station, now: float, settles_at: float = -inf) -> list[Decision]:
        stay = station.stays[ticket.backend]
        ticket.phase = Phase.DONE
        self._slots.end(ticket, stay, now, settles_at)
        if settles_at > now:
            self._settling[stay] = None
        if not self._queue.tickets and not stay.draining:
            return []
        self._residency.spend(ticket, station, now)
        if ticket.caps:
            for line in self._queue.lines:
                line.turn(ticket.tenant)
        if ticket.caps or self._ledger.is_shared:
            self._freed.update(self._queue.stations)
        else:
            self._freed[station] = None
        return self._follow(now)

    def _take(self, ticket: Ticket, phase: str) -> None:
        """It waits no longer: it runs, or is done."""
        ticket.phase = phase
        self._queue.take(ticket, self._stations[ticket.resident])
        self._ledger.leave(ticket)

    def _correct(self, ticket: Ticket, station: Station, tokens: float) -> None:
        self._ledger.correct(ticket, station, tokens)
        station.turn(ticket)

    def _join(self, lane: Lane, resident: str) -> Station:
        """Count this lane's name among those of a resident model: its bounds may tell of more slots for all of them."""
        station = self._stations[resident]
        before, lane.station = lane.station, station
        if before is not None:
            self._slots.fit(before)
        self._expect(station, lane.bounds)
        self._slots.fit(station)
        self._freed[station] = None
        return station

    def _expect(self, station: Station, bounds: ModelBounds) -> None:
        """What is said of how long it takes."""
        if bounds.load_s is not None:
            station.load_s.first(bounds.load_s)
        if bounds.service_s is not None:
            station.service_s.begin(bounds.service_s)

    # --- refusing ---------------------------------------------------------------------------------------------------

    def _refusal(self, ticket: Ticket, lane: Lane, station: Station, now: float, again: bool) -> Reject | None:
        """Why it may not even wait. Else it is told how long."""
        sites = self._sites
        if reason := sites.cannot_have(ticket.candidates, station):
            return self._reject(ticket, reason)
        if (back_at := sites.back_at(ticket.candidates, station)) > ticket.start_by:
            return self._reject(ticket, "no_backend", back_at - now)
        if (until := sites.rests_until(ticket.candidates, station)) > now:
            return self._reject(ticket, "load_failed", until - now)
        if not again and self._queue.is_full(ticket, lane.bounds.queue_limit):
            if not station.stays_on(ticket.candidates):
                self._residency.missed.refused(ticket, station, now)
            return self._reject(ticket, "queue_full")
        if not self._forecast.tell(ticket, station, now, anyway=again):
            if ticket.kind == "absent":
                self._residency.missed.refused(ticket, station, now)
            return self._reject(ticket, "deadline_unreachable")
        return None

    def _refuse_hopeless(self, stations: Iterable[Station], now: float) -> list[Decision]:
        """Refuse what cannot start in time any more."""
        decisions: list[Decision] = []
        for station in stations:
            for line in list(station.lines.values()):
                lead_s = 0.0 if line.slots else self._sites.lead_s(line.candidates, station)
                while line.waiting and line.start_by - lead_s <= now:
                    ticket = line.earliest()
                    self._take(ticket, Phase.DONE)
                    if ticket.start_by <= now:
                        decisions.append(Expire(ticket))
                    else:
                        self._residency.missed.refused(ticket, station, now)
                        decisions.append(self._reject(ticket, "deadline_unreachable"))
        return decisions

    def _send_away(self, tickets: Iterable[Ticket], reason: str, retry_after_s: float | None = None) -> list[Decision]:
        """Refuse these, which wait."""
        decisions: list[Decision] = []
        for ticket in tickets:
            self._take(ticket, Phase.DONE)
            decisions.append(self._reject(ticket, reason, retry_after_s))
        return decisions

    def _reject(self, ticket: Ticket, reason: str, retry_after_s: float | None = None) -> Reject:
        ticket.phase = Phase.DONE
        if reason == "insufficient_memory":
            return Reject(ticket, reason, inf)
        if reason == "draining":
            return Reject(ticket, reason, 1.0)
        station = self._stations.get(ticket.resident)
        why = station.why_failed if station is not None and reason == "load_failed" else ""
        if retry_after_s is None or retry_after_s == inf:
            waiting = self._queue.tickets_of(ticket.model) + 1
            retry_after_s = self._forecast.drained_in_s(ticket, station, waiting) if station is not None else 1.0
        return Reject(ticket, reason, max(1.0, retry_after_s), why)
