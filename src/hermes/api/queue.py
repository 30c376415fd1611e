"""The routes about requests themselves: what waits and runs, one of them, sending one away, what became of them.

Whoever is no operator sees the requests of his own tenant only; another's are as if there were none (invariant I21),
and so are those for models that he may not use.
"""

import asyncio
import os
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import asdict

from hermes.api.models import Models
from hermes.api.routes import Call
from hermes.errors import BadRequest, RequestNotFound
from hermes.exchange import Exchange
from hermes.fleet.fleet import Fleet
from hermes.journal import Journal
from hermes.policy.standing import Standing
from hermes.policy.ticket import Change, Phase, Ticket, Why
from hermes.principal import CLASS_NAMES, Principal
from hermes.record import Record
from hermes.router import Router

_json = msgspec.json.Encoder().encode

# Each takes some 11 us: all of a long queue would hold up everybody else (invariant I36).
LISTED = 1000


class Queue:
    def __init__(
        self,
        journal: Journal,
        scheduler: Standing,
        fleet: Fleet,
        router: Router,
        models: Models,
        clock: Callable[[], float],
    ) -> None:
        self._journal = journal
        self._router = router
        self._models = models
        self._scheduler = scheduler
        self._fleet = fleet
        self._clock = clock

    async def list(self, call: Call) -> None:
        """The first in the order of arrival, and how many there are."""
        found = list(self._open(call.principal))
        phases = [ticket.phase for _, ticket in found]
        counts = {"waiting": phases.count(Phase.WAITING), "running": phases.count(Phase.RUNNING)}
        told = [self._tell(exchange, ticket) for exchange, ticket in found[:LISTED]]
        call.reply(_json({"object": "list", **counts, "has_more": len(found) > LISTED, "data": told}))

    def told(self, principal: Principal, most: int) -> dict[str, Any]:
        """How much runs and waits, by model and class, and the first `most` in the order of arrival.

        `next_eta_ms`: when the first of those that wait will start, `eta_ms`: when the last will.
        """
        lines: dict[tuple[str, int], _Line] = {}
        first: list[tuple[Exchange, Ticket]] = []
        for exchange, ticket in self._open(principal):
            line = lines.get((exchange.model, ticket.urgency))
            if line is None:
                line = lines[exchange.model, ticket.urgency] = _Line()
            line.count(ticket)
            if len(first) < most:
                first.append((exchange, ticket))
        now = self._clock()

        def eta_ms(ticket: Ticket) -> int:
            return _ms(self._scheduler.outlook(ticket, now).eta_s)

        told = []
        for (model, urgency), line in sorted(lines.items()):
            each = {"model": model, "class": CLASS_NAMES[urgency], "running": line.running, "waiting": line.waiting}
            if line.first is not None and line.last is not None:
                soonest, latest = sorted((eta_ms(line.first), eta_ms(line.last)))  # who has come first may go last
                each |= {"next_eta_ms": soonest, "eta_ms": latest}
            told.append(each)
        return {"lines": told, "requests": [self._tell(*each) for each in first]}

    async def get(self, call: Call) -> None:
        call.reply(_json(self._tell(*self._found(call))))

    async def cancel(self, call: Call) -> None:
        """Send a request away, whether it waits or runs."""
        exchange, ticket = self._found(call)
        told = self._tell(exchange, ticket)
        if not exchange.dismiss():
            raise _unknown(call)
        call.reply(_json({**told, "state": "cancelled"}))

    async def recent(self, call: Call) -> None:
        """The last that are over, the last one first: of a model, a user or an outcome where the query names one."""
        principal, limit = call.principal, _limit(call)
        wanted = {name: said for name in ("model", "user", "outcome") if (said := call.query(name)) is not None}
        if not principal.admin and wanted.setdefault("user", principal.tenant) != principal.tenant:
            wanted["user"] = "\0"  # nobody's
        allows, found = self._router.catalog.allows, list[Record]()
        for records in self._journal.past.newest(wanted):
            found += [record for record in records if allows(principal, record.model)]
            if len(found) > limit:
                break
            await asyncio.sleep(0)
        call.reply(_json({"object": "list", "has_more": len(found) > limit, "data": found[:limit]}))

    async def past(self, call: Call) -> None:
        """One that is open, or one of the last that were: how it went, and why it waited."""
        if found := self._find(call):
            exchange, ticket = found
            call.reply(_json(self._tell(exchange, ticket) | self._why(call.principal, ticket.why)))
            return
        user = None if call.principal.admin else call.principal.tenant
        for some in self._journal.past.of(call.named or "", user):
            for past in some:
                record = past.record
                if self.may_see(call.principal, record.user, record.model):
                    told = {"state": "done", **msgspec.to_builtins(record), **self._why(call.principal, past.why)}
                    call.reply(_json(told))
                    return
            await asyncio.sleep(0)
        raise _unknown(call)

    def _open(self, principal: Principal) -> Iterator[tuple[Exchange, Ticket]]:
        for exchange in self._journal.asking():
            ticket = exchange.ticket
            if ticket is not None and self.may_see(principal, ticket.tenant, exchange.model):
                yield exchange, ticket

    def may_see(self, principal: Principal, user: str, model: str) -> bool:
        return (principal.admin or principal.tenant == user) and self._router.catalog.allows(principal, model)

    def _find(self, call: Call) -> tuple[Exchange, Ticket] | None:
        """The one that is open and has this handle, or the oldest that has this id."""
        oldest = None
        for found in self._open(call.principal):
            if found[0].handle == call.named:
                return found
            if oldest is None and found[0].request_id == call.named:
                oldest = found
        return oldest

    def _found(self, call: Call) -> tuple[Exchange, Ticket]:
        if (found := self._find(call)) is None:
            raise _unknown(call)
        return found

    def _why(self, principal: Principal, why: Why | None) -> dict[str, Any]:
        """What a request found when it began to wait; nothing if it did not."""
        if why is None:
            return {}
        seen = self._models.seen(principal)
        changes = [tell_change(each, seen) | {"backend": each.backend} for each in why.changes if seen(each.model)]
        return {
            "why": {
                "position": why.told.position,
                "eta_ms": _ms(why.told.eta_s),
                "eta_high_ms": _ms(why.told.eta_high_s),
                "model_was": why.found,
                "waiting": why.waiting,
                "in_memory": [asdict(model) for model in why.loaded if seen(model.model)],
                "changes": changes,
                "pressed": why.pressed,
            }
        }

    def _tell(self, exchange: Exchange, ticket: Ticket) -> dict[str, Any]:
        """Times in milliseconds."""
        now = self._clock()
        exchange.handle = exchange.handle or os.urandom(8).hex()  # no number: that would tell how many others there are
        told: dict[str, Any] = {
            "request_id": exchange.request_id,
            "handle": exchange.handle,
            "state": "retrying" if ticket.phase in (Phase.NEW, Phase.DONE) else ticket.phase,
            "model": exchange.model,
            "user": ticket.tenant,
            "class": CLASS_NAMES[ticket.urgency],
            "stream": exchange.stream,
            "age_ms": _ms(now - exchange.arrived_at),
        }
        if not exchange.begun:  # a stream that has begun has met it
            told["deadline_ms"] = _ms(ticket.deadline - now)
        if ticket.phase == Phase.WAITING:
            outlook = self._scheduler.outlook(ticket, now)
            told |= {"position": outlook.position, "eta_ms": _ms(outlook.eta_s), "eta_high_ms": _ms(outlook.eta_high_s)}
            if (download := self._fleet.download(ticket.resident, ticket.candidates)) is not None:
                told["pulled_percent"] = download.percent
        elif ticket.phase == Phase.RUNNING:
            told |= {"backend": ticket.backend, "running_ms": _ms(now - ticket.started_at), "loaded": ticket.found}
        return told


class _Line(Struct):
    """Requests of one model and class."""

    running: int = 0
    waiting: int = 0
    first: Ticket | None = None
    last: Ticket | None = None

    def count(self, ticket: Ticket) -> None:
        if ticket.phase == Phase.WAITING:
            self.waiting += 1
            self.first, self.last = self.first or ticket, ticket
        elif ticket.phase == Phase.RUNNING:
            self.running += 1


def _limit(call: Call) -> int:
    said = call.query("limit")
    if said is None:
        return 50
    if not said.isascii() or not said.isdigit() or not 0 < (limit := int(said[:9])) <= LISTED:
        raise BadRequest(f"`limit` is a number from 1 to {LISTED}", param="limit")
    return limit


def _unknown(call: Call) -> RequestNotFound:
    return RequestNotFound(f"there is no request {call.named!r}, or it was too long ago", param="request_id")


def tell_change(change: Change, seen: Callable[[str], bool]) -> dict[str, Any]:
    """What is loaded, or about to be, and what has to go for it."""
    victims = [victim for victim in change.victims if seen(victim)]
    return {"model": change.model, "victims": victims, "loading": change.loading_since is not None}


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
