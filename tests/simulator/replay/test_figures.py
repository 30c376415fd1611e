"""What is measured of a run: every figure on runs that can be added up by hand."""

from itertools import pairwise

import pytest
from msgspec.structs import replace

from hermes.simulator.replay.actions import Promise
from hermes.simulator.replay.box import Box, Model
from hermes.simulator.replay.figures import Figures, measure
from hermes.simulator.replay.run import Run
from hermes.simulator.replay.study import Study, trials
from hermes.simulator.replay.table import table
from hermes.simulator.replay.workload import Request, Workload
from tests.simulator.replay.boxes import BOX, made_up_trace

WAITS = (0.0, 30.0, 31.0, 5.0, None)
MODELS = ("a", "a", "a", "b", "b")
TENANTS = ("x", "x", "y", "y", "y")


def figures(
    waits: tuple[float | None, ...] = WAITS,
    *,
    promised: dict[int, tuple[float, float]] | None = None,
    loads: int = 0,
    tenants: tuple[str, ...] = TENANTS,
) -> Figures:
    """Requests that come at 100, 101, ... and have 10, 20, ... tokens, by how long they wait; None: refused."""
    requests = [
        Request(n, model, tenant, 4, 100.0 + n) for n, (model, tenant) in enumerate(zip(MODELS, tenants, strict=True))
    ]
    started_at = [None if wait_s is None else 100.0 + n + wait_s for n, wait_s in enumerate(waits)]
    refused_at = [110.0 if wait_s is None else None for wait_s in waits]
    promises = {n: Promise(requests[n], *told) for n, told in (promised or {}).items()}
    run = Run(list(started_at), list(refused_at), promises, [], loads)
    return measure("fifo", 0.5, 1, run, BOX, Workload(requests, [6, 16, 26, 36, 46]))


def test_goodput_is_the_share_of_all_arrivals_that_start_within_the_bound() -> None:
    assert figures().goodput == 0.6
    assert figures().goodput_by_model == {"a": round(2 / 3, 5), "b": 0.5}


def test_waits_are_those_of_all_that_started_however_late() -> None:
    told = figures()
    assert (told.wait_p50_s, told.wait_p95_s, told.wait_p99_s, told.wait_max_s) == (5.0, 31.0, 31.0, 31.0)


def test_where_nothing_starts_there_are_no_waits() -> None:
    told = figures((None,) * 5, loads=2)
    assert (told.goodput, told.wait_p50_s, told.wait_max_s, told.swaps_per_100) == (0.0, None, None, 200.0)
    assert told.fairness == 1.0


def test_swaps_are_loads_for_every_100_that_started() -> None:
    assert figures(loads=3).swaps_per_100 == 75.0


def test_fairness_is_jain_s_index_of_what_tenants_got_of_what_they_asked_for() -> None:
    # x was served all that it asked for, y 40 of 30 + 40 + 50 tokens: a third.
    assert figures().fairness == round((1 + 1 / 3) ** 2 / (2 * (1 + 1 / 9)), 5)
    # x 10 of 10 + 20 tokens, y nothing of its 30, z all.
    told = figures((0.0, None, None, 0.0, 0.0), tenants=("x", "x", "y", "z", "z"))
    assert told.fairness == round((1 / 3 + 1) ** 2 / (3 * (1 / 9 + 1)), 5)
    assert figures(tenants=("x",) * 5).fairness == 1.0
    assert figures((0.0, 0.0, None, None, None)).fairness == 0.5


def test_predictions_are_judged_on_what_waited_and_started() -> None:
    promised = {0: (9.0, 9.0), 1: (15.0, 40.0), 2: (31.0, 30.0), 3: (8.0, 9.0), 4: (1.0, 1.0)}
    told = figures(promised=promised)
    assert told.eta_error_long == 0.25  # half of 30 s, and nothing of 31 s
    assert told.eta_error_short_s == 3.0
    assert told.eta_covered == round(2 / 3, 4)


def test_what_promised_nothing_is_not_judged() -> None:
    told = figures()
    assert (told.eta_error_long, told.eta_error_short_s, told.eta_covered) == (None, None, None)


# --- studies and their table ------------------------------------------------------------------------------------------


def test_a_study_has_a_run_for_every_policy_rate_and_seed() -> None:
    study = Study(made_up_trace(50), BOX, ("static", "fifo"), (0.2, 0.4), (1, 2))
    told = [(one.policy, one.rate, one.seed) for one in (trial.figures for trial in trials(study))]
    assert told == [(policy, rate, seed) for policy in ("static", "fifo") for rate in (0.2, 0.4) for seed in (1, 2)]


def test_a_study_of_arrivals_as_recorded_tells_their_own_rate() -> None:
    arrivals = made_up_trace(50)
    (trial,) = trials(Study(arrivals, BOX, ("static",)))
    assert trial.figures.rate == round(49 / (arrivals[-1].at_s - arrivals[0].at_s), 4)


@pytest.mark.parametrize(
    ("rate", "ranking"), [(0.3, "grouped static ollama fifo"), (1.0, "static grouped ollama fifo")]
)
def test_policies_rank_as_they_do_on_recorded_traces(rate: float, ranking: str) -> None:
    drawn = ((6, 0.55), (8, 0.25), (14, 0.15), (20, 0.05))
    models = tuple(Model(str(number), load_s, share=share) for number, (load_s, share) in enumerate(drawn))
    study = Study(made_up_trace(1500), Box(models), tuple(ranking.split()), (rate,))
    goodputs = [trial.figures.goodput for trial in trials(study)]
    assert all(better > worse + 0.1 for better, worse in pairwise(goodputs)), goodputs


def test_the_table_has_means_over_the_seeds_and_the_longest_wait() -> None:
    one = figures(loads=3)
    other = replace(one, seed=2, goodput=0.7, wait_max_s=131.0, goodput_by_model={"a": 1.0, "b": 0.5})
    heading, row = table([one, other]).splitlines()
    assert heading.split("  ")[0] == "policy" and "eta" not in heading
    assert row.split() == [
        "fifo",
        "0.5",
        "65.0",
        "5.0",
        "31.0",
        "31.0",
        "131.0",
        "75.0",
        "0.800",
        "a:",
        "83",
        "b:",
        "50",
    ]


def test_the_table_has_predictions_where_somebody_made_them_and_gaps_where_not() -> None:
    hermes = replace(figures(promised={1: (15.0, 40.0)}), policy="hermes")
    heading, with_them, without = table([hermes, replace(figures((None,) * 5), policy="fifo")]).splitlines()
    assert "eta >10s %" in heading and "eta covered %" in heading and "eta <10s s" not in heading
    assert with_them.split()[9:11] == ["50", "100"]
    assert without.split() == ["fifo", "0.5", "0.0", "0.0", "1.000", "a:", "0", "b:", "0"]


@pytest.mark.parametrize("rate", [0.2, 0.8])
def test_one_line_of_the_table_is_one_policy_at_one_rate(rate: float) -> None:
    told = [replace(figures(), policy=policy, rate=rate) for policy in ("fifo", "static")]
    assert [line.split()[:2] for line in table(told).splitlines()[1:]] == [["fifo", f"{rate}"], ["static", f"{rate}"]]
