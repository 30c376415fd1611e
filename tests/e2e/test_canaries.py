"""I26, I27, I28: what is secret, and what people say to models, is told to nobody else, whatever goes wrong.

One real `hermes serve`, at the log level `debug`, is given a word of its own at every input there is: configuration,
variables, headers, paths, bodies of every dialect, servers that put all that they got into their errors, a plugin and a
bug that do. Then everything that it has shown to others or kept is looked through.
"""

import asyncio
import json
import re
from inspect import signature
from pathlib import Path
from typing import Any

from hermes.api.table import routes
from tests.e2e.canaries import World, echo, world
from tests.fakes import issuer
from tests.fakes.backend import DONE, play
from tests.fakes.backend import model as ollama_model
from tests.fakes.gateway import chat, scenario
from tests.support import until

MODELS = {"ollama": "gemma:latest", "vllm": "qwen"}


@scenario
async def test_forty_canaries_are_seen_nowhere(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        await until(lambda: here.ollama.managed and here.openai.managed, "nobody looks at the backends", 5)
        watching = await here.watch()
        await say_everything(here)
        await let_servers_tell(here)
        await come_in_wrongly(here)
        await ask_everywhere(here)
        await look_around(here)
        here.canaries.look("the command line", command_line(here.pid))
    seen = await asyncio.gather(*watching)
    assert b"event: request" in seen[-1]
    for told in seen:
        here.canaries.look("what is told of what goes on", told)
    assert len(here.spans.of("server")) > 100 and len(here.spans.of("client")) > 50
    for told in here.spans.raw:
        here.canaries.look("spans", told)
    keep_nothing(here)
    assert len(here.canaries.secrets | here.canaries.words) >= 40
    environment = (here.environment(), here.configuration())
    assert here.canaries.met([*environment, *here.sent]) == (here.canaries.secrets | here.canaries.words).keys()
    assert not here.canaries.leaks, "\n\n".join(here.canaries.leaks)


async def say_everything(here: World) -> None:
    """Every dialect, with something in every place where people say something; answered with all of it."""
    said = here.canaries.said
    here.ollama.default = here.openai.default = echo("answer")
    tool = {
        "type": "function",
        "function": {"name": "look", "description": said("a tool's description"), "parameters": {
            "type": "object", "properties": {"at": {"type": "string", "description": said("a parameter")}}}},
    }  # fmt: skip
    call = {
        "id": "c1",
        "type": "function",
        "function": {"name": "look", "arguments": json.dumps({"at": said("an argument")})},
    }
    messages = [
        {"role": "system", "content": said("a system text")},
        {"role": "user", "content": said("a prompt")},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": said("a tool's result")},
        {"role": "user", "content": said("a second prompt")},
    ]
    schema = {"type": "object", "description": said("a schema"), "properties": {}}
    for model in MODELS.values():
        for stream in (False, True):
            asked = {"model": model, "messages": messages, "tools": [tool], "stream": stream}
            asked |= {"user": said("a user field"), "metadata": {"a": said("metadata")}, "stop": [said("a stop text")]}
            told = await here.ask("/v1/chat/completions", asked)
            assert b" 200 " in told and said("a prompt").encode() in told
        image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{said('an image')}"}}
        await here.ask("/v1/chat/completions", {"model": model, "messages": [{"role": "user", "content": [image]}]})
        await here.ask("/v1/chat/completions", {**chat("Hi", model), "response_format": {
            "type": "json_schema", "json_schema": {"name": "a", "schema": schema}}})  # fmt: skip
        bodies: dict[str, dict[str, Any]] = {
            "/v1/completions": {"prompt": said("a text to go on with"), "suffix": said("a suffix")},
            "/v1/responses": {"input": said("an input"), "instructions": said("instructions")},
            "/v1/messages": {**chat(said("a message")), "system": said("Anthropic's system"), "max_tokens": 9},
            "/v1/messages/count_tokens": chat(said("a message to count")),
            "/v1/embeddings": {"input": said("a text to embed")},
            "/api/chat": chat(said("an Ollama message")),
            "/api/generate": {"prompt": said("an Ollama prompt"), "system": said("an Ollama system text")},
            "/api/embed": {"input": said("an Ollama text")},
            "/v1/llm": {"prompt": said("a plain prompt")},
        }
        for path, body in bodies.items():
            await here.ask(path, {**body, "model": model})
    await here.ask("/v1/llm/own", {"prompt": said("a prompt for a process")})
    good = issuer.token(email=said("a claim of a token"), jti=said("the id of a token"))
    here.canaries.secrets["a token"] = good.rpartition(".")[2]
    here.sent.append([said("a claim of a token"), said("the id of a token")])
    assert b" 200 " in await here.ask("/v1/llm/qwen", {"prompt": "Hi"}, key=good)


async def let_servers_tell(here: World) -> None:
    """Servers and a plugin that put what they got into their errors; a bug that does."""
    said = here.canaries.said
    for model, stages in ((name, ("400", "401", "404", "429", "500", "503", "stream")) for name in MODELS.values()):
        for stage in stages:
            here.ollama.default = here.openai.default = echo(stage)
            for path in ("/v1/chat/completions", "/v1/messages", "/api/chat"):
                asked = {**chat(said(f"what fails with {stage}"), model), "max_tokens": 5, "stream": stage == "stream"}
                await here.ask(path, asked)
    here.ollama.default = here.openai.default = echo("answer")
    await here.ask("/v1/chat/completions", chat(said("what a plugin gets"), "tattler"))
    told = await here.ask("/v1/chat/completions", chat(said("what meets a bug"), "buggy"))
    assert b"internal_error" in told
    for path in ("/api/pull", "/api/generate", "/api/embed"):
        here.ollama.management[path] = echo("500")
    here.ollama.models = [ollama_model("gemma:latest")]
    for order in ("pull", "load", "unload"):
        await here.ask(f"/v1/llm/gemma/{order}", {}, key=here.admin)
        await here.ask(f"/v1/llm/absent/{order}", {}, key=here.admin)
    for path in ("/api/tags", "/api/version", "/v1/models", "/health", "/version", "/parrots"):
        for server in (here.ollama, here.openai, here.parrots):
            server.management[path] = echo("500")


async def come_in_wrongly(here: World) -> None:
    """Credentials that are none, and headers, paths and bodies that are wrong."""
    secret, said = here.canaries.secret, here.canaries.said
    await here.ask("/v1/models", key=f"sk-{secret('a wrong key')}")
    await here.ask("/v1/models", key="", headers={"x-api-key": secret("a wrong x-api-key")})
    await here.ask("/v1/models", key="", headers={"api-key": secret("a wrong api-key")})
    await here.ask("/v1/models", key="", headers={"authorization": f"Basic {secret('a wrong password')}"})
    await here.ask("/v1/models", headers={"x-api-key": secret("a second key")})
    for bad in (issuer.token(aud=secret("a wrong aud")), issuer.token(iss=secret("a wrong iss"))):
        here.sent.append([secret("a wrong aud"), secret("a wrong iss"), secret("a wrong kid")])
        await here.ask("/v1/models", key=bad)
    await here.ask("/v1/models", key=issuer.sign(issuer.header(kid=secret("a wrong kid")), issuer.claims()))
    await here.ask("/v1/models", key=f"a.{secret('a garbled token')}.c")
    for name in ("cookie", "user-agent", "x-anything", "origin", "host", "x-hermes-session", "x-hermes-class",
                 "x-hermes-deadline-ms", "x-hermes-hop", "referer", "expect", "content-encoding", "idempotency-key",
                 "x-forwarded-for", "traceparent", "openai-organization"):  # fmt: skip
        await here.ask("/v1/llm/qwen", {"prompt": "Hi"}, headers={name: said(f"the header {name}")})
    await here.ask("/v1/llm/qwen", {"prompt": "Hi"}, headers={"x-request-id": f"{said('a dirty request id')} \t<b>"})
    await here.ask(f"/v1/{said('a path')}")
    await here.ask(f"/v1/models?api_key={secret('a key in the query')}", key="")
    await here.ask(f"/v1/models/{said('a model that is not there')}")
    await here.ask("/v1/chat/completions", chat("Hi", said("a model that is asked for and not there")))
    await here.ask("/v1/chat/completions", b'{"messages": [' + said("what is no JSON").encode())
    await here.ask("/v1/chat/completions", {**chat(), "temperature": said("a wrong type")})
    await here.ask("/v1/chat/completions", {**chat(), said("an unknown member"): 1})
    await here.ask("/v1/requests/" + said("an id of a request"))
    await here.ask_raw("what is no HTTP", f"GET / HTTP/9 {said('what is no HTTP')}\r\n\r\n".encode())
    await here.ask_raw("a wrong header", f"GET / HTTP/1.1\r\n{said('what is no header')}\r\n\r\n".encode())


async def ask_everywhere(here: World) -> None:
    """Every route there is, with words in its path, its query, its body and the claims of its caller."""
    said = here.canaries.said
    parts: list[Any] = [_Anything()] * len(signature(routes).parameters)
    for route in routes(*parts):
        if route.path == "/v1/events":  # which does not end: `World.watch`
            continue
        path = re.sub(r"{\w+}", said("a name in a path"), route.path)
        body = {"model": said("a name in a body"), "prompt": said("a text in a body"), "name": said("a member")}
        for key in (here.user, here.admin):
            headers = {"x-hermes-session": said("a session"), "x-model": said("a model's name in a header")}
            told = body if route.method in ("POST", "PATCH", "PUT") else None
            await here.ask(f"{path}?model={said('a name in a query')}", told, headers, route.method, key)


class _Anything:
    def __getattr__(self, name: str) -> Any:
        return name


async def look_around(here: World) -> None:
    """All that can be seen by others, while somebody's request runs and another's waits."""
    said = here.canaries.said
    gate = asyncio.Event()
    here.openai.scripts.extend([play(gate, "Hello", DONE)] * 2)
    body = chat(said("what runs while others look"), "qwen")
    asking = [asyncio.ensure_future(here.ask("/v1/chat/completions", body)) for _ in range(2)]  # noqa: TID251
    await here.openai.request(len(here.openai.asked))
    for key in (here.other, here.admin):
        for path in (
            "/v1/status",
            "/v1/queue",
            "/v1/requests",
            "/v1/history",
            "/v1/usage",
            "/v1/models",
            "/metrics",
            "/api/ps",
            "/api/tags",
            "/readyz",
            "/v1/health",
        ):
            here.canaries.look(f"{path}", await here.ask(path, key=key))
    gate.set()
    await asyncio.gather(*asking)
    lines = (here.folder / "access.log").read_text().splitlines()
    for line in lines:
        await here.ask(f"/v1/requests/{json.loads(line)['request_id']}", key=here.admin)


def command_line(pid: int) -> bytes:
    """What `ps` shows to everybody on the machine."""
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def keep_nothing(here: World) -> None:
    """The logs, and every file that it made."""
    ours = {"hermes.yaml", "tattler.py", "jwks.json"}
    files = [path for path in here.folder.rglob("*") if path.is_file() and path.name not in ours]
    assert {"stderr", "access.log"} <= {path.name for path in files}
    for path in files:
        if path.suffix != ".pyc":
            here.canaries.look(path.name, path.read_bytes())
    for line in (here.folder / "stderr").read_text().splitlines():
        json.loads(line)  # I28
