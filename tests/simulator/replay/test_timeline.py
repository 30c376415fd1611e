"""The numbers of a picture, and the picture itself where matplotlib is installed."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from hermes.simulator.replay.study import Study, trials
from hermes.simulator.replay.timeline import in_memory, started_within, waiting
from tests.simulator.replay.boxes import BOX, made_up_trace, play, workload

ASKED = ((0.0, "a", 10), (1.0, "c", 5), (2.0, "a", 10), (4.0, "a", 1), (5.0, "b", 1))


def test_what_was_in_memory_is_told_by_model_and_state() -> None:
    assert in_memory(play("grouped", (1.0, "c", 5), (30.0, "a", 1))) == {
        ("a", "loaded"): [(0.0, 1.0), (35.0, 1.0)],
        ("b", "loaded"): [(0.0, 30.0)],
        ("c", "loading"): [(1.0, 10.0)],
        ("c", "loaded"): [(11.0, 25.0)],
        ("a", "loading"): [(30.0, 5.0)],
    }


def test_how_many_wait_rises_at_arrivals_and_falls_at_starts_and_refusals() -> None:
    run = play("static", (0.0, "a", 35), (1.0, "a", 1), (4.0, "a", 1), (10.0, "a", 1))
    drawn = workload((0.0, "a", 35), (1.0, "a", 1), (4.0, "a", 1), (10.0, "a", 1))
    assert waiting(run, drawn, "a") == ([0.0, 1.0, 4.0, 10.0, 35.0, 35.0, 35.0], [0, 1, 2, 3, 2, 1, 0])
    assert waiting(run, drawn, "b") == ([0.0], [0])


def test_who_starts_at_once_never_waited() -> None:
    assert waiting(play("grouped", (3.0, "a", 1)), workload((3.0, "a", 1)), "a") == ([0.0], [0])


def test_waits_are_shares_of_all_requests_refused_ones_too() -> None:
    run, drawn = play("static", *ASKED), workload(*ASKED)
    assert started_within(run, drawn) == ([0.0, 0.0, 8.0, 16.0], [0.2, 0.4, 0.6, 0.8])


@pytest.mark.parametrize("kind", ["svg", "png"])
@pytest.mark.parametrize("rates", [(0.3,), (0.2, 0.4)])
def test_a_study_can_be_drawn(kind: str, rates: tuple[float, ...], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from hermes.simulator.replay.plot import draw

    box = replace(BOX, decode=40.0)
    done = list(trials(Study(made_up_trace(60), box, ("static", "ollama"), rates, (1,))))
    shown = [trial for trial in done if trial.figures.rate == rates[0]]
    path = tmp_path / f"picture.{kind}"
    draw(path, [trial.figures for trial in done], shown, box)
    assert path.read_bytes().startswith(b"<?xml" if kind == "svg" else b"\x89PNG")
