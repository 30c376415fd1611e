"""OpenAI's responses, the stream: events by name, numbered, about items that begin and end one after the other.

1. First `created`, maybe as a sign of life while it waits, then `in_progress`, the items, and `completed` or
   `incomplete`, which holds all of them. A failure ends it with `failed`, and the item that was open never ends.
2. One item is open at a time, its index one above the last; every answer has at least one.
3. What a call says after another item has begun has no place any more: an error, not a silent loss.
4. The last event holds the whole answer, so all of it is kept here: no more than a whole one may be (I13).
5. A delta is spliced: what is the same for all deltas of an item is prepared once, when it begins.
"""

from typing import Any, assert_never

import msgspec

from hermes.chat import (
    ChatRequest,
    Failure,
    ReasoningDelta,
    Stop,
    StopReason,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from hermes.dialects import Meta, sse
from hermes.dialects.error_object import words
from hermes.dialects.responses_answer import ended, how_it_ended, response, unique
from hermes.dialects.responses_items import Events, Item, Text, Thoughts, call
from hermes.dialects.room import Room
from hermes.errors import BackendError, GatewayError

_json = msgspec.json.Encoder().encode

_END = b"}" + sse.CLOSE


def queued(meta: Meta) -> bytes:
    """A sign of life. The SDKs take nothing but `created` for a beginning."""
    kind = "queued" if meta.beats else "created"
    return _event(kind, meta.beats, {"response": response(meta, "queued")})


def _event(kind: str, number: int, told: dict[str, Any]) -> bytes:
    name = f"response.{kind}"
    return sse.named(name, _json({"type": name, "sequence_number": number, **told}))


class EventEncoder:
    """One stream, in which an item is open from the first content on."""

    def __init__(self, request: ChatRequest, meta: Meta) -> None:
        self._meta = meta
        self._tools = {tool.name: tool for tool in request.tools}
        self._opened = False
        self._number = meta.beats  # of the next event: each sign of life was one
        self._output: list[dict[str, Any]] = []  # what has ended
        self._item: Item | None = None  # what is open
        self._said: list[str] = []  # and has been said of it
        self._at: dict[str, Any] = {}  # where that is
        self._head = self._rest = b""  # before and after the number in its deltas, if it has any
        self._call = -1  # it is this one
        self._calls: set[int] = set()
        self._usage = Usage()
        self._room = Room()

    def encode(self, events: list[StreamEvent]) -> bytes:
        if not events:
            return b""
        opening = b"" if self._opened else self._open()
        return opening + b"".join([self._told_of(event) for event in events])

    def text(self, text: str) -> bytes:
        begun = b"" if type(self._item) is Text else self._begin(Text(self._unique()))
        return begun + self._more(text)

    def aside(self, text: str) -> bytes:
        return sse.comment(text)

    def fail(self, error: GatewayError) -> bytes:
        opening = b"" if self._number else self._open()
        told = {"code": error.code, "message": words(error), "param": error.param}
        failed = response(self._meta, "failed", self._output, error=told)
        return opening + self._event("failed", {"response": failed})

    def _open(self) -> bytes:
        self._opened = True
        begun = {"response": response(self._meta, "in_progress")}
        created = b"" if self._number else self._event("created", begun)
        return created + self._event("in_progress", begun)

    def _told_of(self, event: StreamEvent) -> bytes:
        match event:
            case TextDelta():
                return self._probable(event) if event.logprobs else self.text(event.text)
            case ReasoningDelta():
                return self._thought(event.text)
            case ToolCallDelta():
                return self._tool_call(event)
            case Usage():
                self._usage = event
                return b""
            case Stop():
                return self._stop(event.reason)
            case Failure():
                return self.fail(BackendError(event.message))
            case _:
                assert_never(event)

    def _probable(self, event: TextDelta) -> bytes:
        begun, item = b"", self._item
        if not isinstance(item, Text):
            item = Text(self._unique())
            begun = self._begin(item)
        item.said.append(event.text)
        item.logprobs += event.logprobs
        told = self._event(item.delta, {**self._at, "delta": event.text, "logprobs": event.logprobs})
        self._room.take(len(told))
        return begun + told

    def _thought(self, text: str) -> bytes:
        begun = b"" if type(self._item) is Thoughts else self._begin(Thoughts(self._unique()))
        return begun + self._more(text)

    def _tool_call(self, event: ToolCallDelta) -> bytes:
        begun = b""
        if event.index != self._call:
            if event.index in self._calls:
                raise BackendError("the backend went back to a tool call that had ended")
            begun = self._begin(call(self._unique(), event.id, event.name, self._tools))
            self._call = event.index
            self._calls.add(event.index)
        return begun + self._more(event.arguments)

    def _stop(self, reason: StopReason) -> bytes:
        begun = b"" if self._item is not None else self._begin(Text(self._unique()))
        status = how_it_ended(reason)
        done = self._end(status)
        return begun + done + self._event(status, {"response": ended(self._meta, reason, self._output, self._usage)})

    # --- items ------------------------------------------------------------------------------------------------------

    def _unique(self) -> str:
        """Of the item that begins next."""
        return unique(self._meta, len(self._output) + (self._item is not None))

    def _begin(self, item: Item) -> bytes:
        before = self._end("completed")
        index = len(self._output)
        self._item, self._said, self._call = item, item.said, -1
        self._at = {"item_id": item.id, "output_index": index, **item.within}
        self._head = b""
        if item.delta:
            name = f"response.{item.delta}"
            self._head = sse.named(name, _json({"type": name}))[: -len(_END)] + b',"sequence_number":'
            self._rest = b"," + _json({**self._at, **item.filling})[1:-1] + b',"delta":'
        added = self._event("output_item.added", {"output_index": index, "item": item.told("in_progress")})
        self._room.take(len(added))
        return before + added + self._all(item.opening())

    def _more(self, text: str) -> bytes:
        """A piece of the open item."""
        self._said.append(text)
        if not self._head:
            self._room.take(len(text))
            return b""
        number = self._number
        self._number = number + 1
        data = _json(text)
        self._room.take(len(data))
        return b"%b%d%b%b%b" % (self._head, number, self._rest, data, _END)

    def _end(self, status: str) -> bytes:
        """End the open item."""
        item = self._item
        if item is None:
            return b""
        closing = self._all(item.closing())
        done, index = item.told(status), len(self._output)
        self._output.append(done)
        self._item = None
        return closing + self._event("output_item.done", {"output_index": index, "item": done})

    def _all(self, events: Events) -> bytes:
        return b"".join([self._event(kind, self._at | told) for kind, told in events])

    def _event(self, kind: str, told: dict[str, Any]) -> bytes:
        number = self._number
        self._number = number + 1
        return _event(kind, number, told)
