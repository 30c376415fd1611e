"""Admission, case by case: who waits is woken with what was decided, and every exit gives the slot back."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from hermes.admission import Admission, Lease, refusal
from hermes.errors import Draining, GatewayError, ModelNotFound, NoBackend, QueueFull, QueueTimeout
from hermes.policy.estimates import Outlook
from hermes.policy.scheduler import Scheduler
from hermes.policy.ticket import BackendFacts, Bounds, Load, ModelBounds, Reject, Ticket, Unload
from tests.simulation.loop import VirtualLoop

PATIENCE_S = 10.0


class House:
    """An admission with one slot on one backend, `x`, and a queue for two."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self.scheduler = Scheduler(Bounds(), ModelBounds(queue_limit=2))
        self.admission = Admission(self.scheduler, loop, _no_orders)
        self.admission.observe(BackendFacts("x", True, 1))
        self.admitted: list[str] = []

    def ticket(self, patience_s: float = PATIENCE_S) -> Ticket:
        now = self.loop.time()
        return Ticket("m", "m", "t", ("x",), 1, now, now + patience_s)

    def visit(self, name: str, work_s: float = 1.0, patience_s: float = PATIENCE_S) -> "asyncio.Task[None]":
        return self.loop.create_task(self._visit(name, work_s, self.ticket(patience_s)), name=name)

    async def _visit(self, name: str, work_s: float, ticket: Ticket) -> None:
        async with self.admission.admit(ticket):
            assert ticket.backend == "x"
            self.admitted.append(name)
            await asyncio.sleep(work_s)

    def is_empty(self) -> bool:
        return (self.scheduler.running, self.scheduler.waiting, self.admission._waiters) == (0, 0, {})


def play(scenario: Callable[[House], Awaitable[None]]) -> House:
    """Run it on a virtual clock; in the end nothing is held, and no timer is left."""
    loop = VirtualLoop()
    house = House(loop)

    async def main() -> None:
        await scenario(house)

    loop.run(main())
    assert house.is_empty()
    assert house.admission._timer is None
    return house


async def fails_with(kind: type[GatewayError], task: "asyncio.Task[None]") -> GatewayError:
    with pytest.raises(kind) as caught:
        await task
    return caught.value


def test_a_free_slot_is_taken_without_a_turn_of_the_loop() -> None:
    async def scenario(house: House) -> None:
        steps = house.loop.steps
        async with house.admission.admit(house.ticket()):
            assert house.loop.steps == steps
            assert house.scheduler.running == 1

    play(scenario)


def test_who_waits_is_woken_in_the_order_of_arrival() -> None:
    async def scenario(house: House) -> None:
        await asyncio.gather(*map(house.visit, "abc"))
        assert house.loop.time() == 1003.0

    assert play(scenario).admitted == ["a", "b", "c"]


def test_a_full_queue_refuses_at_once_and_says_when_to_come_again() -> None:
    async def scenario(house: House) -> None:
        tasks = [house.visit(name) for name in "abcd"]
        error = await fails_with(QueueFull, tasks[3])
        assert house.loop.time() == 1000.0
        assert error.retry_after_s is not None and error.retry_after_s >= 1.0
        await asyncio.gather(*tasks[:3])

    play(scenario)


def test_who_waits_to_the_deadline_is_told_at_the_deadline() -> None:
    async def scenario(house: House) -> None:
        first = house.visit("a", work_s=60.0)
        late = house.visit("late", patience_s=7.0)
        await fails_with(QueueTimeout, late)
        assert house.loop.time() == 1007.0
        await first

    assert play(scenario).admitted == ["a"]


def test_the_earliest_deadline_is_kept_though_it_came_last() -> None:
    async def scenario(house: House) -> None:
        first = house.visit("a", work_s=60.0)
        later = house.visit("later", patience_s=9.0)
        await asyncio.sleep(1.0)
        await fails_with(QueueTimeout, house.visit("sooner", patience_s=3.0))
        assert house.loop.time() == 1004.0
        await fails_with(QueueTimeout, later)
        assert house.loop.time() == 1009.0
        await first

    play(scenario)


def test_who_comes_past_the_deadline_is_told_at_once() -> None:
    async def scenario(house: House) -> None:
        await fails_with(QueueTimeout, house.visit("late", patience_s=0.0))

    play(scenario)


def test_a_client_that_leaves_the_queue_frees_its_place() -> None:
    async def scenario(house: House) -> None:
        first, leaver, next_one = map(house.visit, ("a", "leaver", "b"))
        await asyncio.sleep(0.5)
        leaver.cancel()
        await asyncio.sleep(0)
        assert house.scheduler.waiting == 1
        await asyncio.gather(first, next_one)
        assert leaver.cancelled()

    assert play(scenario).admitted == ["a", "b"]


def test_a_client_that_leaves_between_grant_and_resume_hands_the_slot_on() -> None:
    """Where other gateways leak: the slot is granted, and nobody comes to take it."""

    async def scenario(house: House) -> None:
        holder = house.ticket()
        async with house.admission.admit(holder):
            leaver, next_one = house.visit("leaver"), house.visit("b")
            await asyncio.sleep(0.5)
        assert (house.scheduler.running, house.scheduler.waiting) == (1, 1)  # granted to `leaver`, not yet resumed
        leaver.cancel()
        await next_one
        assert leaver.cancelled()

    assert play(scenario).admitted == ["b"]


def test_a_slot_granted_to_who_is_already_leaving_is_handed_on() -> None:
    async def scenario(house: House) -> None:
        async with house.admission.admit(house.ticket()):
            leaver, next_one = house.visit("leaver"), house.visit("b")
            await asyncio.sleep(0.5)
            leaver.cancel()
        assert (house.scheduler.running, house.scheduler.waiting) == (1, 1)
        await next_one
        assert leaver.cancelled()

    assert play(scenario).admitted == ["b"]


@pytest.mark.parametrize("error", [RuntimeError, asyncio.CancelledError, KeyboardInterrupt, GeneratorExit])
def test_an_error_inside_the_block_gives_the_slot_back(error: type[BaseException]) -> None:
    async def scenario(house: House) -> None:
        with pytest.raises(error):
            async with house.admission.admit(house.ticket()):
                raise error
        assert house.is_empty()

    play(scenario)


def test_when_the_last_backend_goes_who_waits_is_told() -> None:
    async def scenario(house: House) -> None:
        running, waiting = house.visit("a"), house.visit("b")
        await asyncio.sleep(0.5)
        house.admission.observe(BackendFacts("x", False))
        await fails_with(NoBackend, waiting)
        await fails_with(NoBackend, house.visit("c"))
        await running

    play(scenario)


def test_closing_sends_away_who_waits_and_lets_who_runs_finish() -> None:
    """I33."""

    async def scenario(house: House) -> None:
        running, waiting = house.visit("a"), house.visit("b")
        await asyncio.sleep(0.5)
        house.admission.close()
        for task in (waiting, house.visit("c")):
            error = await fails_with(Draining, task)
            assert error.retry_after_s is not None
        await running

    assert play(scenario).admitted == ["a"]


def test_who_comes_again_goes_first() -> None:
    async def scenario(house: House) -> None:
        failed = house.ticket()
        async with house.admission.admit(failed):
            others = [house.visit("b"), house.visit("c")]
            await asyncio.sleep(0.5)
        await asyncio.sleep(0)
        async with house.admission.admit(failed.again(), again=True):
            house.admitted.append("again")
        await asyncio.gather(*others)

    assert play(scenario).admitted == ["b", "again", "c"]


def test_who_waited_for_a_model_that_is_gone_is_told_which_and_not_to_come_again() -> None:
    error = refusal(Reject(Ticket("m", "m", "t", ("x",), 1, 0.0, 1.0), "model_lost", 5.0))
    assert (type(error), error.param, error.retry_after_s) == (ModelNotFound, "model", None)


class Ear:
    """Hears how things stand, every second, and what it hears is kept."""

    def __init__(self, loop: VirtualLoop, every_s: float = 1.0) -> None:
        self.every_s = every_s
        self.heard: list[tuple[float, int]] = []
        self._loop = loop

    def tell(self, outlook: Outlook) -> None:
        self.heard.append((self._loop.time() - 1000.0, outlook.position))


def test_who_waits_hears_at_its_pace_how_things_stand_and_nothing_once_it_is_its_turn() -> None:
    async def scenario(house: House) -> None:
        ear = Ear(house.loop)
        ahead = [house.visit("a", work_s=2.5), house.visit("b", work_s=1.2)]
        await asyncio.sleep(0)
        async with house.admission.admit(house.ticket(), ear):
            assert house.loop.time() == 1003.7
            await asyncio.sleep(5.0)
        assert ear.heard == [(1.0, 2), (2.0, 2), (3.0, 1)]
        await asyncio.gather(*ahead)

    play(scenario)


def test_who_need_not_wait_hears_nothing() -> None:
    async def scenario(house: House) -> None:
        ear = Ear(house.loop)
        async with house.admission.admit(house.ticket(), ear):
            await asyncio.sleep(5.0)
        assert not ear.heard

    play(scenario)


def test_who_hears_of_it_is_told_at_the_deadline_all_the_same() -> None:
    async def scenario(house: House) -> None:
        first, ear = house.visit("a", work_s=60.0), Ear(house.loop, every_s=3.5)
        await asyncio.sleep(0)
        with pytest.raises(QueueTimeout):
            async with house.admission.admit(house.ticket(patience_s=7.0), ear):
                raise AssertionError("there is no slot")
        assert house.loop.time() == 1007.0
        await first

    play(scenario)


def test_a_place_is_given_back_when_telling_fails() -> None:
    class Deaf(Ear):
        def tell(self, outlook: Outlook) -> None:
            raise RuntimeError

    async def scenario(house: House) -> None:
        first = house.visit("a", work_s=5.0)
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError):
            async with house.admission.admit(house.ticket(), Deaf(house.loop)):
                raise AssertionError("there is no slot")
        assert (house.loop.time(), house.scheduler.waiting) == (1001.0, 0)
        await first

    play(scenario)


@pytest.mark.parametrize("leaves_at", [0.5, 1.0, 1.5, 2.0])
def test_who_leaves_while_it_hears_how_things_stand_frees_its_place(leaves_at: float) -> None:
    async def scenario(house: House) -> None:
        async def listen() -> None:
            async with house.admission.admit(house.ticket(), Ear(house.loop)):
                await asyncio.sleep(1.0)

        first, leaver = house.visit("a", work_s=2.0), house.loop.create_task(listen())
        await asyncio.sleep(leaves_at)
        leaver.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert house.scheduler.waiting == 0
        await first
        assert leaver.cancelled()

    play(scenario)


def test_any_number_of_tickets_share_one_timer() -> None:
    async def scenario(house: House) -> None:
        house.scheduler.configure("m", ModelBounds(queue_limit=100))
        tasks = [house.visit(str(number), work_s=0.1, patience_s=50.0 - number) for number in range(40)]
        await asyncio.sleep(0)
        assert sum(not timer.cancelled() for timer in house.loop._scheduled) == 2  # the running one sleeps
        await asyncio.gather(*tasks)

    play(scenario)


def test_a_swap_that_others_have_thwarted_is_weighed_again_though_nothing_else_happens() -> None:
    """The run that ends leads to no decision, but to a time by which to think again."""
    loop, orders = VirtualLoop(), list[Load | Unload]()
    admission = Admission(Scheduler(Bounds(), ModelBounds()), loop, orders.append)

    def see(*loaded: str) -> None:
        sizes = dict.fromkeys("vwm", 5)
        admission.observe(BackendFacts("x", True, 1, dict.fromkeys(loaded, 5), sizes, 5, loop.time()))

    def ask(model: str) -> Lease:
        return admission.admit(Ticket(model, model, "t", ("x",), 1, loop.time(), loop.time() + 60.0))

    async def wait() -> None:
        async with ask("m"):
            pass

    async def main() -> None:
        see("v")
        async with ask("v"):
            waiting = [loop.create_task(wait()) for _ in range(8)]
            await asyncio.sleep(1.0)
            assert not orders
            see("v", "w")
            await asyncio.sleep(0.05)  # too soon to weigh again
        assert not orders
        await asyncio.sleep(1.1)
        assert Load("x", "m") in orders
        for each in waiting:
            each.cancel()

    loop.run(main())


def _no_orders(order: Load | Unload) -> None:
    raise AssertionError("nothing has to be loaded here")
