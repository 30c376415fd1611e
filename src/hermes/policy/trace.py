"""W3C Trace Context (https://www.w3.org/TR/trace-context/): what a request's trace is called, and how it goes on.

Where no spans are made, what came goes on as it came (3.3.1): whoever asked and the backend are in one trace.
"""

import re
from collections.abc import Mapping

from msgspec import Struct

_PARENT = b"traceparent"
_STATE = b"tracestate"
_BEGIN = b"traceparent: "  # with the colon, which no hop's name can have in it
# 3.3.1.5: so much has to be passed on at least.
_MAX_STATE_BYTES = 512
# A version that is not known yet may say more behind these.
_is_parent = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[\x21-\x7e]{1,100})?"
).fullmatch
_ID_AT = len(_BEGIN) + len(b"00-")


def lines(headers: Mapping[bytes, bytes]) -> bytes:
    """The header lines that go on to the backend: of a trace that is none by the standard, none."""
    found = _is_parent(headers.get(_PARENT, b""))
    if found is None or (found[1] == b"00" and found[3] is not None):
        return b""
    state = headers.get(_STATE, b"")
    return _rendered(found[0], state if len(state) <= _MAX_STATE_BYTES else b"")


def _rendered(parent: bytes, state: bytes) -> bytes:
    line = b"%b%b\r\n" % (_BEGIN, parent)
    return line + b"%b: %b\r\n" % (_STATE, state) if state else line


def trace_id(lines: bytes) -> str:
    """Of header lines that have those of a trace in them or not: its id, 32 hexadecimal digits, or nothing."""
    begin = lines.find(_BEGIN)
    return lines[begin + _ID_AT : begin + _ID_AT + 32].decode("ascii") if begin >= 0 else ""


class Context(Struct, frozen=True):
    """A span, as its children name it. `state` came with it, and goes on with it; ids are hexadecimal digits."""

    trace_id: str
    span_id: str
    sampled: bool
    state: bytes = b""

    @property
    def lines(self) -> bytes:
        """The header lines by which a backend's spans become its children."""
        said = f"00-{self.trace_id}-{self.span_id}-{int(self.sampled):02x}".encode("ascii")
        return _rendered(said, self.state)


def context(lines: bytes) -> Context | None:
    """Whose child a request is, by the header lines that `lines` has made for it."""
    begin = lines.find(_BEGIN)
    if begin < 0:
        return None
    parent, _, rest = lines[begin:].partition(b"\r\n")
    _, trace_id, span_id, flags = parent.decode("ascii").split("-")[:4]
    state = rest.partition(b"\r\n")[0].removeprefix(_STATE + b": ")
    return Context(trace_id, span_id, bool(int(flags, 16) & 1), state)


def without(lines: bytes) -> bytes:
    """Header lines up to those of a trace."""
    return lines.partition(_BEGIN)[0]


def is_in_share(trace_id: str, share: float) -> bool:
    """Whether a trace that begins here is told of: the same for each that has to decide it by the same share.

    TraceIdRatioBased (OpenTelemetry, Tracing SDK): by the last 8 bytes of the id, which are as good as drawn.
    """
    return int(trace_id[16:], 16) < share * 2**64
