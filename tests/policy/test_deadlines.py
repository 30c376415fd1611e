"""Deadlines under overload: what would come too late is refused, so that slots work for answers that are of use."""

import random

import pytest

from hermes.policy.ticket import STANDARD, BackendFacts, Class
from tests.policy.box import Play, chats, scheduler

SLOTS = 4
OVERLOAD = 3.0
DEADLINES_S = (15.0, 30.0, 60.0, 120.0)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_under_overload_nearly_all_tokens_are_of_answers_that_end_in_time_and_no_slot_idles(seed: int) -> None:
    dice, now = random.Random(seed), 0.0
    jobs = chats(seed)(4000, urgency=Class.NORMAL, whole=True)
    mean_s = sum(job.service_s for job in jobs) / len(jobs)
    for job in jobs:
        now += dice.expovariate(OVERLOAD * SLOTS / mean_s)
        job.ticket.arrived_at, job.ticket.deadline = now, now + dice.choice(DEADLINES_S)
    played = Play(scheduler(BackendFacts("x", True, SLOTS), rules=STANDARD), jobs).to_the_end()
    in_time = sum(run.output_tokens for run in played.runs if not run.is_cut)
    assert in_time >= 0.95 * sum(run.output_tokens for run in played.runs)
    busy_s = sum(min(run.ended_at, now) - run.started_at for run in played.runs if run.started_at < now)
    assert busy_s >= 0.9 * SLOTS * now
