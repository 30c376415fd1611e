"""The scheduler's asyncio shell: who waits, waits here; the scheduler decides, this wakes.

`async with admission.admit(ticket)` is the only way to a slot. Every exit, cancellation at any await included, reports
to the scheduler synchronously (invariant I2).
"""

import asyncio
from collections.abc import Awaitable
from types import TracebackType

from msgspec import Struct

from hermes.errors import Draining, GatewayError, NoBackend, QueueFull, QueueTimeout
from hermes.policy.scheduler import Admit, BackendFacts, Decision, Expire, Phase, Reject, Scheduler, Ticket


class Admission:
    def __init__(self, scheduler: Scheduler, loop: asyncio.AbstractEventLoop) -> None:
        self.scheduler = scheduler
        self._loop = loop
        self._waiters: dict[Ticket, asyncio.Future[Decision]] = {}
        self.done: asyncio.Future[None] = loop.create_future()  # for whoever need not wait
        self.done.set_result(None)
        self._timer: asyncio.Handle | None = None
        self._timer_at = 0.0  # what is due at once gets a handle from uvloop that has no `when`

    def admit(self, ticket: Ticket, *, again: bool = False) -> "Lease":
        """A slot for this ticket, to be used with `async with`. Raises QueueFull, QueueTimeout or NoBackend."""
        return Lease(self, ticket, again)

    def observe(self, facts: BackendFacts) -> None:
        self._apply(self.scheduler.observe(facts, self._loop.time()))

    def close(self) -> None:
        """Send away what waits and whatever comes: the process is about to end."""
        self._apply(self.scheduler.close())

    def leave(self, ticket: Ticket) -> None:
        """The ticket's holder is gone, in whatever phase it was."""
        if decisions := self.scheduler.cancel(ticket, self._loop.time()):
            self._apply(decisions)

    def offer(self, ticket: Ticket, again: bool) -> asyncio.Future[Decision] | None:
        """Ask for a slot. None: it is there; else what to wait for. Raises the refusal."""
        decisions = self.scheduler.offer(ticket, self._loop.time(), again=again)
        if ticket.phase is Phase.RUNNING and len(decisions) == 1:
            return None
        self._apply(decisions)
        if ticket.phase is Phase.RUNNING:
            return None
        for decision in decisions:
            if decision.ticket is ticket and not isinstance(decision, Admit):
                raise refusal(decision)
        self._waiters[ticket] = waiter = self._loop.create_future()
        self._arm()
        return waiter

    def forget(self, ticket: Ticket) -> None:
        """Nobody waits for this ticket any more."""
        self._waiters.pop(ticket, None)

    def _apply(self, decisions: list[Decision]) -> None:
        for decision in decisions:
            waiter = self._waiters.get(decision.ticket)
            if waiter is not None and not waiter.done():
                waiter.set_result(decision)
            # Otherwise its task has been cancelled and not yet resumed: `leave` gives the slot back when it does.

    def _arm(self) -> None:
        deadline = self.scheduler.next_deadline()
        if deadline is None or (self._timer is not None and self._timer_at <= deadline):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = self._loop.call_at(deadline, self._on_deadline), deadline

    def _on_deadline(self) -> None:
        self._timer = None
        self._apply(self.scheduler.expire(self._loop.time()))
        self._arm()


class Lease(Struct, frozen=True, eq=False):
    """A slot on `ticket.backend`, held while inside the block. `again`: as the scheduler has it."""

    admission: Admission
    ticket: Ticket
    again: bool

    # Neither is a coroutine of its own where there is nothing to wait for, as in nearly every case.
    def __aenter__(self) -> Awaitable[None]:
        try:
            waiter = self.admission.offer(self.ticket, self.again)
        except BaseException:
            self.admission.leave(self.ticket)
            raise
        return self.admission.done if waiter is None else self._wait(waiter)

    async def _wait(self, waiter: asyncio.Future[Decision]) -> None:
        try:
            if not isinstance(decision := await waiter, Admit):
                raise refusal(decision)
        except BaseException:
            self.admission.leave(self.ticket)
            raise
        finally:
            self.admission.forget(self.ticket)

    def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Awaitable[None]:
        self.admission.leave(self.ticket)
        return self.admission.done


def refusal(decision: Reject | Expire) -> GatewayError:
    """The error that tells the client of a decision against it."""
    model = decision.ticket.model
    if isinstance(decision, Expire):
        return QueueTimeout(f"the request for {model!r} waited in the queue until its deadline")
    if decision.reason == "draining":
        return Draining("this server is shutting down", retry_after_s=decision.retry_after_s)
    if decision.reason == "no_backend":
        return NoBackend(f"no backend can serve {model!r} now", retry_after_s=decision.retry_after_s)
    return QueueFull(f"the queue for {model!r} is full", retry_after_s=decision.retry_after_s)
