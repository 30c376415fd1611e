"""How long things will take: when a request has to start, when it probably will, and whether that is too late."""

from math import inf

from hermes.policy.estimates import Outlook
from hermes.policy.line import Line
from hermes.policy.sites import Sites
from hermes.policy.slots import Slots
from hermes.policy.station import Station, Stay
from hermes.policy.ticket import Rules, Ticket
from hermes.principal import CLASSES

# Nobody is refused by what is thought of a model of which less was seen.
ENOUGH_RUNS = 5
# So much of its time is kept for a whole answer at most, however long some runs are: the rest it may wait.
MOST_FOR_RUN = 0.8
# Who is likely to be cut is let through so often, for it to be seen whether that is so.
TRY_EVERY_S = 60.0
# A run in so many seconds tells enough of how long runs take: thousands a second are all alike.
LEARN_EVERY_S = 0.05
# A prompt that nobody waits for any more is thought to be read for no longer than this.
MOST_SETTLING_S = 60.0
# A run that its deadline has cut would have taken longer: probably so many times what it had.
CUT_RUNS_NEED = 1.5


class Forecast:
    def __init__(self, rules: Rules, sites: Sites, slots: Slots) -> None:
        self.rules = rules
        self._sites = sites
        self._slots = slots

    # --- deadlines --------------------------------------------------------------------------------------------------

    def patience_s(self, load_s: float) -> float:
        """What no usual bound on a wait should be below, for a model that takes so long to load."""
        return self.rules.load_waits * load_s

    def start_by(self, ticket: Ticket, station: Station, again: bool) -> float:
        """When it must start at the latest: so that it can end in time, and the first time within its longest wait."""
        rules = self.rules
        max_wait_s = rules.classes[ticket.urgency].max_wait_s
        if max_wait_s < inf:
            max_wait_s = max(max_wait_s, self.patience_s(station.load_s.value))
        by = ticket.deadline if again else min(ticket.arrived_at + max_wait_s, ticket.deadline)
        if ticket.whole and rules.waste < 1 and station.whole_s.count >= ENOUGH_RUNS:
            needs_s = min(station.whole_s.enough(rules.waste), MOST_FOR_RUN * (ticket.deadline - ticket.arrived_at))
            by = min(by, ticket.deadline - needs_s)
        return by

    def is_too_long(self, ticket: Ticket, station: Station, now: float) -> bool:
        """Whether a run probably lasts beyond the deadline. An idle model tries, others do now and then, to learn."""
        samples = station.whole_s
        if samples.count < ENOUGH_RUNS or now + samples.median <= ticket.deadline:
            return False
        if now - station.tried_at < TRY_EVERY_S and any(stay.running for stay in station.stays.values()):
            return True
        station.tried_at = now
        return False

    # --- waits ------------------------------------------------------------------------------------------------------

    def pace_s(self, line: Line, station: Station) -> float:
        """From one start to the next, when all these slots are busy."""
        return station.service_s.mean / self._slots.most(line.slots, line.model, station)

    def tell(self, ticket: Ticket, station: Station, now: float, *, anyway: bool) -> bool:
        """Tell one that is to wait how long. False, and nothing is told, if that is far too long; unless `anyway`."""
        position, kind, thought_s = self._think(ticket, station, now)
        eta_s, eta_high_s = station.calibrations[kind].apply(thought_s)
        ticket.kind = kind
        if not anyway:
            left_s = ticket.start_by - now
            is_known = station.service_s.count >= ENOUGH_RUNS and (kind == "hit" or station.load_s.is_known)
            if left_s <= 0 or (is_known and eta_s > self.rules.give_up * left_s):
                return False
        ticket.thought_s = thought_s
        ticket.told = Outlook(position, eta_s, eta_high_s)
        return True

    def outlook(self, ticket: Ticket, station: Station, now: float) -> Outlook:
        """As things are now. Where nothing is under way it may well take as long again as it has: others come first."""
        position, kind, thought_s = self._think(ticket, station, now)
        if kind == "absent":
            thought_s = max(thought_s, now - ticket.arrived_at)
        return Outlook(position, *station.calibrations[kind].apply(thought_s))

    def drained_in_s(self, ticket: Ticket, station: Station, waiting: int) -> float:
        """How long until so many that wait for its model have started."""
        slots = self._slots.most(station.slots_on(ticket.candidates), ticket.model, station)
        return waiting * station.service_s.mean / slots

    def _think(self, ticket: Ticket, station: Station, now: float) -> tuple[int, str, float]:
        """Its place in the line, how its model is found, and seconds until it starts, before calibration."""
        here = station.slots_on(ticket.candidates)
        slots = self._slots.most(here, ticket.model, station)
        pace_s = station.service_s.mean / slots
        position = 1 + self._ahead(ticket, station, now, pace_s)
        if here:
            return position, "hit", position * pace_s
        rounds_s = max(0, position - slots) * pace_s
        if (back_at := self._sites.back_at(ticket.candidates, station)) > now and back_at < inf:
            return position, "hit", back_at - now + rounds_s
        if plan := self._sites.coming(ticket.candidates, station):
            return position, "coming", plan.ready_in_s(now) + rounds_s
        if (there_at := self._sites.pulled_at(ticket.candidates, station)) is not None:
            return position, "pulling", max(0.0, there_at - now) + station.load_s.value + rounds_s
        ours = self._sites.ours(ticket.candidates)
        idle_s = min((stay.idle_in_s(now) for site in ours for stay in site.stays.values()), default=0.0)
        return position, "absent", idle_s + station.load_s.value + rounds_s

    def _ahead(self, ticket: Ticket, station: Station, now: float, pace_s: float) -> int:
        line = station.lines.get((ticket.model, ticket.candidates))
        if line is None:
            return 0
        backlogs, classes, own = line.backlogs, self.rules.classes, ticket.urgency
        others = ahead = backlogs[own].ahead(ticket, now, pace_s)
        for each in CLASSES:
            if each is not own and (waiting := backlogs[each].waiting):
                others += min(waiting, int((ahead + 1) * classes[each].weight / classes[own].weight))
        return others

    def settles_at(self, ticket: Ticket, stay: Stay) -> float:
        """Until when a backend that does not notice that its client has left is likely to go on reading the prompt."""
        if not stay.settles or ticket.begun_at is not None:
            return -inf
        return ticket.started_at + min(stay.station.prefill_s.of(ticket.prompt_tokens), MOST_SETTLING_S)

    # --- learning ---------------------------------------------------------------------------------------------------

    def learn_wait(self, ticket: Ticket, stay: Stay, now: float) -> None:
        """It starts now that has waited."""
        # One that comes again arrived long before it began to wait; one with a cap may wait for its own runs.
        if ticket.told is not None and not ticket.avoid and not ticket.caps:
            stay.station.calibrations[ticket.kind].learn(ticket.thought_s, now - ticket.arrived_at)
        if stay.since > ticket.arrived_at:
            ticket.found = stay.found
            ticket.load_s = min(stay.load_s, now - ticket.arrived_at)

    def learn_prefill(self, ticket: Ticket, station: Station, when: float) -> None:
        """The first byte of its answer came then."""
        if ticket.prompt_tokens:
            station.prefill_s.add(when - ticket.started_at, ticket.prompt_tokens)

    def learn_run(self, ticket: Ticket, station: Station, now: float) -> None:
        """It has ended by itself."""
        if now < station.learns_at:
            return
        station.learns_at = now + LEARN_EVERY_S
        took_s = (now - ticket.started_at) * self.rules.service_error
        station.service_s.add(took_s)
        if ticket.whole:
            station.whole_s.add(took_s)
        if ticket.settled:
            station.output_tokens.add(ticket.tenant, ticket.output_tokens)

    def learn_cut(self, ticket: Ticket, station: Station, now: float) -> None:
        """It was broken off; by its deadline, or by nobody knows whom."""
        if ticket.whole and now >= ticket.deadline:
            needed_s = CUT_RUNS_NEED * (now - ticket.started_at)
            station.service_s.add(needed_s)
            station.whole_s.add(needed_s)
