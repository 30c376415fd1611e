"""Metrics: counted in bounded memory, and told as Prometheus wants them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Histogram as Reference
from prometheus_client.parser import text_string_to_metric_families

from hermes import config
from hermes.chat import Usage
from hermes.errors import Outcome
from hermes.exposition import render, told
from hermes.metrics import SECONDS, TOKENS, Metrics
from hermes.record import Record
from hermes.runtime import Runtime
from hermes.series import MAX_SERIES, Buckets, Counter, Histogram
from tests.simulation.loop import VirtualLoop

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def snapshot(metrics: Metrics) -> list[Any]:
    return list(told(metrics.take()))


def samples(text: bytes) -> Samples:
    """Every sample of an exposition, read by Prometheus's own parser. Fails on one that is told twice."""
    found: Samples = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    made = VirtualLoop()
    yield made
    made.close()


# --- bounded memory ---------------------------------------------------------------------------------------------------


def test_a_counter_past_its_cap_counts_the_rest_as_other() -> None:
    """I27: whatever becomes of label values, a family stays bounded, and nothing is lost from the sum."""
    counter = Counter("c", "help", ("model", "kind"))
    for number in range(MAX_SERIES + 500):
        counter.add((f"m{number}", "prompt"), 2.0)
    counter.add(("m7", "prompt"), 3.0)
    told = counter.read()
    assert len(told) == MAX_SERIES + 1
    assert told["m7", "prompt"] == 5.0
    assert told["other", "other"] == 1000.0
    assert sum(told.values()) == 2.0 * (MAX_SERIES + 500) + 3.0


def test_a_histogram_past_its_cap_observes_the_rest_as_other() -> None:
    histogram = Histogram("h", "help", ("model",), (1.0,))
    for number in range(MAX_SERIES + 500):
        histogram.observe((f"m{number}",), 0.5)
    histogram.observe(("m7",), 0.5)
    assert len(histogram.series) == MAX_SERIES + 1
    assert [sum(histogram.series[key].counts) for key in (("m7",), ("other",))] == [2, 500]


def test_a_series_is_one_whoever_keeps_it() -> None:
    counter = Counter("c", "help", ("model",))
    kept = counter.child(("m",))
    counter.add(("m",))
    kept.value += 1.0
    assert counter.child(("m",)) is kept
    assert counter.read() == {("m",): 2.0}


def test_a_counter_without_labels_begins_at_zero() -> None:
    assert Counter("c", "help").read() == {(): 0.0}


# --- histograms -------------------------------------------------------------------------------------------------------

NEAR_BOUNDS = st.sampled_from([bound + offset for bound in SECONDS for offset in (-1e-9, 0.0, 1e-9)])


@given(st.lists(NEAR_BOUNDS | st.floats(0.0, 1e4), max_size=50))
def test_buckets_are_those_of_prometheus(values: list[float]) -> None:
    registry = CollectorRegistry()
    reference = Reference("hermes_ttft_seconds", "help", ["model"], registry=registry, buckets=SECONDS)
    metrics = Metrics()
    metrics.ttft = Histogram("hermes_ttft_seconds", "help", ("model",), SECONDS)
    for value in values:
        reference.labels("m").observe(value)
        metrics.ttft.observe(("m",), value)
    expected = {key: value for key, value in samples(generate_latest(registry)).items() if "_created" not in key[0]}
    rendered = samples(render([family for family in snapshot(metrics) if family.name == "hermes_ttft_seconds"]))
    told = {key: value for key, value in rendered.items() if key[0].startswith("hermes_")}
    assert told.keys() == expected.keys()
    assert all(told[key] == pytest.approx(expected[key]) for key in told)


# --- the exposition ---------------------------------------------------------------------------------------------------


def test_the_exposition_tells_what_was_counted() -> None:
    metrics = Metrics()
    metrics.accepted.add((), 3.0)
    metrics.finished.add(("/v1/llm/{model}", "gemma3:12b", "ok"))
    metrics.tokens.add(("gemma3:12b", "prompt"), 17)
    metrics.gauge("hermes_requests_in_flight", "Open.", (), lambda: {(): 2.0})
    told = samples(render(snapshot(metrics)))
    assert told["hermes_requests_accepted_total", ()] == 3.0
    labels = ("model", "gemma3:12b"), ("outcome", "ok"), ("route", "/v1/llm/{model}")
    assert told["hermes_requests_total", labels] == 1.0
    assert told["hermes_tokens_total", (("kind", "prompt"), ("model", "gemma3:12b"))] == 17.0
    assert told["hermes_requests_in_flight", ()] == 2.0
    assert told["hermes_double_closes_total", ()] == 0.0


@pytest.mark.parametrize("value", ['"', "\\", "\n", 'a"} 1\nhermes_requests_total 7', "é", ""])
def test_a_label_value_cannot_break_out(value: str) -> None:
    metrics = Metrics()
    metrics.tokens.add((value, "prompt"), 5.0)
    told = samples(render(snapshot(metrics)))
    assert told["hermes_tokens_total", (("kind", "prompt"), ("model", value))] == 5.0
    assert ("hermes_requests_total", ()) not in told


def test_a_snapshot_is_of_its_moment() -> None:
    """The text is made in another thread, while the counting goes on."""
    metrics = Metrics()
    metrics.ttft.observe(("m",), 0.1)
    taken = list(metrics.take())
    before = list(told(taken))
    metrics.accepted.add(())
    metrics.ttft.observe(("m",), 0.1)
    metrics.tokens.add(("m", "prompt"))
    assert list(told(taken)) == before != snapshot(metrics)


def test_one_family_is_made_after_the_other_and_aliases_by_whoever_makes_the_text() -> None:
    """I36: what is held at once, and what the loop does, is little."""
    metrics = Metrics()
    metrics.relabelled("alias", "By nothing.", (), metrics.ttft, lambda values: ())
    for model in "ab":
        metrics.ttft.observe(("/", model), 0.1)
    taken = {metric.name: series for metric, series in metrics.take()}
    assert taken["alias"] is taken["hermes_time_to_first_token_seconds"]
    begun = metrics.take()
    next(told(begun))
    assert next(begun)[0] is [*metrics.families()][1]
    assert samples(render(snapshot(metrics)))["alias_count", ()] == 2.0


def test_no_metric_says_its_name_twice_and_all_say_what_they_are() -> None:
    families = list(Metrics().families())
    assert len({family.name for family in families}) == len(families)
    for family in families:
        assert re.fullmatch(r"hermes_[a-z_]+", family.name) and family.help.endswith(".")
        assert not family.name.endswith(("_total", "_ms")), "Prometheus adds _total, and counts in seconds"
        assert isinstance(family, Histogram) == family.name.endswith(("_seconds", "_request_tokens"))


def test_the_page_lists_every_metric_with_its_type_and_labels(loop: VirtualLoop) -> None:
    page = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text().partition("## The access log")[0]
    rows = re.findall(r"^\| `([\w:]+)` \| (\w+) \|(.*?)\|", page, re.MULTILINE)
    listed = {(name, kind, tuple(re.findall(r"\w+", labels))) for name, kind, labels in rows}
    # Without keys or limits there is nothing to count of them.
    runtime = Runtime(config.Config(keys=(config.Key("ann", "0" * 64),)), loop)
    kinds = {family.name: family.type for family in snapshot(runtime.metrics)}
    assert len(listed) == len(rows) == len(kinds), "one is told twice"
    assert listed == {
        (f"{family.name}_total" if kinds[family.name] == "counter" else family.name, kinds[family.name], family.labels)
        for family in runtime.metrics.families()
    }


# --- the log's schema -------------------------------------------------------------------------------------------------


def test_the_page_lists_every_field_of_the_access_log_and_every_outcome() -> None:
    page = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text().partition("## The access log")[2]
    listed = re.findall(r"^\| `(\w+)` \| (\w+) \|", page, re.MULTILINE)
    kinds = {float: "number", int: "integer", bool: "boolean", str: "string", Outcome: "string", int | None: "integer"}
    fields = msgspec.structs.fields(Record)
    assert listed == [(field.encode_name, kinds[field.type]) for field in fields]
    assert set(re.findall(r"`(\w+)`", page.partition("Outcomes:")[2])) == set(Outcome)


@given(st.lists(st.one_of(st.sampled_from((*TOKENS, 0, 2**26 + 1)), st.floats(0, 1e9))))
def test_many_observations_at_once_are_what_they_are_one_by_one(values: list[float]) -> None:
    one_by_one, at_once = Buckets(TOKENS), Buckets(TOKENS)
    for value in values:
        one_by_one.observe(value)
    at_once.observe_all(values[: len(values) // 2])
    at_once.observe_all(values[len(values) // 2 :])
    assert at_once.counts == one_by_one.counts
    assert at_once.total == pytest.approx(one_by_one.total)


def test_of_very_many_models_prompts_are_still_told_from_completions() -> None:
    """I27: what is beyond the bound is `other`, and its kind is known."""
    metrics = Metrics()
    for number in range(MAX_SERIES):
        metrics.uses("/", f"m{number}").noted.append(Usage(2, 3))
    list(metrics.take())
    assert len(metrics.request_tokens.series) <= MAX_SERIES
    for kind, each in (("prompt", 2), ("completion", 3)):
        assert metrics.request_tokens.series["other", "other", kind].total == metrics.tokens.read()["other", kind]
        assert sum(count for (_, told), count in metrics.tokens.read().items() if told == kind) == MAX_SERIES * each
