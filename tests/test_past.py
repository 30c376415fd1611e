"""What is remembered of requests that are over: the last ones, all that was told of them, and in little room."""

import sys

import pytest

from hermes import past as past_room
from hermes.errors import Outcome
from hermes.past import PACKED_TOGETHER, REMEMBERED, Finished, Past
from hermes.policy.estimates import Outlook
from hermes.policy.ticket import Why
from hermes.record import Record

WHY = Why(Outlook(3, 1.5, 4.0), "absent", {"normal": 3}, (), (), {"gpu0": "low"})


def record(request_id: str, tokens: int = 0) -> Record:
    told = {"key_id": "k_1", "model": "gemma", "backend": "gpu0", "user": "ann", "urgency": "normal"}
    times = {"attempts": 1, "queue_ms": 300, "ttft_ms": 400, "tokens_in": tokens}
    first = (1700000000.123, request_id, "/v1/chat/completions", "POST", Outcome.OK, 200, 1234)
    return Record(*first, stream=True, **told, **times)  # type: ignore[arg-type]


def remembering(count: int) -> Past:
    past = Past()
    for number in range(count):
        past.add(record(f"r{number}", number), WHY if number % 2 else None)
    return past


def of(past: Past, request_id: str, user: str | None = None) -> list[Finished]:
    return [found for some in past.of(request_id, user) for found in some]


def test_all_that_was_told_is_told_again_whether_it_waited_or_not() -> None:
    past = remembering(3 * PACKED_TOGETHER + 5)
    for number in range(3 * PACKED_TOGETHER + 5):
        (found,) = of(past, f"r{number}")
        assert [found] == of(past, f"r{number}", "ann") and not of(past, f"r{number}", "bob")
        assert found.record == record(f"r{number}", number) and found.why == (WHY if number % 2 else None)
        assert type(found.record.outcome) is Outcome


def test_the_last_are_kept_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hermes.past.REMEMBERED", remembered := 5 * PACKED_TOGETHER)
    count = remembered + 3 * PACKED_TOGETHER + 5
    past = remembering(count)
    kept = {number for number in range(count) if of(past, f"r{number}", "ann")}
    assert kept == {*range(3 * PACKED_TOGETHER, count)}


def test_of_one_id_the_last_comes_first() -> None:
    past = Past()
    for tokens in range(2 * PACKED_TOGETHER + 1):
        past.add(record("again", tokens), None)
    assert [found.record.tokens_in for found in of(past, "again")] == [*range(2 * PACKED_TOGETHER, -1, -1)]


def test_a_part_of_an_id_is_nobody_s() -> None:
    past = remembering(2 * PACKED_TOGETHER)
    for user in (None, "ann"):
        assert not any(of(past, part, user) for part in ("", "r", "gemma", "\udcff"))


def test_what_others_have_asked_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """I21: nobody learns from the time it takes whether somebody else's request had this id."""
    past, read = remembering(2 * PACKED_TOGETHER), list[bytes]()
    unpack = past_room._unpack
    monkeypatch.setattr(past_room, "_unpack", lambda piece: read.append(piece) or unpack(piece))
    assert not of(past, "r7", "bob") and not read
    assert of(past, "r7", "ann") and len(read) == 1


def test_many_of_one_id_are_told_a_few_at_a_time() -> None:
    """I36: others run in between."""
    past = Past()
    for tokens in range(3 * PACKED_TOGETHER):
        past.add(record("again", tokens), WHY)
    for user in (None, "ann"):
        assert [len(some) for some in past.of("again", user)] == [0, *3 * [PACKED_TOGETHER]]


def test_the_newest_come_first_and_only_those_that_are_wanted() -> None:
    count = 3 * PACKED_TOGETHER + 5
    past = remembering(count)
    told = [record for records in past.newest({}) for record in records]
    assert told == [record(f"r{number}", number) for number in reversed(range(count))]
    assert told == [record for records in past.newest({"model": "gemma", "user": "ann"}) for record in records]
    assert [each.request_id for records in past.newest({"request_id": "r7"}) for each in records] == ["r7"]
    assert not any(past.newest({"model": "gem"})) and not any(past.newest({"outcome": "denied"}))


def test_what_ends_while_they_are_told_does_not_change_what_is_told() -> None:
    """I36: a few at a time, others run in between."""
    past, told = remembering(2 * PACKED_TOGETHER + 5), []
    for records in past.newest({}):
        assert len(records) <= PACKED_TOGETHER
        told += [each.tokens_in for each in records]
        for number in range(PACKED_TOGETHER):
            past.add(record("late", number), None)
    assert told == [*reversed(range(2 * PACKED_TOGETHER + 5))]


def test_ten_thousand_take_little() -> None:
    past = remembering(REMEMBERED)
    assert sum(sys.getsizeof(part) for piece in past._pieces for part in piece) / REMEMBERED < 200
