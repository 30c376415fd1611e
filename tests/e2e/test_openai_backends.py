"""Servers that speak OpenAI's API behind Hermes: what reaches them, and what comes back, whole and streamed."""

import asyncio
import base64
import struct
from typing import Any

import pytest

from hermes import attempt
from tests.fakes.backend import DONE, FakeOllama, Script, Then, answer, endless, fail, listening, play
from tests.fakes.gateway import CHAT, PROMPT, bearer, chat, hermes, key, prompt, scenario
from tests.fakes.openai_backend import FakeOpenAI
from tests.support import until

KINDS = ["vllm", "llamacpp", "openai"]
STREAM_OR_NOT = pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])


def delta(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


# --- what reaches it ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "streamed"), [("vllm", False), ("llamacpp", True), ("openai", True)])
@scenario
async def test_whole_answers_are_asked_for_as_streams_where_only_streams_are_cancelled(
    kind: str, streamed: bool
) -> None:
    async with listening(FakeOpenAI(kind)) as backend, hermes(backend) as gateway:
        reply = await gateway.ask(CHAT, chat())
        assert reply.json["choices"][0]["message"]["content"] == "Hello"
        assert reply.json["usage"] == {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        assert (await gateway.ask(PROMPT, prompt())).json["result"] == "Hello"
        for asked in backend.asked:
            assert asked.body.get("stream", False) is streamed
            assert asked.body.get("stream_options") == ({"include_usage": True} if streamed else None)
        assert gateway.runtime.fleet.backends["b0"].driver.pool.opened == 1  # all on one connection


@scenario
async def test_a_gathered_answer_is_told_at_once_and_its_connection_kept() -> None:
    async with listening(FakeOpenAI("llamacpp")) as backend, hermes(backend) as gateway:
        end = asyncio.Event()
        backend.scripts.append(play("Hel", DONE, end))
        assert (await gateway.ask(CHAT, chat())).status == 200
        assert gateway.running == 1 and not backend.asked[0].ended.is_set()
        end.set()
        await until(lambda: gateway.running == 0)
        assert (await gateway.ask(CHAT, chat())).status == 200
        assert gateway.runtime.fleet.backends["b0"].driver.pool.opened == 1


@pytest.mark.parametrize("kind", KINDS)
@scenario
async def test_a_stream_tells_its_counts_only_to_who_asked(kind: str) -> None:
    async with listening(FakeOpenAI(kind)) as backend, hermes(backend) as gateway:
        silent = (await gateway.ask(CHAT, chat(stream=True))).events
        assert not any(event != "[DONE]" and event.get("usage") for event in silent)
        told = (await gateway.ask(CHAT, chat(stream=True, stream_options={"include_usage": True}))).events
        assert told[-2]["usage"]["total_tokens"] == 10 and told[-1] == "[DONE]"
        assert [asked.body["stream_options"] for asked in backend.asked] == [{"include_usage": True}] * 2
        assert (await gateway.record()).tokens_out == 3


@STREAM_OR_NOT
@pytest.mark.parametrize("kind", KINDS)
@scenario
async def test_it_sees_its_own_key_and_nothing_of_the_clients(kind: str, stream: bool) -> None:
    """llama.cpp lets a stream with an X-Conversation-Id go on when its client has left."""
    async with listening(FakeOpenAI(kind)) as backend:
        told = {"name": "b0", "kind": kind, "url": f"{backend.url}/v1", "api_key": "sk-of-the-provider"}
        async with hermes(backends=[told], keys=[key("ann")]) as gateway:
            theirs = {"x-conversation-id": "c1", "x-api-version": "7", "cookie": "a=b", "openai-organization": "o"}
            reply = await gateway.ask(CHAT, chat(stream=stream), bearer("ann") | theirs)
            assert reply.status == 200
            assert b"sk-of" not in (await gateway.ask("/v1/models", headers=bearer("ann"))).body
        for asked in (*backend.asked, *backend.managed):
            assert asked.headers["authorization"] == "Bearer sk-of-the-provider"
            assert not asked.headers.keys() & theirs.keys()
            assert "/v1/v1" not in asked.path


@STREAM_OR_NOT
@pytest.mark.parametrize("kind", KINDS)
@scenario
async def test_a_client_that_leaves_is_noticed_there_at_once(kind: str, stream: bool) -> None:
    """I9."""
    async with listening(FakeOpenAI(kind)) as backend, hermes(backend) as gateway:
        backend.default = play("Hel", then=Then.STALL)
        call = await gateway.open(CHAT, chat(stream=stream))
        asked = await backend.request(0)
        if stream:
            await call.head()
            await call.event()
        call.leave()
        async with asyncio.timeout(1.0):
            await asked.left.wait()
        assert (await gateway.record()).outcome == "client_gone"


# --- what comes back ------------------------------------------------------------------------------------------------

THOUGHTS_AND_CALLS = play(
    delta({"role": "assistant", "reasoning_content": "I must "}),
    delta({"reasoning_content": "look"}),
    delta(
        {"tool_calls": [{"index": 0, "id": "c1", "type": "function", "function": {"name": "look", "arguments": ""}}]}
    ),
    delta({"tool_calls": [{"index": 0, "function": {"arguments": '{"city":'}}]}),
    delta({"tool_calls": [{"index": 0, "function": {"arguments": '"Oslo"}'}}]}),
    delta({}, "tool_calls"),
    b"data: [DONE]\n\n",
)


@scenario
async def test_thoughts_and_calls_come_through_whole_and_streamed() -> None:
    async with listening(FakeOpenAI("llamacpp")) as backend, hermes(backend) as gateway:
        backend.default = THOUGHTS_AND_CALLS
        (choice,) = (await gateway.ask(CHAT, chat())).json["choices"]
        assert choice["finish_reason"] == "tool_calls" and choice["message"]["reasoning_content"] == "I must look"
        called = {"name": "look", "arguments": '{"city":"Oslo"}'}
        assert choice["message"]["tool_calls"] == [{"id": "c1", "type": "function", "function": called}]
        events = (await gateway.ask(CHAT, chat(stream=True))).events
        deltas = [event["choices"][0]["delta"] for event in events[:-1]]
        assert "".join(each.get("reasoning_content", "") for each in deltas) == "I must look"
        pieces = [call for each in deltas for call in each.get("tool_calls", ())]
        assert [piece.get("id") for piece in pieces] == ["c1", None, None]
        assert "".join(piece["function"]["arguments"] for piece in pieces) == '{"city":"Oslo"}'
        assert events[-2]["choices"][0]["finish_reason"] == "tool_calls"


@STREAM_OR_NOT
@pytest.mark.parametrize("kind", KINDS)
@scenario
async def test_a_busy_server_says_when_to_come_back(kind: str, stream: bool) -> None:
    async with listening(FakeOpenAI(kind)) as backend, hermes(backend, limits={"max_attempts": 1}) as gateway:
        backend.default = answer(429, b'{"error":{"message":"slow down"}}', headers=b"retry-after: 17\r\n")
        reply = await gateway.ask(CHAT, chat(stream=stream))
        assert (reply.status, reply.error["code"]) == (503, "backend_busy")
        assert reply.headers["retry-after"] == "17"


ENDS: list[tuple[str, Script, int]] = [
    ("[DONE] without a reason", play("Hel", b"data: [DONE]\n\n"), 502),
    ("a reason without [DONE]", play("Hel", delta({}, "stop")), 200),
    ("a reason, then a cut", play("Hel", delta({}, "stop"), then=Then.CUT), 502),
    ("comments, then an answer", play(b": ping\n\n", "Hel", b": ping\n\n", DONE), 200),
    ("another content type", play("Hel", DONE, content_type=b"text/html"), 200),
    ("nothing after [DONE], and no end", play("Hel", DONE, then=Then.STALL), 200),
]


@pytest.mark.parametrize(("script", "status"), [case[1:] for case in ENDS], ids=[case[0] for case in ENDS])
@STREAM_OR_NOT
@scenario
async def test_an_answer_is_complete_when_it_says_why_it_ended(script: Script, status: int, stream: bool) -> None:
    async with listening(FakeOpenAI("llamacpp")) as backend, hermes(backend, limits={"max_attempts": 1}) as gateway:
        backend.default = script
        reply = await gateway.ask(CHAT, chat(stream=stream))
        if stream and reply.status == 200:  # else it was over before anything had gone out
            assert reply.whole is (status == 200) and (reply.events[-1] == "[DONE]") is reply.whole
        else:
            assert reply.status == status
        assert (await gateway.record()).outcome == ("ok" if status == 200 else "upstream_error")


ERRORS: list[tuple[dict[str, Any], tuple[int, str]]] = [
    ({"error": {"message": "This model's maximum context length is 4", "code": 400}}, (400, "context_length_exceeded")),
    ({"object": "error", "message": "top_p must be above 0", "code": 400}, (400, "invalid_value")),
    ({"error": "Model is overloaded", "error_type": "overloaded"}, (502, "backend_error")),
    ({"error": {"message": "Model is overloaded", "http_status_code": 429}}, (503, "backend_busy")),
]


@pytest.mark.parametrize(("told", "meant"), ERRORS, ids=lambda value: str(value)[:40])
@STREAM_OR_NOT
@pytest.mark.parametrize("kind", KINDS)
@scenario
async def test_an_error_with_200_is_the_error_that_it_says_it_is(
    kind: str, stream: bool, told: dict[str, Any], meant: tuple[int, str]
) -> None:
    async with listening(FakeOpenAI(kind)) as backend, hermes(backend, limits={"max_attempts": 1}) as gateway:
        backend.default = play(told, b"data: [DONE]\n\n") if stream or kind != "vllm" else play(told)
        reply = await gateway.ask(CHAT, chat(stream=stream))
        assert (reply.status, reply.error["code"]) == meant


@scenario
async def test_a_whole_answer_that_streams_for_ever_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """I13."""
    monkeypatch.setattr(attempt, "MAX_GATHERED_BYTES", 100_000)
    async with listening(FakeOpenAI("openai")) as backend, hermes(backend, limits={"max_attempts": 1}) as gateway:
        backend.default = endless(b'data: {"choices":[{"index":0,"delta":{"content":"x"}}]}\n\n')
        reply = await gateway.ask(CHAT, chat())
        assert reply.status == 502 and "longer than 100000 bytes" in reply.error["message"]
        async with asyncio.timeout(1.0):
            await backend.asked[0].left.wait()


# --- embeddings, and what only Ollama's own clients ask ---------------------------------------------------------------

TEXTS = {"model": "gemma", "input": ["a", "b"]}
EMBEDDED = answer(
    200,
    b'{"data":[{"index":0,"embedding":[0.5,-1]},{"index":1,"embedding":[0,2]}],"usage":{"prompt_tokens":5}}',
)


@pytest.mark.parametrize("kind", KINDS)
@scenario
async def test_vectors_come_from_there_in_every_form(kind: str) -> None:
    async with listening(FakeOpenAI(kind, "/models/gemma.gguf")) as backend, hermes(backend) as gateway:
        backend.management["/v1/embeddings"] = EMBEDDED
        reply = await gateway.ask("/v1/embeddings", TEXTS)
        assert [item["embedding"] for item in reply.json["data"]] == [[0.5, -1.0], [0.0, 2.0]]
        assert (reply.json["model"], reply.json["usage"]["total_tokens"]) == ("gemma", 5)
        packed = (await gateway.ask("/v1/embeddings", TEXTS | {"encoding_format": "base64"})).json["data"][1][
            "embedding"
        ]
        assert packed == base64.b64encode(struct.pack("<2f", 0.0, 2.0)).decode()
        reply = await gateway.ask("/api/embed", TEXTS | {"model": "gemma:latest"})
        assert reply.json["embeddings"] == [[0.5, -1.0], [0.0, 2.0]] and reply.json["prompt_eval_count"] == 5
        asked = [asked.body for asked in backend.managed if asked.path == "/v1/embeddings"]
        assert [(body["model"], body["input"]) for body in asked] == [("/models/gemma.gguf", ["a", "b"])] * 3
        assert (await gateway.record(2)).tokens_in == 5


@scenario
async def test_what_it_cannot_embed_is_told_as_it_says_it() -> None:
    async with listening(FakeOpenAI("llamacpp", "gemma")) as backend, hermes(backend) as gateway:
        for status, words, code in (
            (500, "input (992 tokens) is too large to process. increase the physical", "context_length_exceeded"),
            (501, "This server does not support embeddings. Start it with `--embeddings`", "unsupported_by_model"),
        ):
            backend.management["/v1/embeddings"] = fail(status, words)
            reply = await gateway.ask("/v1/embeddings", TEXTS)
            assert (reply.status, reply.error["code"]) == (400, code)
        backend.management["/v1/embeddings"] = EMBEDDED
        reply = await gateway.ask("/v1/embeddings", TEXTS | {"dimensions": 1})
        assert (reply.status, reply.error["code"]) == (400, "unsupported_by_backend")
        assert (await gateway.record(2)).attempts == 1


@pytest.mark.parametrize("field", [{"suffix": "}"}, {"raw": True, "images": ["aGk="]}, {"raw": True, "format": "json"}])
@scenario
async def test_a_prompt_that_only_ollama_can_complete_goes_there_alone(field: dict[str, Any]) -> None:
    asked = {"model": "gemma", "prompt": "Hi", "stream": False} | field
    async with listening(FakeOpenAI("vllm", "gemma")) as backend, listening(FakeOllama("gemma:latest")) as other:
        async with hermes(backend) as gateway:
            reply = await gateway.ask("/api/generate", asked)
            assert (reply.status, reply.error["code"]) == (400, "unsupported_by_backend")
            assert reply.error["param"] == next(iter(field))
            if "suffix" in field:
                reply = await gateway.ask("/v1/completions", asked)
                assert (reply.status, reply.error["code"], reply.error["param"]) == (
                    400,
                    "unsupported_by_backend",
                    "suffix",
                )
        async with hermes(backend, other) as gateway:
            for _ in range(3):
                assert (await gateway.ask("/api/generate", asked)).json["response"] == "Hello"
        assert (len(backend.asked), len(other.asked)) == (0, 3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stream", [False, True])
@scenario
async def test_a_raw_prompt_is_completed_without_a_template(kind: str, stream: bool) -> None:
    async with listening(FakeOpenAI(kind, "gemma")) as backend, hermes(backend) as gateway:
        asked = {"model": "gemma", "prompt": "1, 2, 3,", "stream": stream}
        for path, more in (("/v1/completions", {}), ("/api/generate", {"raw": True})):
            reply = await gateway.ask(path, asked | more)
            assert reply.status == 200 and b"Hel" in reply.body and b"lo" in reply.body
        for sent in backend.asked:
            assert (sent.path, sent.body["prompt"]) == ("/v1/completions", "1, 2, 3,")
            assert "messages" not in sent.body


@pytest.mark.parametrize("kind", KINDS)
@scenario
async def test_a_request_for_nothing_but_the_model_finds_it_loaded(kind: str) -> None:
    """As `ollama run` begins."""
    async with listening(FakeOpenAI(kind, "gemma")) as backend, hermes(backend) as gateway:
        reply = await gateway.ask("/api/generate", {"model": "gemma"})
        assert (reply.status, reply.json["done_reason"]) == (200, "load")
        reply = await gateway.ask("/api/generate", {"model": "gemma", "keep_alive": 0})
        assert (reply.status, reply.error["code"]) == (400, "unsupported_by_backend")
        assert not backend.asked
