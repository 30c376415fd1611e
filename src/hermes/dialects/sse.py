"""Server-sent events as the OpenAI API writes them: `data` fields only, one line of JSON each (WHATWG HTML 9.2)."""

CONTENT_TYPE = b"text/event-stream; charset=utf-8"

# For callers that prepare what surrounds an event's changing part once per stream.
OPEN = b"data: "
CLOSE = b"\n\n"

DONE = b"data: [DONE]\n\n"


def event(data: bytes) -> bytes:
    """One event. `data` is JSON, so it has no line end of its own."""
    return OPEN + data + CLOSE


def comment(text: str) -> bytes:
    """Nothing to whoever parses events, and a sign of life to every timeout in between. `text` is one line."""
    return b": %b\n\n" % text.encode()
