"""Those who leave, and come again: SDKs close one try before they begin the next, which stands where that one stood.

A try that its client has given up without its connection telling so, and that still waits, makes way for the next.
"""

import asyncio

from hermes.attempt import LONG_BYTES
from hermes.chat import ChatRequest, EmbedRequest
from hermes.exchange import Exchange, Journal
from hermes.flights.asked import Asked
from hermes.policy import cache
from hermes.policy.places import Place, Places
from hermes.policy.ticket import Phase


class Retries:
    def __init__(self, journal: Journal, loop: asyncio.AbstractEventLoop) -> None:
        self._journal = journal
        self._loop = loop
        self.places = Places()

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

    async def place(self, asked: Asked) -> Place | None:
        """Where an earlier try of this stood, if that was lately."""
        if asked.size_bytes <= LONG_BYTES:
            digest = _digest(asked.request)
        else:
            digest = await asyncio.to_thread(_digest, asked.request)
        if (before := self._waiting(asked)) is not None and before.dismiss():
            await asyncio.sleep(0)  # it is told so in the next turn of the loop, and leaves its place
        return self.places.take(asked.exchange.key_id, digest, self._loop.time())

    def _waiting(self, asked: Asked) -> Exchange | None:
        """An earlier try that still waits."""
        for other in self._journal.exchanges:
            ticket = other.ticket
            if ticket is None or ticket.phase is not Phase.WAITING or ticket.size_bytes != asked.size_bytes:
                continue
            if other.key_id == asked.exchange.key_id and other.request == asked.request:
                return other
        return None


def _digest(request: ChatRequest | EmbedRequest) -> bytes:
    return cache.digest(request, getattr(request, "sampling", None), request.model, "")
