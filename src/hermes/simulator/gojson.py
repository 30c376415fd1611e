"""A request body as Go's encoding/json reads it: keys without regard to case, unknown ones ignored, the last one wins.

What follows the first value is ignored, broken UTF-8 is replaced, null leaves the zero value. Errors read as Go's.
"""

import json
from typing import Any, NoReturn

import msgspec


class Refusal(Exception):
    """An answer that is an error: `{"error": text}` with a status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


_decode = msgspec.json.Decoder().decode


def read_object(body: bytes, struct: str) -> "Fields":
    """The body's object, as the fields of a Go struct. Raises Refusal."""
    if not body.strip():
        raise Refusal(400, "missing request body")
    try:
        value = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        value = _read_leniently(body)
    if isinstance(value, dict) and any(key != key.casefold() for key in value):
        value = _read_leniently(body)  # to know which of two spellings came last
    if not isinstance(value, dict):
        raise Refusal(400, f"json: cannot unmarshal {_kind(value)} into Go value of type api.{struct}")
    return Fields(struct, value)


def _read_leniently(body: bytes) -> Any:
    text = body.decode("utf-8", errors="replace").lstrip(" \t\r\n")
    try:
        value = json.JSONDecoder(object_pairs_hook=_last_wins, parse_constant=_no_constant).raw_decode(text)[0]
        return _whole_characters(value) if "\\ud" in text.lower() else value
    except json.JSONDecodeError as error:
        raise Refusal(400, _go_syntax_error(text, error)) from None
    except RecursionError:
        raise Refusal(400, "json: exceeded max depth") from None


def _whole_characters(value: Any) -> Any:
    """Half surrogate pairs become U+FFFD, as in Go."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_whole_characters(item) for item in value]
    if isinstance(value, dict):
        return {_whole_characters(key): _whole_characters(item) for key, item in value.items()}
    return value


def _last_wins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        found.pop(key, None)  # moves to the end, where `Fields` looks for it
        found[key] = value
    return found


def _no_constant(name: str) -> NoReturn:
    raise Refusal(400, f"invalid character {name[0]!r} looking for beginning of value")


def _go_syntax_error(text: str, error: json.JSONDecodeError) -> str:
    at = error.pos
    if error.msg.startswith("Unterminated") or at >= len(text):
        return "unexpected EOF"
    character = text[at]
    if error.msg == "Expecting value":
        return _go_literal_error(text, at)
    place = {
        "Expecting property name enclosed in double quotes": "looking for beginning of object key string",
        "Expecting ':' delimiter": "after object key",
        "Expecting ',' delimiter": "after object key:value pair",
    }.get(error.msg, "in string literal")
    return f"invalid character {character!r} {place}"


def _go_literal_error(text: str, at: int) -> str:
    word = next((word for word in ("true", "false", "null") if word[0] == text[at]), None)
    if word is None:
        return f"invalid character {text[at]!r} looking for beginning of value"
    for offset, expected in enumerate(word):
        if at + offset >= len(text):
            return "unexpected EOF"
        if text[at + offset] != expected:
            return f"invalid character {text[at + offset]!r} in literal {word} (expecting {expected!r})"
    return "unexpected EOF"


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, float) and not value.is_integer():
        return f"number {value:g}"
    kinds: dict[type, str] = {str: "string", int: "number", float: "number", list: "array", dict: "object"}
    return kinds[type(value)]


class Fields:
    """The fields of one Go struct. `path` leads to it from the request, as Go's errors name it."""

    __slots__ = ("_path", "_struct", "_values")

    def __init__(self, struct: str, values: dict[str, Any], path: str = "") -> None:
        self._struct = struct
        self._path = path
        self._values = {key.casefold(): value for key, value in values.items()}

    def raw(self, name: str) -> Any:
        return self._values.get(name)

    def text(self, name: str) -> str:
        value = self._values.get(name)
        return value if isinstance(value, str) else self._zero(name, value, "", "string")

    def flag(self, name: str) -> bool | None:
        value = self._values.get(name)
        return value if isinstance(value, bool) else self._zero(name, value, None, "bool")

    def whole(self, name: str) -> int:
        value = self._values.get(name)
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        return int(self._zero(name, value, 0, "int"))

    def mapping(self, name: str, go_type: str = "map[string]interface {}") -> dict[str, Any]:
        value = self._values.get(name)
        return value if isinstance(value, dict) else self._zero(name, value, {}, go_type)

    def items(self, name: str, go_type: str) -> list[Any]:
        value = self._values.get(name)
        return value if isinstance(value, list) else self._zero(name, value, [], f"[]{go_type}")

    def structs(self, name: str, go_type: str) -> list["Fields"]:
        path = f"{self._path}{name}."
        found = []
        for item in self.items(name, go_type):
            if item is not None and not isinstance(item, dict):
                self._mismatch(name, item, go_type)
            found.append(Fields(self._struct, item or {}, path))
        return found

    def struct(self, name: str, go_type: str) -> "Fields":
        return Fields(self._struct, self.mapping(name, go_type), f"{self._path}{name}.")

    def _zero(self, name: str, value: Any, zero: Any, go_type: str) -> Any:
        if value is None:
            return zero
        self._mismatch(name, value, go_type)

    def _mismatch(self, name: str, value: Any, go_type: str) -> NoReturn:
        field = f"{self._struct}.{self._path}{name}"
        raise Refusal(400, f"json: cannot unmarshal {_kind(value)} into Go struct field {field} of type {go_type}")
