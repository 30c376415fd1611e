"""The results as a table for people and as JSON for programs, and whether each target is met."""

import json
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from measure import Samples

MEASURES = {
    "request_cpu_us": "CPU per whole answer, us",
    "metered_cpu_us": "  with a key, limits and the ledger, us",
    "metering_cpu_us": "  what these add, us",
    "looked_cpu_us": "  looked at: dashboard open, scraped",
    "hit_cpu_us": "  given again from the cache",
    "chunk_cpu_us_20": "CPU per chunk, 20 streams, us",
    "chunk_cpu_us_100": "CPU per chunk, 100 streams, us",
    "chunk_cpu_us_250": "CPU per chunk, 250 streams, us",
    "chunk_cpu_us_1000": "CPU per chunk, 1,000 streams, us",
    "passed_chunk_cpu_us_250": "  in Ollama's dialect, which is passed on",
    "anthropic_chunk_cpu_us_250": "  in Anthropic's",
    "first_event_us_p50": "first event, p50, us",
    "first_event_us_p99": "first event, p99, us",
    "added_first_event_us_p50": "  added to the backend's, p50, us",
    "added_first_event_us_p99": "  added to the backend's, p99, us",
    "scheduler_us_10": "offer and end, 10 waiting, us",
    "scheduler_us_1000": "offer and end, 1,000 waiting, us",
    "scheduler_us_100000": "offer and end, 100,000 waiting, us",
    "deadline_unreachable_ms_p50": "refusal (503) while 1,000 wait, p50, ms",
    "deadline_unreachable_ms_p99": "refusal (503) while 1,000 wait, p99, ms",
    "queue_full_ms_p50": "refusal (429) while 1,000 wait, p50, ms",
    "queue_full_ms_p99": "refusal (429) while 1,000 wait, p99, ms",
    "saturation_rps": "whole answers a second, saturated",
    "saturation_core_percent": "  share of its core then, %",
    "idle_rss_mib_fresh": "RSS once ready, MiB",
    "idle_rss_mib_used": "RSS after a few requests, MiB",
    "idle_rss_mib_looked": "RSS, looked at, MiB",
    "idle_pss_mib_used": "PSS after a few requests, MiB",
    "stream_kib": "memory per open stream, KiB",
    "queued_kib": "memory per waiting request, KiB",
    "start_health_ms": "start to first health answer, ms",
    "start_ready_ms": "start to ready, ms",
    "start_first_answer_ms": "start to first answers, ms",
}


# What others leave in the caches is not ours: above this the smaller program looks better than it is.
QUIET_PERCENT = 5


@dataclass(frozen=True)
class Target:
    """A bound on a median of Hermes, or on a ratio of two medians."""

    says: str
    measure: str
    limit: float
    versus: str = ""  # itself or nginx: at most so many times that; a peer: it is at least so many times Hermes
    of: str = ""  # what is measured of the other, if it is not the same

    def value(self, samples: Samples) -> float | None:
        ours = samples.median(self.measure, "hermes")
        if not self.versus or ours is None:
            return ours
        other = samples.median(self.of or self.measure, self.versus)
        if not other:
            return None
        return ours / other if self._is_a_ceiling else other / ours

    @property
    def _is_a_ceiling(self) -> bool:
        return self.versus in ("", "hermes", "nginx")

    def met(self, value: float) -> bool:
        return value <= self.limit if self._is_a_ceiling else value >= self.limit


TARGETS = [
    Target("CPU per whole answer <= 2.5 x nginx", "request_cpu_us", 2.5, "nginx"),
    Target("keys, limits, ledger add <= 1 x nginx's answer", "metering_cpu_us", 1, "nginx", "request_cpu_us"),
    Target("an answer given again <= 1.5 x nginx's answer", "hit_cpu_us", 1.5, "nginx", "request_cpu_us"),
    Target("a whole answer while it is looked at <= 1.1 x one", "looked_cpu_us", 1.1, "hermes", "request_cpu_us"),
    Target("CPU per chunk, 250 streams <= 1.5 x nginx", "chunk_cpu_us_250", 1.5, "nginx"),
    Target("CPU per chunk, 1,000 streams <= 1.25 x nginx", "chunk_cpu_us_1000", 1.25, "nginx"),
    Target("translating a chunk <= 1.5 x passing it on", "chunk_cpu_us_250", 1.5, "hermes", "passed_chunk_cpu_us_250"),
    Target("scheduling, 1,000 waiting <= 3 x nginx's answer", "scheduler_us_1000", 3, "nginx", "request_cpu_us"),
    Target("refused as too late <= 10 ms, p99", "deadline_unreachable_ms_p99", 10),
    Target("refused as too many <= 10 ms, p99", "queue_full_ms_p99", 10),
    Target("idle RSS <= 35 MiB", "idle_rss_mib_used", 35),
    Target("RSS while it is looked at <= 45 MiB", "idle_rss_mib_looked", 45),
    Target("memory per open stream <= 16 KiB", "stream_kib", 16),
    Target("memory per queued request <= 8 KiB", "queued_kib", 8),
    Target("ready <= 400 ms after start", "start_ready_ms", 400),
    Target("LiteLLM's CPU per whole answer >= 100 x", "request_cpu_us", 100, "litellm"),
    Target("LiteLLM's CPU per chunk, 20 streams >= 8 x", "chunk_cpu_us_20", 8, "litellm"),
    Target("Portkey's CPU per whole answer >= 40 x", "request_cpu_us", 40, "portkey"),
    Target("Portkey's CPU per chunk, 100 streams >= 3 x", "chunk_cpu_us_100", 3, "portkey"),
]


def as_text(samples: Samples, about: dict[str, Any]) -> str:
    return (
        "\n".join([*_heading(about), "", *_table(samples), "", *_helpers(samples), "", *_verdicts(samples, about)])
        + "\n"
    )


def as_json(samples: Samples, about: dict[str, Any]) -> str:
    measures = {
        measure: {program: _summary(values) for program, values in by_program.items()}
        for measure, by_program in samples.values.items()
    }
    ratios = {
        f"{measure} hermes/{program}": round(ours / theirs, 4)
        for measure in MEASURES
        for program in samples.values.get(measure, {})
        if program != "hermes"
        and (ours := samples.median(measure, "hermes"))
        and (theirs := samples.median(measure, program))
    }
    targets = [
        {"target": target.says, "value": round(value, 4), "met": target.met(value)}
        for target in TARGETS
        if (value := target.value(samples)) is not None
    ]
    quiet = about["others_percent"] <= QUIET_PERCENT
    whole = {
        **about,
        "quiet": quiet,
        "measures": measures,
        "ratios": ratios,
        "targets": targets,
        "errors": samples.errors,
    }
    return json.dumps(whole, indent=2) + "\n"


def _summary(values: list[float]) -> dict[str, Any]:
    numbers = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(number, 3) for name, number in numbers.items()} | {"all": [round(value, 3) for value in values]}


def _heading(about: dict[str, Any]) -> Iterator[str]:
    box = about["machine"]
    kind = "virtual machine" if box["virtual"] else "machine"
    yield f"{about['at']}  {box['cores']} cores ({box['cpu']}), {box['memory_gib']} GiB, Linux {box['kernel']}, {kind}"
    yield "; ".join(about["versions"].values())
    yield f"{about['rounds']} interleaved rounds: median (min - max)"
    yield f"other programs used {about['others_percent']} % of the two cores before and after the rounds"


def _table(samples: Samples) -> Iterator[str]:
    programs = list(dict.fromkeys(name for by_program in samples.values.values() for name in by_program))
    yield f"{'':34}" + "".join(f"{name:>26}" for name in programs)
    for measure, label in MEASURES.items():
        if measure in samples.values:
            yield f"{label:34}" + "".join(f"{_cell(samples, measure, name):>26}" for name in programs)


def _cell(samples: Samples, measure: str, program: str) -> str:
    values = samples.values[measure].get(program)
    if not values:
        return "-"
    digits = 0 if max(map(abs, values)) >= 1000 else 1
    low, middle, high = (f"{value:,.{digits}f}" for value in (min(values), statistics.median(values), max(values)))
    return f"{middle} ({low} - {high})"


def _helpers(samples: Samples) -> Iterator[str]:
    yield "The helpers' share of their core, %, mock + load generator:"
    for measure, by_program in samples.values.items():
        name, _, what = measure.partition(" ")
        if name == "mock_percent" and what != "a few":
            loads = samples.values[f"load_percent {what}"]
            shares = (
                f"{program} {statistics.median(mocks):.0f} + {statistics.median(loads[program]):.0f}"
                for program, mocks in by_program.items()
            )
            yield f"  {what:20} " + ", ".join(shares)


def _verdicts(samples: Samples, about: dict[str, Any]) -> Iterator[str]:
    if about["others_percent"] > QUIET_PERCENT:
        yield f"NOT QUIET: other programs used {about['others_percent']} % of the cores. What follows decides nothing."
    for target in TARGETS:
        value = target.value(samples)
        if value is not None:
            yield f"{'met   ' if target.met(value) else 'MISSED'}  {target.says}: {value:.2f}"
    yield from (f"ERROR   {error}" for error in samples.errors)
