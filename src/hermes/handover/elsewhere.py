"""A scheduler that is in another process: requests that are here wait for their turn there.

Questions are answered by how things were when they were handed over.
"""

from collections.abc import Callable, Iterable
from functools import partial
from itertools import count

from msgspec.structs import replace

from hermes.handover.channel import Admitted, Begun, Finished, Left, Message, Offered, Refused, Settled
from hermes.policy.estimates import Outlook
from hermes.policy.scheduler import Scheduler
from hermes.policy.ticket import (
    Admit,
    BackendFacts,
    Changed,
    Decision,
    Expire,
    ModelBounds,
    Phase,
    Reject,
    Settings,
    Ticket,
    Why,
)


class Elsewhere(Scheduler):
    """For those that run or wait here."""

    def __init__(self, before: Scheduler, tickets: Iterable[Ticket], tell: Callable[[Message], None]) -> None:
        self.__dict__.update(before.__dict__)
        self._before = before
        self._tell = tell
        self._here = dict(enumerate(tickets))
        self._numbers = count(len(self._here))
        self._ids = {ticket: id for id, ticket in self._here.items()}
        self._known = len(self._here)
        # What the one before would have been told, each with the time when it is.
        self._missed: list[Callable[[float], list[Decision]]] | None = []
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
            if how.id < self._known:
                self._later(partial(self._ended, ticket, ticket.phase, how))
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

    def undo(self, now: float) -> tuple[Scheduler, list[Decision]]:
        """The one that was before, told of all that has happened since. Nobody was admitted meanwhile."""
        before, decisions = self._before, list[Decision]()
        for missed in self._missed or ():
            decisions += missed(now)
        for id, ticket in self._here.items():
            if id >= self._known:
                ticket.phase = Phase.NEW
                decisions += before.offer(ticket, now, again=True)
        return before, decisions

    def let_go(self) -> None:
        """There is nothing to be undone any more."""
        self._missed = None

    def _later(self, event: Callable[[float], list[Decision]]) -> list[Decision]:
        if self._missed is not None:
            self._missed.append(event)
        return []

    def _ended(self, ticket: Ticket, phase: str, how: Left | Finished, now: float) -> list[Decision]:
        ticket.phase = phase
        if isinstance(how, Finished):
            return self._before.finish(ticket, now)
        return self._before.cancel(ticket, now, broken_off=how.broken_off, failed=how.failed)

    # --- what is not ours any more ----------------------------------------------------------------------------------

    def expire(self, now: float) -> list[Decision]:
        return []

    def observe(self, facts: BackendFacts, now: float) -> list[Decision]:
        return self._later(partial(self._before.observe, facts))

    def adopt(self, settings: Settings, change: Changed, now: float) -> list[Decision]:
        return self._later(partial(self._before.adopt, settings, change))

    def resize(self, model: str, bounds: ModelBounds, now: float) -> list[Decision]:
        return self._later(partial(self._before.resize, model, bounds))

    def loaded(self, backend: str, model: str, now: float) -> list[Decision]:
        return self._later(partial(self._before.loaded, backend, model))

    def failed(self, backend: str, model: str, why: str, now: float, *, late: bool = False) -> list[Decision]:
        return self._later(partial(self._before.failed, backend, model, why, late=late))

    def unheard(self, backend: str, model: str, now: float) -> list[Decision]:
        return self._later(partial(self._before.unheard, backend, model))

    def lost(self, backend: str, model: str, now: float) -> list[Decision]:
        return self._later(partial(self._before.lost, backend, model))

    def unload(self, model: str, now: float) -> list[Decision]:
        return self._later(partial(self._before.unload, model))

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
