"""The process that runs the model hangs with all lists green: nobody waits for it, and when it goes on it is used."""

import asyncio
from pathlib import Path

from tests.real.house import RESIDENT, SHORT, house, ollama, scenario
from tests.real.runner import frozen_runner

HASTY = {"HERMES_HEALTH__SILENCE_S": "2", "HERMES_HEALTH__PROBE_TIMEOUT_S": "3", "HERMES_HEALTH__PAUSE_S": "0.5"}


@scenario
async def test_who_hangs_is_found_out_and_used_again_when_it_goes_on(tmp_path: Path) -> None:
    async with house(tmp_path, **HASTY) as home:
        for each in (await ollama("/api/ps"))[1]["models"]:  # beside another it would not be all that is there
            await ollama("/api/generate", {"model": each["name"], "keep_alive": 0})
        assert (await home.prompt("Hi", options=SHORT)).status == 200
        async with frozen_runner():
            reply = await home.prompt("Hi", stream=True, options=SHORT)
            assert (reply.status, reply.error["code"]) == (503, "no_backend")
            assert (await ollama("/api/tags"))[0] == (await ollama("/api/ps"))[0] == 200
            backend = (await home.ask("/v1/status")).json["backends"][0]
            assert backend["state"] == "up"
            assert [(each["model"], each["state"]) for each in backend["health"]] == [(RESIDENT, "stuck")]
            assert (await home.ask("/readyz")).status == 503
        async with asyncio.timeout(30):
            while (await home.ask("/readyz")).status != 200:
                pass
        assert (await home.prompt("Hi", options=SHORT)).status == 200
