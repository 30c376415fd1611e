"""One run: Hermes as a process of its own, a faulty backend and all clients in this one; and the evidence it leaves."""

import asyncio
import json
import re
import sqlite3
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

from msgspec import Struct
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

import hermes
from hermes.simulator import parse_fault
from hermes.storage.schema import NAME
from tests.chaos import plan
from tests.chaos.client import Clients, Seen
from tests.chaos.wire import connect
from tests.chaos.witness import Visit, Witness
from tests.fakes.gateway import request_bytes
from tests.support import until

Fate = Callable[[], Awaitable[None]]

_GREETING = re.compile(r"listens on http://127\.0\.0\.1:(\d+)")
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n")
_SETTLE_S = 5.0
# The process has met everything once: what it needs for that is not a leak.
_WARM_UP = 50
_BEAT_S = 0.02
_STATE = "state"


class Scrape(Struct, frozen=True):
    """/metrics at one moment."""

    samples: tuple[Sample, ...]

    def total(self, name: str) -> float:
        return sum(sample.value for sample in self.samples if sample.name == name)

    def by(self, name: str, *labels: str) -> Counter[tuple[str, ...]]:
        """Totals for each combination of these labels."""
        totals: Counter[tuple[str, ...]] = Counter()
        for sample in self.samples:
            if sample.name == name:
                totals[tuple(sample.labels[label] for label in labels)] += int(sample.value)
        return totals


class Books(Struct, frozen=True):
    """What is on the disk: the ledger's rows by day, key and model, and budgets by account and period."""

    rows: dict[tuple[str, str, str], tuple[int, ...]]
    budgets: dict[tuple[str, str], int]

    @classmethod
    def read(cls, folder: Path) -> "Books":
        with closing(sqlite3.connect(folder / NAME)) as connection:
            rows = connection.execute("SELECT * FROM usage").fetchall()
            budgets = connection.execute("SELECT * FROM budgets").fetchall()
        return cls(
            {(day, key, model): tuple(numbers) for day, key, model, *numbers in rows},
            {(account, period): tokens for account, period, tokens in budgets},
        )


class Evidence(Struct):
    """What clients, backend and Hermes say of one run. `records` are the access log's lines, `usage` the ledger's rows
    as they were told before the end, `books` what is on the disk after it.

    `stall_s`: for how long this process has held its own clients and backend up, at most.
    """

    took_s: float
    stall_s: float
    seen: list[Seen]
    visits: dict[str, list[Visit]]
    faults: Counter[str]
    before: dict[str, Any]
    after: dict[str, Any]
    scrapes: list[Scrape]
    rss_bytes: list[int]
    records: list[dict[str, Any]]
    usage: list[dict[str, Any]]
    books: Books
    log: str
    exit_code: int


class Program:
    """The running Hermes, as its operator sees it."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, folder: Path) -> None:
        self.port = port
        self.folder = folder
        self._process = process

    async def status(self) -> dict[str, Any]:
        return dict(json.loads(await self._get("/v1/status")))

    async def scrape(self) -> Scrape:
        families = text_string_to_metric_families((await self._get("/metrics")).decode())
        return Scrape(tuple(sample for family in families for sample in family.samples))

    async def usage(self) -> list[dict[str, Any]]:
        return list(json.loads(await self._get("/v1/usage"))["data"])

    async def idle(self) -> dict[str, Any]:
        """The status once nothing runs or waits any more, or when it should have been so for long."""
        end = time.monotonic() + _SETTLE_S
        while True:
            status = await self.status()
            requests = status["requests"]
            if not requests["active"] + requests["queued"] + requests["connections"] - 1 or time.monotonic() > end:
                return status
            await asyncio.sleep(0.05)

    async def stop(self) -> int:
        """SIGTERM. Returns the exit code."""
        self._process.terminate()
        async with asyncio.timeout(_SETTLE_S):
            return await self._process.wait()

    async def _get(self, path: str) -> bytes:
        wire = await connect(self.port)
        try:
            await wire.send(request_bytes("GET", path, None, {"x-api-key": plan.OPERATOR_KEY}))
            async with asyncio.timeout(_SETTLE_S):
                head = await wire.until(b"\r\n\r\n")
                length = _LENGTH.search(head)
                assert head.startswith(b"HTTP/1.1 200 ") and length, head
                return await wire.exactly(int(length[1]))
        finally:
            wire.close()


@asynccontextmanager
async def _serve(urls: list[str], folder: Path) -> AsyncIterator[Program]:
    config = folder / "hermes.yaml"
    config.write_text(json.dumps(plan.gateway(urls, str(folder / "access.log"))))
    keys: dict[str, dict[str, object]] = {key: {"user": user, **plan.PLENTY} for key, user in plan.KEYS.items()} | {
        plan.OPERATOR_KEY: {"user": "operator", "admin": True}
    }
    environ = {"API_KEYS_JSON": json.dumps(keys), "PYTHONPATH": str(Path(hermes.__file__).parents[1])}
    environ["HERMES_SERVER__STATE_DIR"] = str(folder / _STATE)
    log = folder / "stderr.log"
    with log.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "hermes", "serve", "--config", str(config), stderr=stderr, cwd=folder, env=environ
        )
    try:
        await until(lambda: _GREETING.search(log.read_text()), "Hermes did not start", 10.0)
        greeting = _GREETING.search(log.read_text())
        assert greeting is not None
        yield Program(process, int(greeting[1]), folder)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


class _Watch:
    """Looks at Hermes, and at our own event loop, again and again while a run goes on."""

    def __init__(self, program: Program) -> None:
        self.scrapes: list[Scrape] = []
        self.rss_bytes: list[int] = []
        self.stall_s = 0.0
        self._program = program

    async def run(self) -> None:
        async with asyncio.TaskGroup() as both:
            both.create_task(self._look())
            both.create_task(self._feel())

    async def _look(self) -> None:
        while True:
            self.scrapes.append(await self._program.scrape())
            status = await self._program.status()
            self.rss_bytes.append(status["process"]["rss_bytes"])
            await asyncio.sleep(0.5)

    async def _feel(self) -> None:
        while True:
            slept_at = time.monotonic()
            await asyncio.sleep(_BEAT_S)
            self.stall_s = max(self.stall_s, time.monotonic() - slept_at - _BEAT_S)


async def run(count: int, seed: int, folder: Path) -> Evidence:
    """Let `count` clients loose, and wait until nothing moves."""
    visits: defaultdict[str, list[Visit]] = defaultdict(list)
    witnesses = [Witness(name, plan.backend(seed + number), visits) for number, name in enumerate(plan.BACKENDS)]
    try:
        urls = [f"http://127.0.0.1:{await witness.start()}" for witness in witnesses]
        async with _serve(urls, folder) as program:
            return await _observe(count, seed, program, witnesses)
    finally:
        await asyncio.gather(*(witness.stop() for witness in witnesses))


async def _observe(count: int, seed: int, program: Program, witnesses: list[Witness]) -> Evidence:
    asks = list(plan.asks(_WARM_UP + count, seed))
    warm_up = await _live(asks[:_WARM_UP], {}, program.port)
    watch = _Watch(program)
    await program.scrape()
    before = await program.idle()
    began_at = time.monotonic()
    watching = asyncio.get_running_loop().create_task(watch.run())
    fates = {_WARM_UP + number: partial(_trouble, witnesses[which], how) for number, which, how in plan.troubles(count)}
    fates |= {_WARM_UP + number: partial(_go_away, witnesses) for number in plan.outages(count)}
    seen = await _live(asks[_WARM_UP:], fates, program.port)
    took_s = time.monotonic() - began_at
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    after = await program.idle()
    watch.scrapes.append(await program.scrape())
    with suppress(AssertionError):  # the evidence tells more
        await until(lambda: not witnesses[0].present, limit_s=_SETTLE_S)
    usage = await program.usage()
    exit_code = await program.stop()
    return Evidence(
        took_s=took_s,
        stall_s=watch.stall_s,
        seen=warm_up + seen,
        visits=witnesses[0].visits,
        faults=sum((witness.stats.faults for witness in witnesses), Counter()),
        before=before,
        after=after,
        scrapes=watch.scrapes,
        rss_bytes=watch.rss_bytes,
        records=[json.loads(line) for line in (program.folder / "access.log").read_bytes().splitlines()],
        usage=usage,
        books=Books.read(program.folder / _STATE),
        log=(program.folder / "stderr.log").read_text(),
        exit_code=exit_code,
    )


async def _live(asks: list[plan.Ask], fates: dict[int, Fate], port: int) -> list[Seen]:
    """All of them, each at its time. What befalls backends does so with those whose numbers are in `fates`."""
    loop = asyncio.get_running_loop()
    clients = Clients(port)
    began_at = loop.time() - asks[0].at_s
    async with asyncio.TaskGroup() as group:
        tasks = []
        for ask in asks:
            await asyncio.sleep(began_at + ask.at_s - loop.time())
            tasks.append(group.create_task(clients.live(ask)))
            if ask.number in fates:
                group.create_task(fates[ask.number]())
    clients.close()
    return [task.result() for task in tasks]


async def _go_away(witnesses: list[Witness]) -> None:
    async with asyncio.TaskGroup() as group:
        for witness in witnesses:
            group.create_task(_trouble(witness, "reset;after=0", plan.OUTAGE_S))


async def _trouble(witness: Witness, how: str, for_s: float = plan.TROUBLE_S) -> None:
    """What comes meanwhile fares so, all of it where it dies."""
    outage = witness.machine.outage = parse_fault(how)
    await asyncio.sleep(for_s)
    if witness.machine.outage is outage:
        witness.machine.outage = None
