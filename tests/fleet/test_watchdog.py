"""Who is looked at is who runs there now: a request that has gone elsewhere tells nothing of where it was before."""

import asyncio
from types import SimpleNamespace
from typing import Any

from msgspec import Struct

from hermes.exchange import Exchange
from hermes.fleet.watchdog import Watchdog
from hermes.journal import Journal
from hermes.metrics import Metrics
from hermes.policy.pulse import Patience
from hermes.policy.ticket import Phase, Ticket
from tests.fakes.gateway import scenario
from tests.policy.box import ticket
from tests.support import run, until


class FakeAsking(Struct):
    mark: float = 1.0
    whole: bool = False
    heard: int = 0
    is_cut: bool = False

    def cut(self) -> None:
        self.is_cut = True


class FakeHealth:
    """Of a backend that has everything in its memory; `probed` is what was asked for."""

    def __init__(self) -> None:
        self.backend = SimpleNamespace(has_in_memory=lambda model: True, breakers={})
        self.on_probed: Any = None
        self.probed: list[str] = []

    def began(self, ticket: Ticket) -> None: ...

    def probe(self, model: str) -> None:
        self.probed.append(model)


class Watched:
    def __init__(self, silence_s: float = 10.0) -> None:
        self.journal = Journal(Metrics())
        self.healths: dict[str, Any] = {"a": FakeHealth(), "b": FakeHealth()}
        self.watchdog = Watchdog(self.journal, self.healths, Patience(silence_s))

    def run(self, backend: str, now: float, exchange: Exchange | None = None) -> tuple[Exchange, FakeAsking]:
        """A new request, or the next attempt of one."""
        exchange = exchange or self.journal.begin("POST", "", now)
        if exchange.ticket is not None:
            exchange.ticket.phase = Phase.DONE
        exchange.ticket = ticket(phase=Phase.RUNNING, backend=backend, started_at=now)
        asking = exchange.asking = FakeAsking()
        return exchange, asking


@scenario
async def test_what_was_tried_elsewhere_meanwhile_is_not_cut_there() -> None:
    watched = Watched()
    exchange, first = watched.run("a", 0.0)
    _, stays = watched.run("a", 0.0)
    watched.watchdog.look(0.0)
    _, second = watched.run("b", 1.0, exchange)
    watched.healths["a"].on_probed("m", True)
    assert (first.is_cut, stays.is_cut, second.is_cut) == (False, True, False)


@scenario
async def test_what_waits_for_another_try_is_not_cut() -> None:
    """Its connection may be somebody else's by now."""
    watched = Watched()
    exchange, first = watched.run("a", 0.0)
    watched.watchdog.look(0.0)
    assert exchange.ticket is not None
    exchange.ticket.phase = Phase.DONE
    watched.healths["a"].on_probed("m", True)
    assert not first.is_cut


@scenario
async def test_an_answer_from_elsewhere_is_no_sign_of_life() -> None:
    watched = Watched()
    exchange, _ = watched.run("a", 0.0)
    watched.run("a", 0.0)
    watched.watchdog.look(0.0)
    watched.run("b", 1.0, exchange)
    watched.journal.close(exchange, 2.0)
    watched.watchdog.look(11.0)
    assert watched.healths["a"].probed == ["m"]


def test_a_bug_in_one_look_is_not_the_end_of_all() -> None:
    async def scenario() -> None:
        watched = Watched(silence_s=0.01)
        watched.run("nowhere", 0.0)
        watched.run("a", 0.0)
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(watched.watchdog.watch())
            await asyncio.sleep(0.005)
            assert not watching.done()
            del watched.journal.exchanges[next(iter(watched.journal.exchanges))]
            await until(lambda: watched.healths["a"].probed)
            watching.cancel()

    run(scenario(), may_log_errors=True)
