"""What is to be asked and when: drawn once, the same for the same seed, as the shares and lengths say."""

from collections import Counter
from itertools import islice, pairwise
from random import Random
from statistics import fmean, median, quantiles

import pytest
from msgspec.structs import replace

from hermes.load import arrivals, lengths
from hermes.load.plan import Asked, Mix, Recorded, plan

MIX = Mix({"gemma": 1.0}, {"": 1.0}, lengths.parse("200"), lengths.parse("100"))
MANY = 4000


def drawn(mix: Mix, count: int = MANY, seed: int = 1) -> list[Asked]:
    return list(islice(plan(mix, seed=seed), count))


def test_constant_arrivals_are_evenly_apart() -> None:
    assert list(islice(arrivals.constant(4), 4)) == [0.0, 0.25, 0.5, 0.75]


def test_poisson_arrivals_come_at_the_rate_and_know_nothing_of_each_other() -> None:
    times = list(islice(arrivals.poisson(50, Random(1)), MANY))
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert fmean(gaps) == pytest.approx(1 / 50, rel=0.05)
    # Of an exponential distribution the deviation is the mean, and the median 0.69 of it.
    assert fmean((gap - 1 / 50) ** 2 for gap in gaps) ** 0.5 == pytest.approx(1 / 50, rel=0.1)
    assert median(gaps) == pytest.approx(0.693 / 50, rel=0.1)


def test_a_trace_begins_now_and_is_stretched_to_the_rate() -> None:
    assert list(arrivals.recorded([100.0, 101.0, 104.0])) == [0.0, 1.0, 4.0]
    assert list(arrivals.recorded([100.0, 101.0, 104.0], rate=5)) == pytest.approx([0.0, 0.1, 0.4])
    assert list(arrivals.recorded([7.0], rate=5)) == [0.0]


def test_lengths_are_distributed_as_they_are_written() -> None:
    random = Random(1)
    assert lengths.parse("200")(random) == 200
    uniform = [lengths.parse("50-400")(random) for _ in range(MANY)]
    assert (min(uniform), max(uniform), fmean(uniform)) == (50, 400, pytest.approx(225, rel=0.05))
    lognormal = [lengths.parse("lognormal:200,900")(random) for _ in range(MANY)]
    assert median(lognormal) == pytest.approx(200, rel=0.1)
    assert quantiles(lognormal, n=20)[-1] == pytest.approx(900, rel=0.15)


@pytest.mark.parametrize(
    "text", ["", "-5", "400-50", "lognormal:900,200", "lognormal:0,9", "1e3", "20.5", "normal:3,4"]
)
def test_lengths_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        lengths.parse(text)


def test_shares_are_kept() -> None:
    mix = replace(
        MIX, models={"gemma": 3, "qwen": 1}, classes={"batch": 1, "": 1}, tenants=4, streamed=0.25, leaving=0.1
    )
    asked = drawn(mix)
    models, classes = Counter(one.model for one in asked), Counter(one.urgency for one in asked)
    assert models["gemma"] == pytest.approx(0.75 * MANY, rel=0.05) and models.total() == MANY
    assert classes["batch"] == pytest.approx(0.5 * MANY, rel=0.07)
    assert set(Counter(one.tenant for one in asked).values()) <= set(range(MANY // 4 - 150, MANY // 4 + 150))
    assert sum(one.streamed for one in asked) == pytest.approx(0.25 * MANY, rel=0.1)
    leaves = [one.leaves for one in asked if one.leaves is not None]
    assert len(leaves) == pytest.approx(0.1 * MANY, rel=0.2)
    assert 0 <= min(leaves) < 0.1 and 0.9 < max(leaves) < 1  # in every phase


def test_a_seed_draws_the_same_again_and_more_tenants_change_nothing_else() -> None:
    mix = replace(MIX, models={"gemma": 3, "qwen": 1}, tokens_in=lengths.parse("50-400"), leaving=0.5)
    assert drawn(mix) == drawn(mix) != drawn(mix, seed=2)
    with_tenants = drawn(replace(mix, tenants=5))
    assert [replace(one, tenant=0) for one in with_tenants] == drawn(mix)


def test_a_trace_says_what_it_knows_and_the_command_line_the_rest() -> None:
    trace = [Recorded(10, 5, "a", "ann", "batch"), Recorded(20, 0, "b", "ben"), Recorded(30, 7, "a", "ann")]
    asked = list(plan(Mix({"": 1.0}, {"": 1.0}, None, None, tenants=2), iter([0.0, 1.0, 2.0]), trace))
    assert [(one.at_s, one.tokens_in, one.tokens_out, one.model, one.tenant, one.urgency) for one in asked] == [
        (0.0, 10, 5, "a", 0, "batch"),
        (1.0, 20, 1, "b", 1, ""),  # an answer of no tokens cannot be asked for
        (2.0, 30, 7, "a", 0, ""),
    ]
    longer = islice(plan(MIX, None, [Recorded(10, 5)]), 3)
    assert [(one.model, one.tokens_in, one.at_s) for one in longer] == [("gemma", 200, None)] * 3
