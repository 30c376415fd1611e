"""Server-sent events as our APIs write them: one line of JSON each, with a name or without (WHATWG HTML 9.2)."""

from hermes.dialects.ndjson import Lines
from hermes.errors import BackendError

CONTENT_TYPE = b"text/event-stream; charset=utf-8"

# For callers that prepare what surrounds an event's changing part once per stream.
OPEN = b"data: "
CLOSE = b"\n\n"

DONE = b"data: [DONE]\n\n"


def event(data: bytes) -> bytes:
    """One event. `data` is JSON, so it has no line end of its own."""
    return OPEN + data + CLOSE


def named(name: str, data: bytes) -> bytes:
    """One event with a name, which some clients go by."""
    return b"event: %b\n%b" % (name.encode(), event(data))


def comment(text: str) -> bytes:
    """Nothing to whoever parses events, and a sign of life to every timeout in between. `text` is one line."""
    return b": %b\n\n" % text.encode()


# --- reading ------------------------------------------------------------------------------------------------------

# What else an event may hold, and nobody reads.
_UNREAD = (b":", b"event:", b"id:", b"retry:")


class Events:
    """Bytes cut anywhere to the data of whole events, none longer than a limit (I13).

    A line that begins with a brace is data too: so a server answers that does not stream after all, above all errors.
    """

    __slots__ = ("_data", "_held_bytes", "_lines", "_max_event_bytes")

    def __init__(self, max_event_bytes: int) -> None:
        self._max_event_bytes = max_event_bytes
        self._lines = Lines(max_event_bytes)
        self._data: list[bytes] = []
        self._held_bytes = 0

    @property
    def between(self) -> bool:
        """Whether no event has begun that is not over."""
        return not (self._data or self._lines.held)

    def feed(self, chunk: bytes) -> list[bytes]:
        """Raises BackendError for an event that is too long, and for what is no event."""
        whole: list[bytes] = []
        for line in self._lines.feed(chunk):
            text = line[:-1] if line.endswith(b"\r") else line
            if text.startswith(b"data:"):
                self._hold(text[6:] if text.startswith(b"data: ") else text[5:])
            elif text.startswith(b"{"):
                self._hold(text)
            elif text and not text.startswith(_UNREAD):
                raise BackendError("the backend's answer is no stream of events")
            elif not text and self._data:
                whole.append(b"\n".join(self._data))
                self._data.clear()
                self._held_bytes = 0
        return whole

    def _hold(self, data: bytes) -> None:
        self._data.append(data)
        self._held_bytes += len(data) + 1
        if self._held_bytes > self._max_event_bytes:
            raise BackendError(f"the backend sent an event longer than {self._max_event_bytes} bytes")

    def finish(self) -> list[bytes]:
        """What was left unfinished: by the standard nothing, but servers forget the last line's end."""
        return self.feed(b"\n\n")
