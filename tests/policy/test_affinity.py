"""Where conversations go: to where their prefix is cached, as long as the backends are about equally busy."""

from collections import Counter
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes.chat import Image, Message, RichMessage, Text
from hermes.policy.affinity import REMEMBERED, SPREAD, TOLD_BY, Homes, prefix
from hermes.policy.scheduler import Scheduler
from hermes.policy.ticket import BackendFacts, Ticket
from hermes.principal import Class
from tests.policy.box import ticket
from tests.policy.talks import NAMES, Talks, fleet

EVEN = dict.fromkeys(NAMES, 1.0)


def offered(core: Scheduler, conversation: int, now: float = 0.0, **more: Any) -> Ticket:
    asked = ticket(arrived_at=now, on="xyz", prefix=conversation, **more)
    core.offer(asked, now)
    return asked


# --- one conversation -------------------------------------------------------------------------------------------------


def test_a_conversation_stays_where_it_is() -> None:
    core, homes = fleet(), set()
    for conversation in range(1, 10):
        for turn in range(5):
            run = offered(core, conversation, turn)
            homes.add((conversation, run.backend))
            core.finish(run, turn)
    assert len(homes) == 9 and {home for _, home in homes} == set(NAMES)


def test_another_process_sends_it_to_the_same_backend() -> None:
    """The order is of the names alone: no salt, no memory."""
    first = [Homes().found(conversation, EVEN) for conversation in range(1, 13)]
    assert first == list("zyzzzyxxxzzy")


def test_where_its_home_is_full_it_goes_elsewhere_and_stays_there() -> None:
    core = fleet(slots=1)
    home = offered(core, 7).backend
    second = offered(core, 7)
    assert second.backend not in ("", home)
    for run in [*core._stations["m"].stays[home].running, second]:
        core.finish(run, 1.0)
    assert offered(core, 7, 2.0).backend == second.backend


def test_a_home_that_is_much_busier_than_the_others_is_left() -> None:
    core = fleet(slots=100)
    runs = Counter(offered(core, 7).backend for _ in range(30))
    assert max(runs.values()) <= 1.25 * 10 + 2 and len(runs) == 3


def test_it_does_not_go_back_to_the_backend_that_has_just_failed() -> None:
    core = fleet()
    run = offered(core, 7)
    failed = run.backend
    core.cancel(run, 1.0)
    again = run.again()
    core.offer(again, 1.0, again=True)
    assert again.backend not in ("", failed)
    core.finish(again, 2.0)
    assert offered(core, 7, 2.0).backend == again.backend, "it is cached there now"


def test_a_home_that_is_down_is_not_waited_for() -> None:
    core = fleet(slots=1)
    home = offered(core, 7)
    core.finish(home, 1.0)
    core.observe(BackendFacts(home.backend, False, 1), 1.0)
    assert offered(core, 7, 1.0).backend not in ("", home.backend)


# --- who waits --------------------------------------------------------------------------------------------------------


def busy(core: Scheduler) -> dict[str, Ticket]:
    """One run on each backend, of conversations that are at home there."""
    runs: dict[str, Ticket] = {}
    for conversation in count(1):
        run = offered(core, conversation)
        runs[run.backend] = run
        if len(runs) == len(NAMES):
            return runs
    raise AssertionError


def test_of_those_that_wait_one_goes_first_whose_home_is_free() -> None:
    core = fleet(slots=1)
    runs = busy(core)
    at_x, at_y = (offered(core, runs[name].prefix, now) for name, now in (("x", 1.0), ("y", 2.0)))
    core.finish(runs["y"], 3.0)
    assert (at_y.backend, at_x.backend) == ("y", "")
    core.finish(runs["x"], 4.0)
    assert at_x.backend == "x"


def test_where_nobody_is_at_home_a_free_slot_is_taken_all_the_same() -> None:
    core = fleet(slots=1)
    runs = busy(core)
    at_x = offered(core, runs["x"].prefix, 1.0)
    core.finish(runs["y"], 2.0)
    assert at_x.backend == "y"


def test_nobody_is_passed_over_more_often_than_there_are_slots() -> None:
    core = fleet(slots=1)
    runs = busy(core)
    head = offered(core, runs["x"].prefix, 1.0)
    others = [offered(core, runs["y"].prefix, 2.0) for _ in range(10)]
    run = runs["y"]
    passed = 0
    while not head.backend:
        core.finish(run, 3.0)
        run = next((each for each in others if each.backend and each.phase == "running"), head)
        passed += run is not head
    assert passed == 3 and head.backend == "y"


def test_who_must_start_soon_is_not_passed_over() -> None:
    core = fleet(slots=1)
    runs = busy(core)
    head = offered(core, runs["x"].prefix, 1.0, deadline=6.0)
    offered(core, runs["y"].prefix, 2.0, deadline=7.0)
    core.finish(runs["y"], 3.0)
    assert head.backend == "y"


def test_a_user_at_a_cap_is_not_let_past_others() -> None:
    core = fleet(slots=1)
    runs = busy(core)
    core.finish(runs["z"], 1.0)
    offered(core, runs["z"].prefix, 1.0, tenant="capped", caps=(("k", 1),))
    head = offered(core, runs["x"].prefix, 2.0)
    capped = offered(core, runs["y"].prefix, 3.0, tenant="capped", caps=(("k", 1),))
    core.finish(runs["y"], 4.0)
    assert (head.backend, capped.backend) == ("y", "")


def test_nobody_is_passed_over_for_a_home_that_is_down() -> None:
    core = fleet(slots=1)
    runs = busy(core)
    head = offered(core, runs["x"].prefix, 1.0)
    later = offered(core, runs["y"].prefix, 2.0)
    core.observe(BackendFacts("x", False, 1), 3.0)
    core.finish(runs["y"], 4.0)
    assert (head.backend, later.backend) == ("y", "")


LATER = {"urgency": Class.BATCH, "prompt_tokens": 1000}  # users of this class always take turns


def test_a_user_who_was_served_more_is_not_let_past_others() -> None:
    core = fleet(slots=1)
    runs = busy(core)
    heavy = [offered(core, runs["y"].prefix, now, tenant="heavy", **LATER) for now in (1.0, 1.1, 1.2)]
    core.finish(runs["y"], 2.0)
    core.finish(heavy[0], 3.0)
    light = offered(core, runs["x"].prefix, 4.0, tenant="light", urgency=Class.BATCH)
    core.finish(heavy[1], 5.0)
    assert (light.backend, heavy[2].backend) == ("y", "")


def test_a_users_own_priorities_are_kept() -> None:
    core = fleet(slots=1)
    runs = busy(core)
    head = offered(core, runs["x"].prefix, 2.0, priority=-1)
    later = offered(core, runs["y"].prefix, 1.0)
    core.finish(runs["y"], 3.0)
    assert (head.backend, later.backend) == ("y", "")


# --- many -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tenants", [1, 60])
@pytest.mark.parametrize(("think_s", "share"), [(0.0, 0.95), (2.0, 0.95), (10.0, 0.7), (20.0, 0.9), (60.0, 0.95)])
def test_nearly_all_later_turns_find_their_prefix_cached_and_the_load_is_even(
    think_s: float, share: float, tenants: int
) -> None:
    """Of 12 slots all are in use, all, 10, 5 and 2: at ten a home is often full, and other slots are not kept free."""
    played = [Talks(think_s, seed, tenants) for seed in range(5)]
    later, hits = (sum(figures) for figures in zip(*((each.later, each.hits) for each in played), strict=True))
    assert later == 5 * 420 and hits >= share * later
    assert all(max(each.requests.values()) <= 1.25 * 160 for each in played)


def test_a_backend_of_twice_the_weight_has_twice_the_conversations() -> None:
    core = fleet(x=2.0)
    runs: Counter[str] = Counter()
    for conversation in range(1, 401):
        run = offered(core, conversation)
        runs[run.backend] += 1
        core.finish(run, 0.0)
    assert abs(runs["x"] - 200) < 12 and abs(runs["y"] - 100) < 12, (
        "of an even draw a backend of half the weight gets 110"
    )


def test_without_conversations_a_backend_of_twice_the_weight_runs_twice_as_many() -> None:
    core = fleet(100, y=2.0)
    assert Counter(offered(core, 0).backend for _ in range(40)) == {"x": 10, "y": 20, "z": 10}


# --- homes ------------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(1, 40), st.sampled_from(NAMES) | st.none()), max_size=120))
def test_new_conversations_are_bounded_by_their_share_whatever_happened(moves: list[tuple[int, str | None]]) -> None:
    homes = Homes()
    known: dict[int, str] = {}
    for conversation, forced in moves:
        if (home := homes.find(conversation)) == "":
            home = homes.found(conversation, EVEN)
            counts = Counter(known.values())
            assert counts[home] < SPREAD * (len(known) + 1) / len(NAMES)
        homes.move(conversation, forced or home)
        known[conversation] = forced or home
        assert homes.find(conversation) == known[conversation]


def test_the_longest_silent_are_forgotten() -> None:
    homes = Homes()
    for conversation in range(1, REMEMBERED + 1):
        homes.move(conversation, "x")
    homes.move(1, "x")
    homes.move(REMEMBERED + 1, "y")
    assert (homes.find(1), homes.find(2), homes.find(3), homes.find(REMEMBERED + 1)) == ("x", "", "x", "y")


# --- what tells conversations apart -----------------------------------------------------------------------------------

SYSTEM, HELLO, ANSWER = Message("system", "Be kind."), Message("user", "Hello"), Message("assistant", "Hi!")


def grown() -> Iterator[tuple[Message | RichMessage, ...]]:
    yield SYSTEM, HELLO
    yield SYSTEM, HELLO, ANSWER, Message("user", "And now?")
    yield SYSTEM, RichMessage("user", (Text("Hello"),)), RichMessage("assistant", (), "Hm.")


def test_a_conversation_that_grows_is_the_same() -> None:
    assert len({prefix("m", "t", b"", messages) for messages in grown()}) == 1


@pytest.mark.parametrize(
    "other",
    [
        (HELLO,),
        (SYSTEM, Message("user", "Hello!")),
        (SYSTEM, RichMessage("user", (Text("Hello"), Image("image/png", "AAAA")))),
        (SYSTEM, ANSWER, HELLO),
    ],
)
def test_one_that_begins_otherwise_is_another(other: tuple[Message | RichMessage, ...]) -> None:
    assert prefix("m", "t", b"", other) != prefix("m", "t", b"", (SYSTEM, HELLO))


def test_of_a_long_message_the_beginning_tells() -> None:
    long = "x" * TOLD_BY
    same = {prefix("m", "t", b"", (Message("user", long + end),)) for end in ("", "a", "b" * TOLD_BY)}
    assert len(same) == 1 and prefix("m", "t", b"", (Message("user", long[1:]),)) not in same


def test_a_session_is_one_conversation_whatever_is_said_but_not_another_users_or_models() -> None:
    assert prefix("m", "t", b"s", (HELLO,)) == prefix("m", "t", b"s", (SYSTEM, ANSWER))
    mine = prefix("m", "t", b"s", (HELLO,))
    assert mine not in (prefix("m", "u", b"s", (HELLO,)), prefix("n", "t", b"s", (HELLO,)))
    assert prefix("m", "t", b"", (HELLO,)) == prefix("m", "u", b"", (HELLO,)), "what is cached is the same"
