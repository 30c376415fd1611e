"""The routes that ask a model for tokens."""

import asyncio
from collections.abc import Awaitable, Callable

from hermes.api.routes import Call
from hermes.chat import Image, RichMessage
from hermes.dialects import ChatRequest, ClientDialect, EmbedDialect, EmbedRequest, strict
from hermes.errors import BadRequest, RequestNotFound
from hermes.flights.asked import Asked
from hermes.flights.flights import Flights
from hermes.flights.repeats import SHORT_BYTES, named
from hermes.gateway import Gateway
from hermes.policy.routing import Service, check_model_name

# Above this, parsing could hold the event loop up for more than a few milliseconds (invariant I36).
THREAD_BYTES = 256 * 1024
# What each object and member of a JSON Schema takes besides: its share of a dict, its string's head.
_MARK_BYTES = 120
# As long as a thousand tokens of text: Anthropic has width by height / 750, at most 1,600; of models that run at home
# some take 256, some 3,000.
_IMAGE_BYTES = 4000

Idle = Callable[[Call, ChatRequest | EmbedRequest], Awaitable[None]]


class Inference:
    def __init__(
        self,
        gateway: Gateway,
        chat: EmbedDialect,
        completions: ClientDialect,
        responses: ClientDialect,
        prompt: ClientDialect,
        messages: ClientDialect,
        flights: Flights,
        *,
        alone: frozenset[str] | None = None,
    ) -> None:
        self._gateway = gateway
        self._flights = flights
        self.adopt(alone)
        self._chat = chat
        self._completions = completions
        self._responses = responses
        self._prompt = prompt
        self._messages = messages

    def adopt(self, alone: frozenset[str] | None) -> None:
        """Names of models without a cache; None: none has one. Who has nothing to do with others goes straight to the
        line.
        """
        self._alone = alone

    def chat_completions(self, call: Call) -> Awaitable[None]:
        return self.complete(call, self._chat, None)

    def completions(self, call: Call) -> Awaitable[None]:
        return self.complete(call, self._completions, None)

    def responses(self, call: Call) -> Awaitable[None]:
        return self.complete(call, self._responses, None)

    async def no_response(self, call: Call) -> None:
        """Nobody ever gets one again."""
        words = f"there is no response {call.named[:200] if call.named else ''!r}: none is kept here"
        raise RequestNotFound(words, code="response_not_found", param="response_id")

    def embeddings(self, call: Call) -> Awaitable[None]:
        return self.embed(call, self._chat)

    def prompt(self, call: Call) -> Awaitable[None]:
        return self.complete(call, self._prompt, _named_model(call))

    def messages(self, call: Call) -> Awaitable[None]:
        return self.complete(call, self._messages, None)

    async def count_tokens(self, call: Call) -> None:
        """An estimate: backends count only what they are asked to read."""
        body, parse = call.request.take_body(), self._messages.parse_request
        request = parse(body) if len(body) <= THREAD_BYTES else await asyncio.to_thread(parse, body)
        tokens = self._gateway.router.prompt_tokens(call.principal, request.model, _prompt_bytes(request, body))
        call.reply(b'{"input_tokens":%d}' % tokens)

    def complete(
        self, call: Call, dialect: ClientDialect, model: str | None, idle: Idle | None = None
    ) -> Awaitable[None]:
        """`idle` answers what asks for nothing but the model, in a dialect that has such requests."""
        # What waits in the queue holds the parsed request alone, and no coroutine more than it must.
        body = call.request.take_body()
        length = len(body)
        if length > THREAD_BYTES:
            return self._complete_large(call, dialect, body, model, idle)
        if length in self._flights.repeats.lengths:
            name, who = named(dialect, model, body), (call.exchange, call.principal, dialect, call.response, call.claim)
            if (answering := self._flights.answer_unread(name, *who)) is not None:
                return answering
        return self._complete_parsed(call, dialect, dialect.parse_request(body, model), body, model, idle)

    async def embed(self, call: Call, dialect: EmbedDialect, idle: Idle | None = None) -> None:
        body = call.request.take_body()
        size = len(body)
        parse = dialect.parse_embed
        request = await asyncio.to_thread(parse, body) if size > THREAD_BYTES else parse(body)
        del body
        if idle is not None and not request.texts:
            await idle(call, request)
            return
        who, claim = (call.exchange, call.principal, dialect, request, call.response, size), call.claim
        if (self._alone is not None and request.model not in self._alone) or claim.reuse is not None:
            await self._flights.answer(Asked(*who, size, claim))
        else:
            await self._gateway.embed(*who, claim)

    async def _complete_large(
        self, call: Call, dialect: ClientDialect, body: bytes, model: str | None, idle: Idle | None
    ) -> None:
        request = await asyncio.to_thread(dialect.parse_request, body, model)
        answering = self._complete_parsed(call, dialect, request, body, model, idle)
        del request, body
        await answering

    def count(self, call: Call, dialect: ClientDialect, service: Service) -> None:
        """It is a request as one for one token would be, of which none comes. Raises RateLimited."""
        self._gateway.count(call.exchange, call.principal, service, dialect, room=1)

    def _complete_parsed(
        self,
        call: Call,
        dialect: ClientDialect,
        request: ChatRequest,
        body: bytes,
        model: str | None,
        idle: Idle | None,
    ) -> Awaitable[None]:
        if idle is not None and not request.messages:
            return idle(call, request)
        size, length, claim = _size_bytes(request, body), _prompt_bytes(request, body), call.claim
        asked = call.exchange, call.principal, dialect, request, call.response, size, length, claim
        if (self._alone is not None and request.model not in self._alone) or claim.reuse is not None:
            plain = claim.reuse is None and len(body) <= SHORT_BYTES
            return self._flights.answer(Asked(*asked, named(dialect, model, body) if plain else None))
        return self._gateway.complete(*asked)


def _size_bytes(request: ChatRequest, body: bytes) -> int:
    """About what a request takes in memory while it waits (invariant I4). Texts are little more than their bytes."""
    return len(body) + _MARK_BYTES * strict.marks(body) if request.tools or request.json_format else len(body)


def _prompt_bytes(request: ChatRequest, body: bytes) -> int:
    """About how long its prompt is."""
    if RichMessage not in map(type, request.messages):
        return len(body)
    rich = (message for message in request.messages if type(message) is RichMessage)
    images = [part for message in rich for part in message.parts if type(part) is Image]
    return len(body) - sum(len(image.data) - _IMAGE_BYTES for image in images)


def _named_model(call: Call) -> str | None:
    """The model as the path, the x-model header or the query names it. Raises BadRequest if they differ."""
    named = {call.model} if call.model else set()
    if header := call.request.header(b"x-model"):
        named.add(header)
    named.update(call.request.head.query_values("model"))
    if len(named) > 1:
        raise BadRequest("path, x-model header and query name different models", param="model")
    return check_model_name(named.pop()) if named else None
