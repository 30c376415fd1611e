"""Strict JSON (I10, I14): one body, one meaning."""

import base64
import json
import os
from typing import Annotated, Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec import Meta, Struct

from hermes.dialects import strict
from hermes.errors import BadRequest
from tests.dialects.json_grammar import TEXTS, documents, documents_with_twins

KNOWN = frozenset({"model", "messages", "stream", "k"})


def refusal(body: bytes) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        strict.parse_object(body, KNOWN)
    assert caught.value.status == 400
    return caught.value


@given(documents())
def test_what_is_written_is_what_is_read(document: tuple[dict[str, Any], bytes]) -> None:
    value, body = document
    assume(not any(key.casefold() in KNOWN for key in value))
    assert strict.parse_object(body, KNOWN) == value == json.loads(body)


@given(documents(), st.data())
def test_a_damaged_document_is_refused_exactly_when_json_refuses_it(
    document: tuple[dict[str, Any], bytes], data: st.DataObject
) -> None:
    body = bytearray(document[1])
    at = data.draw(st.integers(0, len(body) - 1))
    if data.draw(st.booleans()):
        del body[at]
    else:
        body[at] = data.draw(st.sampled_from(b'{}[]",:\\0ae-. \x00\xff'))
    assert _accepts(bytes(body)) == _json_accepts(bytes(body))


def _accepts(body: bytes) -> bool:
    try:
        strict.parse_object(body, KNOWN)
    except BadRequest:
        return False
    return True


def _json_accepts(body: bytes) -> bool:
    """What the rules say, by the standard library."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) < len(pairs):
            raise ValueError("twins")
        return dict(pairs)

    def finite(text: str) -> float:
        if float(text) in (float("inf"), float("-inf")):
            raise ValueError("not a number that JSON can hold")
        return float(text)

    def no_constant(text: str) -> None:
        raise ValueError(text)

    try:
        value = json.loads(body.decode(), object_pairs_hook=unique, parse_constant=no_constant, parse_float=finite)
        json.dumps(value, ensure_ascii=False).encode()  # no lone surrogates
    except ValueError:
        return False
    return isinstance(value, dict) and not any(k.casefold() in KNOWN and k not in KNOWN for k in value)


@given(documents_with_twins())
def test_a_key_that_comes_twice_is_refused_at_any_depth(body: bytes) -> None:
    json.loads(body)  # valid JSON but for that
    error = refusal(body)
    assert error.code == "duplicate_key"
    assert error.param is not None and error.param.startswith("top")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"model":"a","model":"b"}', "model"),
        (b'{"model":"a","mod\\u0065l":"b"}', "model"),
        (b'{"messages":[{"role":"user"},{"role":"user","role":"system"}]}', "messages[1].role"),
        (b'{"a":{"b":[[{"c":1,"c":1}]]}}', "a.b[0][0].c"),
        (b'{"text":"a:b","text":"\\u003a\\u003A:"}', "text"),
        # One colon is lost with the twin, and one comes back unescaped.
        (b'{"x":1,"x":1,"y":"\\u003a"}', "x"),
        (b'{"x":1,"x":1,"y":"\\u003A"}', "x"),
        (b'{"":1,"":2}', ""),
    ],
)
def test_the_twin_is_named(body: bytes, param: str) -> None:
    assert refusal(body).param == param


@pytest.mark.parametrize(
    "body", [b'{"y":"\\u003a","a:b":{"x:":":"}}', b'{"y":"\\\\u003a"}', b'{"a":[{"x":1},{"x":1}]}']
)
def test_colons_in_texts_are_no_twins(body: bytes) -> None:
    assert strict.parse_object(body, KNOWN) == json.loads(body)


@pytest.mark.parametrize("key", ["Model", "MODEL", "mEssages", "\u017ftream", "\u212a", "K", "me\u017fsages"])
def test_a_key_that_go_would_read_as_a_known_one_is_refused(key: str) -> None:
    error = refusal(json.dumps({key: 1}).encode())
    assert error.code == "ambiguous_key" and error.param == key
    assert refusal(json.dumps({"model": "a", key: 1}, ensure_ascii=False).encode()).param == key


def test_variants_are_refused_at_the_top_only() -> None:
    assert strict.parse_object(b'{"extra":{"Model":1},"Modell":2}', KNOWN)


@given(TEXTS)
def test_a_key_is_refused_exactly_when_it_folds_to_a_known_one(key: str) -> None:
    assert _accepts(json.dumps({key: 1}).encode()) == (key in KNOWN or key.casefold() not in KNOWN)


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}"), (b'[{"a":', b"}]")])
@pytest.mark.parametrize("depth", [strict.MAX_DEPTH + 1, 1000, strict.MAX_MARKS // 4])
def test_hostile_nesting_is_refused_and_nothing_worse(opening: bytes, closing: bytes, depth: int) -> None:
    error = refusal(b'{"a":%b1%b}' % (opening * depth, closing * depth))
    assert error.code == "invalid_json" and "nests deeper" in error.message
    assert refusal(opening * depth).code == "invalid_json"  # how deep it would go, not every Python finds out


@pytest.mark.parametrize("value", [b"[],", b'{"k":1},', b'{"k":{}},'])
def test_more_values_than_can_be_looked_at_are_refused_before_they_are_parsed(value: bytes) -> None:
    """I36: parsing them would hold everybody up, in a thread too."""
    few = strict.MAX_MARKS // strict.marks(value) - 10
    assert strict.parse_object(b'{"k":[%b1]}' % (value * few), KNOWN)
    error = refusal(b'{"k":[%b' % (value * (few + 20)))
    assert error.code == "request_too_complex"


@pytest.mark.parametrize(("depth", "allowed"), [(strict.MAX_DEPTH, True), (strict.MAX_DEPTH + 1, False)])
def test_the_limit_of_depth_is_exact(depth: int, allowed: bool) -> None:
    lists = b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"
    objects = b'{"a":' * (depth - 1) + b'{"b":[1]}'.replace(b"[1]", b"1") + b"}" * (depth - 1)
    assert _accepts(lists) is allowed
    assert _accepts(objects) is allowed


def test_many_shallow_brackets_are_not_deep() -> None:
    assert strict.parse_object(b'{"a":[' + b"{}," * 500 + b'[[]], "[[[[[["]}', KNOWN)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"{", "truncated"),
        (b'{"a":1,}', "trailing comma"),
        (b'{"a":NaN}', "invalid character"),
        (b'{"a":Infinity}', "invalid character"),
        (b'{"a":1e999}', "out of range"),
        (b'{"a":"\xff"}', "UTF-8"),
        (b'{"a":"\xed\xa0\x80"}', "UTF-8"),
        (b'{"a":"\\ud800\\ud800"}', "surrogate"),
        (b"\xef\xbb\xbf{}", "invalid character"),
        (b'{"a":1}{"a":2}', "trailing"),
        (b"{'a':1}", "keys must be strings"),
        (b"[1]", "not an array"),
        (b'"x"', "not a string"),
        (b"null", "not null"),
        (b"1", "not an integer"),
    ],
)
def test_what_is_no_json_object_is_refused_with_the_reason(body: bytes, words: str) -> None:
    error = refusal(body)
    assert error.code == "invalid_json" and words in error.message and error.param is None


def test_a_long_text_costs_linear_time() -> None:
    text = base64.b64encode(os.urandom(7 << 20)).decode()
    body = json.dumps({"image": text, "note": '"\\' * 100_000}).encode()
    assert len(body) > 9 << 20
    assert strict.parse_object(body, KNOWN)["image"] == text


# --- types --------------------------------------------------------------------------------------------------------


class Part(Struct):
    role: str
    weight: Annotated[float, Meta(ge=0, le=2)] | None = None


class Body(Struct):
    model: str
    parts: list[Part] = []
    count: Annotated[int, Meta(ge=1)] | None = None


@pytest.mark.parametrize(
    ("value", "param", "code", "message"),
    [
        ({}, "model", "missing_required_parameter", "`model` is missing"),
        ({"model": 1}, "model", "invalid_type", "`model` must be a string, not an integer"),
        ({"model": None}, "model", "invalid_type", "`model` must be a string, not null"),
        ({"model": "a", "parts": {}}, "parts", "invalid_type", "`parts` must be an array, not an object"),
        (
            {"model": "a", "parts": [{"role": "x"}, {"role": True}]},
            "parts[1].role",
            "invalid_type",
            "`parts[1].role` must be a string, not a boolean",
        ),
        ({"model": "a", "parts": [{}]}, "parts[0].role", "missing_required_parameter", "`parts[0].role` is missing"),
        (
            {"model": "a", "parts": [{"role": "x", "weight": 3}]},
            "parts[0].weight",
            "invalid_value",
            "`parts[0].weight` must be a number <= 2.0, not 3",
        ),
        ({"model": "a", "count": 0}, "count", "invalid_value", "`count` must be an integer >= 1, not 0"),
        (
            {"model": "a", "count": "many"},
            "count",
            "invalid_type",
            "`count` must be an integer or null, not a string",
        ),
    ],
)
def test_a_wrong_type_names_the_field_what_was_expected_and_what_came(
    value: Any, param: str, code: str, message: str
) -> None:
    with pytest.raises(BadRequest) as caught:
        strict.convert(value, Body)
    assert (caught.value.param, caught.value.code, caught.value.message) == (param, code, message)


def test_the_path_starts_where_the_value_is() -> None:
    with pytest.raises(BadRequest) as caught:
        strict.convert({"model": "a", "parts": [{}]}, Body, "options")
    assert caught.value.param == "options.parts[0].role"


def test_an_integer_is_a_number() -> None:
    weight = strict.convert({"role": "x", "weight": 1}, Part).weight
    assert weight == 1.0 and isinstance(weight, float)


def test_a_number_too_large_for_its_type_is_refused() -> None:
    with pytest.raises(BadRequest):
        strict.convert({"role": "x", "weight": 10**400}, Part)


def test_a_refusal_never_quotes_a_text() -> None:
    """I27: what a client wrote stays out of messages, which are logged."""
    with pytest.raises(BadRequest) as caught:
        strict.convert({"model": "a", "count": "my secret"}, Body)
    assert "secret" not in caught.value.message
