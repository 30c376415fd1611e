"""What is the same request, when an answer is good for it, and how many are kept."""

from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from hermes.chat import (
    Answer,
    ChatRequest,
    Embeddings,
    EmbedRequest,
    Message,
    Sampling,
    Tool,
    ToolCall,
    Usage,
    collect,
)
from hermes.policy import cache
from hermes.policy.cache import (
    Shelf,
    Terms,
    events,
    is_deterministic,
    pack,
    terms,
    unpack_answer,
    unpack_embeddings,
)

ASKED = ChatRequest("gemma", (Message("user", "Hi"),), sampling=Sampling(temperature=0.0, top_p=0.9))
TEXTS = EmbedRequest("gemma", ("a", "b"))


def digest(request: ChatRequest | EmbedRequest, resident: str, owner: str) -> bytes:
    sampling = request.sampling if isinstance(request, ChatRequest) else None
    return cache.digest(request, sampling, resident, owner)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (None, None),
        ("", None),
        ("max-stale=3, nonsense", None),
        ("no-store", Terms(False, 0.0)),
        ("No-Cache", Terms(True, 0.0)),
        ("no-cache, no-store", Terms(False, 0.0)),
        ("max-age=60", Terms(True, 60.0)),
        ("max-age=60, max-age=5", Terms(True, 5.0)),
        ("max-age=0", Terms(True, 0.0)),
        ("max-age=-1", None),
        ("max-age=99999999999999999999", None),
    ],
)
def test_cache_control_narrows_what_an_answer_may_be(said: str | None, meant: Terms | None) -> None:
    assert terms({} if said is None else {b"cache-control": said.encode()}) == meant


@pytest.mark.parametrize(
    "more",
    [{"stream": True}, {"include_usage": True}, {"priority": 3}, {"service_tier": "flex"}, {"model": "alias"}],
)
def test_how_it_is_to_be_told_and_how_soon_makes_no_other_request(more: dict[str, Any]) -> None:
    assert digest(replace(ASKED, **more), "gemma:latest", "a") == digest(ASKED, "gemma:latest", "a")


@pytest.mark.parametrize(
    "more",
    [
        {"messages": (Message("user", "hi"),)},
        {"messages": (Message("system", "Hi"),)},
        {"tools": (Tool("look"),)},
        {"thinking": "off"},
        {"logprobs": True},
        {"extra": {"grammar": "x"}},
        {"sampling": Sampling(temperature=0.0, max_tokens=3)},
        {"sampling": Sampling(temperature=0.1, seed=1)},
    ],
)
def test_what_the_backend_is_asked_makes_another_request(more: dict[str, Any]) -> None:
    assert digest(replace(ASKED, **more), "gemma:latest", "a") != digest(ASKED, "gemma:latest", "a")


def test_another_owner_or_model_makes_another_request() -> None:
    """I21"""
    of = {digest(ASKED, model, owner) for model in ("a", "b") for owner in ("", "key a", "tenant a")}
    assert len(of) == 6


def test_where_the_likeliest_token_is_taken_it_does_not_matter_from_how_many() -> None:
    other = replace(ASKED, sampling=Sampling(temperature=0.0, top_k=40, seed=7))
    assert digest(other, "m", "") == digest(ASKED, "m", "")
    warm = [replace(ASKED, sampling=Sampling(temperature=0.5, top_k=top_k, seed=7)) for top_k in (1, 40)]
    assert digest(warm[0], "m", "") != digest(warm[1], "m", "")


@pytest.mark.parametrize("said", ["\ud800", 1 << 80])
def test_what_cannot_be_packed_is_told_from_others_all_the_same(said: Any) -> None:
    one, other = (replace(ASKED, extra={"grammar": [said, number]}) for number in (1, 2))
    assert digest(one, "m", "") == digest(replace(one, stream=True), "m", "") != digest(other, "m", "")


def test_a_text_to_embed_is_not_a_prompt() -> None:
    assert digest(TEXTS, "m", "") == digest(replace(TEXTS, base64=True), "m", "")
    assert digest(TEXTS, "m", "") != digest(replace(TEXTS, dimensions=3), "m", "")


@pytest.mark.parametrize(
    ("sampling", "same"),
    [
        (Sampling(), False),
        (Sampling(temperature=0.0), True),
        (Sampling(temperature=1.0), False),
        (Sampling(temperature=1.0, seed=0), True),
    ],
)
def test_an_answer_comes_again_where_nothing_is_drawn_or_by_a_seed(sampling: Sampling, same: bool) -> None:
    assert is_deterministic(sampling) is same
    assert is_deterministic(None)  # vectors


ANSWERS = st.builds(
    Answer,
    st.text(),
    st.text(),
    st.lists(st.builds(ToolCall, st.text(min_size=1), st.text(min_size=1), st.text()), max_size=3).map(tuple),
    st.builds(Usage, st.integers(0, 99), st.integers(0, 99)),
    st.sampled_from(("stop", "length", "tool_calls")),
    st.lists(st.just({"token": "a", "logprob": -0.5}), max_size=2).map(tuple),
    st.sampled_from(("", "END")),
)


@given(ANSWERS)
def test_an_answer_survives_being_kept_and_its_events_add_up_to_it(answer: Answer) -> None:
    assert unpack_answer(pack(answer)) == answer == collect(events(answer))


def test_vectors_survive_being_kept() -> None:
    made = Embeddings([[0.1, -2.0], [3.0, 1e-30]], Usage(4))
    assert unpack_embeddings(pack(made)) == made


# --- what is kept -----------------------------------------------------------------------------------------------------


def test_an_answer_is_given_until_it_is_too_old() -> None:
    shelf = Shelf(10_000, ttl_s=60.0)
    shelf.keep(b"a", b"answer", now=100.0)
    assert shelf.find(b"a", 159.9) == b"answer" == shelf.find(b"a", 129.9, max_age_s=30.0)
    assert shelf.find(b"a", 130.0, max_age_s=30.0) is None  # for him; it stays for others
    assert shelf.find(b"a", 131.0) == b"answer"
    assert shelf.find(b"a", 100.0, max_age_s=0.0) is None
    assert shelf.find(b"a", 160.0) is None
    assert (len(shelf), shelf.size_bytes) == (0, 0)


def test_what_nobody_asked_for_for_longest_makes_room() -> None:
    shelf = Shelf(3 * (cache._ENTRY_BYTES + 10), ttl_s=inf)
    for key in (b"a", b"b", b"c"):
        shelf.keep(key, bytes(10), 0.0)
    shelf.find(b"a", 0.0)
    shelf.keep(b"d", bytes(10), 0.0)
    assert [shelf.find(key, 0.0) is not None for key in (b"a", b"b", b"c", b"d")] == [True, False, True, True]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2000)), max_size=60))
def test_what_is_kept_never_takes_more_than_it_may(kept: list[tuple[int, int]]) -> None:
    shelf = Shelf(3000, ttl_s=inf)
    sizes: dict[bytes, int] = {}
    for number, size in kept:
        key = b"%d" % number
        shelf.keep(key, bytes(size), 0.0)
        sizes[key] = size
        assert shelf.size_bytes <= 3000
        assert (shelf.find(key, 0.0) is not None) == (size + cache._ENTRY_BYTES <= 3000)
        there = [size for key, size in sizes.items() if shelf.find(key, 0.0) is not None]
        assert shelf.size_bytes == sum(there) + cache._ENTRY_BYTES * len(there)
