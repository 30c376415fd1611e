"""How many at once a backend does well, found out: near the knee soon, and steadily; of what is not in use, nothing."""

from typing import Any

import pytest

from hermes.policy.concurrency import FIRST, LEAST_RUNS, LEAST_S, STALE_S, Concurrency, Level, compare
from hermes.policy.scheduler import Scheduler
from hermes.policy.ticket import ModelBounds, Ticket
from tests.policy.box import facts, scheduler, ticket
from tests.policy.engines import Batching, Engine, Play, Slots, Unsteady, documents

SEEDS = range(3)
ADAPTIVE = ModelBounds(16, 10**6, adaptive=True)


def near(knee: int, soft: bool = False) -> tuple[float, float]:
    """A quarter from the knee, or one; more above it where throughput still grows there a little."""
    return min(0.75 * knee, knee - 1), max((1.6 if soft else 1.25) * knee, knee + 1)


# --- against backends with a knee -------------------------------------------------------------------------------------


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("engine", [Slots(1), Slots(3), Slots(12), Batching(8), Batching(8, strain=0.03)], ids=str)
def test_within_400_runs_it_is_near_the_knee_and_stays_there(engine: Engine, seed: int, whole: bool) -> None:
    low, high = near(engine.knee, soft=isinstance(engine, Batching))
    play = Play(engine, 1600, seed, whole=whole)
    assert play.reached(low, high) <= 400
    assert play.share(low, high, since=400) > 0.9
    assert len(list(play.turns(400))) <= 2
    assert min(each.limit for each in play.moments) >= 1


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("reads", [200, 4000])
@pytest.mark.parametrize("engine", [Slots(1), Slots(4), Slots(12), Batching(8)], ids=str)
def test_how_long_documents_are_and_how_fast_they_are_read_is_taken_out(engine: Engine, reads: int, seed: int) -> None:
    low, high = near(engine.knee, soft=isinstance(engine, Batching))
    play = Play(engine, 1600, seed, lengths=documents, reads=reads)
    assert play.reached(low, high) <= 600
    assert play.share(low, high, since=600) > 0.9


def test_a_cap_below_the_knee_is_reached_and_never_exceeded() -> None:
    play = Play(Slots(20), 600, cap=10)
    assert (play.found.settled, play.found.cap, play.most) == (10, 10, 10)
    assert max(each.limit for each in play.moments) == 10


def test_at_its_cap_less_is_tried() -> None:
    assert Play(Slots(1), 400, cap=FIRST).found.settled == 1


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("kind", [Slots, Batching])
def test_it_follows_a_knee_that_moves(kind: type[Slots] | type[Batching], seed: int) -> None:
    play = Play(kind(4), 3000, seed, moves={1000: 12, 2000: 4})
    assert play.reached(9, 16, since=1000) <= 250
    assert play.reached(3, 6, since=2000) <= 750


@pytest.mark.parametrize("seed", SEEDS)
def test_a_backend_whose_speed_wanders_does_not_lead_it_far_astray(seed: int) -> None:
    play = Play(Unsteady(Slots(4), seed), 2000, seed)
    assert play.share(2, 7, since=0) > 0.85


@pytest.mark.parametrize("engine", [Slots(8), Batching(8)], ids=str)
def test_under_light_load_it_stays_where_it_is(engine: Engine) -> None:
    """Half a run at once on average, of four that may."""
    play = Play(engine, 1000, rate=0.08)
    assert {(each.limit, each.settled) for each in play.moments} == {(FIRST, FIRST)}
    assert play.reasons == ["not measured yet"]


def test_nothing_is_tried_while_nobody_waits() -> None:
    """All that may run do, all the time."""
    assert {each.limit for each in Play(Slots(8), 200, clients=FIRST).moments} == {FIRST}
    assert {each.limit for each in Play(Slots(8), 200, clients=FIRST + 1).moments} > {FIRST}


def test_it_says_why() -> None:
    reasons = Play(Slots(4), 400).reasons
    assert reasons[:2] == ["not measured yet", "trying 6; not measured yet"]
    begin, change = reasons[2].split("; ")[1].split("instead of ")
    assert begin == "4, not 6: 6 at once "
    words = dict(reversed(each.strip().split(" % ")) for each in change.removeprefix("4: ").split(","))
    assert -10 < int(words["tokens a second"]) < 10
    assert 35 < int(words["time per token"]) < 70
    assert int(words["time to first byte"]) > 100
    assert any("4 -> 6: 6 at once instead of 4: +" in each for each in Play(Slots(8), 100).reasons)


# --- what is made of two measurements ---------------------------------------------------------------------------------


def level(at_once: int, tokens_per_s: float, first_s: float = 0.0) -> Level:
    """Where that many make so many tokens a second together, each a hundred in all."""
    seconds = 100 * at_once / tokens_per_s
    return Level(at_once, 0.0, 1, seconds, at_once * seconds, 100, 0, first_s, 10 if first_s else 0)


@pytest.mark.parametrize(
    ("tokens_per_s", "first_s", "worth"),
    [
        (200, 0.0, 1),  # twice as many do twice as much
        (145, 0.0, 1),  # 2 ** 0.5 is 1.41
        (145, 9.0, 1),
        (140, 0.0, 0),
        (140, 1.9, 0),
        (140, 2.1, -1),  # twice as many, and first bytes come more than twice as late
        (120, 1.9, 0),  # 2 ** 0.25 is 1.19
        (118, 1.0, -1),
        (50, 0.0, -1),
    ],
)
def test_more_at_once_is_worth_it_by_what_it_gains(tokens_per_s: float, first_s: float, worth: int) -> None:
    assert compare(level(4, 100, 1.0 if first_s else 0.0), level(8, tokens_per_s, first_s), 0.0)[0] == worth


# --- which runs tell something ----------------------------------------------------------------------------------------


class Desk:
    """A limit, full all the time unless a run is left out. Runs take a second for 40 tokens."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.found = Concurrency(16)
        self.at_work = [self.start() for _ in range(FIRST)]

    def start(self) -> Ticket:
        made = ticket()
        made.started_at = self.now
        self.found.started(made, self.now)
        return made

    def turn(
        self, *, settled: bool = True, full: bool = True, alone: bool = False, took_s: float = 1.0, tokens: int = 40
    ) -> bool:
        """Each is done, others take their places; `alone`: the last is left so. Whether the limit has changed."""
        self.now += took_s
        changed = False
        for each in self.at_work:
            each.settled, each.output_tokens = settled, tokens
            changed |= self.found.ended(each, self.now, wanted=True)
        self.at_work = [self.start() for _ in range(self.found.limit if full else FIRST - 1)]
        if alone:
            self.now += 0.5
            for each in self.at_work[:-1]:
                self.found.ended(each, self.now, wanted=True)
            del self.at_work[:-1]
        return changed

    def pause(self, seconds: float) -> None:
        for each in self.at_work:
            self.found.ended(each, self.now, wanted=True)
        self.now += seconds
        self.at_work = [self.start() for _ in range(self.found.limit)]

    def turns(self, count: int, **how: Any) -> bool:
        return True in [self.turn(**how) for _ in range(count)]


# Of those that start together only the last finds the place full.
ENOUGH = LEAST_RUNS + 1


def test_runs_that_end_well_beside_as_many_as_may_run_tell_something() -> None:
    assert not Desk().turns(ENOUGH - 2)
    assert Desk().turns(ENOUGH)
    assert not Desk().turns(2 * ENOUGH, settled=False)
    assert not Desk().turns(2 * ENOUGH, tokens=0)
    how: dict[str, Any]
    for how in ({"full": False}, {"alone": True}):
        desk = Desk()
        desk.turn(**how)
        assert not desk.turns(2 * ENOUGH, **how)


def test_short_runs_are_watched_for_a_while_all_the_same() -> None:
    desk = Desk()
    assert not desk.turns(int(LEAST_S / 0.01) - 1, took_s=0.01)
    assert desk.turns(ENOUGH, took_s=0.01)


def test_what_was_seen_long_ago_is_forgotten() -> None:
    desk = Desk()
    assert not desk.turns(ENOUGH - 2)
    desk.pause(STALE_S + 1)
    assert not desk.turns(ENOUGH - 2)
    assert desk.turns(2)
    assert desk.found.limit > FIRST
    desk.pause(STALE_S + 1)
    assert desk.turn()
    assert desk.found.limit == FIRST


def test_long_runs_tell_something_however_long() -> None:
    assert Desk().turns(ENOUGH, took_s=2 * STALE_S)


# --- in the scheduler -------------------------------------------------------------------------------------------------


def flood(core: Scheduler, runs: int, now: float, model: str = "m", on: str = "x") -> float:
    """Answers that take as long as though two at once were too many. Returns when they were over."""
    at_work: list[Ticket] = []
    for _ in range(200 + runs):
        core.offer(asked := ticket(model, now, on=on, resident="m"), now)
        at_work.append(asked)
    for _ in range(runs):
        running = [each for each in at_work if each.phase == "running"]
        now += 1
        core.settle(running[0], 0, 40)
        core.finish(running[0], now)
        at_work.remove(running[0])
    for each in reversed(at_work):
        core.cancel(each, now)
    return now


def test_what_was_found_outlasts_the_models_stay_in_memory() -> None:
    core = scheduler(facts("x", "m", slots=None), m=ADAPTIVE)
    now = flood(core, 300, 1.0)
    found = core.concurrency("m")["x"]
    assert found.settled == 1
    core.observe(facts("x", slots=None, seen_at=now + 1), now + 1)
    core.observe(facts("x", "m", slots=None, seen_at=now + 2), now + 2)
    assert core.concurrency("m")["x"] is found
    starts = core.offer(ticket(arrived_at=now + 3), now + 3) + core.offer(ticket(arrived_at=now + 3), now + 3)
    assert len(starts) == found.limit


def test_public_names_of_one_model_share_what_was_found_and_backends_do_not() -> None:
    core = scheduler(facts("x", "m", slots=None), facts("y", "m", slots=3), m=ADAPTIVE, alias=ModelBounds(8))
    now = flood(core, 150, 1.0)
    now = flood(core, 150, now, "alias")
    assert core.concurrency("alias") == core.concurrency("m")
    assert {name: (found.settled, found.cap) for name, found in core.concurrency("m").items()} == {
        "x": (1, 16),
        "y": (3, 3),
    }
    assert ("x", "m", core.concurrency("m")["x"].limit) in set(core.limits())


def test_without_it_the_cap_is_what_there_is() -> None:
    core = scheduler(facts("x", "m", slots=None), m=ModelBounds(16))
    flood(core, 100, 1.0)
    assert (dict(core.concurrency("m")), list(core.limits())) == ({}, [])
    assert sum(len(core.offer(ticket(arrived_at=101.0), 101.0)) for _ in range(20)) == 16


def test_what_was_found_counts_no_more_when_it_is_turned_off() -> None:
    core = scheduler(facts("x", "m", slots=None), m=ADAPTIVE)
    core.offer(ticket(), 0.0)
    assert core.concurrency("m")["x"].limit == FIRST
    core.resize("m", ModelBounds(16), 1.0)
    assert (dict(core.concurrency("m")), list(core.limits())) == ({}, [])
    assert sum(len(core.offer(ticket(arrived_at=1.0), 1.0)) for _ in range(20)) == 15


def test_a_lower_cap_holds_at_once() -> None:
    core = scheduler(facts("x", "m", slots=None), m=ADAPTIVE)
    core.offer(ticket(), 0.0)
    core.resize("m", ModelBounds(2, 10**6, adaptive=True), 1.0)
    found = core.concurrency("m")["x"]
    assert (found.limit, found.cap, found.why) == (2, 2, "the cap is now 2")
    assert sum(len(core.offer(ticket(arrived_at=1.0), 1.0)) for _ in range(5)) == 1
