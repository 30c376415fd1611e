"""What was asked and answered, as the conventions for generative AI have it; only where somebody asked for that (I27).

https://github.com/open-telemetry/semantic-conventions/tree/v1.41.1/docs/gen-ai, gen-ai-*-messages.json
"""

from collections.abc import Iterable, Iterator
from itertools import islice, takewhile
from typing import Any

import msgspec
from msgspec.structs import replace

from hermes.chat import (
    Answer,
    ChatRequest,
    Message,
    ReasoningDelta,
    RichMessage,
    Stop,
    StreamEvent,
    Text,
    TextDelta,
    ToolCall,
    ToolCallDelta,
)
from hermes.dialects import ClientDialect, Encoder, Meta

# Of each of the three attributes: characters. Collectors take some MiB in one piece, of some hundred spans.
MAX_CONTENT = 16 * 1024
# And what they may be in: of hundreds of thousands all else would wait (invariant I36).
MOST_PARTS = 256

# In the conventions' words, where those are others.
_REASONS = {"tool_calls": "tool_call"}

Parts = list[dict[str, Any]]


class Heard:
    """What a backend has said: why it stopped and, where it `keeps` that, all the rest."""

    def __init__(self, keeps: bool) -> None:
        self.keeps = keeps
        self.reason = ""
        # Added up at once: in pieces of a token each it would take 20 times as much.
        self._text = self._reasoning = ""
        self._calls: dict[int, ToolCall] = {}
        self._room = MAX_CONTENT

    def hear(self, events: Iterable[StreamEvent]) -> None:
        for event in events:
            if type(event) is Stop:
                self.reason = _REASONS.get(event.reason, event.reason)
            elif self.keeps and self._room > 0:
                self._keep(event)

    def _keep(self, event: StreamEvent) -> None:
        room = self._room
        if isinstance(event, TextDelta):
            self._text += event.text[:room]
            self._room -= len(event.text)
        elif isinstance(event, ReasoningDelta):
            self._reasoning += event.text[:room]
            self._room -= len(event.text)
        elif isinstance(event, ToolCallDelta):
            call = self._calls.get(event.index) or ToolCall(event.id, event.name, "")
            self._calls[event.index] = replace(call, arguments=call.arguments + event.arguments[:room])
            self._room -= len(event.id + event.name + event.arguments) or 1

    def hear_whole(self, answer: Answer) -> None:
        self.reason = _REASONS.get(answer.reason, answer.reason)
        if self.keeps:
            self._text, self._reasoning = answer.text, answer.reasoning
            self._calls = dict(enumerate(answer.tool_calls))

    def told(self) -> Parts:
        """The one message of it; none: nothing was said."""
        parts = _Room().parts_of(self._reasoning, (Text(self._text),), self._calls.values())
        return [{"role": "assistant", "parts": parts, "finish_reason": self.reason or "error"}] if parts else []


class Listening:
    """A client's dialect, and somebody who hears what is rendered in it."""

    def __init__(self, dialect: ClientDialect, heard: Heard) -> None:
        self._dialect = dialect
        self._heard = heard

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dialect, name)

    def encoder(self, request: ChatRequest, meta: Meta) -> "_Ear":
        return _Ear(self._dialect.encoder(request, meta), self._heard)

    def render_answer(self, answer: Answer, request: ChatRequest, meta: Meta) -> bytes:
        self._heard.hear_whole(answer)
        return self._dialect.render_answer(answer, request, meta)


class _Ear:
    """An encoder that hears. Plain text, which most of a stream is, goes past it unless it is kept."""

    def __init__(self, encoder: Encoder, heard: Heard) -> None:
        self._encoder = encoder
        self._heard = heard
        self.text = self._text if heard.keeps else encoder.text
        self.aside = encoder.aside
        self.fail = encoder.fail

    def encode(self, events: list[StreamEvent]) -> bytes:
        self._heard.hear(events)
        return self._encoder.encode(events)

    def _text(self, text: str) -> bytes:
        self._heard.hear((TextDelta(text),))
        return self._encoder.text(text)


def told(request: ChatRequest, heard: Heard) -> dict[str, str]:
    """The attributes that have it: what is there of them."""
    instructions, messages = _asked(request)
    found = {
        "gen_ai.system_instructions": instructions,
        "gen_ai.input.messages": messages,
        "gen_ai.output.messages": heard.told(),
    }
    return {name: _json(value) for name, value in found.items() if value}


def _asked(request: ChatRequest) -> tuple[Parts, Parts]:
    """The system's messages that come first, and all others: of a conversation that is too long the end."""
    messages = request.messages
    first = list(takewhile(lambda message: message.role == "system", messages))
    instructions: Parts = []
    room = _Room()
    for message in first[:MOST_PARTS]:
        texts = (Text(message.content),) if isinstance(message, Message) else message.parts
        instructions += room.parts_of("", texts, ())
    room = _Room()
    last = messages[len(first) :][-MOST_PARTS:]
    told = [{"role": message.role, "parts": room.parts(message)} for message in reversed(last)]
    return instructions, [message for message in reversed(told) if message["parts"]]


class _Room:
    """For one attribute: what does not fit is cut."""

    def __init__(self) -> None:
        self.left = MAX_CONTENT
        self._parts = MOST_PARTS

    def cut(self, text: str) -> str:
        cut = text[: max(self.left, 0)]
        self.left -= len(text)
        return cut

    def parts(self, message: Message | RichMessage) -> Parts:
        if isinstance(message, Message):
            return self.parts_of("", (Text(message.content),), ())
        if message.role == "tool":
            texts = "".join(part.text for part in message.parts if isinstance(part, Text))
            told = self.cut(texts)
            id = self.cut(message.tool_call_id)
            return [{"type": "tool_call_response", "id": id, "response": told}] if told else []
        return self.parts_of(message.reasoning, message.parts, message.tool_calls)

    def parts_of(self, reasoning: str, parts: Iterable[Any], calls: Iterable[ToolCall]) -> Parts:
        found = list(islice(self._told(reasoning, parts, calls), self._parts))
        self._parts -= len(found)
        return found

    def _told(self, reasoning: str, parts: Iterable[Any], calls: Iterable[ToolCall]) -> Iterator[dict[str, Any]]:
        """An image is told as one, without its bytes."""
        if reasoning and (told := self.cut(reasoning)):
            yield {"type": "reasoning", "content": told}
        for part in parts:
            if not isinstance(part, Text):
                yield {"type": "blob", "mime_type": part.media_type, "modality": "image", "content": ""}
            elif told := self.cut(part.text):
                yield {"type": "text", "content": told}
        for call in calls:
            if self.left > 0:
                id, name = self.cut(call.id), self.cut(call.name)
                yield {"type": "tool_call", "id": id, "name": name, "arguments": self.cut(call.arguments)}


def _json(told: Parts) -> str:
    return msgspec.json.encode(told).decode()
