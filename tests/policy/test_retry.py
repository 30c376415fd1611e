"""The retry budget: retries follow requests, and a failure of everything is no storm (I8)."""

from hypothesis import given
from hypothesis import strategies as st

from hermes.policy.retry import RetryBudget, RetryPolicy


def budget(reserve: float = 10.0) -> RetryBudget:
    return RetryBudget(RetryPolicy(reserve=reserve))


@given(st.lists(st.sampled_from(("request", "request", "request", "retry")), min_size=100, max_size=200))
def test_over_any_stretch_attempts_are_at_most_1_2_times_the_requests_and_ten(events: list[str]) -> None:
    """I8. The worst stretch that ends now is either the worst that ended before, gone on, or begins now."""
    retries = budget()
    worst = 0.0
    for event in events:
        if event == "request":
            retries.deposit()
            worst = max(0.0, worst - 0.2)
        elif retries.withdraw(1) is not None:
            worst += 1.0
        assert worst <= 10.0 + 1e-9


def test_a_budget_that_is_full_has_ten_retries() -> None:
    retries = budget()
    for _ in range(1000):
        retries.deposit()
    assert [retries.withdraw(1) is not None for _ in range(12)] == [True] * 10 + [False] * 2


def test_five_requests_earn_one_retry() -> None:
    retries = budget(reserve=1.0)
    assert retries.withdraw(1) is not None
    for _ in range(4):
        retries.deposit()
        assert retries.withdraw(1) is None
    retries.deposit()
    assert retries.withdraw(1) is not None


def test_one_request_has_at_most_three_attempts_and_waits_longer_before_each() -> None:
    retries = budget()
    assert [retries.withdraw(failed) for failed in (1, 2, 3, 4)] == [0.1, 0.4, None, None]


def test_what_is_refused_costs_nothing() -> None:
    retries = budget(reserve=1.0)
    assert retries.withdraw(3) is None
    assert retries.withdraw(1) is not None
