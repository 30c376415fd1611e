"""The new process: gets what the old one has, and hosts what that still runs until it is gone."""

import asyncio
import logging
import os
import shutil
import socket
import time
from collections.abc import Callable, Collection
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from hermes.admission import Admission
from hermes.errors import ConfigError
from hermes.handover.channel import (
    Admitted,
    Begun,
    Channel,
    Charged,
    Finished,
    Greeting,
    Left,
    Message,
    Offered,
    Ready,
    Refused,
    Revoked,
    Settled,
    State,
)
from hermes.handover.channel import Taken as TakenOver
from hermes.handover.leaving import VERSION
from hermes.handover.reserved import Taken
from hermes.meter import Meter
from hermes.policy.limits import Moment
from hermes.policy.ticket import Admit, Expire, Phase, Reject, Ticket

log = logging.getLogger(__name__)

# For each word of the old one's, which may be busy.
_PATIENCE_S = 10.0


class Taking:
    """`sockets`: by where the old one listens; `paths`: where what it passes on is to be listened for. Once `stop` is
    set nothing is taken over any more.
    """

    def __init__(self, channel: Channel, greeting: Greeting, stop: asyncio.Event) -> None:
        self.sockets = {place: [socket.socket(fileno=fd) for fd in fds] for place, (fds, _) in greeting.places.items()}
        self.paths = {place: path for place, (_, path) in greeting.places.items()}
        self.files = greeting.files
        self.is_alike = greeting.version == VERSION
        self._lock, self._folder = greeting.lock, greeting.folder
        self._channel = channel
        self._stop = stop
        self._guests: Guests | None = None
        given = [each.fileno() for sockets in self.sockets.values() for each in sockets]
        for fd in given if self._lock is None else (*given, self._lock):
            os.set_inheritable(fd, False)

    @classmethod
    def meet(cls, fd: int, stop: asyncio.Event) -> "Taking":
        """Who has started us. Raises ConfigError where that was nobody."""
        try:
            channel = Channel(socket.socket(fileno=fd))
            greeting = channel.receive(_PATIENCE_S)
        except OSError as error:
            raise ConfigError(f"what is to be taken over cannot be reached: {error}") from error
        assert isinstance(greeting, Greeting)
        return cls(channel, greeting, stop)

    def lock_of(self, folder: Path | None) -> int | None:
        """What locks this folder; that of another is let go of."""
        lock, self._lock = self._lock, None
        if lock is not None and str(folder) != self._folder:
            os.close(lock)
            return None
        return lock

    async def state(self) -> State | None:
        """Say that all is ready, and wait for what is passed on. None: the old one is gone, and nothing is.

        Raises ConfigError where that says nothing, or we are to stop.
        """
        if self._stop.is_set():
            raise ConfigError("told to stop before anything was taken over")
        try:
            self._channel.send(Ready(), _PATIENCE_S)
            async with asyncio.timeout(_PATIENCE_S):
                await self._channel.readable()
            state = self._channel.receive(_PATIENCE_S)
        except ConnectionError:
            self._channel.close()
            return None
        except OSError as error:
            raise ConfigError(f"what is to be taken over is not told: {error}") from error
        assert isinstance(state, State)
        return state

    def take(self, state: State, admission: Admission, meter: Meter) -> None:
        """From now on it counts here. Tells that it is taken, when nothing can fail any more."""
        taken = Taken(meter, state.limits, meter.limiter.modes) if self.is_alike else None
        self._guests = Guests(state, admission, taken, self._channel.tell)
        self._channel.tell(TakenOver())

    async def settled(self) -> None:
        """Wait until the old one has heard it, or is gone. Where it has not, in time, it ends us."""
        assert self._guests is not None
        await self._channel.readable()
        try:
            self._channel.receive(_PATIENCE_S)
        except ConnectionError:
            self._channel.close()
        else:
            self._channel.listen(self._guests.hear)

    async def host(self) -> None:
        """Wait until the old one is gone."""
        await self._channel.ended.wait()
        if self._guests is not None:
            self._guests.close()
        for path in self.paths.values():
            shutil.rmtree(Path(path).parent, ignore_errors=True)
        log.info("the process before this one is gone")

    async def empty(self) -> None:
        """Wait until it runs nothing any more."""
        if self._guests is not None:
            await self._guests.none.wait()

    def send_away(self, keys: Collection[str]) -> None:
        if self._guests is not None:
            self._channel.tell(Revoked(list(keys)))


class Guests:
    """What the old process runs and has wait, as tickets of ours."""

    def __init__(
        self, state: State, admission: Admission, taken: Taken | None, tell: Callable[[Message], None]
    ) -> None:
        self._admission = admission
        self._taken = taken
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._tickets: dict[int, Ticket] = {}
        self.none = asyncio.Event()  # set while there are none
        self.none.set()
        for id, ticket in state.running:
            ticket = self._enter(id, replace(ticket, charged_tokens=0.0))
            admission.scheduler.resume(ticket, self._loop.time())
        for id, ticket in state.waiting:
            self._offer(id, ticket)

    def _offer(self, id: int, ticket: Ticket) -> None:
        ticket = replace(ticket, phase=Phase.NEW, sequence=0, backend="", charged_tokens=0.0)
        self._enter(id, ticket)
        self._admission.host(ticket, _Waiter(id, self))

    def _enter(self, id: int, ticket: Ticket) -> Ticket:
        self._tickets[id] = ticket
        self.none.clear()
        return ticket

    def _exit(self, id: int) -> Ticket:
        ticket = self._tickets.pop(id)
        if not self._tickets:
            self.none.set()
        return ticket

    def decided(self, id: int, decision: Admit | Reject | Expire) -> None:
        ticket = decision.ticket
        self._admission.forget(ticket)
        if not isinstance(decision, Admit):
            self._exit(id)
        match decision:
            case Admit():
                told: Message = Admitted(id, ticket.backend, ticket.started_at, ticket.found, ticket.load_s)
            case Reject():
                told = Refused(id, decision.reason, decision.retry_after_s, decision.why)
            case Expire():
                told = Refused(id)
        self._tell(told)

    def hear(self, message: Message) -> None:
        admission, now = self._admission, self._loop.time()
        if isinstance(message, Charged):
            if self._taken is not None:
                self._taken.settle(message.number, message.tokens, _moment(now))
            return
        if isinstance(message, Offered):
            self._offer(message.id, message.ticket)
            return
        assert isinstance(message, Begun | Settled | Finished | Left)
        if (ticket := self._tickets.get(message.id)) is None:
            return
        match message:
            case Begun():
                admission.scheduler.begun(ticket, message.when)
            case Settled():
                admission.scheduler.settle(ticket, message.prompt_tokens, message.output_tokens)
            case Finished():
                self._exit(message.id)
                admission.done_with(ticket)
            case Left():
                self._leave(message.id, message.broken_off, message.failed)

    def _leave(self, id: int, broken_off: bool = False, failed: bool = False) -> None:
        ticket, now = self._exit(id), self._loop.time()
        self._admission.forget(ticket)
        self._admission.apply(self._admission.scheduler.cancel(ticket, now, broken_off=broken_off, failed=failed))

    def close(self) -> None:
        """Nothing of it runs any more, or waits."""
        for id in list(self._tickets):
            self._leave(id, broken_off=True)
        if self._taken is not None:
            self._taken.close(_moment(self._loop.time()))


class _Waiter(Struct, frozen=True, eq=False):
    id: int
    guests: Guests

    def done(self) -> bool:
        return False

    def set_result(self, decision: Admit | Reject | Expire, /) -> None:
        self.guests.decided(self.id, decision)


def _moment(now: float) -> Moment:
    return Moment(now, time.time())  # noqa: TID251 - budgets are of days of the calendar (I35)
