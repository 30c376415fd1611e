"""The heads of requests that were accepted before: where their bytes come again, what they mean is known.

A client sends the same head again and again, but for the length of its body. What is remembered is what llhttp and
`Arrival` have accepted twice, by its bytes without the digits of that length. Credentials are among them, until so many
other heads have come and the connections that brought them are closed: 2 MiB, and one head for each connection. Never
remembered is a long head, nor one that means more than a body of so many bytes.
"""

import re
from typing import TypeVar

from hermes.http.request import Head

K = TypeVar("K")
V = TypeVar("V")

# Enough for every kind of client at once. Whoever sends others on purpose only makes us read them.
COUNT = 256
BYTES = 4096

_LENGTH = re.compile(rb"\r\ncontent-length: ?([0-9]{1,15})\r\n", re.IGNORECASE).search
_ANY_LENGTH = re.compile(rb"\ncontent-length", re.IGNORECASE).search


class Known:
    """A head by its bytes, `before` and `after` the digits of its length; all `before`: it has no length."""

    __slots__ = ("after", "before", "head")

    def __init__(self, head: Head, before: bytes, after: bytes) -> None:
        self.head = head
        self.before = before
        self.after = after

    def split(self, data: bytes) -> tuple[Head, int, int] | None:
        """The head, the length of the body, and where that begins, if `data` begins with this head."""
        before, after = self.before, self.after
        digits_at = len(before)
        if data[:digits_at] != before:  # half of what `startswith` costs, which takes its arguments slowly
            return None
        if not after:
            return self.head, 0, digits_at
        end = data.find(b"\r", digits_at, digits_at + 16)
        digits, body_at = data[digits_at:end], end + len(after)
        if end < 0 or not digits.isdigit() or data[end:body_at] != after:
            return None
        return self.head, int(digits), body_at


class Heads:
    """Remembers so many at most, for all connections of a server."""

    __slots__ = ("_known", "_seen")

    def __init__(self) -> None:
        self._known: dict[tuple[bytes, bytes], Known] = {}
        self._seen: dict[int, None] = {}  # the hashes of heads that came once: some clients never send one twice

    def find(self, data: bytes) -> Known | None:
        """The head that `data` begins with, if it is known."""
        parts = _parts(data)
        return None if parts is None else self._known.get(parts)

    def learn(self, data: bytes, head: Head) -> None:
        """`head` was accepted, and `data` begins with it."""
        headers, parts = head.headers, _parts(data)
        special = b"transfer-encoding" in headers or b"expect" in headers or b"upgrade" in headers
        # llhttp skips blank lines before a request: the first one would not end its head.
        if special or parts is None or not head.keep_alive or data.startswith((b"\r", b"\n")):
            return
        before, after = parts
        if not after and _ANY_LENGTH(before):
            return  # spelled in a way that is not looked for
        if hash(parts) in self._seen:
            _put(self._known, parts, Known(head, before, after))
        else:
            _put(self._seen, hash(parts), None)


def _put(table: dict[K, V], key: K, value: V) -> None:
    """Into a bounded table; the oldest makes room."""
    if len(table) >= COUNT:
        del table[next(iter(table))]
    table[key] = value


def _parts(data: bytes) -> tuple[bytes, bytes] | None:
    """The head that `data` begins with, before and after the digits of its length; None: too long, or not whole."""
    end = data.find(b"\r\n\r\n", 0, BYTES) + 4
    if end < 4:
        return None
    length = _LENGTH(data, 0, end - 2)
    return (data[:end], b"") if length is None else (data[: length.start(1)], data[length.end(1) : end])
