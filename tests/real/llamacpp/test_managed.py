"""Real llama-servers as processes of Hermes's own, on a memory that has room for one."""

import asyncio
import json
import os
import shlex
import signal
from pathlib import Path
from typing import Any

from tests.real.house import LONG, House, scenario
from tests.real.llamacpp.engine import GGUF, LLAMA_SERVER, engine, serving
from tests.support import until

CHAT = "/v1/chat/completions"
SERVER = (LLAMA_SERVER, "-m", GGUF, "--port", "${PORT}", "-np", "2", "-c", "4096", "--jinja")


async def memory_for_one() -> int:
    async with engine("-m", GGUF, "-c", "4096") as server:
        return int(1.5 * server.rss_bytes)


def configure(folder: Path, memory: int, **more: Any) -> None:
    backends = [{"command": shlex.join((*SERVER, "--alias", model)), **more} for model in ("one", "two")]
    backends[0]["memory"] = memory
    (folder / "hermes.yaml").write_text(json.dumps({"backends": backends, "server": {"state_dir": "off"}}))


def chat(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5, **more}


async def processes(home: House) -> dict[str, dict[str, Any]]:
    (backend,) = (await home.ask("/v1/status")).json["backends"]
    return {each["model"]: each for each in backend["processes"]}


async def until_state(home: House, model: str, state: str) -> None:
    async with asyncio.timeout(60.0):
        while (await processes(home))[model]["state"] != state:
            pass


def is_alive(pid: int) -> bool:
    """Zombies are not: nobody may be there to bury them."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@scenario
async def test_two_take_turns_in_a_memory_for_one(tmp_path: Path) -> None:
    configure(tmp_path, await memory_for_one())
    pids = set()
    async with serving(tmp_path) as home:
        for stream in (False, True):
            for model, other in (("one", "two"), ("two", "one")):
                assert (await home.ask(CHAT, chat(model, stream=stream))).status == 200
                # The first time each is thought to take no more than its file.
                await until_state(home, other, "stopped")
                async with asyncio.timeout(10.0):  # its slots are known at the next look
                    while (told := (await processes(home))[model])["slots"] is None:
                        pass
                assert (told["state"], told["slots"]) == ("running", 2)
                pids.add(told["pid"])
    assert len(pids) == 4 and not any(map(is_alive, pids))


@scenario
async def test_requests_for_both_at_once_are_all_answered(tmp_path: Path) -> None:
    configure(tmp_path, await memory_for_one())
    async with serving(tmp_path) as home:
        replies = await asyncio.gather(*(home.ask(CHAT, chat(model)) for model in ("one", "two") * 6))
        assert [reply.status for reply in replies] == [200] * 12


@scenario
async def test_one_that_is_killed_breaks_its_stream_and_is_there_again(tmp_path: Path) -> None:
    configure(tmp_path, 1 << 40)
    async with serving(tmp_path) as home:
        call = await home.hermes.open("/v1/llm/one", {"prompt": "Hi", "stream": True, "options": LONG})
        assert await call.head() == 200
        await call.event()
        os.kill((await processes(home))["one"]["pid"], signal.SIGKILL)
        assert (await call.events())[-1]["error"]["code"] == "backend_error" and not call.whole
        assert (await home.ask(CHAT, chat("one"))).status == 200
        assert (await processes(home))["one"]["restarts"] == 1


@scenario
async def test_what_nobody_asks_for_is_stopped(tmp_path: Path) -> None:
    configure(tmp_path, 1 << 40, idle_ttl=0.3, probe_interval_s=0.1)
    async with serving(tmp_path) as home:
        assert (await home.ask(CHAT, chat("one"))).status == 200
        await until_state(home, "one", "stopped")
        assert (await home.ask(CHAT, chat("one"))).status == 200


@scenario
async def test_nothing_is_left_when_we_are_killed(tmp_path: Path) -> None:
    configure(tmp_path, 1 << 40, preload=True)
    async with serving(tmp_path) as home:
        for model in ("one", "two"):
            await until_state(home, model, "running")
        pids = [each["pid"] for each in (await processes(home)).values()]
        home.hermes.signal(signal.SIGKILL)
        await home.hermes.end()
        await until(lambda: not any(map(is_alive, pids)))
