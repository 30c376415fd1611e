"""A scheduler that is in another process: requests that are here wait for their turn there.

Questions are answered by how things were when they were handed over.
"""

from collections.abc import Callable, Iterable
from itertools import count
from typing import Any

from msgspec.structs import replace

from hermes.handover.channel import Admitted, Begun, Finished, Left, Message, Offered, Refused, Settled
from hermes.policy.estimates import Outlook
from hermes.policy.scheduler import Scheduler
from hermes.policy.ticket import Admit, Decision, Expire, Phase, Reject, Ticket, Why


class Elsewhere(Scheduler):
    """For those that run or wait here."""

    def __init__(self, before: Scheduler, tickets: Iterable[Ticket], tell: Callable[[Message], None]) -> None:
        self.__dict__.update(before.__dict__)
        self._tell = tell
        self._here = dict(enumerate(tickets))
        self._numbers = count(len(self._here))
        self._ids = {ticket: id for id, ticket in self._here.items()}
        self._over = False

    def told(self, phase: str) -> list[tuple[int, Ticket]]:
        """Those in a phase, those that came first before."""
        found = [(id, _bare(ticket)) for id, ticket in self._here.items() if ticket.phase == phase]
        return sorted(found, key=lambda each: each[1].arrived_at)

    # --- what they do -----------------------------------------------------------------------------------------------

    def offer(self, ticket: Ticket, now: float, *, again: bool = False) -> list[Decision]:
        assert ticket.phase is Phase.NEW, "a ticket is offered once"
        if self._over:
            ticket.phase = Phase.DONE
            return [Reject(ticket, "draining", 1.0)]
        ticket.phase = Phase.WAITING
        self._here[id := next(self._numbers)] = ticket
        self._ids[ticket] = id
        self._tell(Offered(id, _bare(ticket)))
        return []

    def begun(self, ticket: Ticket, when: float) -> None:
        if ticket.phase is Phase.RUNNING and ticket.begun_at is None:
            ticket.begun_at = when
            self._tell(Begun(self._ids[ticket], when))

    def settle(self, ticket: Ticket, prompt_tokens: int, output_tokens: int) -> None:
        if ticket in self._ids:
            self._tell(Settled(self._ids[ticket], prompt_tokens, output_tokens))

    def finish(self, ticket: Ticket, now: float) -> list[Decision]:
        return self._gone(ticket, Finished(self._ids.get(ticket, -1)))

    def cancel(self, ticket: Ticket, now: float, *, broken_off: bool = False, failed: bool = False) -> list[Decision]:
        return self._gone(ticket, Left(self._ids.get(ticket, -1), broken_off, failed))

    def _gone(self, ticket: Ticket, how: Left | Finished) -> list[Decision]:
        if ticket in self._ids:
            self._forget(ticket)
            self._tell(how)
        return []

    def _forget(self, ticket: Ticket) -> None:
        ticket.phase = Phase.DONE
        del self._here[self._ids.pop(ticket)]

    def close(self) -> list[Decision]:
        self._over = True
        decisions: list[Decision] = []
        for id, ticket in list(self._here.items()):
            if ticket.phase is Phase.WAITING:
                self._forget(ticket)
                self._tell(Left(id))
                decisions.append(Reject(ticket, "draining", 1.0))
        return decisions

    # --- what comes of it -------------------------------------------------------------------------------------------

    def answered(self, message: Admitted | Refused) -> list[Decision]:
        """What was decided there. Of who has left meanwhile it has been told, or will be."""
        ticket = self._here.get(message.id)
        if ticket is None or ticket.phase is not Phase.WAITING:
            return []
        if isinstance(message, Admitted):
            ticket.phase, ticket.backend, ticket.started_at = Phase.RUNNING, message.backend, message.started_at
            ticket.found, ticket.load_s = message.found, message.load_s
            return [Admit(ticket, message.backend)]
        self._forget(ticket)
        if message.reason:
            # Where else it is served is known there alone: asked again, we would offer what we have offered.
            reason = "no_backend" if message.reason == "moved" else message.reason
            return [Reject(ticket, reason, message.retry_after_s, message.why)]
        return [Expire(ticket)]

    # --- what is not ours any more ----------------------------------------------------------------------------------

    def _nothing(self, *_: Any, **__: Any) -> list[Decision]:
        return []

    expire = observe = adopt = resize = loaded = failed = unheard = lost = unload = _nothing

    def next_deadline(self) -> float | None:
        return None

    def explain(self, ticket: Ticket) -> Why | None:
        return None

    @property
    def running(self) -> int:
        return sum(ticket.phase is Phase.RUNNING for ticket in self._here.values())

    @property
    def waiting(self) -> int:
        return len(self._here) - self.running

    def outlook(self, ticket: Ticket, now: float) -> Outlook:
        """What it was told when it began to wait."""
        return ticket.told or Outlook(1, 0.0, 0.0)


def _bare(ticket: Ticket) -> Ticket:
    """As it is told there: without what is of this process alone."""
    return replace(ticket, place=None, told=None, why=None)
