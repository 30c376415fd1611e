"""Strict JSON objects: one body, one meaning, for everybody who reads it after us (I10, I14).

1. Valid JSON in valid UTF-8, an object at the top, nested no deeper than `MAX_DEPTH`.
2. No key twice in one object, anywhere: parsers disagree about which of the two counts.
3. No top-level key that equals a known one except for its case: Go's decoder, hence Ollama, reads it as that one.
4. No more values than can be looked at in tens of milliseconds: parsing holds the interpreter, in a thread too (I36).

Every refusal is a `BadRequest` with the path of the field (`messages[0].role`), what was expected and what came.
"""

import json
import re
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import msgspec

from hermes.errors import BadRequest

MAX_DEPTH = 64
# Brackets, braces and colons, those inside of texts too: as many as in 3 MiB of source code. 33,000 parts of a message
# take 50 ms, 100,000 empty lists 16.
MAX_MARKS = 100_000

T = TypeVar("T")

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode

# What a hostile document makes the decoder raise; RecursionError comes from nesting it refuses to follow.
MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def decode_exactly(body: bytes, decode: Callable[[bytes], T]) -> T | None:
    """What `body` says, when all of it fits a type, in one pass. None: read it with `parse_object`, which says why.

    `decode` decodes a type that omits its defaults when encoded, and holds nothing untyped: that bounds its depth.
    Every key is then one that the type knows, spelled its way.
    """
    try:
        value = decode(body)
    except MALFORMED:
        return None
    return value if _kept_every_member(body, value) else None


def parse_object(body: bytes, known: frozenset[str]) -> dict[str, Any]:
    """The object in `body`. `known`: the top-level keys that mean something, in lower case."""
    if len(body) > MAX_MARKS and marks(body) > MAX_MARKS:
        words = f"the body holds more than {MAX_MARKS} objects, arrays and members (brackets and colons in texts count)"
        raise BadRequest(words, code="request_too_complex")
    try:
        tree = _decode(body)
    except MALFORMED as bad:
        raise BadRequest(_why_malformed(body, bad), code="invalid_json") from bad
    if type(tree) is not dict:
        raise BadRequest(f"the body must be a JSON object, not {_kind(tree)}", code="invalid_json")
    # Fewer brackets than the limit cannot nest deeper than it: most bodies need no walk.
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH and not is_shallow(tree):
        raise BadRequest(f"the body nests deeper than {MAX_DEPTH} levels", code="invalid_json")
    if not _kept_every_member(body, tree):
        _refuse_duplicates(body)
    if not tree.keys() <= known:
        _refuse_variants(sorted(tree.keys() - known), known)
    return tree


def marks(body: bytes) -> int:
    """About how many objects, arrays and members `body` holds: brackets and colons, those inside of texts too."""
    return body.count(b"{") + body.count(b"[") + body.count(b":")


def is_shallow(tree: Any) -> bool:
    """Whether containers nest no deeper than `MAX_DEPTH`."""
    level = [tree] if type(tree) in _CONTAINERS else []
    for _ in range(MAX_DEPTH):
        level = [
            child
            for node in level
            if node  # empty ones may come by the million
            for child in (node.values() if type(node) is dict else node)
            if type(child) in _CONTAINERS
        ]
        if not level:
            return True
    return False


_CONTAINERS = frozenset((dict, list))


def _why_malformed(body: bytes, bad: Exception) -> str:
    if not body.strip():
        return "the body is empty; a JSON object was expected"
    if isinstance(bad, RecursionError):
        return f"the body nests deeper than {MAX_DEPTH} levels"
    if isinstance(bad, UnicodeDecodeError):
        return f"the body is not valid UTF-8: {bad.reason} (byte {bad.start} of a string)"
    return f"the body is not valid JSON: {str(bad).removeprefix('JSON is malformed: ')}"


# --- keys that come twice -----------------------------------------------------------------------------------------


def _kept_every_member(body: bytes, value: Any) -> bool:
    """Whether `value` has every member that is written in `body`, hence none twice. False means: look closer.

    A colon in valid JSON is either one member's or a character of a string, and encoding escapes none. A lost member
    took at least its own colon along, so equal counts before and after prove that none was, unless a string has an
    escaped colon, which would come back as a plain one and make up for it.
    """
    if _BACKSLASH in body and (body.find(b"\\u003a") >= 0 or body.find(b"\\u003A") >= 0):
        return False
    return _colons(body) == _colons(_encode(value))


def _colons(data: bytes) -> int:
    # `replace` looks for the next one where `count` looks at every byte: half the time on 3.11.
    return len(data) - len(data.replace(b":", b""))


_BACKSLASH = ord("\\")


class _Members(list[tuple[str, Any]]):
    """An object with its members as written, twins included."""


def _refuse_duplicates(body: bytes) -> None:
    """The slow, exact way: raise for the first key that comes twice, or find none."""
    tree = json.loads(body.decode(), object_pairs_hook=_Members)
    path = _duplicate(tree, "")
    if path is not None:
        raise BadRequest(f"the key `{path}` comes twice in one object", code="duplicate_key", param=path)


def _duplicate(node: Any, path: str) -> str | None:
    if type(node) is _Members:
        seen: set[str] = set()
        for key, value in node:
            here = f"{path}.{key}" if path else key
            if key in seen:
                return here
            seen.add(key)
            if type(value) in _NESTED and (found := _duplicate(value, here)) is not None:
                return found
    elif type(node) is list:
        for index, value in enumerate(node):
            if type(value) in _NESTED and (found := _duplicate(value, f"{path}[{index}]")) is not None:
                return found
    return None


_NESTED = frozenset((_Members, list))


def _refuse_variants(strange: Iterable[str], known: frozenset[str]) -> None:
    for key in strange:
        # Go folds more than ASCII: U+017F is an s, U+212A a k. `casefold` folds at least as much.
        if (meant := key.casefold()) in known:
            raise BadRequest(f"the key `{key}` must be written `{meant}`", code="ambiguous_key", param=key)


# --- types --------------------------------------------------------------------------------------------------------


def convert(value: Any, into: type[T], at: str = "") -> T:
    """`value` as `into`, types taken strictly. `at`: the path of `value` in the body."""
    try:
        return msgspec.convert(value, into, strict=True)
    except msgspec.ValidationError as bad:
        raise _refusal(str(bad), value, at) from bad


_AT = re.compile(r"^(?P<what>.*?)(?: - at `\$(?P<path>.*)`)?$", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.+)`")
_WRONG_TYPE = re.compile(r"Expected `(.+)`, got `(.+)`")
_OUT_OF_RANGE = re.compile(r"Expected `(.+)` (\S.*)")
_STEP = re.compile(r"\.(\w+)|\[(\d+)\]")


def _refusal(told: str, value: Any, at: str) -> BadRequest:
    """msgspec's words, such as "Expected `str`, got `int` - at `$.messages[0].role`", in ours."""
    found = _AT.match(told)
    assert found is not None
    what, path = found["what"], found["path"] or ""
    param = (at + path).removeprefix(".")
    if missing := _MISSING.fullmatch(what):
        field = f"{param}.{missing[1]}".removeprefix(".")
        return BadRequest(f"`{field}` is missing", code="missing_required_parameter", param=field)
    if wrong := _WRONG_TYPE.fullmatch(what):
        words = f"`{param}` must be {_words(wrong[1])}, not {_words(wrong[2])}"
        return BadRequest(words, code="invalid_type", param=param or None)
    if out := _OUT_OF_RANGE.fullmatch(what):
        words = f"`{param}` must be {_words(out[1])} {out[2]}, not {_brief(_follow(value, path))}"
        return BadRequest(words, param=param or None)
    return BadRequest(f"`{param}`: {what}", param=param or None)


_WORDS = {
    "str": "a string",
    "int": "an integer",
    "float": "a number",
    "bool": "a boolean",
    "array": "an array",
    "object": "an object",
}


def _words(types: str) -> str:
    return " or ".join(_WORDS.get(name, name) for name in types.split(" | "))


def _kind(value: Any) -> str:
    names = {dict: "object", list: "array", type(None): "null"}
    return _words(names.get(type(value), type(value).__name__))


def _follow(value: Any, path: str) -> Any:
    for key, index in _STEP.findall(path):
        value = value[key] if key else value[int(index)]
    return value


def _brief(value: Any) -> str:
    """A number as it came; of anything longer only its kind: texts stay out of messages (I27)."""
    return str(value)[:40] if type(value) in (int, float) else _kind(value)
