"""Patterns of model names: which may be asked for, and that no name makes finding out slow."""

import re
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes.policy.access import may_use
from hermes.policy.routing import Catalog, Service
from hermes.principal import Principal


@pytest.mark.parametrize(
    ("patterns", "allowed", "refused"),
    [
        ((), ["anything"], []),
        (("gemma",), ["gemma", "gemma:latest"], ["gemma2", "Gemma", "gemma:2b", "x/gemma", "gemma:latest:latest"]),
        (("gemma:latest",), ["gemma", "gemma:latest"], ["gemma:2b"]),
        (("gemma*",), ["gemma", "gemma3:12b", "gemma/x"], ["agemma", "gemm"]),
        (("gemma:*",), ["gemma", "gemma:2b"], ["gemma2"]),
        (("*/qwen?:*b",), ["hf.co/qwen3:8b", "a/b/qwen2:b"], ["qwen3:8b", "a/qwen:8b", "a/qwen3:8bx"]),
        (("a.b",), ["a.b"], ["axb", "ab"]),
        (("a*b*c",), ["abc", "aXbXc", "abcbc"], ["acb", "ab"]),
        (("one", "tw?"), ["one", "two"], ["onetwo", "tw"]),
        (("*",), ["a", "a/b:c"], []),
    ],
)
def test_a_pattern_is_of_these_names_and_not_of_those(
    patterns: tuple[str, ...], allowed: list[str], refused: list[str]
) -> None:
    assert [name for name in allowed + refused if may_use(patterns, name)] == allowed


@given(st.text("ab*?", min_size=1, max_size=8), st.text("ab", max_size=8))
def test_a_pattern_means_what_it_says(pattern: str, name: str) -> None:
    plainly = re.fullmatch(pattern.replace("*", ".*").replace("?", "."), name)
    either = plainly or re.fullmatch(pattern.replace("*", ".*").replace("?", "."), name + ":latest")
    assert may_use((pattern,), name) == bool(either)


def test_no_name_makes_a_pattern_slow() -> None:
    """I36: what would be tried in every way to tell pieces apart takes minutes."""
    began = perf_counter()
    assert not may_use(("*a" * 99 + "b",), "a" * 200)
    assert perf_counter() - began < 0.05


def test_an_alias_is_allowed_as_what_it_stands_for() -> None:
    catalog = Catalog({"claude-local-listed": Service("claude-local-listed", "x")}, Service("", ""))
    some = Principal("k", "ann", admin=False, models=("gemma*", "claude-local-b"))
    names = ["gemma", "claude-local-gemma3", "claude-local-claude-local-gemma", "claude-local-b", "b"]
    assert [name for name in names if catalog.allows(some, name)] == names[:3]
    assert not catalog.allows(some, "claude-local-listed")
    assert catalog.allows(Principal("k", "ann", admin=False, models=("claude-local-l*",)), "claude-local-listed")
