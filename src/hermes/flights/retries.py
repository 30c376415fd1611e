"""Those who leave, and come again: SDKs close one try before they begin the next, which stands where that one stood.

A try that its client has given up without its connection telling so makes way for the next while it waits; when it
runs, the next gets its answer.
"""

import asyncio
from math import inf

from hermes.attempt import LONG_BYTES
from hermes.chat import Answer, ChatRequest, EmbedRequest
from hermes.exchange import Exchange
from hermes.flights.asked import Asked
from hermes.journal import Journal
from hermes.policy import cache
from hermes.policy.places import Places
from hermes.policy.ticket import Phase


class Retries:
    def __init__(self, journal: Journal, loop: asyncio.AbstractEventLoop) -> None:
        self._journal = journal
        self._loop = loop
        self.places = Places()
        self._awaited: set[Exchange] = set()

    def left(self, exchange: Exchange) -> None:
        """Its client has gone: remember where it stood."""
        ticket, request = exchange.ticket, exchange.request
        if ticket is None or request is None or (place := ticket.place) is None:
            return

        def leave(asked: bytes) -> None:
            self.places.leave(exchange.key_id, asked, place, self._loop.time())

        if ticket.size_bytes <= LONG_BYTES:
            leave(_digest(request))
        else:  # nobody comes again sooner than that takes (I36)
            self._loop.run_in_executor(None, _digest, request).add_done_callback(lambda done: leave(done.result()))

    async def come_again(self, asked: Asked, *, takes_over: bool) -> Answer | None:
        """Another try: it stands where the earlier one stood, if that was lately. The answer, if that one got it.

        `takes_over`: its client says that it is one, so that nobody else's is taken for it.
        """
        exchange = asked.exchange
        if asked.size_bytes <= LONG_BYTES:
            digest = _digest(asked.request)
        else:
            digest = await asyncio.to_thread(_digest, asked.request)
        before = self._still_there(asked) if takes_over else None
        if before is not None and (answer := await self._succeed(before, asked)):
            return answer
        exchange.place = self.places.take(exchange.key_id, digest, self._loop.time())
        return None

    async def _succeed(self, before: Exchange, asked: Asked) -> Answer | None:
        """Take over from an earlier try, whose client has probably gone."""
        if before.ticket is not None and before.ticket.phase is Phase.WAITING:
            before.dismiss()
            await asyncio.sleep(0)  # it is told so in the next turn of the loop, and leaves its place
        elif not asked.request.stream and before not in self._awaited:  # others wait where they are counted (I4)
            asked.exchange.cancel = asked.response.cancel
            before.over = before.over or asyncio.Event()
            self._awaited.add(before)
            try:
                # What it costs is spent. If it comes to nothing all the same, or too late, we run anew.
                async with asyncio.timeout_at(self._until(asked)):
                    await before.over.wait()
            except TimeoutError:
                return None
            finally:
                self._awaited.discard(before)
        return before.answer

    def _until(self, asked: Asked) -> float | None:
        """When its client expects an answer, if it tells."""
        within_s = min(asked.claim.within_s, asked.claim.whole_within_s)
        return asked.exchange.arrived_at + within_s if within_s < inf else None

    def _still_there(self, asked: Asked) -> Exchange | None:
        for other in self._journal.exchanges:
            ticket = other.ticket
            if ticket is None or other is asked.exchange or ticket.size_bytes != asked.size_bytes:
                continue
            if other.key_id == asked.exchange.key_id and other.request == asked.request:
                return other
        return None


def _digest(request: ChatRequest | EmbedRequest) -> bytes:
    return cache.digest(request, getattr(request, "sampling", None), request.model, "")
