"""The order within a line: classes take turns, tenants by what they were served, and of one tenant by priority."""

import sys
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes.policy.fairness import Shares
from hermes.policy.line import Backlog, Line
from hermes.policy.ticket import Class, Ticket
from tests.policy.box import ticket


def nobody_is_capped(_: Ticket) -> bool:
    return False


class Order:
    """A backlog to which tickets are put in order of their arrival."""

    def __init__(self) -> None:
        self.shares: Shares[str] = Shares()
        self.backlog = Backlog(self.shares)
        self._sequence = 0

    def put(self, tenant: str = "t", start_by: float = inf, priority: float = 0) -> Ticket:
        self._sequence += 1
        made = ticket(tenant=tenant, priority=priority)
        made.start_by, made.sequence = start_by, self._sequence
        self.backlog.put(made)
        return made

    def head(self, now: float = 0.0, pace_s: float = 1.0, capped: str = "") -> Ticket | None:
        return self.backlog.head(now, pace_s, lambda each: each.tenant in capped)

    def take_all(self, pace_s: float = 1.0, cost: float = 0.0) -> list[Ticket]:
        taken = []
        while (first := self.head(pace_s=pace_s)) is not None:
            self.backlog.take(first)
            self.shares.serve(first.tenant, cost)
            self.backlog.turn(first.tenant)
            taken.append(first)
        return taken


def test_of_one_tenant_the_lowest_priority_goes_first_then_who_must_start_first_then_who_came_first() -> None:
    order = Order()
    late, early, soon, first, second = (
        order.put(priority=1),
        order.put(priority=-1),
        order.put(start_by=50.0),
        order.put(start_by=90.0),
        order.put(start_by=90.0),
    )
    assert order.take_all() == [early, soon, first, second, late]


def test_who_comes_again_goes_before_any_priority() -> None:
    order = Order()
    urgent, again = order.put(priority=-9), order.put(priority=-inf)
    assert order.take_all() == [again, urgent]


def test_while_all_can_start_in_time_who_must_start_first_goes_first_whatever_its_tenant_was_served() -> None:
    order = Order()
    a, b, c = order.put("a", 90.0), order.put("b", 30.0), order.put("a", 60.0)
    order.shares.serve("b", 1e6)
    order.backlog.turn("b")
    assert order.take_all(pace_s=1.0) == [b, c, a]


def test_when_not_all_can_start_in_time_the_tenant_that_was_served_least_goes_first() -> None:
    order = Order()
    a, b, c = order.put("a", 90.0), order.put("b", 30.0), order.put("a", 60.0)
    order.shares.serve("b", 1e6)
    order.backlog.turn("b")
    assert order.take_all(pace_s=100.0) == [c, a, b]


def test_a_priority_orders_a_tenants_own_tickets_and_none_of_others() -> None:
    order = Order()
    plain, vain = order.put("a"), order.put("b", priority=-100)
    assert order.take_all(cost=10.0) == [plain, vain]


@pytest.mark.parametrize("pace_s", [1.0, 1000.0])
def test_a_tenant_at_its_cap_holds_nobody_up_and_comes_again_when_it_may(pace_s: float) -> None:
    order = Order()
    mine, yours = order.put("a", 10.0), order.put("b", 500.0)
    assert order.head(pace_s=pace_s, capped="a") is yours
    assert order.head(pace_s=pace_s, capped="ab") is None
    order.backlog.turn("a")
    assert order.head(pace_s=pace_s) is mine
    order.backlog.turn("b")
    order.backlog.take(mine)
    assert order.head(pace_s=pace_s) is yours


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from((5.0, 50.0, inf)), st.sampled_from((-inf, -1, 0, 1))))
)
def test_what_was_put_comes_out_once_and_each_tenants_in_order(
    drawn: list[tuple[str, float, float]],
) -> None:
    order = Order()
    made = [order.put(*each) for each in drawn]
    assert order.backlog.waiting == len(made)
    taken = order.take_all(cost=7.0)
    assert order.backlog.waiting == 0 and order.backlog.start_by == inf
    for tenant in "abc":
        own = [each for each in made if each.tenant == tenant]
        own.sort(key=lambda each: (each.priority, each.start_by, each.sequence))
        assert [each for each in taken if each.tenant == tenant] == own


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from((5.0, 50.0, inf))), min_size=1),
    st.sampled_from((0.001, 100.0)),
)
def test_the_place_that_is_told_is_the_place_it_gets(drawn: list[tuple[str, float]], pace_s: float) -> None:
    """While nobody comes after it, and every request costs the same."""
    order = Order()
    made = [order.put(*each) for each in drawn]
    told = order.backlog.ahead(made[-1], 0.0, pace_s)
    is_fair = order.backlog.crowded(0.0, pace_s)
    place = order.take_all(pace_s, cost=1.0).index(made[-1])
    if len({each.tenant for each in made}) == 1 or (not is_fair and made[-1].start_by > 60.0):
        assert told == place
    assert told < len(made)


@given(
    st.lists(st.sampled_from("aaaabcd"), min_size=1, max_size=30),
    st.lists(st.integers(0, 30)),
)
def test_in_turns_as_many_of_each_other_tenant_are_ahead_as_of_ones_own(drawn: list[str], left: list[int]) -> None:
    order = Order()
    made = [order.put(tenant, start_by=50.0) for tenant in drawn]
    for number in left:
        if number < len(made) - 1:
            order.backlog.take(made.pop(number))
    for each in made:
        own = [other for other in made if other.tenant == each.tenant]
        place = own.index(each)
        others = [sum(other.tenant == name for other in made) for name in {*drawn} - {each.tenant}]
        assert order.backlog.ahead(each, 0.0, 1e6) == place + sum(min(count, place + 1) for count in others)


def test_a_place_is_told_as_soon_among_many_tenants() -> None:
    order = Order()
    for number in range(2000):
        order.put(f"t{number}")
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    asked = ticket(tenant="new")
    sys.setprofile(count)
    try:
        ahead = order.backlog.ahead(asked, 0.0, 1.0)
    finally:
        sys.setprofile(None)
    assert ahead == 2000
    assert calls < 30


def test_how_many_can_still_start_at_a_time() -> None:
    order = Order()
    for start_by in (5.0, 10.0, 10.0, inf):
        order.put(start_by=start_by)
    assert [order.backlog.in_time(when) for when in (0.0, 5.0, 5.1, 10.0, 11.0)] == [4, 4, 3, 3, 1]
    assert (order.backlog.start_by, order.backlog.first().start_by) == (5.0, 5.0)


def test_classes_take_turns_by_what_they_were_served() -> None:
    line = Line("m", ("x",), (Shares(), Shares(), Shares()))
    classes: Shares[Class] = Shares()
    made = {}
    for number, each in enumerate((Class.BATCH, Class.INTERACTIVE)):
        made[each] = ticket(urgency=each, tenant=each.name)
        made[each].sequence = number
        classes.enter(each)
        line.put(made[each])
    classes.serve(Class.BATCH, 10.0)
    assert line.head(classes, 0.0, 1.0, nobody_is_capped) is made[Class.INTERACTIVE]
    classes.serve(Class.INTERACTIVE, 20.0)
    assert line.head(classes, 0.0, 1.0, nobody_is_capped) is made[Class.BATCH]
    assert line.head(classes, 0.0, 1.0, lambda each: each.tenant == "BATCH") is made[Class.INTERACTIVE]


def test_a_class_alone_moves_the_present_on_for_those_that_come() -> None:
    line = Line("m", ("x",), (Shares(), Shares(), Shares()))
    classes: Shares[Class] = Shares()
    classes.enter(Class.NORMAL)
    classes.serve(Class.NORMAL, 500.0)
    line.put(ticket())
    line.head(classes, 0.0, 1.0, nobody_is_capped)
    classes.enter(Class.BATCH)
    assert classes.counter(Class.BATCH) == 500.0
