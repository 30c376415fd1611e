"""Figures as text to read."""

from collections.abc import Sequence
from typing import Any

from hermes.load.figures import Figures, GroupFigures, Spread

NAMES = {
    "ttft": "first token",
    "itl": "between pieces",
    "tpot": "per token",
    "e2e": "end to end",
    "wait": "queued, as told",
    "corrected": "e2e, corrected",  # no longer than the others: the table fits 80 columns
}
_Rows = list[list[str]]


def table(found: Figures) -> str:
    lines = [*summary(found), *(["", *_aligned(times(found.all))] if found.all.times else [])]
    for kind, by in found.by.items():
        lines += ["", *_aligned(groups(kind, by, bool(found.slo)))]
    if found.all.errors:
        lines += ["", "failed", *(f"{count:>7,}  {kind}" for kind, count in found.all.errors.items())]
    return "\n".join(
        [*lines, *(["", *(f"WARNING: {sentence(warning)}" for warning in found.warnings)] if found.warnings else [])]
    )


def summary(found: Figures) -> list[str]:
    whole, own = found.all, found.generator
    asked = f"{', '.join(found.setting.get('models', ()))} at {found.setting.get('url', '')}".removeprefix(" at ")
    lines = [
        f"{asked}, {found.setting.get('api', '')}",
        _how(found.setting),
        f"{whole.asked:,} requests in {found.window_s:.1f} s: {whole.answered:,} answered, {whole.left:,} left, "
        f"{sum(whole.errors.values()):,} failed",
        f"{amount(whole.answers_per_s)} answers/s ended within that time",
    ]
    if whole.tokens_out:
        lines[-1] += f"; tokens/s: {amount(whole.tokens_out_per_s)} out, {amount(whole.tokens_in_per_s)} in"
    if found.slo:
        limits = ", ".join(f"{name} <= {seconds(most_s)}" for name, most_s in found.slo.items())
        is_closed = found.setting.get("arrivals") == "closed"
        of_what = "that ended in it" if is_closed else "of what was due in it, also where it ended later"
        good = f"{amount(whole.good_per_s)} answers/s ({of_what}), {100 * whole.good_share:.1f} % of requests"
        lines.append(f"goodput: {good} ({limits})")
    if heeded := own["refusals_heeded"]:
        lines.append(f"waited {seconds(own['heeded_s'])} in all after {heeded:,} refusals, as long as Retry-After said")
    busy = f"{100 * own['cpu']:.0f} % of a core ({100 * own['cpu_most']:.0f} % at most)"
    lines.append(f"the generator itself: {busy}, late by {seconds(own['loop_lag_p99'])} (p99)")
    return lines


def sentence(text: str) -> str:
    return text if text.endswith("?") else f"{text}."


def _how(setting: dict[str, Any]) -> str:
    rate, most = setting.get("rate"), setting.get("connections")
    if setting.get("arrivals") == "closed":
        return f"closed loop: {most} connections, each asks again when it is answered"
    arrivals = {"poisson": "Poisson arrivals", "constant": "constant arrivals", "trace": "a trace's arrivals"}
    told = arrivals.get(str(setting.get("arrivals")), "arrivals") + (f", {rate:g}/s" if rate else "")
    return f"open loop: {told}; times count from when a request was due" + (f"; {most} connections" if most else "")


def seconds(value_s: float) -> str:
    """With three digits: `812 us`, `51.3 ms`, `1.02 s`."""
    if not value_s:
        return "0"
    for unit, scale in (("s", 1.0), ("ms", 1e3)):
        if value_s * scale >= 0.9995:
            return f"{_three_digits(value_s * scale)} {unit}"
    return f"{_three_digits(value_s * 1e6)} us"


def amount(value: float) -> str:
    if not value:
        return "0"
    return f"{value:,.0f}" if value >= 100 else _three_digits(value)


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def times(group: GroupFigures) -> _Rows:
    spreads = {NAMES[measure]: spread for measure, spread in group.times.items()}
    if group.corrected:
        spreads[NAMES["corrected"]] = group.corrected
    rows = [["", "mean", "p50", "p90", "p95", "p99", "p99.9", "most"]]
    rows += [[name, *map(seconds, _columns(spread))] for name, spread in spreads.items()]
    return rows


def _columns(spread: Spread) -> tuple[float, ...]:
    return (spread.mean, spread.p50, spread.p90, spread.p95, spread.p99, spread.p99_9, spread.most)


def groups(kind: str, by: dict[str, GroupFigures], with_good: bool) -> _Rows:
    heading = [f"by {kind}", "asked", "failed", "answers/s", "tokens/s", "ttft p50", "ttft p99", "e2e p50", "e2e p99"]
    rows = [[*heading, *(["good %"] if with_good else [])]]
    for name, group in by.items():
        percentiles = [
            seconds(getattr(spread, rank)) if (spread := group.times.get(measure)) else ""
            for measure in ("ttft", "e2e")
            for rank in ("p50", "p99")
        ]
        good = [f"{100 * group.good_share:.1f}"] if with_good else []
        failed = f"{sum(group.errors.values()):,}"
        rates = [amount(group.answers_per_s), amount(group.tokens_out_per_s)]
        rows.append([name or "-", f"{group.asked:,}", failed, *rates, *percentiles, *good])
    return rows


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
