"""All backends' memories as they are thought to be, and what follows from that for who waits for a model."""

from collections.abc import Iterator
from math import inf

from hermes.policy.site import Plan, Site, Swaps
from hermes.policy.station import Station
from hermes.policy.ticket import Change, InMemory

# While a model is wanted that is not loaded, it is asked so often whether to load it, when nothing else happens.
WEIGH_EVERY_S = 1.0


class Sites(dict[str, Site]):
    """By backend. `plans`: what is loaded, or will be, and where. `swaps`: those that were, by backend and model."""

    def __init__(self) -> None:
        super().__init__()
        self.plans: dict[Station, Site] = {}
        self.swaps: dict[tuple[str, str], Swaps] = {}

    def ours(self, candidates: tuple[str, ...]) -> Iterator[Site]:
        """Those of these backends that load what we say."""
        for name in candidates:
            site = self.get(name)
            if site is not None and site.facts.up and site.is_ours:
                yield site

    def cannot_have(self, candidates: tuple[str, ...], station: Station) -> str:
        """Why the model can be run on none of these backends, whoever waits for it; else nothing."""
        sites = [site for name in candidates if (site := self.get(name)) is not None and not site.retired]
        if not any(site.facts.up for site in sites):
            return "moved" if len(sites) < len(candidates) else "no_backend"
        if not station.stays_on(candidates) and not any(site.can_hold(station) for site in sites):
            return "insufficient_memory"
        return ""

    def back_at(self, candidates: tuple[str, ...], station: Station) -> float:
        """When it rests on none of these backends any more; -inf: on one it does not."""
        at = inf
        for name in candidates:
            site = self.get(name)
            if site is not None and site.facts.up:
                at = min(at, site.facts.resting.get(station.name, -inf))
        return at

    def coming(self, candidates: tuple[str, ...], station: Station) -> Plan | None:
        """What is under way to have it on one of these backends."""
        site = self.plans.get(station)
        return site.plan if site is not None and site.name in candidates else None

    def pulled_at(self, candidates: tuple[str, ...], station: Station) -> float | None:
        """When it will probably be on a disk of theirs, if it is on its way there."""
        arrivals = (site.facts.pulling.get(station.name) for site in self.ours(candidates))
        return min((when for when in arrivals if when is not None), default=None)

    def rests_until(self, candidates: tuple[str, ...], station: Station) -> float:
        """Until when it can be run on none of these backends, because it could not be loaded."""
        if station.stays_on(candidates):
            return -inf
        return min(
            (site.rests_until(station) for site in self.ours(candidates) if site.can_hold(station)), default=-inf
        )

    def lead_s(self, candidates: tuple[str, ...], station: Station) -> float:
        """How long before its time a ticket has no chance any more: nothing is under way, and loading takes so long."""
        if not station.load_s.is_known or station.stays_on(candidates) or self.coming(candidates, station):
            return 0.0
        return station.load_s.value

    def weighs_at(self, candidates: tuple[str, ...], station: Station, since: float = inf) -> float:
        """When it is next asked whether to load it; only of backends where that was not asked after `since`."""
        if station in self.plans:
            return inf
        return min(
            (
                max(site.chosen_at + WEIGH_EVERY_S, site.rests_until(station))
                for site in self.ours(candidates)
                if site.plan is None and station.name not in site.stays and site.chosen_at <= since
                if station.name not in site.facts.pulling and station.name not in site.facts.resting
            ),
            default=inf,
        )

    def changes(self) -> Iterator[Change]:
        for site in self.values():
            if plan := site.plan:
                victims = tuple(stay.station.name for stay in plan.victims)
                yield Change(site.name, plan.station.name, victims, plan.decided_at, plan.loading_since)

    def pressed(self) -> dict[str, str]:
        """Backends where nothing more is loaded for now, and why."""
        return {site.name: site.facts.pressed for site in self.values() if site.facts.pressed}

    def in_memory(self) -> Iterator[InMemory]:
        for site in self.values():
            for stay in site.stays.values():
                yield InMemory(
                    site.name,
                    stay.station.name,
                    len(stay.running),
                    len(stay.settling),
                    stay.slots,
                    stay.station.waiting,
                )
