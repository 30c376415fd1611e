"""JSON documents drawn from the grammar, with what a parser may stumble over: spaces, escapes, twins, variants."""

import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["", ":", '"', "\\", "\\u003a", '":"', "{", "]", "a:b", "\u2028", "é", "\U0001f600", "\x00"]
)
SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(-1e300, 1e300) | TEXTS
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(TEXTS, VALUES, max_size=5)

# How a string may be spelled: plainly, in ASCII, or every character escaped.
SPELLINGS: st.SearchStrategy[Callable[[str], str]] = st.sampled_from(
    [
        lambda text: json.dumps(text, ensure_ascii=False),
        json.dumps,
        lambda text: '"' + "".join(f"\\u{unit:04x}" for unit in _utf16(text)) + '"',
        lambda text: '"' + "".join(f"\\u{unit:04X}" for unit in _utf16(text)) + '"',
    ]
)
SPACES = st.sampled_from(["", " ", "\n", "\t \r\n"])


def _utf16(text: str) -> list[int]:
    raw = text.encode("utf-16-be")
    return [int.from_bytes(raw[at : at + 2]) for at in range(0, len(raw), 2)]


@st.composite
def written(draw: st.DrawFn, value: Any) -> str:
    """`value` as somebody might write it."""
    space = draw(SPACES)
    if isinstance(value, dict):
        members = [f"{draw(written(key))}{space}:{draw(written(inner))}" for key, inner in value.items()]
        return "{" + space + f",{space}".join(members) + "}"
    if isinstance(value, list):
        return "[" + f"{space},".join([draw(written(inner)) for inner in value]) + space + "]"
    if isinstance(value, str):
        return draw(SPELLINGS)(value)
    return json.dumps(value)


@st.composite
def documents(draw: st.DrawFn) -> tuple[dict[str, Any], bytes]:
    """An object and one way to write it."""
    value = draw(OBJECTS)
    return value, (draw(SPACES) + draw(written(value)) + draw(SPACES)).encode()


@st.composite
def documents_with_twins(draw: st.DrawFn) -> bytes:
    """A document in which one object, at any depth, has one key twice."""
    key = draw(TEXTS)
    inner = f"{draw(written(key))}:{draw(written(draw(VALUES)))}"
    again = f"{draw(written(key))}:{draw(written(draw(VALUES)))}"
    others = [f"{draw(written(name))}:1" for name in draw(st.sets(TEXTS, max_size=2)) if name != key]
    members = draw(st.permutations([inner, again, *others]))
    text = "{" + ",".join(members) + "}"
    for before, after in draw(st.lists(st.sampled_from(_AROUND), max_size=5)):
        text = before + text + after
    return f'{{"top":{text}}}'.encode()


_AROUND = [("[", "]"), ('["{",', ',":"]'), ('{"x":', "}"), ('{":":":","y":', ',"z":"\\u003a"}')]
