"""The scheduler's asyncio shell: who waits, waits here; the scheduler decides, this wakes, and passes orders on.

`async with admission.admit(ticket)` is the only way to a slot. Every exit, cancellation at any await included, reports
to the scheduler synchronously (invariant I2).
"""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from types import TracebackType
from typing import Protocol

from msgspec import Struct

from hermes.errors import (
    BackendError,
    BackendTimeout,
    BackendUnreachable,
    DeadlineUnreachable,
    Draining,
    GatewayError,
    InsufficientMemory,
    LoadFailed,
    LoadNotBegun,
    ModelNotFound,
    Moved,
    NoBackend,
    QueueFull,
    QueueTimeout,
)
from hermes.policy.estimates import Outlook
from hermes.policy.scheduler import Scheduler
from hermes.policy.ticket import (
    Admit,
    BackendFacts,
    Changed,
    Decision,
    Expire,
    Load,
    Phase,
    Reject,
    Settings,
    Ticket,
    Unload,
)


class Admission:
    """`order` has a backend load or unload a model; `loaded` and `load_failed` then tell how it went."""

    def __init__(
        self, scheduler: Scheduler, loop: asyncio.AbstractEventLoop, order: Callable[[Load | Unload], None]
    ) -> None:
        self.scheduler = scheduler
        self._loop = loop
        self._order = order
        self._waiters: dict[Ticket, Waiter] = {}
        self.done: asyncio.Future[None] = loop.create_future()  # for whoever need not wait
        self.done.set_result(None)
        self._timer: asyncio.Handle | None = None
        self._timer_at = 0.0  # what is due at once gets a handle from uvloop that has no `when`

    def admit(self, ticket: Ticket, listener: "Listener | None" = None, *, again: bool = False) -> "Lease":
        """A slot for this ticket, to be used with `async with`. Raises what `refusal` tells."""
        return Lease(self, ticket, again, listener)

    def observe(self, facts: BackendFacts) -> None:
        self.apply(self.scheduler.observe(facts, self._loop.time()))

    def adopt(self, settings: Settings, change: Changed) -> None:
        """Other settings hold from now on."""
        self.apply(self.scheduler.adopt(settings, change, self._loop.time()))

    def loaded(self, backend: str, model: str) -> None:
        self.apply(self.scheduler.loaded(backend, model, self._loop.time()))

    def unload(self, model: str) -> None:
        """An operator wants a model gone."""
        self.apply(self.scheduler.unload(model, self._loop.time()))

    def load_failed(self, backend: str, model: str, error: GatewayError) -> None:
        now = self._loop.time()
        if isinstance(error, BackendUnreachable):
            self.apply(self.scheduler.unheard(backend, model, now))
        elif isinstance(error, ModelNotFound):
            self.apply(self.scheduler.lost(backend, model, now))
        else:
            late = isinstance(error, LoadNotBegun)
            self.apply(self.scheduler.failed(backend, model, error.message, now, late=late))

    def close(self) -> None:
        """Send away what waits and whatever comes: the process is about to end."""
        self.apply(self.scheduler.close())

    def done_with(self, ticket: Ticket) -> None:
        """It has run to its end."""
        decisions = self.scheduler.finish(ticket, self._loop.time())
        if decisions or self.scheduler.waiting:  # else there is nobody to wake, now or later
            self.apply(decisions)

    def leave(self, ticket: Ticket, error: BaseException | None = None) -> None:
        """The ticket's holder is gone, in whatever phase it was; `error`: what its run ended with."""
        broken_off = isinstance(error, asyncio.CancelledError | BackendTimeout)
        failed = isinstance(error, BackendError) and error.retryable
        self.apply(self.scheduler.cancel(ticket, self._loop.time(), broken_off=broken_off, failed=failed))

    def offer(self, ticket: Ticket, again: bool) -> asyncio.Future[Admit | Reject | Expire] | None:
        """Ask for a slot. None: it is there; else what to wait for. Raises the refusal."""
        told = ticket.told
        decisions = self.scheduler.offer(ticket, self._loop.time(), again=again)
        if ticket.phase is Phase.RUNNING and len(decisions) == 1:
            return None
        self.apply(decisions)
        if ticket.phase is Phase.RUNNING:
            return None
        for decision in decisions:
            if isinstance(decision, Reject | Expire) and decision.ticket is ticket:
                raise refusal(decision)
        ticket.why = ticket.why or self.scheduler.explain(ticket)
        if again or told is not None:  # what it was told when it came stands
            ticket.told = told
        waiter: asyncio.Future[Admit | Reject | Expire] = self._loop.create_future()
        self._waiters[ticket] = waiter
        self._arm()
        return waiter

    def host(self, ticket: Ticket, waiter: "Waiter") -> None:
        """Have a ticket wait whose holder is in another process; it has had its place in a queue there."""
        self._waiters[ticket] = waiter
        self.apply(self.scheduler.offer(ticket, self._loop.time(), again=True))

    def outlook(self, ticket: Ticket) -> Outlook:
        """When a ticket that waits will start, as things are now."""
        return self.scheduler.outlook(ticket, self._loop.time())

    def forget(self, ticket: Ticket) -> None:
        """Nobody waits for this ticket any more."""
        self._waiters.pop(ticket, None)

    def apply(self, decisions: list[Decision]) -> None:
        """Pass on what the scheduler has decided."""
        for decision in decisions:
            if isinstance(decision, Load | Unload):
                self._order(decision)
                continue
            waiter = self._waiters.get(decision.ticket)
            if waiter is not None and not waiter.done():
                waiter.set_result(decision)
            # Otherwise its task has been cancelled and not yet resumed: `leave` gives the slot back when it does.
        self._arm()

    def _arm(self) -> None:
        deadline = self.scheduler.next_deadline()
        if deadline is None or (self._timer is not None and self._timer_at <= deadline):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = self._loop.call_at(deadline, self._on_deadline), deadline

    def _on_deadline(self) -> None:
        self._timer = None
        self.apply(self.scheduler.expire(self._loop.time()))


class Waiter(Protocol):
    """Who is told, once, what was decided."""

    def done(self) -> bool: ...
    def set_result(self, decision: Admit | Reject | Expire, /) -> None: ...


class Listener(Protocol):
    """Who wants to hear how things stand, so often, while waiting."""

    @property
    def every_s(self) -> float: ...
    def tell(self, outlook: Outlook) -> None: ...


class Lease(Struct, frozen=True, eq=False):
    """A slot on `ticket.backend`, held while inside the block. `again`: as the scheduler has it."""

    admission: Admission
    ticket: Ticket
    again: bool
    listener: Listener | None

    # Neither is a coroutine of its own where there is nothing to wait for, as in nearly every case.
    def __aenter__(self) -> Awaitable[None]:
        try:
            waiter = self.admission.offer(self.ticket, self.again)
        except BaseException:
            self.admission.leave(self.ticket)
            raise
        return self.admission.done if waiter is None else self._wait(waiter)

    async def _wait(self, waiter: asyncio.Future[Admit | Reject | Expire]) -> None:
        since = monotonic()
        try:
            if self.listener is not None:
                await self._keep_telling(waiter, self.listener)
            if not isinstance(decision := await waiter, Admit):
                raise refusal(decision)
        except BaseException:
            self.admission.leave(self.ticket)
            raise
        finally:
            until = monotonic()
            self.ticket.waited_s += until - since
            self.ticket.waited = since, until
            self.admission.forget(self.ticket)

    async def _keep_telling(self, waiter: asyncio.Future[Admit | Reject | Expire], listener: Listener) -> None:
        while not (await asyncio.wait((waiter,), timeout=listener.every_s))[0]:
            listener.tell(self.admission.outlook(self.ticket))

    def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Awaitable[None]:
        if error is None:
            self.admission.done_with(self.ticket)
        else:
            self.admission.leave(self.ticket, error)
        return self.admission.done


def refusal(decision: Reject | Expire) -> GatewayError:
    """The error that tells the client of a decision against it."""
    model = decision.ticket.model
    if isinstance(decision, Expire):
        return QueueTimeout(f"the request for {model!r} waited in the queue until its time was over")
    if decision.reason == "model_lost":
        return ModelNotFound(f"no backend has the model {model!r} any more", param="model")
    kind, why = _REFUSALS[decision.reason]
    return kind(why.format(model=repr(model), why=decision.why), retry_after_s=decision.retry_after_s)


_REFUSALS: dict[str, tuple[type[GatewayError], str]] = {
    "draining": (Draining, "this server is shutting down"),
    "no_backend": (NoBackend, "no backend can serve {model} now"),
    "moved": (Moved, "where {model} is served has changed meanwhile: ask again"),
    "queue_full": (QueueFull, "the queue for {model} is full"),
    "deadline_unreachable": (DeadlineUnreachable, "the request for {model} could not be answered in time"),
    "insufficient_memory": (InsufficientMemory, "no backend has the memory for {model}"),
    "load_failed": (LoadFailed, "{model} could not be loaded: {why}"),
}
