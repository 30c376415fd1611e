"""The new process: gets what the old one has, and hosts what that still runs until it is gone."""

import asyncio
import logging
import os
import shutil
import socket
import time
from collections.abc import Callable
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
    Settled,
    State,
)
from hermes.handover.channel import Taken as TakenOver
from hermes.handover.leaving import TAKE_S, VERSION
from hermes.handover.reserved import Taken
from hermes.meter import Meter
from hermes.policy.limits import Moment
from hermes.policy.ticket import Admit, Expire, Phase, Reject, Ticket

log = logging.getLogger(__name__)

_GREETING_S = 10.0


class Taking:
    """`sockets`: by where the old one listens; `paths`: where what it passes on is to be listened for."""

    def __init__(self, channel: Channel, greeting: Greeting) -> None:
        self.sockets = {place: [socket.socket(fileno=fd) for fd in fds] for place, (fds, _) in greeting.places.items()}
        self.paths = {place: path for place, (_, path) in greeting.places.items()}
        self.files = greeting.files
        self.lock = greeting.lock
        self._channel = channel
        self._version = greeting.version
        self._state: asyncio.Future[State] = asyncio.get_running_loop().create_future()
        self._early: list[Message] = []
        self._guests: Guests | None = None
        channel.hear = self._hear
        given = [each.fileno() for sockets in self.sockets.values() for each in sockets]
        for fd in given if self.lock is None else (*given, self.lock):
            os.set_inheritable(fd, False)

    @classmethod
    async def meet(cls, fd: int) -> "Taking":
        """Who has started us. Raises ConfigError where that was nobody."""
        heard: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        try:
            end = socket.socket(fileno=fd)
            end.set_inheritable(False)
            channel = await Channel.on(end, heard.set_result)
            async with asyncio.timeout(_GREETING_S):
                greeting = await heard
        except (OSError, TimeoutError) as error:
            raise ConfigError(f"what is to be taken over cannot be reached: {error}") from error
        assert isinstance(greeting, Greeting)
        return cls(channel, greeting)

    async def state(self) -> State | None:
        """Say that all is ready, and wait for what is passed on. None: the old one is gone, and nothing is."""
        self._channel.tell(Ready())
        ended = asyncio.get_running_loop().create_task(self._channel.ended.wait(), name="predecessor")
        try:
            await asyncio.wait((self._state, ended), timeout=TAKE_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
        if self._state.done():
            return self._state.result()
        if not self._channel.ended.is_set():
            raise ConfigError("the process that is to be replaced does not answer")
        return None

    def take(self, state: State, admission: Admission, meter: Meter) -> None:
        """From now on it counts here."""
        taken = Taken(meter, state.limits, meter.limiter.modes) if self._version == VERSION else None
        self._guests = Guests(state, admission, taken, self._channel.tell)
        for message in self._early:
            self._guests.hear(message)

    async def host(self) -> None:
        """Tell that it is taken, and wait until the old one is gone."""
        self._channel.tell(TakenOver())
        await self._channel.ended.wait()
        if self._guests is not None:
            self._guests.close()
        for path in self.paths.values():
            shutil.rmtree(Path(path).parent, ignore_errors=True)
        log.info("the process before this one is gone")

    def _hear(self, message: Message) -> None:
        if isinstance(message, State):
            if not self._state.done():
                self._state.set_result(message)
        elif self._guests is None:
            self._early.append(message)
        else:
            self._guests.hear(message)


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
        for id, ticket in state.running:
            self._tickets[id] = ticket = replace(ticket, charged_tokens=0.0)
            admission.scheduler.resume(ticket, self._loop.time())
        for id, ticket in state.waiting:
            self._offer(id, ticket)

    def _offer(self, id: int, ticket: Ticket) -> None:
        ticket = self._tickets[id] = replace(ticket, phase=Phase.NEW, sequence=0, backend="", charged_tokens=0.0)
        self._admission.host(ticket, _Waiter(id, self))

    def decided(self, id: int, decision: Admit | Reject | Expire) -> None:
        ticket = decision.ticket
        self._admission.forget(ticket)
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
                del self._tickets[message.id]
                admission.done_with(ticket)
            case Left():
                self._leave(message.id, message.broken_off, message.failed)

    def _leave(self, id: int, broken_off: bool = False, failed: bool = False) -> None:
        ticket, now = self._tickets.pop(id), self._loop.time()
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
