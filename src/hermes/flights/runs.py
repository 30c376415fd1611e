"""The shared runs: how one is begun, and what is seen of them."""

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from itertools import chain
from typing import cast

from hermes.dialects import ClientDialect
from hermes.errors import GatewayError, Outcome, Unauthenticated
from hermes.exchange import Exchange
from hermes.flights.asked import Asked
from hermes.flights.flight import Flight
from hermes.flights.recorder import Recorder
from hermes.gateway import Gateway
from hermes.http.request import NO_HEAD
from hermes.http.response import Response
from hermes.journal import Journal
from hermes.policy.ticket import Phase

# What is to be done with an answer; it may wait.
Finish = Callable[[Flight], Awaitable[None]]
# What is to be forgotten of a run that is over.
Forget = Callable[[Flight], None]


class Runs:
    """`left` is told of each that nobody waits for any more."""

    def __init__(
        self, gateway: Gateway, journal: Journal, loop: asyncio.AbstractEventLoop, left: Callable[[Exchange], None]
    ) -> None:
        self.gateway = gateway
        self.loop = loop
        self.running: set[Flight] = set()
        self._journal = journal
        self._left = left
        self._recorders: dict[ClientDialect, Recorder] = {}

    def begin(self, asked: Asked, finish: Finish, forget: Forget, linger_s: float = 0.0) -> Flight:
        """A run of this request. If it may linger, nobody hears of its end before it is finished with."""
        of = asked.exchange
        if (recorder := self._recorders.get(asked.dialect)) is None:
            recorder = self._recorders[asked.dialect] = Recorder(asked.dialect)
        id = of.request_id if of.request_id not in recorder.runs else os.urandom(14).hex()
        run = Exchange(id, of.method, of.arrived_at, of.created_at, of.route, key_id=of.key_id, forwarded=of.forwarded)
        run.place = of.place
        if of.traced is not None:
            run.traced = of.traced.share()
        flight = recorder.runs[id] = Flight(run, self.loop, linger_s, holds_end=linger_s > 0)
        self.running.add(flight)
        self._journal.runs[run] = None
        flight.start(partial(self._run, asked, flight, recorder, finish, forget))
        return flight

    async def _run(self, asked: Asked, flight: Flight, recorder: Recorder, finish: Finish, forget: Forget) -> None:
        run = flight.exchange
        try:
            await asked.run(self.gateway, run, cast(ClientDialect, recorder), Response(flight, NO_HEAD))
            _settle(run)  # whatever becomes of the answer
            await finish(flight)
        except asyncio.CancelledError:
            run.outcome = Outcome.CLIENT_GONE
            self._left(run)
            raise
        except GatewayError as error:
            run.outcome = error.outcome
            raise
        finally:
            run.closed = True
            _settle(run)
            if run.traced is not None:
                run.traced.close(run)
            self.running.discard(flight)
            del recorder.runs[run.request_id], self._journal.runs[run]
            forget(flight)

    def send_away(self, keys: Collection[str]) -> None:
        """Those who wait for their turn by one of these keys, which are good no more. What runs goes on."""
        waiting = [exchange for exchange in self._journal.exchanges if _waits(exchange)]
        waiting += chain.from_iterable(flight.callers for flight in self.running if _waits(flight.exchange))
        for exchange in waiting:
            if exchange.key_id in keys:
                exchange.dismiss(Unauthenticated("this API key was revoked while the request waited"))

    async def close(self) -> None:
        """Nobody waits for what still runs."""
        for flight in tuple(self.running):
            flight.stop()
            with contextlib.suppress(asyncio.CancelledError):
                await flight.task


def _waits(exchange: Exchange) -> bool:
    return exchange.ticket is not None and exchange.ticket.phase is Phase.WAITING


def _settle(run: Exchange) -> None:
    if run.charge is not None:
        run.charge.close(run)
        run.charge = None
