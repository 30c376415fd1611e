"""What an answer says, in whichever API: text or not, complete or not, how many tokens, how long it waited.

Lines of JSON and server-sent events are told apart by how they begin, so that one reader serves all.
"""

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from hermes.dialects.ndjson import Lines
from hermes.load.histogram import Histogram

_MAX_LINE_BYTES = 16 << 20
_MOST_WORDS = 500

# What no answer has, whatever its server tells.
_MOST_TOKENS, _MOST_WAIT_MS = 10**8, 10**9

# In a comment before the end of a stream that had begun while it waited.
_told_wait = re.compile(rb"queue-ms=(\d{1,10})(?!\d)").search


class _Said(Struct, gc=False):
    """A delta or a message."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    thinking: str | None = None
    tool_calls: list[Any] | None = None

    def is_something(self) -> bool:
        return bool(self.content or self.reasoning_content or self.reasoning or self.thinking or self.tool_calls)


class _Choice(Struct, gc=False):
    delta: _Said | None = None
    message: _Said | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Usage(Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Timings(Struct, gc=False):
    queue_ms: float | None = None


class _Told(Struct, gc=False):
    """An answer or a line of it: OpenAI's `choices`, Ollama's `message` and `response`, our `result` and `delta`."""

    choices: list[_Choice] | None = None
    message: _Said | None = None
    response: str | None = None
    thinking: str | None = None
    result: str | None = None
    delta: str | None = None
    reasoning: str | None = None
    done: bool = False
    error: Any = None
    usage: _Usage | None = None
    timings: _Timings | None = None
    eval_count: int | None = None
    prompt_eval_count: int | None = None


_decode = msgspec.json.Decoder(_Told).decode


class Reading:
    """One answer. Times are those at which its bytes came. `gaps`: takes the times between its pieces."""

    __slots__ = (
        "_gaps",
        "_lines",
        "complete",
        "error",
        "first_at",
        "last_at",
        "pieces",
        "retry_after_s",
        "tokens_in",
        "tokens_out",
        "wait_s",
    )

    def __init__(self, gaps: Histogram) -> None:
        self._gaps = gaps
        self._lines = Lines(_MAX_LINE_BYTES)
        self.first_at = self.last_at = 0.0
        self.pieces = self.tokens_in = self.tokens_out = 0
        self.wait_s: float | None = None
        self.retry_after_s = 0.0
        self.complete = False
        self.error = ""

    def take(self, data: bytes, now: float) -> None:
        """More of a stream. Raises BackendError, and ValueError for what is no answer."""
        for line in self._lines.feed(data):
            if line.startswith(b"data:"):
                line = line[5:].strip()
            elif line.startswith(b":"):
                self._note_wait(line)
                continue
            if line.startswith(b"{"):
                self._read(_decode(line), now)

    def take_whole(self, body: bytes, now: float) -> None:
        """Raises ValueError for what is no answer."""
        self._read(_decode(body), now)
        self.first_at = 0.0  # nothing of a whole answer comes first

    def told_wait(self, header: bytes) -> None:
        """What stood in the head of the answer, in milliseconds."""
        if len(header) <= 10 and header.isdigit():
            self._waited(int(header))

    def told_retry(self, headers: Mapping[bytes, bytes]) -> None:
        """When a server that refuses would be asked again, where it says that as a number."""
        for name, of_a_second in ((b"retry-after-ms", 1000), (b"retry-after", 1)):
            if (told := headers.get(name, b"")).isdigit():
                self.retry_after_s = int(told) / of_a_second
                return

    def _note_wait(self, comment: bytes) -> None:
        if found := _told_wait(comment):
            self._waited(int(found[1]))

    def _waited(self, wait_ms: float) -> None:
        if 0 <= wait_ms <= _MOST_WAIT_MS:
            self.wait_s = wait_ms / 1000

    def _read(self, told: _Told, now: float) -> None:
        if told.error is not None:
            self.error = kind_of(told.error)
        if self._has_text(told):
            self.pieces += 1
            if not self.first_at:
                self.first_at = now
            else:
                self._gaps.add(now - self.last_at)
            self.last_at = now
        if told.done or told.usage is not None:
            self._count(told)

    def _has_text(self, told: _Told) -> bool:
        if told.choices:
            choice = told.choices[0]
            if choice.finish_reason is not None:
                self.complete = True
            said = choice.delta or choice.message
            return said.is_something() if said is not None else bool(choice.text)
        if told.result is not None:
            self.complete = True
        if told.message is not None:
            return told.message.is_something()
        return bool(told.response or told.delta or told.result or told.reasoning or told.thinking)

    def _count(self, told: _Told) -> None:
        if told.done:
            self.complete = True
        if told.usage is not None:
            self.tokens_in = _tokens(told.usage.prompt_tokens)
            self.tokens_out = _tokens(told.usage.completion_tokens)
        else:
            self.tokens_in = _tokens(told.prompt_eval_count)
            self.tokens_out = _tokens(told.eval_count)
        if told.timings is not None and told.timings.queue_ms is not None:
            self._waited(told.timings.queue_ms)


def _tokens(told: int | None) -> int:
    """0 is as good as not told."""
    return told if told is not None and 0 < told <= _MOST_TOKENS else 0


def kind_of(error: Any) -> str:
    """A short name of an error that a server told, in whichever form: its code, else its type."""
    told = (error.get("code"), error.get("type")) if isinstance(error, dict) else ()
    names = (name for name in told if isinstance(name, str) and len(name) <= 60 and name.isprintable())
    return next(filter(None, names), "error")


def kind_of_refusal(status: int, body: bytes) -> str:
    """Such as `429 queue_full`; the status alone where the server says no more."""
    name = kind_of(_error(body))
    return f"{status} {name}" if name != "error" else str(status)


def words_of_refusal(body: bytes) -> str:
    """What it says to people; empty where it says nothing that we know how to read."""
    error = _error(body)
    said = (error.get(name) for name in ("message", "error", "detail"))
    return next((words[:_MOST_WORDS] for words in said if isinstance(words, str)), "")


def _error(body: bytes) -> dict[str, Any]:
    """The `error` of a body, or all of it where that is not in an envelope."""
    try:
        told = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(told, dict):
        return {}
    error = told.get("error")
    return error if isinstance(error, dict) else told
