"""The imitation of TGI, read by TGI's own clients: `make imitations`, which gives them an environment of their own."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.backend import listening
from tests.fakes.gateway import scenario
from tests.fakes.tgi import FakeTgi

PYTHON = os.environ.get("TGI_CLIENTS", "")
SCRIPT = Path(__file__).with_name("tgi_clients.py")

pytestmark = pytest.mark.skipif(not PYTHON, reason="make imitations runs it")


async def seen(question: str, url: str) -> dict[str, Any]:
    running = await asyncio.create_subprocess_exec(PYTHON, str(SCRIPT), question, url, stdout=asyncio.subprocess.PIPE)
    told, _ = await running.communicate()
    return dict(json.loads(told))


@scenario
async def test_its_own_clients_read_all_that_it_says() -> None:
    async with listening(FakeTgi()) as fake:
        assert await seen("asked", fake.url) == {
            "generate": ["Hello there, you", "stop_sequence", 4],
            "generate_stream": ["Hello there,", "length", 2],
            "by_hub": ["Hello there, you!", "eos_token", 2],
            "grammar": '{"ok": true}',
            "chat": "Hello there, you!",
            "chat_stream": "Hello there, you!",
            "chat_logprobs": 2,
            "chat_reason": "stop",
            "chat_usage": 6,
            "schema": '{"ok": true}',
            "call": ["look", '{"city":"Oslo"}'],
            "call_stream": ["look", '{ "city": "Oslo"}'],
            "call_reason": None,  # as TGI's own tests have it
            "info": 8,
            "healthy": True,
            "invalid": "ValidationError",
            "invalid_stream": "ValidationError",
            "invalid_by_hub": "HfHubHTTPError",
        }


@scenario
async def test_its_own_client_knows_that_it_is_overloaded() -> None:
    fake = FakeTgi()
    fake.info["max_concurrent_requests"] = 0
    async with listening(fake):
        assert set((await seen("overloaded", fake.url)).values()) == {"OverloadedError"}
