"""What a run comes to, as numbers: what `--json` prints, and what table and page are made from."""

from collections.abc import Mapping
from typing import Any

from msgspec import Struct, field

from hermes.load.histogram import Histogram
from hermes.load.run import Strain
from hermes.load.tally import TIMEOUT, Group, Slot, Tally

PERCENTILES = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p99_9": 99.9}

# Past these the generator is what is measured: its times are too long, its rates too low.
_BUSY, _LATE_S = 0.9, 0.02


class Spread(Struct, frozen=True):
    """Seconds. `curve`: pairs of a time and the share of all that took no longer."""

    count: int
    mean: float
    least: float
    p50: float
    p90: float
    p95: float
    p99: float
    p99_9: float
    most: float
    curve: list[tuple[float, float]]


class GroupFigures(Struct, frozen=True):
    """`good_per_s`: in an open loop of what was due in the window. `corrected` (closed loop): end to end, with those
    who would have asked meanwhile. `unmeasured`: answers that have not all the times that good ones are to keep.
    """

    asked: int
    answered: int
    left: int
    errors: dict[str, int]
    good: int
    answers_per_s: float
    good_per_s: float
    tokens_in: int
    tokens_out: int
    tokens_in_per_s: float
    tokens_out_per_s: float
    times: dict[str, Spread]
    corrected: Spread | None = None
    unmeasured: int = 0

    @property
    def good_share(self) -> float:
        """Of those that did not leave by themselves, and of which it can be said."""
        judged = self.asked - self.left - self.unmeasured
        return self.good / judged if judged else 0.0


class Moment(Struct, frozen=True):
    """A second of the run, or a few: times are of what was due in it; None: nothing was."""

    at_s: float
    due: int
    answered: int
    errors: int
    pieces: int
    in_flight: int
    ttft_p50: float | None
    ttft_p99: float | None
    e2e_p50: float | None
    e2e_p99: float | None


class Figures(Struct, frozen=True):
    """`setting`: what was asked for. `generator`: its own cost; `warnings`: why not to believe all of it."""

    setting: dict[str, Any]
    window_s: float
    slo: dict[str, float]
    all: GroupFigures
    by: dict[str, dict[str, GroupFigures]]
    generator: dict[str, float]
    warnings: list[str]
    moment_s: float
    moments: list[Moment] = field(default_factory=list)


def figures(tally: Tally, strain: Strain, setting: dict[str, Any], senders: int | None, is_closed: bool) -> Figures:
    window_s = max(tally.window_s, 1e-9)
    by = {
        kind: {name: _group(group, window_s, is_closed) for name, group in sorted(groups.items())}
        for kind, groups in tally.by.items()
        if len(groups) > 1
    }
    pace_s = (
        senders * window_s / tally.all.answered_within if is_closed and senders and tally.all.answered_within else 0
    )
    generator = {
        "cpu": round(strain.cpu, 4),
        "cpu_most": round(strain.cpu_most, 4),
        "loop_lag_p99": strain.lag.percentile(99),
        "loop_lag_most": strain.lag.most_s,
        "sent_late_p99": tally.late.percentile(99),
        "sent_late_most": tally.late.most_s,
        "refusals_heeded": tally.heeded,
        "heeded_s": round(tally.heeded_s, 3),
    }
    return Figures(
        setting,
        window_s,
        dict(tally.slo),
        _group(tally.all, window_s, is_closed, pace_s),
        by,
        generator,
        _warnings(generator, tally, senders),
        tally.slot_s,
        [_moment(place * tally.slot_s, slot) for place, slot in enumerate(tally.slots)],
    )


def _group(group: Group, window_s: float, is_closed: bool, pace_s: float = 0.0) -> GroupFigures:
    # In an open loop all that was due in the window is known, in a closed one the last are some too many.
    good = group.good_within if is_closed else group.good
    return GroupFigures(
        group.asked,
        group.answered,
        group.left,
        dict(group.errors.most_common()),
        group.good,
        group.answered_within / window_s,
        good / window_s,
        group.tokens_in,
        group.tokens_out,
        group.tokens_in_within / window_s,
        group.tokens_out_within / window_s,
        {measure: spread(times) for measure, times in group.times.items() if times.count},
        spread(group.times["e2e"].corrected(pace_s)) if pace_s else None,
        group.unmeasured,
    )


def spread(times: Histogram) -> Spread:
    seen, curve = 0.0, []
    for value_s, count in times:
        seen += count
        curve.append((round(value_s, 6), round(seen / times.count, 6)))
    ranks = {name: times.percentile(percent) for name, percent in PERCENTILES.items()}
    return Spread(round(times.count), times.mean_s, times.least_s, most=times.most_s, curve=_thinned(curve), **ranks)


def _thinned(curve: list[tuple[float, float]], most: int = 200) -> list[tuple[float, float]]:
    """As much of it as can be seen; the tail, where there are few, whole."""
    if len(curve) <= most:
        return curve
    step = len(curve) // most + 1
    return [point for place, point in enumerate(curve) if place % step == 0 or point[1] > 0.99]


def _moment(at_s: float, slot: Slot) -> Moment:
    def at(times: Histogram, percent: float) -> float | None:
        return times.percentile(percent) if times.count else None

    return Moment(
        at_s,
        slot.due,
        slot.answered,
        slot.errors,
        slot.pieces,
        slot.most_in_flight,
        at(slot.ttft, 50),
        at(slot.ttft, 99),
        at(slot.e2e, 50),
        at(slot.e2e, 99),
    )


def _warnings(generator: Mapping[str, float], tally: Tally, senders: int | None) -> list[str]:
    found = []
    if generator["cpu_most"] >= _BUSY:
        found.append(
            f"the generator used {100 * generator['cpu_most']:.0f} % of its core: it was itself the limit, and its "
            "times are too long. Ask for less, or run several"
        )
    if generator["loop_lag_p99"] >= _LATE_S:
        found.append(
            f"the generator was up to {1000 * generator['loop_lag_p99']:.0f} ms late with what it does (1 in 100 "
            "times): times are too long by as much. Is its core shared?"
        )
    if senders and generator["sent_late_p99"] >= _LATE_S:
        found.append(
            f"{senders} connections were too few for this rate: requests were sent up to "
            f"{generator['sent_late_most']:.2f} s late, which is part of their times"
        )
    if unmeasured := tally.all.unmeasured:
        lacking = " or no ".join(measure for measure in tally.slo if measure != "e2e")
        found.append(
            f"{unmeasured:,} answers are not in the goodput: they have no {lacking} (a whole answer has neither ttft "
            "nor tpot, and one token no tpot)"
        )
    if tally.unsent_s:
        found.append(
            f"the rate could not be kept: what was due in the last {tally.unsent_s:.2f} s was never sent, and counts "
            "nowhere"
        )
    if late := tally.all.errors[TIMEOUT]:
        found.append(f"{late:,} answers did not come in time: end to end they count with the time they were given")
    if tally.all.asked and not tally.all.answered:
        found.append("nothing was answered")
    return found
