"""What was asked and answered, as the conventions for generative AI have it; only where somebody asked for that (I27).

https://github.com/open-telemetry/semantic-conventions/tree/v1.41.1/docs/gen-ai, gen-ai-*-messages.json
"""

from collections.abc import Iterable
from typing import Any

import msgspec

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
    collect,
)
from hermes.dialects import ClientDialect, Encoder, Meta

# Of each of the three attributes: characters. Collectors take some MiB in one piece, of some hundred spans.
MAX_CONTENT = 16 * 1024

# In the conventions' words, where those are others.
_REASONS = {"tool_calls": "tool_call"}

Parts = list[dict[str, Any]]


class Heard:
    """What a backend has said: why it stopped and, where it `keeps` that, all the rest."""

    def __init__(self, keeps: bool) -> None:
        self.keeps = keeps
        self.reason = ""
        self._answer: Answer | None = None
        self._events: list[StreamEvent] = []
        self._room = MAX_CONTENT

    def hear(self, events: Iterable[StreamEvent]) -> None:
        for event in events:
            if type(event) is Stop:
                self.reason = _REASONS.get(event.reason, event.reason)
            elif self.keeps and self._room > 0 and isinstance(event, TextDelta | ReasoningDelta | ToolCallDelta):
                self._events.append(event)
                self._room -= len(event.name + event.arguments if isinstance(event, ToolCallDelta) else event.text) or 1

    def hear_whole(self, answer: Answer) -> None:
        self.reason = _REASONS.get(answer.reason, answer.reason)
        if self.keeps:
            self._answer = answer

    def told(self) -> Parts:
        """The one message of it; none: nothing was said."""
        answer = self._answer or collect((*self._events, Stop("stop")))
        assert isinstance(answer, Answer)
        parts = _Room().parts_of(answer.reasoning, (Text(answer.text),), answer.tool_calls)
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
    messages = list(request.messages)
    instructions: Parts = []
    room = _Room()
    while messages and messages[0].role == "system":
        first = messages.pop(0)
        texts = (Text(first.content),) if isinstance(first, Message) else first.parts
        instructions += room.parts_of("", texts, ())
    room = _Room()
    told = [{"role": message.role, "parts": room.parts(message)} for message in reversed(messages)]
    return instructions, [message for message in reversed(told) if message["parts"]]


class _Room:
    """For one attribute: what does not fit is cut."""

    def __init__(self) -> None:
        self.left = MAX_CONTENT

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
            return [{"type": "tool_call_response", "id": message.tool_call_id, "response": told}] if told else []
        return self.parts_of(message.reasoning, message.parts, message.tool_calls)

    def parts_of(self, reasoning: str, parts: Iterable[Any], calls: Iterable[ToolCall]) -> Parts:
        """An image is told as one, without its bytes."""
        found: Parts = []
        if reasoning and (told := self.cut(reasoning)):
            found.append({"type": "reasoning", "content": told})
        for part in parts:
            if not isinstance(part, Text):
                found.append({"type": "blob", "mime_type": part.media_type, "modality": "image", "content": ""})
            elif told := self.cut(part.text):
                found.append({"type": "text", "content": told})
        for call in calls:
            if self.left > 0:
                arguments = self.cut(call.arguments)
                found.append({"type": "tool_call", "id": call.id, "name": call.name, "arguments": arguments})
        return found


def _json(told: Parts) -> str:
    return msgspec.json.encode(told).decode()
