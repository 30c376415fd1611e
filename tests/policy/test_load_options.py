"""Whose load-time options hold."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes.chat import LoadOptions
from hermes.policy.load_options import KEEP_ALIVE_S, Pins, Terms

LONGEST = 131072


def terms(policy: Any = "pin", context: int = 4096, **pins: Any) -> Terms:
    """Of a model that we have loaded, which has got this context."""
    made = Terms(Pins(pins.pop("options", {}), policy=policy, **pins))
    made.loaded()
    made.see(context, LONGEST)
    return made


def said(terms: Terms, **asked: Any) -> dict[str, Any]:
    """What a request that asks for this says of options."""
    return dict(terms.agree(LoadOptions(**asked))[0])


EVERYTHING = {"num_ctx": 8192, "num_batch": 64, "num_gpu": 3, "use_mmap": False}


# --- pin --------------------------------------------------------------------------------------------------------------


def test_pinned_a_request_gets_what_is_configured() -> None:
    model = terms(options={"num_ctx": 4096, "num_gpu": 5})
    assert said(model, **EVERYTHING) == model.options == {"num_ctx": 4096, "num_gpu": 5}


def test_pinned_a_request_gets_the_context_that_others_have_chosen() -> None:
    model = terms()
    model.see(16384, LONGEST)
    assert said(model, num_ctx=8192) == model.options == {"num_ctx": 16384}


def test_pinned_a_request_gets_what_the_server_found_best() -> None:
    assert said(terms(), **EVERYTHING) == {}


def test_pinned_nothing_that_was_asked_for_is_loaded_later() -> None:
    model = terms()
    said(model, **EVERYTHING)
    model.miss()
    assert model.options == {}


# --- max --------------------------------------------------------------------------------------------------------------


def test_a_longer_context_is_for_all_that_follow() -> None:
    model = terms("max")
    assert said(model, num_ctx=8192) == model.options == {"num_ctx": 8192}
    assert said(model, num_ctx=6000) == {"num_ctx": 8192}
    model.see(8192, LONGEST)
    model.miss()
    assert model.options == {"num_ctx": 8192}


def test_a_shorter_context_raises_nothing() -> None:
    assert said(terms("max"), num_ctx=2048) == {}
    assert said(terms("max", options={"num_ctx": 9000}), num_ctx=8999) == {"num_ctx": 9000}


def test_only_the_context_has_an_order() -> None:
    assert said(terms("max"), **EVERYTHING) == {"num_ctx": 8192}


@pytest.mark.parametrize(("bound", "given"), [(10000, 10000), (None, LONGEST), (LONGEST * 2, LONGEST), (4096, None)])
def test_a_context_is_raised_to_what_is_configured_and_the_model_has(bound: int | None, given: int | None) -> None:
    assert said(terms("max", max_num_ctx=bound), num_ctx=10**6).get("num_ctx") == given


def test_what_others_have_loaded_longer_stays_so() -> None:
    model = terms("max", options={"num_ctx": 4096})
    model.see(16384, LONGEST)
    assert said(model, num_ctx=8192) == model.options == {"num_ctx": 16384}


def test_where_nobody_tells_the_context_a_request_gets_what_it_asks_for() -> None:
    assert said(terms("max", context=0), num_ctx=8192) == {"num_ctx": 8192}


@given(st.lists(st.integers(1, 2 * LONGEST), max_size=30), st.integers(1, LONGEST))
def test_each_reload_is_to_a_longer_context_never_beyond_the_bound(contexts: list[int], bound: int) -> None:
    model, present, reloads = terms("max", context=512, max_num_ctx=bound), 512, 0
    for asked in contexts:
        given = said(model, num_ctx=asked).get("num_ctx", present)
        assert given >= present
        reloads += given > present
        present = given
        model.see(present, LONGEST)
    assert present == max(512, min(bound, max(contexts, default=0)))
    assert model.reloads_avoided + reloads <= len(contexts)


# --- passthrough ------------------------------------------------------------------------------------------------------


def test_passed_through_everything_is_said() -> None:
    assert said(terms("passthrough", options={"num_ctx": 2048, "num_thread": 2}), **EVERYTHING) == {
        "num_thread": 2,
        **EVERYTHING,
    }


def test_a_bound_on_the_context_holds_for_what_is_passed_through() -> None:
    assert said(terms("passthrough", max_num_ctx=5000), num_ctx=8192) == {"num_ctx": 5000}


def test_who_asks_for_nothing_takes_what_was_loaded_for_another() -> None:
    model = terms("passthrough")
    said(model, num_gpu=3)
    said(model, num_ctx=2048)
    assert model.options == {"num_gpu": 3, "num_ctx": 2048}
    model.miss()
    assert model.options == {"num_gpu": 3, "num_ctx": 2048}


def test_who_asks_for_nothing_gets_what_is_configured_whatever_another_has_asked_for() -> None:
    model = terms("passthrough", options={"num_ctx": 4096, "num_gpu": 5})
    said(model, num_ctx=2048, num_gpu=3)
    assert model.options == {"num_ctx": 4096, "num_gpu": 5}


def test_what_is_seen_counts_more_than_what_was_asked_for() -> None:
    model = terms("passthrough")
    said(model, num_ctx=8192)
    model.see(2048, LONGEST)
    assert model.options == {"num_ctx": 2048}


def test_a_look_that_is_older_than_the_reload_changes_nothing() -> None:
    model = terms("passthrough")
    said(model, num_ctx=8192)
    model.see(4096, LONGEST)
    assert model.options == {"num_ctx": 8192}
    model.see(8192, LONGEST)
    model.see(4096, LONGEST)
    assert model.options == {}


# --- a load that fails ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["max", "passthrough"])
def test_what_a_request_has_asked_for_is_forgotten_when_it_cannot_be_loaded(policy: str) -> None:
    model = terms(policy, options={"num_batch": 64})
    said(model, num_ctx=100_000)
    model.miss()
    model.failed()
    assert model.options == {"num_batch": 64}


def test_after_a_raised_context_could_not_be_loaded_none_is_raised() -> None:
    model = terms("max")
    said(model, num_ctx=100_000)
    model.miss()
    model.failed()
    model.see(4096, LONGEST)
    assert said(model, num_ctx=8192) == {"num_ctx": 4096}


def test_a_load_that_no_request_has_changed_may_fail_and_the_context_be_raised_later() -> None:
    model = terms("max")
    model.failed()
    assert said(model, num_ctx=8192) == {"num_ctx": 8192}


# --- how long it stays ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["pin", "max"])
def test_how_long_a_model_stays_is_not_a_requests_to_say(policy: str) -> None:
    model = terms(policy)
    assert model.agree(LoadOptions(keep_alive_s=0.0))[1] == KEEP_ALIVE_S
    assert model.stays


def test_passed_through_a_model_stays_as_long_as_the_last_request_says() -> None:
    model = terms("passthrough")
    assert model.agree(LoadOptions(keep_alive_s=0.0)) == ({}, 0.0)
    assert not model.stays
    model.kept = True  # by the next request, which says nothing
    assert model.agree(LoadOptions(num_ctx=4096))[1] == KEEP_ALIVE_S
    assert model.stays


# --- what is counted --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "count"),
    [
        ({"num_ctx": 8192}, 1),
        ({"num_ctx": 2048}, 1),
        ({"num_ctx": 4096}, 0),
        ({"num_ctx": 8192, "num_gpu": 1}, 1),
        ({"num_gpu": 0}, 1),
        ({"num_gpu": -1}, 0),
        ({"num_thread": 0}, 0),
        ({"num_thread": 4}, 0),
        ({"num_thread": 5}, 1),
        ({"use_mmap": True}, 1),
        ({"keep_alive_s": 5.0}, 0),
    ],
)
def test_a_request_that_would_have_had_the_model_loaded_anew_is_counted(asked: dict[str, Any], count: int) -> None:
    model = terms(options={} if asked == {"num_thread": 0} else {"num_thread": 4})
    said(model, **asked)
    assert model.reloads_avoided == count


def test_more_than_the_model_has_is_what_it_has() -> None:
    model = terms(context=LONGEST)
    said(model, num_ctx=LONGEST * 2)
    assert model.reloads_avoided == 0


def test_a_reload_that_is_made_is_not_counted() -> None:
    model = terms("max")
    said(model, num_ctx=8192)
    assert model.reloads_avoided == 0
    said(model, num_ctx=4096)  # before a look has seen the longer one
    assert model.reloads_avoided == 1
    passed_on = terms("passthrough")
    said(passed_on, num_ctx=8192)
    said(passed_on, num_gpu=2)
    assert passed_on.reloads_avoided == 0


def test_where_the_context_is_not_told_nobody_knows_of_a_reload() -> None:
    model = terms(context=0)
    said(model, num_ctx=8192)
    assert model.reloads_avoided == 0
