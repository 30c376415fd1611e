"""W3C Trace Context (https://www.w3.org/TR/trace-context/): what a request's trace is called, and how it goes on.

Hermes makes no spans, so it passes on what came as it came (3.3.1): whoever asked and the backend are in one trace.
"""

import re
from collections.abc import Mapping

_PARENT = b"traceparent"
_STATE = b"tracestate"
# 3.3.1.5: so much has to be passed on at least.
_MAX_STATE_BYTES = 512
# A version that is not known yet may say more behind these.
_is_parent = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[\x21-\x7e]{1,100})?"
).fullmatch
_ID_AT = len(_PARENT) + len(b": 00-")


def lines(headers: Mapping[bytes, bytes]) -> bytes:
    """The header lines that go on to the backend: of a trace that is none by the standard, none."""
    found = _is_parent(headers.get(_PARENT, b""))
    if found is None or (found[1] == b"00" and found[3] is not None):
        return b""
    state = headers.get(_STATE, b"")
    parent = b"%b: %b\r\n" % (_PARENT, found[0])
    return parent + b"%b: %b\r\n" % (_STATE, state) if 0 < len(state) <= _MAX_STATE_BYTES else parent


def trace_id(lines: bytes) -> str:
    """Of header lines that have those of a trace in them or not: its id, 32 hexadecimal digits, or nothing."""
    begin = lines.find(_PARENT)
    return lines[begin + _ID_AT : begin + _ID_AT + 32].decode("ascii") if begin >= 0 else ""
