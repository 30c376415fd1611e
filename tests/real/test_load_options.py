"""Clients with load-time options of their own: a real Ollama loads the model anew when the policy has it so.

With OLLAMA_LOG, the file that the server (OLLAMA_DEBUG=1) logs to, its own word for that is read; without, the contexts
that it tells of.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.fakes.process import serve
from tests.real.house import OLLAMA_URL, RESIDENT, SHORT, House, ollama, scenario
from tests.real.test_residency import empty, server_log


class Shelf:
    """One model behind Hermes."""

    def __init__(self, home: House) -> None:
        self.home = home
        self._before = len(server_log())

    async def contexts(self, *asked: int | None) -> list[int]:
        """That with which the model is loaded, after requests for each of these in turn; None asks for none."""
        return [await self._context(each) for each in asked]

    async def _context(self, asked: int | None) -> int:
        reply = await self.home.prompt("Hi", RESIDENT, options={**SHORT, "num_ctx": asked})
        assert reply.status == 200
        (loaded,) = (await ollama("/api/ps"))[1]["models"]
        return int(loaded["context_length"])

    async def reloads_avoided(self) -> int:
        return int((await self.home.ask("/v1/status")).json["models"][RESIDENT]["reloads_avoided"])

    def check_loads(self, count: int) -> None:
        if said := server_log()[self._before :]:
            assert said.count('msg="starting llama-server"') == count


@asynccontextmanager
async def shelf(folder: Path, **model: Any) -> AsyncIterator[Shelf]:
    await empty()
    backends = json.dumps([{"name": "b0", "url": OLLAMA_URL}])
    async with serve(folder, HERMES_BACKENDS=backends, HERMES_MODELS=json.dumps({RESIDENT: model})) as hermes:
        home = House(hermes)
        async with home.sdk:
            await home.open_up()
            yield Shelf(home)


@scenario
async def test_pinned_the_model_is_loaded_once_whatever_is_asked_for(tmp_path: Path) -> None:
    async with shelf(tmp_path, options={"num_ctx": 4096}) as model:
        assert await model.contexts(2048, None, 8192, 4096) == [4096] * 4
        assert await model.reloads_avoided() == 2
        model.check_loads(1)


@scenario
async def test_pinned_the_model_has_what_the_server_finds_best_where_nothing_is_configured(tmp_path: Path) -> None:
    async with shelf(tmp_path) as model:
        (best,) = await model.contexts(None)
        assert await model.contexts(best // 2, None, best * 2, best) == [best] * 4
        assert await model.reloads_avoided() == 2
        model.check_loads(1)


@scenario
async def test_the_longest_context_is_loaded_and_then_no_other(tmp_path: Path) -> None:
    async with shelf(tmp_path, options={"num_ctx": 1024}, options_policy="max", max_num_ctx=3000) as model:
        assert await model.contexts(None, 2048, 512, 1024, None) == [1024, 2048, 2048, 2048, 2048]
        assert await model.contexts(8192, 2048, 3000, 9999) == [3000] * 4
        assert await model.reloads_avoided() == 4
        model.check_loads(3)
        assert (await model.home.ask(f"/v1/llm/{RESIDENT}/unload", b"")).status == 202
        await empty()
        assert await model.contexts(512) == [3000]
        model.check_loads(4)


@scenario
async def test_passed_through_each_other_context_is_loaded(tmp_path: Path) -> None:
    async with shelf(tmp_path, options_policy="passthrough") as model:
        assert await model.contexts(1024, 2048, None, 2048, 1024) == [1024, 2048, 2048, 2048, 1024]
        assert await model.reloads_avoided() == 0
        model.check_loads(4)  # the first one before anything was asked for


@scenario
async def test_contexts_that_are_asked_for_at_once_are_all_answered(tmp_path: Path) -> None:
    for policy in ("max", "passthrough"):
        async with shelf(tmp_path, options_policy=policy) as model:
            asked = (
                model.home.prompt("Hi", RESIDENT, options={**SHORT, "num_ctx": size}) for size in (512, 2048, 8192) * 3
            )
            assert {reply.status for reply in await asyncio.gather(*asked)} == {200}
            assert (await model.home.ask("/v1/queue")).json["data"] == []


@scenario
async def test_passed_through_the_model_goes_when_a_request_says_so_and_comes_again(tmp_path: Path) -> None:
    async with shelf(tmp_path, options_policy="passthrough") as model:
        reply = await model.home.prompt("Hi", RESIDENT, options=SHORT, keep_alive=0)
        assert reply.status == 200
        while (await ollama("/api/ps"))[1]["models"]:
            pass
        (best,) = await model.contexts(None)
        assert best
        model.check_loads(2)
