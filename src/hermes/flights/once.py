"""Idempotency keys (I30): whatever becomes of connections, a request that was answered once gets that answer again.

1. The record is written before the run begins, the answer before it is sent. What has failed has no outcome, and leaves
   no record: its key is as if it had not been used. What a crash has cut runs anew: an answer is no deed that must not
   be done twice, and who asks again wants it rather than be told for a day that it may have been on its way.
2. While it runs, another try takes the run over, and so does anybody once its first caller is gone: the run waits for
   him for `LINGER_S`. All others are told that the key is in use.
"""

import asyncio
from functools import partial
from hashlib import sha256

from hermes.attempt import LONG_BYTES
from hermes.errors import OnceInUse, OnceReused
from hermes.flights.asked import Asked
from hermes.flights.caller import Caller
from hermes.flights.flight import Flight
from hermes.flights.runs import Runs
from hermes.policy import cache
from hermes.policy.claim import Reuse
from hermes.router import Route
from hermes.storage.idempotency import Kept, Name, Records

# A backend is left within a second of the last caller (I9). The SDKs' first new try comes 0.375 to 0.5 s after the one
# before.
LINGER_S = 0.9


class Once:
    def __init__(self, runs: Runs, records: Records) -> None:
        self._runs = runs
        self._records = records
        self._flights: dict[Name, tuple[bytes, Flight]] = {}  # with the hash of what is asked

    async def answer(self, asked: Asked, route: Route, reuse: Reuse) -> None:
        name = Name(asked.principal.key_id, sha256(reuse.once).digest())
        said = await _digest(asked)
        caller = Caller(asked, route)
        while True:
            if name in self._flights:
                was_asked, flight = self._flights[name]
                _check(was_asked, said)
                if flight.is_left:
                    await asyncio.wait((flight.task,))
                    continue
                if flight.callers and not reuse.again:
                    raise OnceInUse("the request with this idempotency key is being answered", param="idempotency-key")
                asked.count(self._runs.gateway, route)
                await caller.be_served(flight)
                return
            record = await self._records.begin(name, said, asked.exchange.created_at)
            _check(record.asked, said)
            if record.kept is not None:
                asked.count(self._runs.gateway, route)
                usage = asked.exchange.usage
                asked.exchange.usage = type(usage)(record.kept.prompt_tokens, record.kept.completion_tokens)
                caller.send_again(record.kept.body)
                return
            if name not in self._flights:
                finish = partial(self._keep, caller, name, said)
                flight = self._runs.begin(asked, finish, partial(self._forget, name, said), LINGER_S)
                self._flights[name] = said, flight
                await caller.be_served(flight)
                return

    async def _keep(self, caller: Caller, name: Name, said: bytes, flight: Flight) -> None:
        assert flight.answer is not None
        usage, body = flight.answer.usage, await caller.render(flight.answer)
        kept = Kept(body, usage.prompt_tokens, usage.completion_tokens)
        await self._records.keep(name, said, kept, caller.exchange.created_at)
        flight.rendered = body

    def _forget(self, name: Name, said: bytes, flight: Flight) -> None:
        del self._flights[name]
        if not flight.rendered:
            self._records.drop(name, said)


def _check(was_asked: bytes, asked: bytes) -> None:
    if was_asked != asked:
        raise OnceReused("this idempotency key was used for another request", param="idempotency-key")


async def _digest(asked: Asked) -> bytes:
    """The same for the same request, in the same API."""
    what = asked.request, getattr(asked.request, "sampling", None), asked.request.model, type(asked.dialect).__name__
    if asked.size_bytes <= LONG_BYTES:
        return cache.digest(*what)
    return await asyncio.to_thread(cache.digest, *what)
