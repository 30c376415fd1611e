"""What goes on, told as it happens: a look at everything once a second, shared by all who may see the same, and each
request as it ends. While nobody looks on nothing is done.

Everybody is told what he may see (`api/queue`). Who reads slowly misses looks and requests, and is told how many of
those: nothing is kept for him.
"""

import asyncio
from collections import Counter
from collections.abc import Callable

import msgspec
from msgspec import Struct

from hermes.api.hour import Hour
from hermes.api.ops import Ops
from hermes.api.queue import Queue
from hermes.api.routes import Call, content_line
from hermes.auth import Authenticator, Table
from hermes.dialects import sse
from hermes.errors import Draining, Overloaded
from hermes.http.response import Response
from hermes.journal import Journal
from hermes.principal import Principal
from hermes.record import Record

_json = msgspec.json.Encoder().encode

EVERY_S = 1.0
# Many requests that end together leave together.
GATHER_S = 0.2
GATHERED = 500
# Of those that nobody known asked, besides.
OF_STRANGERS = 100
LISTENERS = 32
# Of one key that is no operator's; and so many places are left to operators.
OF_ONE_KEY = 8
LISTED = 100
_HEAD = content_line(sse.CONTENT_TYPE) + b"cache-control: no-store\r\n"

Sight = tuple[bool, str, tuple[str, ...]]
"""What of a principal decides what he may see."""


class _Listener(Struct, eq=False):
    """`over` is set when he shall come again, with a key that is looked at anew."""

    response: Response
    principal: Principal
    table: Table
    over: asyncio.Future[None]
    missed: int = 0

    @property
    def sight(self) -> Sight:
        return self.principal.admin, self.principal.tenant, self.principal.models


class Live:
    def __init__(
        self,
        journal: Journal,
        hour: Hour,
        queue: Queue,
        ops: Ops,
        people: Authenticator,
        loop: asyncio.AbstractEventLoop,
        unix: Callable[[], float],
    ) -> None:
        self._journal = journal
        self._hour = hour
        self._queue = queue
        self._ops = ops
        self._people = people
        self._loop = loop
        self._unix = unix
        self._listeners: dict[_Listener, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._pause_s = EVERY_S
        self._due: list[Sight] = []  # those whose look is yet to come in this second
        self._states: dict[Sight, bytes] = {}  # as they were at the last look
        self._ended: list[Record] = []
        self._of_strangers = 0  # of these
        self._unheard: Counter[tuple[str, str]] = Counter()  # those that were too many, by user and model
        self._gathering: asyncio.TimerHandle | None = None
        self._closing = False

    async def events(self, call: Call) -> None:
        if self._closing:
            raise Draining("this server is shutting down", retry_after_s=1.0)
        if not self._has_room(call.principal):
            raise Overloaded("too many look on already", retry_after_s=10.0)
        call.response.start(200, _HEAD + call.exchange.id_line())
        if call.exchange.method != "HEAD":
            listener = _Listener(call.response, call.principal, self._people.table, self._loop.create_future())
            try:
                self._join(listener)
                await listener.over
            finally:
                self._leave(listener)
        call.response.end()

    def _has_room(self, principal: Principal) -> bool:
        """Nobody keeps others from looking on, and least of all operators."""
        if principal.admin:
            return len(self._listeners) < LISTENERS
        own = sum(each.principal.key_id == principal.key_id for each in self._listeners)
        return len(self._listeners) < LISTENERS - OF_ONE_KEY and own < OF_ONE_KEY

    def close(self) -> None:
        """Let all go, and nobody come: the process is about to end."""
        self._closing = True
        for listener in self._listeners:
            _let_go(listener)

    def _join(self, listener: _Listener) -> None:
        if not self._listeners:
            self._journal.sinks.append(self._hear)
            self._timer = self._loop.call_later(EVERY_S, self._look)
        self._listeners[listener] = None
        self._show(listener)

    def _leave(self, listener: _Listener) -> None:
        del self._listeners[listener]
        if not self._listeners:
            self._journal.sinks.remove(self._hear)
            for timer in filter(None, (self._timer, self._gathering)):
                timer.cancel()
            self._timer = self._gathering = None
            self._due.clear()
            self._states.clear()
            self._forget_ended()

    # --- looks ------------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """For one sight at a time, all of them within a second: others run in between (invariant I36)."""
        if not self._due:
            self._look_at_keys()
            self._states.clear()
            self._due = list({listener.sight: None for listener in self._listeners})
            self._pause_s = EVERY_S / len(self._due)
        self._timer = self._loop.call_later(self._pause_s, self._look)
        sight = self._due.pop()
        self._states.pop(sight, None)
        for listener in self._listeners:
            if listener.sight == sight and not (listener.over.done() or listener.response.paused):
                self._show(listener)

    def _look_at_keys(self) -> None:
        now = self._unix()
        for listener in self._listeners:
            expires_at = listener.principal.expires_at
            if listener.table is not self._people.table or (expires_at is not None and expires_at <= now):
                _let_go(listener)

    def _show(self, listener: _Listener) -> None:
        state = self._states.get(listener.sight)
        if state is None:
            state = self._states[listener.sight] = _event(b"state", self._state(listener.principal))
        listener.response.write(state)

    def _state(self, principal: Principal) -> dict[str, object]:
        told: dict[str, object] = {
            "at": round(self._unix(), 3),
            "you": {"user": principal.tenant, "admin": principal.admin},
            **self._ops.told(principal),
            "queue": self._queue.told(principal, LISTED),
        }
        if principal.admin:
            told["rates"] = self._hour.rates(principal)
        return told

    # --- requests ---------------------------------------------------------------------------------------------------

    def _hear(self, record: Record) -> None:
        strange = not record.key_id
        if self._of_strangers >= OF_STRANGERS if strange else len(self._ended) - self._of_strangers >= GATHERED:
            self._unheard[record.user, record.model] += 1
            return
        self._ended.append(record)
        self._of_strangers += strange
        if self._gathering is None:
            self._gathering = self._loop.call_later(GATHER_S, self._pass_on)

    def _pass_on(self) -> None:
        self._gathering = None
        events = [(record, _event(b"request", record)) for record in self._ended]
        passed: dict[Sight, tuple[int, int, bytes]] = {}
        may_see = self._queue.may_see
        for listener in self._listeners:
            known, who = passed.get(listener.sight), listener.principal
            if known is None:
                seen = [event for record, event in events if may_see(who, record.user, record.model)]
                unheard = sum(count for of, count in self._unheard.items() if may_see(who, *of))
                known = passed[listener.sight] = len(seen), unheard, b"".join(seen)
            count, unheard, told = known
            listener.missed += unheard
            if listener.response.paused:
                listener.missed += count
                continue
            if listener.missed:
                told += _event(b"missed", {"requests": listener.missed})
                listener.missed = 0
            listener.response.write(told)
        self._forget_ended()

    def _forget_ended(self) -> None:
        self._ended.clear()
        self._unheard.clear()
        self._of_strangers = 0


def _let_go(listener: _Listener) -> None:
    if not listener.over.done():
        listener.over.set_result(None)


def _event(name: bytes, told: object) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name, _json(told))
