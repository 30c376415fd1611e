"""What is in the backends' memories, what is under way there, and what should be next.

It decides loads and unloads, and starts nothing. One change at a time per backend, one load of a model at a time in
all. What has to go starts nothing new, ends what it runs, and is unloaded; nothing is cancelled. What is seen of
backends is the truth: others load and unload too.
"""

from math import inf

from msgspec.structs import replace

from hermes.policy.missed import Missed
from hermes.policy.site import Plan, Rest, Site, Swaps
from hermes.policy.sites import WEIGH_EVERY_S, Sites
from hermes.policy.station import Station, Stations, Stay
from hermes.policy.swap import choose, too_much, waiting_in_time
from hermes.policy.ticket import BackendFacts, Fallen, Load, Ticket, Unload

# While a model is wanted that is not loaded, swaps are weighed again at events, but no oftener than that. The more
# wait, the less one more of them tells.
WEIGH_AGAIN_S = 0.1
FEW_WAITING = 200

# A load beside others, where nobody knows for sure that there is room, has to have begun by then. Ollama waits for what
# is in the way to fall idle and go, and each request that says how long that is to stay has it stay (server/sched.go).
BEGUN_WITHIN_S = 15.0

Order = Load | Unload


class Residency:
    """`waiting` are the stations where something waits. Those where something may start that could not are `freed`."""

    def __init__(
        self,
        stations: Stations,
        sites: Sites,
        waiting: dict[Station, None],
        freed: dict[Station, None],
        floor: float,
    ) -> None:
        self.floor = floor
        self.sites = sites
        self.missed = Missed(sites, waiting)
        self._stations = stations
        self._waiting = waiting
        self._freed = freed
        self._leaving: dict[Stay, None] = {}  # an operator wants them gone

    # --- what is seen -----------------------------------------------------------------------------------------------

    def observe(self, facts: BackendFacts, now: float) -> None:
        """A backend has come, gone or changed."""
        site = self.sites.get(facts.name)
        if site is None:
            site = self.sites[facts.name] = Site(facts)
        if site.retired:
            self._reinstate(site)
        seen_before, site.facts = site.facts.seen_at, facts
        if facts.loaded is None:
            for station in self._stations.values():
                if facts.name in station.candidates:
                    site.move_in(station, now)
        else:
            self._compare(site, seen_before, now)
        for stay in site.stays.values():
            stay.see(facts)
        if not facts.makes_room and site.plan is None:
            for stay in too_much(site, now):  # one was larger than was thought
                self._send_off(stay)
        for name, fallen in facts.fallen.items():
            self._pick_up(site, self._stations[name], fallen, now)
        for name, ttl_s in facts.idle_ttls_s.items():
            self._let_go(site.stays.get(name), ttl_s, now)
        if (plan := site.plan) is not None:
            is_in_vain = not facts.up or plan.station.name in site.stays  # others loaded it
            if is_in_vain or (plan.loading_since is None and plan.station.name in facts.resting):
                self._abandon(site, now)
        self._freed.update(self._waiting)

    def retire(self, name: str, now: float) -> None:
        """There is no such backend any more, or it is another: nothing starts there, and what runs there ends."""
        site = self.sites.get(name)
        if site is None:
            return
        if site.plan is not None:
            self._abandon(site, now)
        site.retired, site.facts = True, replace(site.facts, up=False, fallen={})
        site.learned_bytes, site.most_bytes = None, 0
        site.rests.clear()
        for stay in list(site.stays.values()):
            stay.see(site.facts)
            if stay.held:
                self._send_off(stay)
            else:
                self._leaving.pop(stay, None)
                site.move_out(stay)

    def _reinstate(self, site: Site) -> None:
        """Another one has its name. What still runs on the last one takes slots of it until it ends."""
        site.retired = False
        for stay in site.stays.values():
            self._leaving.pop(stay, None)
            stay.leaving = False
            stay.drain(False)

    def _forget(self, site: Site) -> None:
        """Nothing runs any more on what was retired."""
        del self.sites[site.name]
        for station in self._stations.values():
            station.concurrency.pop(site.name, None)
            if site.name in station.candidates:
                station.candidates = tuple(name for name in station.candidates if name != site.name)

    def sweep(self) -> None:
        """Forget what was retired and is empty."""
        for site in list(self.sites.values()):
            if site.retired and not site.stays:
                self._forget(site)

    def renew(self, name: str, model: str, now: float) -> None:
        """What it has loaded goes as soon as it runs nothing, to be loaded as it is to be from now on, if it is."""
        site, station = self.sites[name], self._stations[model]
        if model not in site.stays:
            return
        self._send_off(site.stays[model])
        if model in site.facts.sizes:
            self.missed.add(station, now)

    def _compare(self, site: Site, seen_before: float, now: float) -> None:
        """What is loaded against what was thought to be."""
        facts = site.facts
        sizes = facts.loaded or {}
        going = site.plan if site.plan is not None and site.plan.loading_since is not None else None
        unsure = facts.memory_bytes is None or facts.may_be_less
        has_loaded = going is not None or any(name not in site.stays for name in sizes)
        has_loaded = has_loaded or (seen_before <= site.changed_at and bool(sizes))
        for stay in list(site.stays.values()):
            if stay.station.name not in sizes and not stay.running and stay.since < facts.seen_at:
                if unsure and has_loaded and not stay.draining and stay.station.name not in facts.fallen:
                    # It went for another though we let it stay: count on no more room than there has been.
                    site.learned_bytes = site.most_bytes
                site.move_out(stay)
        for name, size_bytes in sizes.items():
            if name not in site.stays:
                if facts.seen_at < site.changed_at or (going is not None and going.changes(name)):
                    continue  # what was seen may be gone by now, or about to go or come
                site.move_in(self._stations[name], now)
            site.stays[name].size_bytes = size_bytes
        site.most_bytes = max(site.most_bytes, sum(sizes.values()))
        if site.learned_bytes is not None:
            site.learned_bytes = site.most_bytes

    def _pick_up(self, site: Site, station: Station, fallen: Fallen, now: float) -> None:
        """It went down by itself: where there is room it is loaded again when it has rested, whoever asks for it."""
        station.why_failed = fallen.why
        rest = site.rests.setdefault(station.name, Rest())
        rest.until = max(rest.until, fallen.until)
        self.missed.add(station, now)

    def _let_go(self, stay: Stay | None, ttl_s: float, now: float) -> None:
        """What nobody has used for so long goes, though nothing else comes in its place."""
        if stay is not None and not stay.held and not stay.station.waiting and now - stay.used_at >= ttl_s:
            self._send_off(stay)

    def meet(self, station: Station, candidates: tuple[str, ...], now: float) -> None:
        """It is known where the model can be: where nothing has to be loaded for it, it is."""
        others = [name for line in station.lines.values() for name in line.candidates if name not in candidates]
        station.candidates = (*candidates, *dict.fromkeys(others)) if others else candidates
        for name in candidates:
            site = self.sites.get(name)
            if site is not None and not site.is_ours:
                site.move_in(station, now)
            elif site is not None and not station.stays:
                station.usual_slots = site.facts.slots_for(station.name) or station.slots

    def spend(self, ticket: Ticket, station: Station, now: float) -> None:
        """A run has ended while others wait."""
        if self.floor:
            site = self.sites[ticket.backend]
            site.timeshare.spend(ticket, station.share(ticket), now - ticket.started_at, now)

    # --- how loads went ---------------------------------------------------------------------------------------------

    def loaded(self, backend: str, model: str, now: float) -> Ticket | None:
        """Returns the one that it was done for, whatever the index said."""
        site = self.sites[backend]
        plan = self._carried_out(site, model)
        if plan is None or plan.loading_since is None:
            return None
        took_s = now - plan.loading_since
        plan.station.load_s.add(took_s)
        if plan.victims:
            swaps = self.sites.swaps.setdefault((backend, model), Swaps())
            swaps.count += 1
            swaps.took_s += now - plan.decided_at
        site.rests.pop(model, None)
        self._charge(site, plan, now)
        self._end(site, now)
        stay = site.move_in(plan.station, now)
        stay.found, stay.load_s = "swap" if plan.victims else "load", took_s
        self._freed[plan.station] = None
        return plan.payer

    def failed(self, backend: str, model: str, why: str, now: float, late: bool) -> Load | None:
        """It is tried once more; then the model rests. Not where what is in its way can go."""
        site = self.sites[backend]
        plan = self._carried_out(site, model)
        if plan is None:
            return None
        if late and self._may_lack_room(site):
            site.learned_bytes = site.most_bytes
            if site.missing_bytes(plan.station):
                self._end(site)
                site.chosen_at = -inf
                return None
        if not plan.tries and site.facts.up:
            plan.tries, plan.loading_since = 1, now
            return self._load(site, plan)
        self._charge(site, plan, now)
        self._end(site)
        plan.station.why_failed = why
        site.rests.setdefault(model, Rest()).fail(now)
        return None

    def unheard(self, backend: str, model: str, now: float) -> None:
        """It has not reached its backend. Whether that is up is about to be seen."""
        site = self.sites[backend]
        if self._carried_out(site, model) is not None:
            self._end(site, now)
            site.chosen_at = now

    def unload(self, model: str) -> list[Order]:
        """An operator wants it gone: nothing starts where it is any more, what runs ends first.

        Where it went down by itself, it does not come back.
        """
        station = self._stations[model]
        for stay in station.stays.values():
            if self.sites[stay.backend].is_ours:
                self._send_off(stay)
        fallen = [site.name for site in self.sites.values() if model in site.facts.fallen]
        if not fallen or station in self.sites.plans:
            return []
        self.missed.pop(station, None)
        return [Unload(name, model) for name in fallen]

    def _send_off(self, stay: Stay) -> None:
        stay.leaving = True
        stay.drain(True)
        self._leaving[stay] = None

    def _carried_out(self, site: Site, model: str) -> Plan | None:
        """What is being loaded, if it is this."""
        plan = site.plan
        return plan if plan is not None and plan.station.name == model and plan.loading_since is not None else None

    # --- what follows -----------------------------------------------------------------------------------------------

    def advance(self, now: float) -> list[Order]:
        """Go on with what is under way as far as runs allow."""
        orders: list[Order] = []
        for stay in [stay for stay in self._leaving if not stay.held]:
            del self._leaving[stay]
            site = self.sites[stay.backend]
            if not site.has(stay):
                continue
            order = self._take_out(stay, site)
            if site.retired:  # what it has in memory is no business of ours any more
                self.sweep()
            else:
                orders.append(order)
                site.changed_at = now
        for site in list(self.sites.plans.values()):
            if site.plan is not None and site.plan.loading_since is None:
                orders += self._advance(site, site.plan, now)
        return orders

    def _advance(self, site: Site, plan: Plan, now: float) -> list[Order]:
        station, victims = plan.station, plan.victims
        is_busy = any(stay.held for stay in victims)
        is_wanted = any(site.name in line.candidates for line in station.lines.values())
        is_wanted = is_wanted or (station in self.missed and not is_busy)
        if victims and not is_wanted:
            self._abandon(site, now)
            return []
        if is_busy:
            return []
        if site.missing_bytes(station, victims) or site.surplus(victims):  # others have loaded something meanwhile
            self._abandon(site, now)
            return []
        plan.loading_since = now
        unloads = [self._take_out(stay, site) for stay in victims if site.has(stay)]  # or others unloaded it
        return [*unloads, self._load(site, plan)]

    def _load(self, site: Site, plan: Plan) -> Load:
        begun_within_s = BEGUN_WITHIN_S if self._may_lack_room(site) else inf
        return Load(site.name, plan.station.name, begun_within_s)

    def _may_lack_room(self, site: Site) -> bool:
        """Whether it may have to wait until others go, which could."""
        unsure = site.facts.memory_bytes is None or site.facts.may_be_less
        return unsure and site.facts.makes_room and any(not stay.station.pinned for stay in site.stays.values())

    def _take_out(self, stay: Stay, site: Site) -> Unload:
        site.move_out(stay)
        self._freed[stay.station] = None  # for some that wait for it, it may be too late now
        return Unload(site.name, stay.station.name)

    def weigh(self, now: float, waiting: int, arrived: Station | None = None) -> list[Order]:
        """Decide what to load next, where nothing is under way and so many wait. The first request for a model
        (`arrived`) tells more than an event of any other kind: then it is weighed at once.
        """
        if not self._waiting and not self.missed:
            return []
        is_first = arrived is not None and arrived.waiting == 1
        again_s = WEIGH_AGAIN_S if waiting <= FEW_WAITING else min(WEIGH_EVERY_S, WEIGH_AGAIN_S * waiting / FEW_WAITING)
        orders: list[Order] = []
        for site in self.sites.values():
            plan = site.plan
            if now < site.chosen_at + again_s and (plan is not None or not is_first):
                continue
            if plan is not None:
                if plan.is_draining:
                    site.chosen_at = now
                    if self._is_in_vain(site, plan, now):
                        self._abandon(site, now)
            elif site.is_ours and site.facts.up and (wanting := self._wanting(site, now)):
                site.chosen_at = now
                if (plan := choose(site, wanting, now, self.floor)) is not None:
                    site.plan = plan
                    self.sites.plans[plan.station] = site
                    for stay in plan.victims:
                        stay.drain(True)
                    orders += self._advance(site, plan, now)
        return orders

    def _wanting(self, site: Site, now: float) -> list[Station]:
        """Models that are not here, or on their way to anywhere, and should be."""
        wanting = [*self._waiting, *self.missed.still(now)] if self.missed else self._waiting
        return [
            station
            for station in wanting
            if station.name not in site.stays
            and site.name in station.candidates
            and station.name not in site.facts.pulling
            and station.name not in site.facts.resting
            and station not in self.sites.plans
            and (not site.rests or now >= site.rests_until(station))
        ]

    def _is_in_vain(self, site: Site, plan: Plan, now: float) -> bool:
        """Whether the runs that are waited for last so long that nobody is left to load for."""
        ready_at = now + plan.station.load_known_s + max(stay.idle_in_s(now) for stay in plan.victims)
        return not waiting_in_time(plan.station, site.name, now, ready_at)

    def _abandon(self, site: Site, now: float) -> None:
        """Nobody waits for what was to be loaded, or it cannot be."""
        plan = site.plan
        assert plan is not None
        self._charge(site, plan, now)
        self._end(site, now)
        self._freed[plan.station] = None  # for some that wait for it, it may be too late now
        for stay in plan.victims:
            stay.drain(False)
            self._freed[stay.station] = None

    def _charge(self, site: Site, plan: Plan, now: float) -> None:
        """For whom a swap is made whatever the index says, pays for the time that it takes, however it ends."""
        if plan.payer is None:
            return
        if plan.loading_since is None:
            idle_s = now - plan.decided_at
            lost_s = sum(max(0, stay.slots - stay.held) * idle_s for stay in plan.victims)
        else:
            load_s = now - plan.loading_since
            lost_s = sum(stay.slots * (load_s + stay.station.load_known_s) for stay in plan.victims)  # there and back
        site.timeshare.spend(plan.payer, plan.station.share(plan.payer), lost_s, now)

    def _end(self, site: Site, changed_at: float | None = None) -> None:
        """Nothing is under way there any more."""
        assert site.plan is not None
        del self.sites.plans[site.plan.station]
        site.plan = None
        if changed_at is not None:
            site.changed_at = changed_at

    @property
    def is_changing(self) -> bool:
        return bool(self.sites.plans or self._leaving)
