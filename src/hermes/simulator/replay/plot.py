"""Pictures of a study, by matplotlib: for each policy what was in memory and who waited, then all policies' waits."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

from hermes.simulator.replay.box import Box
from hermes.simulator.replay.figures import Figures
from hermes.simulator.replay.run import State
from hermes.simulator.replay.study import Trial
from hermes.simulator.replay.timeline import in_memory, started_within, waiting

# Told apart by people who see few colours too (Okabe and Ito 2008).
_MODELS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C6D31", "#999999")
_POLICIES = ("#111111", "#B22222", "#4B6CB7", "#7A9A01", "#8E5EA2", "#C8963E")
_LOADING = "#444444"
_PALER = 0.4
# With its colour, None being the model's own, and its opacity.
_STATES: tuple[tuple[State, str | None, float], ...] = (
    ("loaded", None, 1.0),
    ("draining", None, _PALER),
    ("loading", _LOADING, 1.0),
)


def draw(path: Path, figures: Sequence[Figures], trials: Sequence[Trial], box: Box) -> None:
    """Timelines of `trials`, one for each policy; curves of all `figures`. Raises OSError."""
    with matplotlib.rc_context(
        {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.titlelocation": "left"}
    ):
        heights = [size for _ in trials for size in (0.5 + 0.16 * len(box.models), 1.2)]
        upper_in, lower_in = sum(heights) + 0.55 * len(trials), 4.2
        figure = Figure(figsize=(13, upper_in + lower_in), layout="constrained")
        grid = figure.add_gridspec(2, 1, height_ratios=[upper_in, lower_in])
        timelines, curves = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])
        axes = timelines.subplots(2 * len(trials), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
        for number, trial in enumerate(trials):
            _draw_memory(axes[2 * number], trial, box)
            _draw_waiting(axes[2 * number + 1], trial, box)
        axes[-1].set_xlim(0, _shown_s(trials) / 60)
        axes[-1].set_xlabel("minutes")
        timelines.legend(handles=_key(box), loc="outside upper center", ncols=len(box.models) + 2, frameon=False)
        left, right = curves.subplots(1, 2)
        _draw_waits(left, trials, box)
        if len({one.rate for one in figures}) > 1:
            _draw_rates(right, figures)
        else:
            _draw_models(right, figures, box)
        figure.savefig(path, dpi=110)


def _colour(number: int, of: Sequence[str] = _MODELS) -> str:
    return of[number % len(of)]


def _shown_s(trials: Sequence[Trial]) -> float:
    """All arrivals and a little more: a policy that falls behind may go on for hours."""
    return 1.05 * max(trial.workload.requests[-1].arrived_at for trial in trials) + 1


def _minutes(bars: list[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(since / 60, length / 60) for since, length in bars]


def _key(box: Box) -> list[Patch]:
    models = [Patch(color=_colour(number), label=f"model {model.name}") for number, model in enumerate(box.models)]
    return [
        *models,
        Patch(color=_LOADING, label="loading"),
        Patch(color=_LOADING, alpha=_PALER, label="paler: draining"),
    ]


def _draw_memory(axes: Axes, trial: Trial, box: Box) -> None:
    told, bars = trial.figures, in_memory(trial.run)
    for number, model in enumerate(box.models):
        lane = (number - 0.42, 0.84)
        for state, colour, alpha in _STATES:
            length = _minutes(bars.get((model.name, state), []))
            axes.broken_barh(length, lane, linewidth=0, color=colour or _colour(number), alpha=alpha)
    axes.set_ylim(len(box.models) - 0.4, -0.6)
    axes.set_yticks(range(len(box.models)), [model.name for model in box.models])
    axes.set_ylabel("in memory")
    axes.tick_params(bottom=False)
    axes.set_title(
        f"{told.policy}: {told.goodput:.1%} start in time, {told.swaps_per_100:.1f} loads per 100 started, "
        f"over after {trial.run.ended_at / 60:.0f} minutes ({told.rate:g} requests/s, seed {told.seed})"
    )


def _draw_waiting(axes: Axes, trial: Trial, box: Box) -> None:
    for number, model in enumerate(box.models):
        times, counts = waiting(trial.run, trial.workload, model.name)
        axes.step([at_s / 60 for at_s in times], counts, where="post", color=_colour(number), linewidth=0.9)
    axes.set_ylabel("waiting")
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))


def _draw_waits(axes: Axes, trials: Sequence[Trial], box: Box) -> None:
    """Logarithmic beyond a second: waits run from nothing to hours."""
    longest = max([box.max_wait_s, *(trial.figures.wait_max_s or 0.0 for trial in trials)]) * 1.2
    for number, trial in enumerate(trials):
        waits, shares = started_within(trial.run, trial.workload)
        axes.step(
            [*waits, longest],
            [*shares, *(shares[-1:] or [0.0])],
            where="post",
            color=_colour(number, _POLICIES),
            label=trial.figures.policy,
        )
    axes.axvline(box.max_wait_s, color=_LOADING, linestyle=":", linewidth=1)
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xlim(0, longest)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_xlabel("seconds waited")
    axes.set_title(f"share of all requests that had started (dotted: the max wait, {box.max_wait_s:g} s)")
    _as_shares(axes)


def _draw_rates(axes: Axes, figures: Sequence[Figures]) -> None:
    for number, policy in enumerate(dict.fromkeys(one.policy for one in figures)):
        rates = sorted({one.rate for one in figures})
        means = [fmean(one.goodput for one in figures if (one.policy, one.rate) == (policy, rate)) for rate in rates]
        axes.plot(rates, means, marker="o", markersize=4, color=_colour(number, _POLICIES), label=policy)
    axes.set_xlabel("requests per second")
    axes.set_title("share that starts in time, by rate (means over the seeds)")
    _as_shares(axes)


def _draw_models(axes: Axes, figures: Sequence[Figures], box: Box) -> None:
    policies = list(dict.fromkeys(one.policy for one in figures))
    width = 0.8 / len(policies)
    for number, policy in enumerate(policies):
        of_policy = [one.goodput_by_model for one in figures if one.policy == policy]
        means = [fmean(shares.get(model.name, 0.0) for shares in of_policy) for model in box.models]
        places = [model + (number + 0.5) * width - 0.4 for model in range(len(box.models))]
        axes.bar(places, means, 0.9 * width, color=_colour(number, _POLICIES), label=policy)
    axes.set_xticks(range(len(box.models)), [model.name for model in box.models])
    axes.set_xlabel("model")
    axes.set_title("share that starts in time, by model (means over the seeds)")
    _as_shares(axes)


def _as_shares(axes: Axes) -> None:
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(frameon=False)
