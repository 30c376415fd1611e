"""Admission on the loop that it runs on, where that differs from asyncio's own."""

import asyncio

from hermes.admission import Admission
from hermes.policy.scheduler import Scheduler
from hermes.policy.ticket import BackendFacts, Bounds, ModelBounds, Ticket
from tests.policy.box import PATIENT
from tests.support import run


def test_another_may_come_to_wait_while_a_deadline_is_due_at_once() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        admission = Admission(Scheduler(Bounds(), ModelBounds(), PATIENT), loop, lambda order: None)
        admission.observe(BackendFacts("x", True, 1))

        def ticket(patience_s: float) -> Ticket:
            return Ticket("m", "m", "t", ("x",), 1, loop.time(), loop.time() + patience_s)

        async with admission.admit(ticket(10.0)):
            waiting = [ticket(0.0004), ticket(10.0)]  # uvloop rounds to milliseconds
            futures = [admission.offer(each, again=False) for each in waiting]
            assert None not in futures
            for each in waiting:
                admission.leave(each)
                admission.forget(each)
        assert (admission.scheduler.running, admission.scheduler.waiting) == (0, 0)

    run(scenario())
