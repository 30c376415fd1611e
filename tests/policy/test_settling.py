"""Settling: who does not notice that its client has left reads the prompt to its end, and its slot is not free."""

from math import inf

import pytest
from msgspec.structs import replace

from hermes.policy.scheduler import Scheduler
from hermes.policy.ticket import ClassRules, ModelBounds, Rules, Ticket
from tests.policy.box import facts, scheduler, ticket, told

DEAF = replace(facts(loaded="m"), settles=True)


def prompt(arrived_at: float, tokens: int = 1000, **more: object) -> Ticket:
    return ticket("m", arrived_at, prompt_tokens=tokens, **more)


def practised(core: Scheduler) -> Scheduler:
    """It has seen that the first byte comes after 10 ms per token."""
    first = prompt(0.0, tokens=500)
    core.offer(first, 0.0)
    core.begun(first, 5.0)
    core.finish(first, 6.0)
    return core


def test_after_an_abort_before_the_first_byte_a_slot_is_free_when_the_prompt_has_probably_been_read() -> None:
    core = practised(scheduler(DEAF))
    left, waits = prompt(100.0), prompt(101.0)
    core.offer(left, 100.0)
    core.offer(waits, 101.0)
    assert core.cancel(left, 102.0, broken_off=True) == []
    assert core.next_deadline() == 110.0
    assert core.expire(109.9) == []
    assert told(core.expire(110.0)) == ["Admit m x"]
    assert core.next_deadline() is None


def test_no_prompt_is_thought_to_be_read_for_more_than_a_minute() -> None:
    core = practised(scheduler(DEAF))
    left = prompt(100.0, tokens=100_000)
    core.offer(left, 100.0)
    core.cancel(left, 102.0, broken_off=True)
    assert core.next_deadline() == 160.0


def test_who_comes_while_a_slot_settles_waits_too() -> None:
    core = practised(scheduler(DEAF))
    left = prompt(100.0)
    core.offer(left, 100.0)
    core.cancel(left, 102.0, broken_off=True)
    assert core.next_deadline() == 110.0
    comes = prompt(103.0)
    assert told(core.offer(comes, 103.0)) == []
    why = core.explain(comes)
    assert why is not None and [(each.running, each.settling, each.slots) for each in why.loaded] == [(0, 1, 1)]
    assert told(core.expire(110.0)) == ["Admit m x"]


@pytest.mark.parametrize(
    ("tokens", "begun", "left_at", "broken_off", "settles"),
    [
        (1000, False, 102.0, True, True),
        (1000, True, 102.0, True, False),  # it generates, and notices
        (1000, False, 110.0, True, False),  # the prompt has been read
        (1000, False, 102.0, False, False),  # the backend has answered, with an error
        (0, False, 102.0, True, False),
    ],
)
def test_a_slot_is_free_at_once_where_there_is_nothing_left_to_read(
    tokens: int, begun: bool, left_at: float, broken_off: bool, settles: bool
) -> None:
    core = practised(scheduler(DEAF))
    left = prompt(100.0, tokens)
    core.offer(left, 100.0)
    if begun:
        core.begun(left, 101.0)
    core.cancel(left, left_at, broken_off=broken_off)
    assert told(core.offer(prompt(left_at), left_at)) == ([] if settles else ["Admit m x"])


def test_a_slot_is_free_at_once_where_the_backend_notices_or_nothing_was_learned() -> None:
    for core in (practised(scheduler(facts(loaded="m"))), scheduler(DEAF)):
        left = prompt(100.0)
        core.offer(left, 100.0)
        core.cancel(left, 102.0, broken_off=True)
        assert told(core.offer(prompt(103.0), 103.0)) == ["Admit m x"]
        assert core.next_deadline() is None


def test_a_model_whose_slot_settles_is_not_evicted() -> None:
    core = practised(scheduler(replace(facts(loaded="m", memory=5), settles=True)))
    left = prompt(100.0)
    core.offer(left, 100.0)
    core.cancel(left, 102.0, broken_off=True)
    for number in range(9):
        assert told(core.offer(ticket("a", 103.0 + number / 10), 103.0 + number / 10)) == []
    assert told(core.expire(105.0)) == []
    assert told(core.expire(110.0)) == ["Unload m x", "Load a x"]


def test_a_model_that_goes_while_its_slot_settles_leaves_nothing_behind() -> None:
    core = practised(scheduler(DEAF))
    left = prompt(100.0)
    core.offer(left, 100.0)
    core.cancel(left, 102.0, broken_off=True)
    core.observe(replace(DEAF, loaded={}, seen_at=103.0), 103.0)
    assert told(core.expire(104.0)) == []
    core.observe(replace(DEAF, seen_at=105.0), 105.0)
    assert told(core.offer(prompt(106.0), 106.0)) == ["Admit m x"]
    core.expire(110.0)
    assert core.next_deadline() is None


def test_what_could_not_wait_takes_no_place_where_a_slot_settles() -> None:
    """A place that is given up again at once would be taken again at once, for ever."""
    hurried = Rules((ClassRules(16.0), ClassRules(4.0, 30.0), ClassRules(1.0)), give_up=inf, waste=1.0)
    core = practised(scheduler(replace(facts(loaded="ma"), settles=True), rules=hurried, b=ModelBounds(load_s=40.0)))
    left = prompt(1000.0)
    core.offer(left, 1000.0)
    core.cancel(left, 1000.5, broken_off=True)  # too short to count as use
    core.offer(ticket("a", 1001.0), 1001.0)
    core.offer(ticket("b", 1002.0), 1002.0)
    assert told(core.expire(1002.0)) == ["Reject b deadline_unreachable"]
    assert told(core.offer(ticket("a", 1003.0), 1003.0)) == []
    assert told(core.expire(1011.0)) == ["Unload m x", "Load b x"]
