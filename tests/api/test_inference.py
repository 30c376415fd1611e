"""The routes that ask for tokens: what goes in, what comes out, whole and streamed."""

import asyncio
import threading
from typing import Any

import pytest

from hermes.chat import ChatRequest
from hermes.dialects.openai import OpenAI
from tests.fakes.backend import DONE, Done, FakeOllama, fail, listening, ollama, play, speak
from tests.fakes.gateway import CHAT, PROMPT, STREAMS, WHOLE, chat, hermes, prompt, scenario, session
from tests.fakes.openai_backend import FakeOpenAI


@scenario
async def test_a_prompt_gets_its_result() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        reply = await gateway.ask(PROMPT, prompt(system="Be brief", options={"temperature": 0.5, "max_tokens": 9}))
        assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
        said = reply.json
        assert (said["result"], said["model"], said["reason"]) == ("Hello", "gemma", "stop")
        assert said["usage"] == {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        assert said["timings"].keys() == {"load_ms", "prefill_ms", "decode_ms", "queue_ms", "total_ms"}
        body = backend.asked[0].body
        assert (body["model"], body["stream"], body["truncate"]) == ("gemma:latest", False, False)
        assert (body["options"]["temperature"], body["options"]["num_predict"]) == (0.5, 9)
        assert (body["system"], body["prompt"]) == ("Be brief", "Hi")


@scenario
async def test_a_streamed_prompt_gets_lines_and_the_last_says_done() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        reply = await gateway.ask(PROMPT, prompt(stream=True))
        assert (reply.status, reply.headers["content-type"]) == (200, "application/x-ndjson")
        *deltas, last = reply.events
        assert (deltas, reply.whole) == ([{"delta": "Hel"}, {"delta": "lo"}], True)
        assert (last["done"], last["model"], last["usage"]["total_tokens"]) == (True, "gemma", 10)
        assert last["timings"]["total_ms"] >= last["timings"]["queue_ms"]
        assert backend.asked[0].body["stream"] is True


@scenario
async def test_a_chat_completion_is_as_openai_has_it() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        reply = await gateway.ask(CHAT, chat())
        said = reply.json
        assert (reply.status, said["object"], said["model"]) == (200, "chat.completion", "gemma")
        assert said["choices"] == [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ]
        assert said["usage"]["total_tokens"] == 10
        assert said["id"].endswith(reply.headers["x-request-id"])


@scenario
async def test_a_streamed_chat_completion_ends_with_done_and_tells_usage_when_asked() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        reply = await gateway.ask(CHAT, chat(stream=True, stream_options={"include_usage": True}))
        assert reply.headers["content-type"].startswith("text/event-stream")
        assert reply.headers["x-accel-buffering"] == "no"
        *chunks, usage, done = reply.events
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
        assert deltas == [{"role": "assistant", "content": ""}, {"content": "Hel"}, {"content": "lo"}, {}]
        assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
        assert (usage["choices"], usage["usage"]["completion_tokens"], done) == ([], 3, "[DONE]")


@pytest.mark.parametrize(("path", "body"), STREAMS)
@scenario
async def test_each_piece_is_passed_on_before_the_next_is_made(path: str, body: dict[str, Any]) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        first, second, end = asyncio.Event(), asyncio.Event(), asyncio.Event()
        backend.default = play(first, "alpha", second, "omega", end, DONE)
        call = await gateway.open(path, body)
        await backend.request(0)
        first.set()
        assert await call.head() == 200
        while "alpha" not in str(await call.event()):
            pass
        second.set()
        assert "omega" in str(await call.event())
        end.set()
        await call.events()
        assert call.whole


@scenario
async def test_two_requests_share_a_connection_whole_and_streamed() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        peer = await gateway.connect()
        for body in (prompt(), prompt(stream=True), prompt()):
            assert (await gateway.ask(PROMPT, body, on=peer)).status == 200


@scenario
async def test_tool_calls_images_thinking_and_schemas_reach_the_backend_and_come_back() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        calls = [{"function": {"name": "look", "arguments": {"at": "sky"}}}]
        backend.default = play(
            {"message": {"role": "assistant", "content": "", "tool_calls": calls}, **Done().told()},
        )
        schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
        picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}
        reply = await gateway.ask(
            CHAT,
            {
                "model": "gemma",
                "messages": [{"role": "user", "content": [{"type": "text", "text": "See"}, picture]}],
                "tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}],
                "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
                "reasoning_effort": "high",
            },
        )
        choice = reply.json["choices"][0]
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"]["tool_calls"][0]["function"] == {"name": "look", "arguments": '{"at":"sky"}'}
        body = backend.asked[0].body
        assert (body["messages"][0]["images"], body["format"], body["think"]) == (["aGk="], schema, "high")
        assert body["tools"][0]["function"]["name"] == "look"


# --- which model --------------------------------------------------------------------------------------------------

LIBRARY = "hf.co/unsloth/gemma-3:Q4_K_M"
NAMED: list[tuple[str, dict[str, str], dict[str, Any]]] = [
    ("/v1/llm/gemma", {}, {}),
    ("/v1/llm/gemma%3Alatest", {}, {}),
    ("/v1/llm", {"x-model": "gemma"}, {}),
    ("/v1/llm?model=gemma", {}, {}),
    ("/v1/llm?other=1&model=gemma%3Alatest", {}, {}),
    ("/v1/llm", {}, {"model": "gemma"}),
    ("/v1/llm/gemma?model=gemma", {"x-model": "gemma"}, {"model": "gemma"}),
]


@pytest.mark.parametrize(("path", "headers", "body"), NAMED)
@scenario
async def test_a_prompt_may_name_its_model_in_four_places(
    path: str, headers: dict[str, str], body: dict[str, Any]
) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        reply = await gateway.ask(path, prompt(**body), headers)
        assert reply.status == 200
        assert reply.json["model"].startswith("gemma")
        assert backend.asked[0].body["model"] == "gemma:latest"


@pytest.mark.parametrize("path", [f"/v1/llm/{LIBRARY}", "/v1/llm/" + LIBRARY.replace("/", "%2F").replace(":", "%3a")])
@scenario
async def test_a_model_in_the_path_may_hold_slashes_and_colons_encoded_or_not(path: str) -> None:
    async with ollama(LIBRARY) as backend, hermes(backend) as gateway:
        assert (await gateway.ask(path, prompt())).json["model"] == LIBRARY
        assert backend.asked[0].body["model"] == LIBRARY


@pytest.mark.parametrize(
    ("path", "headers", "body"),
    [
        ("/v1/llm/gemma", {"x-model": "phi"}, {}),
        ("/v1/llm/gemma?model=phi", {}, {}),
        ("/v1/llm/gemma", {}, {"model": "phi"}),
        ("/v1/llm?model=gemma&model=phi", {}, {}),
        ("/v1/llm", {"x-model": "gemma"}, {"model": "phi"}),
        ("/v1/llm", {}, {}),
        ("/v1/llm?model=", {}, {}),
        ("/v1/llm/..%2f..%2fetc", {}, {}),
        ("/v1/llm/gemma%252Flatest", {}, {}),
        ("/v1/llm//gemma", {}, {}),
        ("/v1/llm/%00", {}, {}),
        ("/v1/llm/" + "g" * 201, {}, {}),
    ],
)
@scenario
async def test_names_that_differ_or_are_none_are_refused(
    path: str, headers: dict[str, str], body: dict[str, Any]
) -> None:
    """I16, I25."""
    async with ollama("gemma:latest", "phi:latest") as backend, hermes(backend) as gateway:
        reply = await gateway.ask(path, prompt(**body), headers)
        assert (reply.status, reply.error["param"]) == (400, "model")
        assert not backend.asked


@scenario
async def test_a_listed_model_is_asked_under_its_backends_name_with_its_own_settings() -> None:
    gemma = {
        "backend_model": "gemma3:12b",
        "params": {"temperature": 0.2, "max_tokens": 64, "stop": ["END"]},
        "max_output_tokens": 100,
    }
    async with ollama("gemma3:12b") as backend, hermes(backend, models={"gemma": gemma}) as gateway:
        assert (await gateway.ask(PROMPT, prompt())).json["model"] == "gemma"
        assert backend.asked[0].body["model"] == "gemma3:12b"
        assert backend.asked[0].body["options"] == {"temperature": 0.2, "num_predict": 64, "stop": ["END"]}
        await gateway.ask(CHAT, chat(max_tokens=1000, temperature=0))
        options = backend.asked[1].body["options"]
        assert (options["temperature"], options["num_predict"], options["top_p"]) == (0, 100, 1.0)


# Every word for it of any API, in each of which it means something or nothing.
MUCH = ("max_tokens", "max_completion_tokens", "max_output_tokens", "max_new_tokens", "n_predict", "num_predict")
ALIASES = ("gemma", "gemma3:12b", "claude-local-gemma", "claude-local-gemma:latest", "claude-local-gemma3:12b")


@pytest.mark.parametrize("kind", ["ollama", "vllm", "llamacpp", "openai"])
@pytest.mark.parametrize(("path", "body"), [(path, body) for path, body in WHOLE if path != PROMPT])
@scenario
async def test_no_dialect_no_word_and_no_name_gets_more_tokens_than_the_ceiling(
    path: str, body: dict[str, Any], kind: str
) -> None:
    models = {"gemma": {"backend_model": "gemma3:12b", "max_output_tokens": 100}}
    fake = FakeOllama("gemma3:12b") if kind == "ollama" else FakeOpenAI(kind, "gemma3:12b")
    async with listening(fake) as backend, hermes(backend, models=models) as gateway:
        for name in ALIASES:
            for more in ({}, dict.fromkeys(MUCH, 10**6), {"options": {"num_predict": 10**6}}, {"max_tokens": 10**6}):
                assert (await gateway.ask(path, {**body, **more, "model": name})).status == 200
        for asked in backend.asked:
            said = asked.body["options"] if kind == "ollama" else asked.body
            assert {said[word] for word in MUCH if word in said} <= {9, 16, 100}
            assert "num_predict" in said or "max_tokens" in said


@scenario
async def test_a_model_may_be_bound_to_some_backends_and_others_be_closed() -> None:
    async with (
        ollama("gemma:latest") as one,
        ollama("gemma:latest", "phi:latest") as two,
        hermes(one, two, models={"gemma": {"backends": ["b1"]}}, serve_unlisted=False) as gateway,
    ):
        assert (await gateway.ask(PROMPT, prompt())).status == 200
        assert (len(one.asked), len(two.asked)) == (0, 1)
        reply = await gateway.ask("/v1/llm/phi", prompt())
        assert (reply.status, reply.error["code"]) == (404, "model_not_found")


@scenario
async def test_a_model_is_not_missing_while_its_only_backend_was_never_seen() -> None:
    """404 would keep the SDKs from trying again, and say what nobody knows."""
    away = {"name": "away", "url": "http://127.0.0.1:1"}
    async with ollama() as backend:
        here = {"name": "here", "url": backend.url}
        async with hermes(backends=[here, away], models={"phi": {"backends": ["away"]}}) as gateway:
            for path in ("/v1/llm/phi", "/v1/llm/phi/load"):
                reply = await gateway.ask(path, prompt())
                assert (reply.status, reply.error["code"]) == (503, "no_backend")
            assert (await gateway.ask("/v1/llm/nobody", prompt())).status == 404


@scenario
async def test_a_model_that_its_backend_has_lost_is_served_by_another() -> None:
    """I8: not found is tried again once, after asking who has the model now."""
    async with ollama("gemma:latest") as one, ollama("gemma:latest") as two, hermes(one, two) as gateway:
        one.models.clear()
        one.default = fail(404, "model 'gemma:latest' not found")
        for backend in gateway.runtime.fleet.backends.values():
            backend.seen_at -= 60
        assert (await gateway.ask(PROMPT, prompt(), session("b0"))).status == 200
        assert (len(one.asked), len(two.asked)) == (1, 1)
        assert (await gateway.ask(PROMPT, prompt())).status == 200
        assert (len(one.asked), len(two.asked)) == (1, 2)


@scenario
async def test_a_model_that_only_its_backends_list_knows_is_asked_for_twice_and_no_more() -> None:
    """I8."""
    async with ollama() as backend, hermes(backend) as gateway:
        backend.default = fail(404, "model 'gemma:latest' not found")
        reply = await gateway.ask(PROMPT, prompt())
        assert (reply.status, reply.error["code"]) == (404, "model_not_found")
        assert len(backend.asked) == 2


@scenario
async def test_a_model_that_was_just_added_is_found() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        gateway.runtime.fleet.backends["b0"].seen_at -= 60
        backend.models.append({"name": "fresh:latest"})
        assert (await gateway.ask("/v1/llm/fresh", prompt())).status == 200


@scenario
async def test_a_big_body_is_parsed_beside_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """I36; the answer is the same."""
    on_the_loop: list[bool] = []
    parse = OpenAI.parse_request

    def parse_request(body: bytes, model: str | None = None) -> ChatRequest:
        on_the_loop.append(threading.current_thread() is threading.main_thread())
        return parse(body, model)

    monkeypatch.setattr(OpenAI, "parse_request", staticmethod(parse_request))
    async with ollama() as backend, hermes(backend) as gateway:
        text = "word " * 100_000
        assert (await gateway.ask(CHAT, chat())).status == 200
        assert (await gateway.ask(CHAT, chat(text))).status == 200
        assert backend.asked[1].body["messages"][0]["content"] == text
        assert (await gateway.ask(CHAT, b"[" + b"1," * 200_000 + b"1]")).error["code"] == "invalid_json"
        assert on_the_loop == [True, False, False]


@scenario
async def test_curl_needs_no_content_type_and_any_is_taken() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        for headers in ({}, {"content-type": "application/x-www-form-urlencoded"}):
            assert (await gateway.ask(PROMPT, b'{"prompt":"Hi"}', headers)).status == 200


@scenario
async def test_what_the_client_sends_besides_stays_here() -> None:
    """I11: the backend's request is built from what was understood; nothing is passed along."""
    async with ollama() as backend, hermes(backend) as gateway:
        secrets = {"authorization": "Bearer sk-mine", "cookie": "a=b", "x-forwarded-for": "1.2.3.4", "te": "trailers"}
        await gateway.ask(CHAT, chat(user="me", keep_alive=-1, options={"num_ctx": 1}), secrets)
        asked = backend.asked[0]
        assert asked.headers.keys() == {"host", "accept-encoding", "content-type", "x-hermes-hop"}
        assert asked.headers["accept-encoding"] == "identity"
        assert "user" not in asked.body and asked.body["keep_alive"] != -1
        assert "num_ctx" not in asked.body["options"]


@scenario
async def test_thinking_comes_apart_from_the_answer() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        thought = {"message": {"role": "assistant", "content": "", "thinking": "Hm."}, "done": False}
        backend.default = play(thought, "Yes", DONE)
        events = (await gateway.ask(PROMPT, prompt(stream=True))).events
        assert events[:2] == [{"reasoning": "Hm."}, {"delta": "Yes"}]
        chunks = (await gateway.ask(CHAT, chat(stream=True))).events
        assert chunks[1]["choices"][0]["delta"]["reasoning_content"] == "Hm."


@scenario
async def test_the_reason_for_stopping_is_told() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        backend.default = play("Hel", Done(reason="length"))
        assert (await gateway.ask(CHAT, chat())).json["choices"][0]["finish_reason"] == "length"
        assert (await gateway.ask(PROMPT, prompt())).json["reason"] == "length"


@scenario
async def test_text_beyond_ascii_survives() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        backend.default = speak("Zoë ", "🦙", '"\\\n')
        assert (await gateway.ask(PROMPT, prompt("naïve 🐪"))).json["result"] == 'Zoë 🦙"\\\n'
        assert backend.asked[0].body["prompt"] == "naïve 🐪"
        reply = await gateway.ask(PROMPT, prompt(stream=True))
        assert "".join(event.get("delta", "") for event in reply.events) == 'Zoë 🦙"\\\n'


@pytest.mark.parametrize(("listed", "asked"), [("gemma", "gemma:latest"), ("gemma:latest", "gemma")])
@scenario
async def test_a_listed_model_keeps_its_settings_under_its_other_name(listed: str, asked: str) -> None:
    """I1: a model's cap and ceiling cannot be had around by spelling its name differently."""
    models = {listed: {"max_output_tokens": 3}}
    async with ollama() as backend, hermes(backend, models=models) as gateway:
        assert (await gateway.ask(CHAT, chat(model=asked))).status == 200
        assert backend.asked[0].body["options"]["num_predict"] == 3
        assert (await gateway.record()).model == listed
