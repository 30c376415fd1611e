"""Each policy decides as the server does that it stands for: cases small enough to follow by hand."""

from msgspec.structs import replace

from hermes.simulator.replay.box import Box, Model
from tests.simulator.replay.boxes import BOX, loads, play

# --- fifo -------------------------------------------------------------------------------------------------------------


def test_fifo_lets_nobody_overtake_even_where_a_slot_is_free() -> None:
    run = play("fifo", (0.0, "a", 10), (1.0, "a", 1), (2.0, "b", 1))
    assert run.started_at == [0.0, 10.0, 10.0]


def test_fifo_lets_nobody_overtake_a_load() -> None:
    run = play("fifo", (0.0, "c", 1), (1.0, "b", 1))
    assert run.started_at == [10.0, 10.0]


def test_fifo_evicts_what_was_used_longest_ago() -> None:
    run = play("fifo", (0.0, "b", 1), (2.0, "a", 1), (5.0, "c", 1), (20.0, "b", 1))
    assert loads(run) == [("c", 5.0), ("b", 20.0)]
    assert [span.until for span in run.spans if span.model == "a"] == [20.0]


def test_fifo_waits_for_a_busy_model_to_fall_idle() -> None:
    run = play("fifo", (0.0, "a", 30), (0.0, "b", 20), (1.0, "c", 1))
    assert loads(run) == [("c", 20.0)]
    assert run.started_at[2] == 30.0


def test_as_many_go_as_a_large_model_needs_and_no_more() -> None:
    box = replace(BOX, models=(Model("a", 1.0, 2.0), Model("b", 1.0, 2.0), Model("d", 1.0, 2.0), Model("c", 1.0, 4.0)))
    box = replace(box, memory=6.0)
    for policy in ("fifo", "grouped", "ollama"):
        run = play(policy, (1.0, "c", 1), box=box)
        assert {span.model for span in run.spans if span.state == "loaded" and span.until == 1.0} == {"a", "b"}, policy


def test_nobody_goes_where_there_is_room() -> None:
    box = replace(BOX, models=(Model("a", 1.0), Model("b", 1.0, 2.0), Model("c", 1.0)))
    for policy in ("fifo", "grouped", "ollama"):
        run = play(policy, (0.0, "a", 9), (1.0, "c", 1), (10.0, "a", 1), box=box)
        assert run.started_at == [0.0, 2.0, 10.0], policy
        assert [span.until for span in run.spans if span.model == "a"] == [11.0], policy


# --- grouped ----------------------------------------------------------------------------------------------------------


def test_grouped_serves_what_is_loaded_before_who_came_earlier() -> None:
    run = play("grouped", (0.0, "a", 10), (0.0, "b", 10), (1.0, "c", 1), (2.0, "a", 10), (3.0, "b", 1))
    # b is idle at 11, and not before: its own queue goes first.
    assert run.started_at == [0.0, 0.0, 21.0, 10.0, 10.0]


def test_grouped_goes_on_serving_while_one_loads() -> None:
    run = play("grouped", (0.0, "c", 1), (1.0, "b", 1))
    assert run.started_at == [10.0, 1.0]


def test_grouped_loads_for_whoever_has_waited_longest() -> None:
    box = replace(BOX, models=(*BOX.models, Model("d", 10.0)), memory=1.0)
    run = play("grouped", (0.0, "a", 10), (1.0, "d", 1), (2.0, "c", 1), (3.0, "b", 1), box=box)
    assert loads(run) == [("d", 10.0), ("c", 21.0), ("b", 32.0)]


# --- ollama -----------------------------------------------------------------------------------------------------------


def test_ollama_evicts_the_first_idle_model_by_name_however_recently_used() -> None:
    run = play("ollama", (0.0, "b", 1), (2.0, "a", 1), (5.0, "c", 1))
    assert loads(run) == [("c", 5.0)]
    assert [span.until for span in run.spans if span.model == "a"] == [5.0]


def test_ollama_serves_loaded_models_at_once_and_all_others_one_after_the_other() -> None:
    box = replace(BOX, models=(*BOX.models, Model("d", 10.0)))
    run = play("ollama", (0.0, "c", 1), (1.0, "d", 1), (2.0, "a", 1), (3.0, "b", 1), (4.0, "c", 1), box=box)
    # Each in the place of the first that is idle: c for a, d for b, a for c, and c again for d.
    assert loads(run) == [("c", 0.0), ("d", 10.0), ("a", 20.0), ("c", 25.0)]
    assert run.started_at == [10.0, 20.0, 25.0, 3.0, 35.0]


def test_ollama_drains_the_first_model_where_none_is_idle_and_lets_more_come_in_for_it() -> None:
    run = play("ollama", (0.0, "a", 10), (0.0, "b", 12), (1.0, "c", 1), (5.0, "a", 10))
    # b is idle from 12 on, but it is a that was told to go, and a is kept busy until 20.
    assert run.started_at == [0.0, 0.0, 30.0, 10.0]
    assert [(span.since, span.until) for span in run.spans if span.state == "draining"] == [(1.0, 20.0)]


def test_ollama_unloads_what_was_idle_for_five_minutes() -> None:
    run = play("ollama", (0.0, "a", 100), (350.0, "b", 1), (390.0, "a", 1))
    assert loads(run) == [("b", 350.0)]
    assert run.started_at == [0.0, 355.0, 390.0]


# --- static -----------------------------------------------------------------------------------------------------------


def test_static_refuses_what_is_not_loaded_and_what_has_waited_past_the_bound() -> None:
    run = play("static", (0.0, "a", 40), (1.0, "a", 1), (10.0, "a", 1), (11.0, "c", 1))
    assert run.started_at == [0.0, None, 40.0, None]
    assert run.refused_at == [None, 40.0, None, 11.0]
    assert run.loads == 0


def test_static_keeps_the_most_used_that_fit_together_whatever_was_loaded_first() -> None:
    models = (Model("a", 5.0, 1.0, 0.1), Model("b", 5.0, 3.0, 0.2), Model("c", 10.0, 2.0, 0.7))
    run = play("static", (0.0, "c", 1), (1.0, "b", 1), (30.0, "a", 1), box=Box(models, 4.0, 1, decode=1.0))
    assert loads(run) == [("c", 0.0)]
    assert run.started_at == [10.0, None, 30.0]


def test_static_loads_what_is_to_stay_one_after_the_other() -> None:
    models = (Model("a", 5.0, share=1.0), Model("b", 5.0, share=2.0), Model("c", 10.0, share=3.0))
    run = play("static", (0.0, "c", 1), (0.0, "b", 1), box=replace(BOX, models=models))
    assert loads(run) == [("c", 0.0)]
    three = (Model("a", 5.0, share=1.0), *(Model(name, 5.0, share=3.0) for name in "bcd"))
    run = play("static", (0.0, "d", 1), box=replace(BOX, models=three, memory=3.0))
    assert loads(run) == [("d", 0.0)]
