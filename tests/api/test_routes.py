"""The route table: a path means one route or none (I16)."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes.api.routes import Call, Route, RouteTable
from hermes.dialects.openai import OpenAI
from hermes.errors import BadRequest, RouteNotFound
from hermes.policy.routing import MODEL_NAME


async def nothing(call: Call) -> None:
    """A handler that is never called."""


def route(method: str, path: str) -> Route:
    return Route(method, path, "user", OpenAI(), nothing)


ASK, PULL = route("POST", "/v1/llm/{model}"), route("POST", "/v1/llm/{model}/pull")
TABLE = RouteTable([route("GET", "/v1/models"), route("GET", "/v1/models/{model}"), ASK, PULL])

names = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._:/@-]{0,40}\Z").filter(
    lambda name: bool(MODEL_NAME(name)) and not name.endswith("/")
)


@given(names, st.sampled_from(["", "/", ":", "/:@"]))
def test_a_model_comes_out_of_its_path_however_it_was_encoded(name: str, left_bare: str) -> None:
    path = f"/v1/models/{quote(name, safe=left_bare)}".encode()
    assert TABLE.match("GET", path).named == name


@given(names)
def test_asking_and_pulling_are_told_apart_by_the_end_of_the_path(name: str) -> None:
    encoded = quote(name, safe="")
    assert TABLE.match("POST", f"/v1/llm/{encoded}".encode()).route is ASK
    match = TABLE.match("POST", f"/v1/llm/{encoded}/pull".encode())
    assert (match.route, match.named) == (PULL, name)


@given(st.binary(max_size=30).map(lambda tail: b"/v1/models/" + tail))
def test_no_path_yields_a_name_that_is_none(path: bytes) -> None:
    """I25."""
    try:
        model = TABLE.match("GET", path).named
    except (BadRequest, RouteNotFound):
        return
    assert model is not None and MODEL_NAME(model)


@pytest.mark.parametrize("name", ["a..b", "/a", ".a", "a b", "", "a\n", "ä", "a" * 201, "a?b", "a\\b"])
def test_these_are_no_model_names(name: str) -> None:
    assert not MODEL_NAME(name)


@pytest.mark.parametrize("end", [b"/", b"%2F", b"/pull/"])
def test_a_model_with_a_slash_at_its_end_is_told_so(end: bytes) -> None:
    with pytest.raises(BadRequest, match="ends in a slash"):
        TABLE.match("POST", b"/v1/llm/gemma" + end)


def test_a_path_without_v1_is_told_where_the_api_is() -> None:
    with pytest.raises(RouteNotFound, match="the API is under /v1"):
        TABLE.match("POST", b"/chat/completions")


def test_a_name_is_decoded_once() -> None:
    with pytest.raises(BadRequest):
        TABLE.match("GET", b"/v1/models/a%252Fb")


def test_other_names_are_read_as_utf_8_and_told_where_they_are_not() -> None:
    table = RouteTable([route("GET", "/v1/requests/{request_id}")])
    assert table.match("GET", b"/v1/requests/%E2%80%A6%c3%a9%ff").named == "\u2026\u00e9\ufffd"
