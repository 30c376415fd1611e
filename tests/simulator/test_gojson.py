"""I14's other side: what Ollama would make of the bodies that a gateway must not let through."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes.simulator.gojson import Fields, Refusal, read_object

SPELLINGS = st.sampled_from(["model", "Model", "MODEL", "mOdEl"])


def read(text: str | bytes) -> Fields:
    return read_object(text if isinstance(text, bytes) else text.encode(), "ChatRequest")


@given(st.lists(st.tuples(SPELLINGS, st.text(max_size=5)), min_size=1, max_size=6))
def test_of_several_spellings_of_a_key_the_last_wins(pairs: list[tuple[str, str]]) -> None:
    members = ",".join(
        f"{msgspec.json.encode(key).decode()}:{msgspec.json.encode(value).decode()}" for key, value in pairs
    )
    assert read("{" + members + "}").text("model") == pairs[-1][1]


def test_a_key_folds_beyond_ascii() -> None:
    assert read('{"me\u017f\u017fage\u017f": [1]}').raw("messages") == [1]
    assert read('{"\u212aeep_alive": 3}').raw("keep_alive") == 3


def test_unknown_keys_and_what_follows_the_object_are_ignored() -> None:
    assert read('{"zork": 1, "model": "a"} {"model": "b"} rubbish').text("model") == "a"


def test_null_leaves_what_was_not_given() -> None:
    fields = read('{"model": null, "stream": null, "messages": null}')
    assert (fields.text("model"), fields.flag("stream"), fields.structs("messages", "api.Message")) == ("", None, [])


def test_broken_text_is_replaced_never_fatal() -> None:
    assert read(b'{"model": "a\xffb"}').text("model") == "a\ufffdb"
    assert read('{"model": "a\\ud800b", "x": [{"y": "\\udc00"}]}').text("model") == "a\ufffdb"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("", "missing request body"),
        ("  \n", "missing request body"),
        ('{"model":', "unexpected EOF"),
        ('{"model": "a', "unexpected EOF"),
        ('{"model": tr', "unexpected EOF"),
        ("not json", "invalid character 'o' in literal null (expecting 'u')"),
        ("{model}", "invalid character 'm' looking for beginning of object key string"),
        ('{"a" 1}', "invalid character '1' after object key"),
        ('{"a": ?}', "invalid character '?' looking for beginning of value"),
        ('{"a": NaN}', "invalid character 'N' looking for beginning of value"),
        ("[1]", "json: cannot unmarshal array into Go value of type api.ChatRequest"),
        ('"x"', "json: cannot unmarshal string into Go value of type api.ChatRequest"),
        ("[" * 100_000, "json: exceeded max depth"),
    ],
)
def test_a_body_that_is_no_object_is_refused_in_go_s_words(body: str, text: str) -> None:
    with pytest.raises(Refusal) as caught:
        read(body)
    assert (caught.value.status, caught.value.text) == (400, text)


def wrong(call: str, *arguments: Any, **members: Any) -> str:
    fields = read_object(msgspec.json.encode(members), "ChatRequest")
    with pytest.raises(Refusal) as caught:
        getattr(fields, call)(*arguments)
    assert caught.value.status == 400
    return caught.value.text.removeprefix("json: cannot unmarshal ")


def test_a_wrong_type_names_the_field_in_go_s_words() -> None:
    assert wrong("text", "model", model=7) == "number into Go struct field ChatRequest.model of type string"
    assert wrong("flag", "stream", stream="yes") == "string into Go struct field ChatRequest.stream of type bool"
    assert wrong("whole", "top", top=1.5) == "number 1.5 into Go struct field ChatRequest.top of type int"
    assert wrong("whole", "top", top=True) == "bool into Go struct field ChatRequest.top of type int"
    assert wrong("mapping", "options", options=[]).endswith("of type map[string]interface {}")
    assert wrong("structs", "messages", "api.Message", messages="hi").endswith("of type []api.Message")


def test_a_wrong_type_inside_names_the_path() -> None:
    message = read('{"messages": [{"content": ["x"]}]}').structs("messages", "api.Message")[0]
    with pytest.raises(Refusal, match=r"array into Go struct field ChatRequest\.messages\.content of type string"):
        message.text("content")
