"""`hermes serve`, killed again and again while keys are changed and used: nothing acknowledged is lost (I32).

`make kills` kills 200 times, the suite a few, beside so much else that how fast it is ready again tells nothing there.
"""

import asyncio
import os
import random
import shutil
from contextlib import suppress
from pathlib import Path
from signal import SIGKILL
from typing import Any

from hermes.composition import ADMIN_SOCKET
from tests.fakes.backend import ollama
from tests.fakes.gateway import PROMPT, Reply, prompt
from tests.fakes.owner import KEYS, ask, shown
from tests.fakes.process import Served, serve
from tests.keys.acknowledged import Acknowledged
from tests.support import run

KILLS = int(os.environ.get("HERMES_KILLS", "10"))
READY_S = 1.0 if KILLS >= 100 else 10.0
USERS, OPERATORS = 4, 3


class Operator:
    """Changes keys one after the other, those that it has made itself, until the server is gone."""

    def __init__(self, name: str, path: Path, lot: random.Random) -> None:
        self.said = Acknowledged()
        self._name = name
        self._path = path
        self._lot = lot
        self._count = 0
        self.changes = 0

    async def work(self) -> None:
        with suppress(OSError, EOFError):
            while True:
                await self._change()

    async def _change(self) -> None:
        self._count += 1
        live = [id for id, known in self.said.keys.items() if known.secret]
        what = self._lot.choice(("create", "rotate", "update", "revoke")) if len(live) > 5 else "create"
        key = "" if what == "create" else self._lot.choice(live)
        self.said.heed({"about": key or "one that has no id yet"})
        match what:
            case "create":
                await self._ask(KEYS, {"name": f"{self._name}-{self._count}", "rpm": 10_000 + self._count})
            case "rotate":
                await self._ask(f"{KEYS}/{key}/rotate", {"grace_s": 0})
            case "update":
                await self._ask(f"{KEYS}/{key}", {"rpm": 10_000 + self._count}, "PATCH")
            case "revoke":
                await self._ask(f"{KEYS}/{key}", None, "DELETE")

    async def _ask(self, target: str, body: Any, method: str = "") -> None:
        told = whole(await ask(self._path, target, body, method)).json
        secret = {"key": None} if told["revoked_at"] else {"key": told["key"]} if "key" in told else {}
        self.said.heed({"id": told["id"], "rpm": told["rpm"], **secret})
        self.changes += 1

    @property
    def good(self) -> list[str]:
        """Secrets that nobody is about to change."""
        return [each.secret for key, each in self.said.keys.items() if each.secret and key != self.said.in_doubt]


def whole(reply: Reply) -> Reply:
    if not reply.whole:
        raise EOFError
    assert reply.status in (200, 201, 401), reply.body
    return reply


async def use(hermes: Served, operators: list[Operator], lot: random.Random) -> None:
    """A user, who has any of the keys, until the server is gone."""
    with suppress(OSError, EOFError):
        while True:
            operator = lot.choice(operators)
            secret = lot.choice(operator.good or [""])
            reply = whole(await (await hermes.open(PROMPT, prompt(), shown(secret))).reply())
            assert reply.status == 200 or secret not in operator.good


async def life(state: Path, operators: list[Operator], lot: random.Random) -> float:
    """From its start to its sudden end. Returns how long it took until it was ready."""
    loop = asyncio.get_running_loop()
    async with ollama() as backend:
        began = loop.time()
        async with serve(state.parent, backend=backend, HERMES_SERVER__STATE_DIR=str(state)) as hermes:
            while (await (await hermes.open("/readyz")).reply()).status != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.002)  # it is another process
            ready_s = loop.time() - began
            work = [loop.create_task(operator.work()) for operator in operators]
            work += [loop.create_task(use(hermes, operators, lot)) for _ in range(USERS)]
            await asyncio.sleep(lot.uniform(0.02, 0.4))
            hermes.signal(SIGKILL)
            await hermes.end()
            for task in work:
                await task
    return ready_s


def test_what_was_acknowledged_survives_being_killed(tmp_path: Path) -> None:
    """I32, I17: while others use the keys; and what comes next is ready at once."""
    state, lot = tmp_path / "state", random.Random(KILLS)
    operators = [Operator(f"o{number}", state / ADMIN_SOCKET, lot) for number in range(OPERATORS)]
    took = []
    for number in range(KILLS):
        took.append(run(life(state, operators, lot)))
        copy = tmp_path / "copy"
        shutil.copytree(state, copy, ignore=shutil.ignore_patterns(ADMIN_SOCKET))
        assert [lost for operator in operators for lost in operator.said.lost_in(copy)] == [], f"kill {number}"
        shutil.rmtree(copy)
    changes = sum(operator.changes for operator in operators)
    print(f"{KILLS} kills, {changes} changes; ready in {sorted(took)[KILLS // 2]:.3f} s, at most {max(took):.3f} s")
    assert changes > KILLS and max(took) <= READY_S
