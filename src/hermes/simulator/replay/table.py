"""Figures as a table to read: one line for each policy and rate, means over the seeds."""

from collections.abc import Callable, Iterable
from statistics import fmean

from hermes.simulator.replay.figures import Figures

_Numbers = list[float]

_COLUMNS: tuple[tuple[str, str, float, Callable[[Figures], float | None], Callable[[_Numbers], float]], ...] = (
    ("goodput %", ".1f", 100, lambda figures: figures.goodput, fmean),
    ("p50 s", ".1f", 1, lambda figures: figures.wait_p50_s, fmean),
    ("p95 s", ".1f", 1, lambda figures: figures.wait_p95_s, fmean),
    ("p99 s", ".1f", 1, lambda figures: figures.wait_p99_s, fmean),
    ("max s", ".1f", 1, lambda figures: figures.wait_max_s, max),
    ("swaps/100", ".1f", 1, lambda figures: figures.swaps_per_100, fmean),
    ("fairness", ".3f", 1, lambda figures: figures.fairness, fmean),
    ("eta >10s %", ".0f", 100, lambda figures: figures.eta_error_long, fmean),
    ("eta <10s s", ".1f", 1, lambda figures: figures.eta_error_short_s, fmean),
    ("eta covered %", ".0f", 100, lambda figures: figures.eta_covered, fmean),
)


def table(figures: list[Figures]) -> str:
    """A column where nobody has a figure is left out; `max s` is the longest wait of all seeds."""
    groups: dict[tuple[str, float], list[Figures]] = {}
    for one in figures:
        groups.setdefault((one.policy, one.rate), []).append(one)
    rows = [["policy", "rate/s", *(column[0] for column in _COLUMNS), "goodput % by model"]]
    for (policy, rate), group in groups.items():
        cells = [
            _cell((value(one) for one in group), form, scale, together) for _, form, scale, value, together in _COLUMNS
        ]
        rows.append([policy, f"{rate:g}", *cells, _by_model(group)])
    columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in columns]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if number in (0, len(columns) - 1) else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in zip(*columns, strict=True)
    )


def _cell(values: Iterable[float | None], form: str, scale: float, together: Callable[[_Numbers], float]) -> str:
    known = [value * scale for value in values if value is not None]
    return format(together(known), form) if known else ""


def _by_model(group: list[Figures]) -> str:
    models = dict.fromkeys(model for figures in group for model in figures.goodput_by_model)
    means = (fmean(figures.goodput_by_model.get(model, 0.0) for figures in group) for model in models)
    return "  ".join(f"{model}: {100 * mean:.0f}" for model, mean in zip(models, means, strict=True))
