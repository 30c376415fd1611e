"""A model that is on its way to a backend's disk: it is waited for, and holds nothing up until it is there."""

from math import inf

from msgspec.structs import replace

from hermes.policy.ticket import BackendFacts
from tests.policy.box import facts, scheduler, ticket, told


def pulling(there_at: float = 60.0, loaded: tuple[str, ...] = (), seen_at: float = 0.0) -> BackendFacts:
    """`p` is on its way; nobody knows how large it is."""
    return replace(facts(loaded=loaded, sizes={"a": 5, "b": 5}, seen_at=seen_at), pulling={"p": there_at})


def there(seen_at: float, loaded: tuple[str, ...] = ()) -> BackendFacts:
    return facts(loaded=loaded, sizes={"a": 5, "b": 5, "p": 5}, seen_at=seen_at)


def test_it_is_loaded_when_it_is_there_and_not_before() -> None:
    core = scheduler(pulling())
    assert told(core.offer(ticket("p"), 0.0)) == []
    assert told(core.expire(30.0)) == []
    assert told(core.observe(pulling(seen_at=40.0), 40.0)) == []
    assert told(core.observe(there(60.0), 60.0)) == ["Load p x"]
    assert told(core.loaded("x", "p", 67.0)) == ["Admit p x"]


def test_nothing_has_to_go_for_it_before_it_is_there() -> None:
    core = scheduler(pulling(loaded=("a", "b")))
    for _ in range(9):
        assert told(core.offer(ticket("p"), 0.0)) == []
    assert told(core.offer(ticket("a"), 30.0)) == ["Admit a x"]
    decisions = told(core.observe(there(60.0, ("a", "b")), 60.0))
    assert decisions == ["Unload b x", "Load p x"]


def test_others_are_loaded_meanwhile() -> None:
    core = scheduler(pulling())
    core.offer(ticket("p"), 0.0)
    assert told(core.offer(ticket("a"), 1.0)) == ["Load a x"]


def test_while_it_is_on_its_way_only_the_bound_of_who_waits_runs_a_timer() -> None:
    """A timer that finds nothing to do would run at once, again and again."""
    core = scheduler(pulling())
    core.offer(ticket("p", deadline=500.0), 0.0)
    assert core.next_deadline() == 500.0
    core.observe(pulling(seen_at=5.0), 5.0)
    assert core.next_deadline() == 500.0


def test_the_predicted_wait_has_the_rest_of_the_pull_in_it_and_why_says_so() -> None:
    core = scheduler(pulling(there_at=600.0))
    asked = ticket("p")
    core.offer(asked, 0.0)
    before = core.outlook(asked, 0.0).eta_s
    assert before > 600.0
    assert core.outlook(asked, 100.0).eta_s < before - 50.0
    why = core.explain(asked)
    assert why is not None and why.found == "pulling"


def test_of_how_long_a_load_takes_the_pull_teaches_nothing() -> None:
    core = scheduler(pulling())
    core.offer(ticket("p"), 0.0)
    core.observe(there(1000.0), 1000.0)
    core.loaded("x", "p", 1007.0)
    assert core.learned()["p"].load_s == 7.0


def test_who_waits_for_a_pull_that_has_failed_is_told() -> None:
    core = scheduler(pulling(there_at=inf))
    core.offer(ticket("p"), 0.0)
    assert told(core.lost("x", "p", 9.0)) == ["Reject p model_lost"]
