"""Newline-delimited JSON: bytes cut anywhere to whole lines, none longer than a limit (I13)."""

from hermes.errors import BackendError

CONTENT_TYPE = b"application/x-ndjson"


class Lines:
    """Splits a stream at b"\\n". Holds at most one unfinished line."""

    __slots__ = ("_held_bytes", "_max_line_bytes", "held")

    def __init__(self, max_line_bytes: int = 1 << 20) -> None:
        self._max_line_bytes = max_line_bytes
        self.held: list[bytes] = []
        self._held_bytes = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines complete by now, without their line ends. Raises BackendError for one that is too long."""
        lines = chunk.split(b"\n")
        rest = lines.pop()
        if rest or self.held or len(chunk) > self._max_line_bytes:
            self._hold(lines, rest)
        return lines

    def _hold(self, lines: list[bytes], rest: bytes) -> None:
        """Put what is held before the first line, and keep the rest of the chunk for later."""
        if self.held and lines:
            self.held.append(lines[0])
            lines[0] = self.finish()
        if rest:
            # Joined only once the line is whole: a long line in many chunks costs linear time.
            self.held.append(rest)
            self._held_bytes += len(rest)
        if self._held_bytes > self._max_line_bytes or any(len(line) > self._max_line_bytes for line in lines):
            raise BackendError(f"the backend sent a line longer than {self._max_line_bytes} bytes")

    def finish(self) -> bytes:
        """The unterminated last line, or nothing."""
        line = b"".join(self.held)
        self.held.clear()
        self._held_bytes = 0
        return line
