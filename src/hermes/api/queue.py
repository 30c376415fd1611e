"""The routes about requests themselves: what waits and runs, one of them, sending one away, and what became of one.

Whoever is no operator sees the requests of his own tenant only; another's are as if there were none (invariant I21).
"""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from msgspec.structs import asdict

from hermes.api.routes import Call
from hermes.errors import RequestNotFound
from hermes.exchange import Exchange, Journal
from hermes.policy.scheduler import Scheduler
from hermes.policy.ticket import Phase, Ticket, Why
from hermes.principal import Principal

_json = msgspec.json.Encoder().encode


class Queue:
    def __init__(self, journal: Journal, scheduler: Scheduler, clock: Callable[[], float]) -> None:
        self._journal = journal
        self._scheduler = scheduler
        self._clock = clock

    async def list(self, call: Call) -> None:
        """In the order of arrival."""
        told = [self._tell(exchange, ticket) for exchange, ticket in self._open(call.principal)]
        states = [each["state"] for each in told]
        counts = {"waiting": states.count(Phase.WAITING), "running": states.count(Phase.RUNNING)}
        call.reply(_json({"object": "list", **counts, "data": told}))

    async def get(self, call: Call) -> None:
        exchange, ticket = self._find(call)
        call.reply(_json(self._tell(exchange, ticket)))

    async def cancel(self, call: Call) -> None:
        """Send a request away, whether it waits or runs."""
        exchange, ticket = self._find(call)
        told = self._tell(exchange, ticket)
        exchange.dismiss()
        call.reply(_json({**told, "state": "cancelled"}))

    async def past(self, call: Call) -> None:
        """One that is open, or one of the last that were: how it went, and why it waited."""
        for exchange, ticket in self._open(call.principal):
            if exchange.request_id == call.named:
                call.reply(_json(self._tell(exchange, ticket) | _why(ticket)))
                return
        for past in reversed(self._journal.recent):
            record, ticket = past.record, past.ticket
            if record.request_id == call.named and _may_see(call.principal, ticket):
                told = {"state": "done", "class": ticket.urgency.name.lower(), "loaded": ticket.found}
                call.reply(_json(asdict(record) | told | _why(ticket)))
                return
        raise _unknown(call)

    def _open(self, principal: Principal) -> Iterator[tuple[Exchange, Ticket]]:
        for exchange in self._journal.exchanges:
            if exchange.ticket is not None and _may_see(principal, exchange.ticket):
                yield exchange, exchange.ticket

    def _find(self, call: Call) -> tuple[Exchange, Ticket]:
        for exchange, ticket in self._open(call.principal):
            if exchange.request_id == call.named:
                return exchange, ticket
        raise _unknown(call)

    def _tell(self, exchange: Exchange, ticket: Ticket) -> dict[str, Any]:
        """Times in milliseconds."""
        now = self._clock()
        told: dict[str, Any] = {
            "request_id": exchange.request_id,
            "state": "retrying" if ticket.phase in (Phase.NEW, Phase.DONE) else ticket.phase,
            "model": exchange.model,
            "user": ticket.tenant,
            "class": ticket.urgency.name.lower(),
            "stream": exchange.stream,
            "age_ms": _ms(now - exchange.arrived_at),
            "deadline_ms": _ms(ticket.deadline - now),
        }
        if ticket.phase == Phase.WAITING:
            outlook = self._scheduler.outlook(ticket, now)
            told |= {"position": outlook.position, "eta_ms": _ms(outlook.eta_s), "eta_high_ms": _ms(outlook.eta_high_s)}
        elif ticket.phase == Phase.RUNNING:
            told |= {"backend": ticket.backend, "running_ms": _ms(now - ticket.started_at), "loaded": ticket.found}
        return told


def _may_see(principal: Principal, ticket: Ticket) -> bool:
    return principal.admin or principal.tenant == ticket.tenant


def _unknown(call: Call) -> RequestNotFound:
    return RequestNotFound(f"there is no request {call.named!r}, or it was too long ago", param="request_id")


def _why(ticket: Ticket) -> dict[str, Any]:
    """What it found when it began to wait; nothing if it did not."""
    why: Why | None = ticket.why
    if why is None:
        return {}
    changes = [
        {
            "backend": change.backend,
            "model": change.model,
            "victims": change.victims,
            "loading": change.loading_since is not None,
        }
        for change in why.changes
    ]
    return {
        "why": {
            "position": why.told.position,
            "eta_ms": _ms(why.told.eta_s),
            "eta_high_ms": _ms(why.told.eta_high_s),
            "model_was": why.found,
            "waiting": why.waiting,
            "in_memory": why.loaded,
            "changes": changes,
        }
    }


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
