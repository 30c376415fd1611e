"""What a key may give is what it has itself (I20): whatever the one lets through, the other does."""

from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from hermes.policy.rights import beyond
from hermes.principal import Allowance, Class, Principal

BOUND = st.none() | st.integers(1, 3)
PATTERNS = st.lists(st.text("ab*?", min_size=1, max_size=5), max_size=3).map(tuple)
PRINCIPALS = st.builds(
    Principal,
    st.just("k"),
    st.just("t"),
    st.booleans(),
    st.sampled_from(Class),
    models=PATTERNS,
    allowance=st.builds(Allowance, BOUND, BOUND, BOUND, BOUND, BOUND),
    metrics=st.booleans(),
    expires_at=st.none() | st.integers(1, 3).map(float),
)
LESS = Principal(
    "k", "t", False, Class.NORMAL, models=("a*",), allowance=Allowance(2, 2, 2, 2, 2), metrics=False, expires_at=2.0
)


@given(PRINCIPALS)
def test_everybody_may_give_what_he_has_and_the_operator_everything(principal: Principal) -> None:
    assert beyond(principal, principal) == beyond(principal, Principal("o", "o", admin=True)) == ""


@given(PRINCIPALS, PRINCIPALS, PRINCIPALS)
def test_what_goes_on_from_hand_to_hand_never_grows(first: Principal, second: Principal, third: Principal) -> None:
    if not beyond(second, first) and not beyond(third, second):
        assert beyond(third, first) == ""


@given(PATTERNS, PATTERNS, st.text("abc", max_size=6))
def test_no_model_is_allowed_that_was_not(given: tuple[str, ...], own: tuple[str, ...], name: str) -> None:
    if not beyond(replace(LESS, models=given), replace(LESS, models=own)):
        assert _matches(own, name) or not _matches(given, name)


def _matches(patterns: tuple[str, ...], name: str) -> bool:
    return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)


@pytest.mark.parametrize(
    ("right", "more"),
    [
        ("admin", {"admin": True}),
        ("metrics", {"metrics": True}),
        ("models", {"models": ()}),
        ("models", {"models": ("a", "b")}),
        ("max_class", {"ceiling": Class.INTERACTIVE}),
        ("expires_at", {"expires_at": None}),
        ("expires_at", {"expires_at": 3.0}),
        *((name, {"allowance": replace(LESS.allowance, **{name: 3})}) for name in Allowance.__struct_fields__),
        *((name, {"allowance": replace(LESS.allowance, **{name: None})}) for name in Allowance.__struct_fields__),
    ],
)
def test_the_right_that_is_beyond_is_named(right: str, more: dict[str, object]) -> None:
    assert beyond(replace(LESS, **more), LESS) == right


def test_an_operator_may_read_the_metrics_and_a_heavier_share_is_no_right() -> None:
    assert beyond(replace(LESS, metrics=True, weight=9.0), replace(LESS, admin=True)) == ""


@pytest.mark.parametrize(("given", "own"), [("gemma3:*", "gemma*"), ("gemma", "gemma*"), ("g?*", "*"), ("a?", "a?")])
def test_what_is_plainly_within_is_seen_to_be(given: str, own: str) -> None:
    assert beyond(replace(LESS, models=(given,)), replace(LESS, models=(own,))) == ""
