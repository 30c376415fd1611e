"""The last hour in numbers: what is counted where, and that it takes little however long it runs."""

import sys

import pytest

from hermes import history
from hermes.chat import MOST_TOKENS
from hermes.errors import Outcome
from hermes.history import MODELS, OTHERS, SORTED_TOGETHER, SPAN_S, SPANS, History
from hermes.record import Record

NOW = 1_800_000_000.0  # a span begins


def ended(
    at: float, model: str = "gemma", outcome: Outcome = Outcome.OK, seconds: float = 1.0, **more: object
) -> Record:
    told = {"model": model, "queue_ms": 0, "urgency": "normal", "user": "ann", "attempts": 1, **more}
    first = (at - seconds, "r", "/v1/chat/completions", "POST", outcome, 200, int(seconds * 1000))
    return Record(*first, **told)  # type: ignore[arg-type]


def of(*records: Record) -> History:
    found = History()
    for record in records:
        found.add(record)
    return found


def test_what_ended_in_a_span_is_counted_there() -> None:
    found = of(
        ended(NOW + 5, tokens_in=7, tokens_out=11),
        ended(NOW + 6, tokens_in=1, tokens_out=2),
        ended(NOW - SPAN_S + 4, outcome=Outcome.UPSTREAM_ERROR),
        ended(NOW + 7, "qwen", tokens_out=5),
    )
    series = found.series(NOW + 8)
    assert {name: counts[-1] for name, counts in series["gemma"].items()} == {
        "requests": 2, "failed": 0, "tokens_in": 8, "tokens_out": 13,
    }  # fmt: skip
    assert (series["gemma"]["requests"][-2], series["gemma"]["failed"][-2]) == (1, 1)
    assert sum(series["gemma"]["requests"]) == 3 and series["qwen"]["tokens_out"][-1] == 5
    assert all(len(counts) == SPANS for counts in series["gemma"].values())
    assert found.first(NOW + 8) == NOW - (SPANS - 1) * SPAN_S
    assert found.counted(NOW)["gemma"]["requests"] == 2 and found.counted(NOW - 1)["gemma"]["requests"] == 3


@pytest.mark.parametrize(
    ("outcome", "failed"), [(Outcome.CLIENT_GONE, 0), (Outcome.CANCELLED, 0), (Outcome.QUEUE_FULL, 1)]
)
def test_who_left_has_not_failed(outcome: Outcome, failed: int) -> None:
    assert of(ended(NOW, outcome=outcome)).counted(NOW)["gemma"]["failed"] == failed


def test_a_long_answer_was_written_in_all_the_spans_that_it_took() -> None:
    found = of(ended(NOW + 15, seconds=80, ttft_ms=5000, tokens_out=750))
    assert found.series(NOW + 20)["gemma"]["tokens_out"][-4:] == [0, 300, 300, 150]
    assert found.series(NOW + 20)["gemma"]["requests"][-4:] == [0, 0, 0, 1]


def test_tokens_that_were_given_again_were_not_written_again() -> None:
    """A cached answer, or one that several share: no run was its own."""
    again = {"tokens_in": 5, "tokens_out": 7, "attempts": 0}
    found = of(ended(NOW, **again), ended(NOW + 5, seconds=60, **again), ended(NOW + 6, tokens_in=1, tokens_out=2))
    (counts,) = found.counted(NOW - 99).values()
    assert counts == {"requests": 3, "failed": 0, "tokens_in": 1, "tokens_out": 2}


def test_what_asked_for_no_tokens_is_not_counted() -> None:
    assert not of(ended(NOW, urgency="")).series(NOW)


def test_whatever_backends_say_is_counted() -> None:
    """I15: no sum of lies is too much."""
    found = of(*(ended(NOW + 5, tokens_in=MOST_TOKENS, tokens_out=MOST_TOKENS) for _ in range(300)))
    assert found.counted(NOW)["gemma"]["tokens_out"] == 300 * MOST_TOKENS > 2**32


def test_percentiles_are_right_within_an_eighth() -> None:
    times = [round(1.07**number) for number in range(30, 190)]
    found = of(*(ended(NOW, queue_ms=ms, ttft_ms=2 * ms) for ms in times))
    told = found.percentiles(NOW, None, (0.5, 0.95, 1.0))
    for at, part in enumerate((0.5, 0.95, 1.0)):
        true = times[min(len(times) - 1, int(part * len(times)))]
        assert told["wait"][at][-1] == pytest.approx(true, rel=0.125)
        assert told["ttft"][at][-1] == pytest.approx(2 * true, rel=0.125)
        assert told["wait"][at][:-1] == [None] * (SPANS - 1)


def test_percentiles_are_those_of_all_models_or_of_one() -> None:
    found = of(ended(NOW, "gemma", queue_ms=100), *(ended(NOW, "qwen", queue_ms=9000) for _ in range(2)))
    assert found.percentiles(NOW, "gemma".__eq__, (0.5,))["wait"][0][-1] == pytest.approx(100, rel=0.125)
    assert found.percentiles(NOW, None, (0.5,))["wait"][0][-1] == pytest.approx(9000, rel=0.125)
    assert found.percentiles(NOW, "nobody".__eq__, (0.5,))["wait"][0][-1] is None
    both = found.percentiles(NOW, ("gemma", "qwen").__contains__, (0.3, 0.5))["wait"]
    assert [at[-1] for at in both] == [pytest.approx(100, rel=0.125), pytest.approx(9000, rel=0.125)]


@pytest.mark.parametrize("ms", [0, 1, 10**9])
def test_no_time_is_too_short_or_too_long(ms: int) -> None:
    assert of(ended(NOW, queue_ms=ms)).percentiles(NOW, None, (0.5,))["wait"][0][-1] is not None


def test_an_hour_is_remembered_and_no_more_however_many_models_are_named() -> None:
    found = History()
    for span in range(2 * SPANS):
        for number in range(2 * MODELS):
            found.add(ended(NOW + span * SPAN_S, f"m{number}"))
    spans = found._spans
    size = sum(sys.getsizeof(counts) for models in spans.values() for counts in models.values())
    assert len(found._new) <= SORTED_TOGETHER and len(spans) <= SPANS + 1 and size < 4.2 * 2**20
    told = found.series(NOW + (2 * SPANS - 1) * SPAN_S)
    assert len(told) == MODELS + 1 and told[OTHERS]["requests"] == [MODELS] * SPANS
    assert all(sum(counts["requests"]) == SPANS for name, counts in told.items() if name != OTHERS)


def test_a_clock_that_was_set_back_or_ahead_does_no_harm() -> None:
    """I35"""
    last = NOW + (SPANS - 1) * SPAN_S
    every = [ended(NOW + span * SPAN_S) for span in range(SPANS)]
    found = of(ended(NOW + 1e6), *every, ended(last, seconds=1e6, ttft_ms=0, tokens_out=10**6))
    told = found.series(last)
    assert sum(told["gemma"]["requests"]) == SPANS + 1
    assert len(found._spans) <= SPANS + 1


def test_sorting_in_is_done_for_many_at_once() -> None:
    """I36: and never for so many that others wait."""
    assert history.SORTED_TOGETHER <= 200
