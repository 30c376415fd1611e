"""What a terminal sends, as keys: `up`, `tab`, `q`. A key's bytes may come in pieces."""

import re

_NAMES = {
    b"[A": "up",
    b"OA": "up",
    b"[B": "down",
    b"OB": "down",
    b"[C": "right",
    b"OC": "right",
    b"[D": "left",
    b"OD": "left",
    b"[5~": "pageup",
    b"[6~": "pagedown",
    b"[H": "home",
    b"OH": "home",
    b"[1~": "home",
    b"[F": "end",
    b"OF": "end",
    b"[4~": "end",
    b"[Z": "tab",
    b"\t": "tab",
    b"\x1b": "escape",
}
# ECMA-48: ESC [, parameters, intermediates, one final byte. SS3 (ESC O) is what arrows send in application mode.
_KEY = re.compile(rb"\x1b(\[[0-?]*[ -/]*[@-~]|O[@-~])|([\x00-\x7f])|[\x80-\xff]", re.DOTALL)
_BEGUN = re.compile(rb"\x1b(\[[0-?]*[ -/]*|O)?")


class Keyboard:
    def __init__(self) -> None:
        self._rest = b""

    @property
    def begun(self) -> bool:
        """Escape, or the first of another key's bytes: `alone` decides, when no other has come for a while."""
        return self._rest == b"\x1b"

    def alone(self) -> list[str]:
        self._rest = b""
        return ["escape"]

    def feed(self, data: bytes) -> list[str]:
        """The keys that are whole now. What is none that we know is left out."""
        data, keys = self._rest + data, []
        while data and not _BEGUN.fullmatch(data):
            found = _KEY.match(data)
            assert found is not None
            said = found[1] or found[2] or b""
            if name := _NAMES.get(said, said.decode() if found[2] else ""):
                keys.append(name)
            data = data[found.end() :]
        self._rest = data[-16:]
        return keys
