"""How tests run a verb, and what they must not inherit."""

import asyncio
from collections.abc import Callable

from click.testing import Result

from tests.fakes.gateway import Hermes

# What may be set where the tests run.
FOREIGN = [
    "PORT",
    "HERMES_SERVER__PORT",
    "OLLAMA_URL",
    "OLLAMA_HOST",
    "OLLAMA_NUM_PARALLEL",
    "LLM_BACKEND",
    "LLM_BACKEND_URL",
]
FOREIGN += ["MAX_CONCURRENT", "API_KEYS_JSON", "HERMES_CONFIG", "HERMES_URL", "HERMES_API_KEY"]

Run = Callable[..., Result]


async def ask(verb: Run, gateway: Hermes, *arguments: str, stdin: str = "", **environ: str) -> Result:
    """The same against a gateway of this process's own."""
    url = f"http://127.0.0.1:{gateway.port}"
    return await asyncio.to_thread(verb, *arguments, stdin=stdin, HERMES_URL=url, **environ)
