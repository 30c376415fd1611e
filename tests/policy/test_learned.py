"""What was learned before a restart: better than first estimates, and corrected by what comes."""

import msgspec
import pytest

from hermes.policy.estimates import Learned
from hermes.policy.scheduler import Scheduler
from hermes.policy.ticket import BackendFacts, Bounds, Load, ModelBounds, Ticket
from tests.policy.box import PATIENT

KNOWN = {"gemma:latest": Learned(6.0, 2.0, 300.0)}


def scheduler() -> Scheduler:
    """It has been told of another model's times than it has known."""
    made = Scheduler(Bounds(), ModelBounds(load_s=99.0, service_s=99.0), PATIENT)
    made.learn(KNOWN)
    made.observe(BackendFacts("b0", True, 1, {}), 0.0)
    return made


def ticket() -> Ticket:
    return Ticket("gemma", "gemma:latest", "t", ("b0",), 1, 0.0, 1e6)


def test_what_was_learned_is_told_again() -> None:
    assert scheduler().learned() == KNOWN


def test_of_what_nothing_was_learned_nothing_is_told() -> None:
    made = Scheduler(Bounds(), ModelBounds(load_s=99.0), PATIENT)
    made.observe(BackendFacts("b0", True, 1, {}), 0.0)
    made.offer(ticket(), 0.0)
    assert made.learned() == {}


def test_it_beats_first_estimates() -> None:
    made = scheduler()
    made.offer(ticket(), 0.0)
    assert made.learned()["gemma:latest"].load_s == 6.0


def test_what_comes_corrects_it() -> None:
    made, asked = scheduler(), ticket()
    assert made.offer(asked, 0.0) == [Load("b0", "gemma:latest")]
    made.loaded("b0", "gemma:latest", 16.0)
    made.settle(asked, 10, 100)
    made.finish(asked, 20.0)
    now = made.learned()["gemma:latest"]
    assert now.load_s is not None and 6.0 < now.load_s < 16.0
    assert now.service_s is not None and now.service_s > 2.0
    assert now.output_tokens is not None and 100.0 < now.output_tokens < 300.0


def test_a_run_that_takes_no_time_was_never_learned() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"service_s": 0}', type=Learned)
