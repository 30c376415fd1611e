"""A real Ollama loads and unloads what Hermes decides, and nothing of its own.

With OLLAMA_LOG, the file that the server (OLLAMA_MAX_LOADED_MODELS=2 or more, OLLAMA_DEBUG=1) logs to, its own word for
that is read; without, what Hermes is told.
"""

import asyncio
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.process import serve
from tests.real.house import OLLAMA_URL, SHORT, House, ollama, scenario

OWN_WILL = ('msg="max runners achieved', "msg=reloading", "predicted to exceed available memory", "evicting")


def server_log() -> str:
    path = os.environ.get("OLLAMA_LOG")
    return Path(path).read_text() if path else ""


async def empty() -> None:
    """Nothing is loaded."""
    while loaded := (await ollama("/api/ps"))[1]["models"]:
        for model in loaded:
            await ollama("/api/generate", {"model": model["name"], "keep_alive": 0})
        await asyncio.sleep(0.1)  # Ollama tells of nothing when it is done


def changes(log: Iterable[dict[str, Any]]) -> list[tuple[str, str]]:
    """What Hermes says was loaded and unloaded, in turn."""
    words = [line.get("message", "").split() for line in log]  # the access log has none
    return [(said[3], said[4]) for said in words if said[:1] == ["backend"] and said[3:4] in (["loaded"], ["unloaded"])]


@scenario
async def test_three_models_in_the_room_of_two_are_loaded_and_unloaded_as_decided(tmp_path: Path) -> None:
    await empty()
    before = len(server_log())
    backends = json.dumps([{"name": "b0", "url": OLLAMA_URL, "max_loaded": 2}])
    async with serve(tmp_path, HERMES_BACKENDS=backends) as hermes:
        home = House(hermes)
        async with home.sdk:
            while (await home.ask("/readyz")).status != 200:
                pass
            able = [name for name, capabilities in (await home.models()).items() if "completion" in capabilities]
            if len(able) < 3:
                pytest.skip("needs three models")
            for _ in range(3):
                asked = (home.prompt("Hi", name, options=SHORT) for name in able[:3] * 3)
                assert {reply.status for reply in await asyncio.gather(*asked)} == {200}
            loaded = {model["name"] for model in (await ollama("/api/ps"))[1]["models"]}
        hermes.signal()
        _, log = await hermes.end()
    there: set[str] = set()
    for verb, name in changes(log):
        (there.add if verb == "loaded" else there.remove)(name)
        assert len(there) <= 2
    assert there == loaded
    loads = [name for verb, name in changes(log) if verb == "loaded"]
    assert set(loads) == set(able[:3])
    if said := server_log()[before:]:
        assert said.count('msg="starting llama-server"') == len(loads)
        assert not [words for words in OWN_WILL if words in said]


@scenario
async def test_a_context_that_another_client_has_chosen_makes_no_reload(tmp_path: Path) -> None:
    await empty()
    before = len(server_log())
    backends = json.dumps([{"name": "b0", "url": OLLAMA_URL, "probe_interval_s": 0.1}])
    async with serve(tmp_path, HERMES_BACKENDS=backends) as hermes:
        home = House(hermes)
        async with home.sdk:
            while (await home.ask("/readyz")).status != 200:
                pass
            model = await home.model_that_can("completion")
            theirs = {"model": model, "prompt": "Hi", "stream": False, "options": {"num_ctx": 2048, "num_predict": 2}}
            await ollama("/api/generate", theirs)
            while not (await home.ask("/v1/status")).json["backends"][0]["loaded"]:
                pass
            for _ in range(3):
                assert (await home.prompt("Hi", model, options=SHORT)).status == 200
                assert [each["context_length"] for each in (await ollama("/api/ps"))[1]["models"]] == [2048]
                await ollama("/api/generate", theirs)
        hermes.signal()
        _, log = await hermes.end()
    assert changes(log) == []
    if said := server_log()[before:]:
        assert said.count('msg="starting llama-server"') == 1
