"""The API as a client sees it. Fields, statuses and texts are those of a recorded Ollama 0.33."""

import asyncio
import base64
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hermes.errors import ConfigError
from hermes.http.wire import NEVER
from hermes.simulator import SimulatedModel, Simulator, SimulatorConfig
from tests.simulator.harness import Answer, Client, chat_body, config, run, simulating

TIMINGS = [
    "total_duration",
    "load_duration",
    "prompt_eval_count",
    "prompt_eval_duration",
    "eval_count",
    "eval_duration",
]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]
IMAGE = base64.b64encode(b"not really").decode()


def ask(method: str, path: str, body: Any = b"", headers: bytes = b"", **settings: Any) -> Answer:
    async def main() -> Answer:
        async with simulating(config(**settings)) as client:
            return await client.ask(method, path, body, headers)

    return run(main)


def chat(prompt: str = "Explain relativity", **fields: Any) -> Answer:
    return ask("POST", "/api/chat", chat_body(prompt, **fields))


def generate(**fields: Any) -> Answer:
    return ask("POST", "/api/generate", {"model": "chat", "prompt": "Explain relativity", "stream": False, **fields})


# --- the shape of answers -------------------------------------------------------------------------------------------


def test_a_whole_chat_answer_has_ollama_s_fields_in_its_order() -> None:
    answer = chat()
    assert answer.headers[b"content-type"] == b"application/json; charset=utf-8"
    assert list(answer.json) == ["model", "created_at", "message", "done", "done_reason", *TIMINGS]
    assert list(answer.json["message"]) == ["role", "content"]
    assert (answer.json["done"], answer.json["done_reason"]) == (True, "stop")


def test_a_chat_stream_ends_with_an_empty_message_and_the_timings() -> None:
    answer = chat(stream=True)
    assert answer.headers[b"content-type"] == b"application/x-ndjson"
    *chunks, last = answer.lines
    assert {tuple(chunk) for chunk in chunks} == {("model", "created_at", "message", "done")}
    assert list(last) == ["model", "created_at", "message", "done", "done_reason", *TIMINGS]
    assert last["message"] == {"role": "assistant", "content": ""}
    assert last["eval_count"] == len(chunks) + 1


def test_a_stream_says_what_the_whole_answer_says() -> None:
    streamed = "".join(line["message"]["content"] for line in chat(stream=True).lines)
    assert streamed == chat().json["message"]["content"]
    streamed = "".join(line["response"] for line in generate(stream=True).lines)
    assert streamed == generate().json["response"]


def test_a_generate_answer_carries_its_context_unless_raw() -> None:
    fields = ["model", "created_at", "response", "done", "done_reason"]
    assert list(generate().json) == [*fields, "context", *TIMINGS]
    assert list(generate(raw=True).json) == [*fields, *TIMINGS]
    counts = generate().json
    assert len(counts["context"]) == counts["prompt_eval_count"] + counts["eval_count"]


def test_streaming_is_the_default() -> None:
    answer = ask("POST", "/api/chat", {"model": "chat", "messages": [{"role": "user", "content": "x"}]})
    assert len(answer.lines) > 1


def test_dates_are_go_s_and_the_model_is_named_as_the_client_named_it() -> None:
    answer = chat(model="Chat:latest").json
    assert answer["model"] == "Chat:latest"
    assert datetime.fromisoformat(answer["created_at"]).utcoffset() is not None
    assert answer["created_at"].endswith("Z")


def test_a_parsed_model_s_thoughts_come_first_and_apart() -> None:
    *chunks, _ = chat(model="thinker", stream=True).lines
    thinking = ["thinking" in chunk["message"] for chunk in chunks]
    assert thinking == sorted(thinking, reverse=True)
    assert any(thinking)
    assert all(chunk["message"]["content"] == "" for chunk in chunks if "thinking" in chunk["message"])
    assert list(chat(model="thinker").json["message"]) == ["role", "content", "thinking"]
    assert list(chat(model="thinker", think=False).json["message"]) == ["role", "content"]
    assert "thinking" in generate(model="thinker").json


def test_a_native_template_s_thoughts_are_spoken_aloud_in_generate() -> None:
    thinker = SimulatedModel("native", capabilities=("completion", "thinking"))
    body = {"model": "native", "prompt": "Explain relativity"}
    lines = ask("POST", "/api/generate", body, models=(thinker,)).lines
    assert not any("thinking" in line for line in lines)
    whole = ask("POST", "/api/generate", body | {"stream": False}, models=(thinker,)).json
    assert "thinking" not in whole
    assert whole["response"] == "".join(line["response"] for line in lines)
    quiet = ask("POST", "/api/generate", body | {"stream": False, "think": False}, models=(thinker,)).json
    assert len(quiet["response"]) < len(whole["response"])


def test_tool_calls_of_a_native_template_are_in_the_last_object() -> None:
    (last,) = chat("get_weather in Oslo", tools=TOOLS, stream=True).lines
    (call,) = last["message"]["tool_calls"]
    assert (last["done"], last["done_reason"], len(call["id"])) == (True, "stop", 32)
    assert list(call) == ["id", "function"]
    assert list(call["function"]) == ["index", "name", "arguments"]
    assert set(call["function"]["arguments"]) == {"city"}


def test_tool_calls_of_a_parsed_model_are_in_a_middle_chunk() -> None:
    answer = chat("get_weather in Oslo", model="thinker", think=False, tools=TOOLS, stream=True)
    middle, last = answer.lines
    assert (middle["done"], last["done"], last["done_reason"]) == (False, True, "stop")
    assert middle["message"]["tool_calls"][0]["id"].startswith("call_")
    assert "tool_calls" not in last["message"]
    whole = chat("get_weather in Oslo", model="thinker", think=False, tools=TOOLS)
    assert whole.json["message"]["tool_calls"][0]["function"]["name"] == "get_weather"


def test_logprobs_come_with_each_token() -> None:
    whole = chat(logprobs=True, top_logprobs=2, options={"num_predict": 3}).json
    assert list(whole)[5] == "logprobs"
    assert "".join(item["token"] for item in whole["logprobs"]) == whole["message"]["content"]
    first = whole["logprobs"][0]
    assert list(first) == ["token", "logprob", "bytes", "top_logprobs"]
    assert (first["top_logprobs"][0]["token"], len(first["top_logprobs"])) == (first["token"], 2)
    assert bytes(first["bytes"]).decode() == first["token"]
    streamed = chat(logprobs=True, options={"num_predict": 3}, stream=True).lines
    assert [len(line.get("logprobs", ())) for line in streamed] == [1, 1, 1, 0]


def test_images_cost_tokens() -> None:
    plain, seen = chat(), chat(messages=[{"role": "user", "content": "Explain relativity", "images": [IMAGE]}])
    assert seen.json["prompt_eval_count"] > plain.json["prompt_eval_count"] + 100


def test_formatted_answers_fit() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    assert '"n"' in chat(format=schema).json["message"]["content"]
    assert chat(format="json").json["message"]["content"].startswith("{")
    wrong = chat(format="xml")
    assert wrong.status == 500
    assert wrong.error == 'invalid format: "\\"xml\\""; expected "json" or a valid JSON Schema object'


@pytest.mark.parametrize(("path", "extra"), [("/api/chat", {"messages": []}), ("/api/generate", {"prompt": ""})])
@pytest.mark.parametrize("stream", [True, False])
def test_an_empty_request_loads_and_keep_alive_0_unloads(path: str, extra: dict[str, Any], stream: bool) -> None:
    async def main() -> None:
        async with simulating() as client:
            body = {"model": "chat", "stream": stream, **extra}
            loaded = await client.post(path, body)
            assert loaded.headers[b"content-type"] == b"application/json; charset=utf-8"
            assert (loaded.json["done"], loaded.json["done_reason"]) == (True, "load")
            assert len((await client.get("/api/ps")).json["models"]) == 1
            unloaded = await client.post(path, body | {"keep_alive": 0})
            assert unloaded.json["done_reason"] == "unload"
            assert (await client.get("/api/ps")).json == {"models": []}
            stranger = await client.post(path, body | {"model": "nope", "keep_alive": 0})
            assert (stranger.status, stranger.error) == (404, "model 'nope' not found")

    run(main)


# --- time -----------------------------------------------------------------------------------------------------------


def test_every_token_comes_when_it_is_due() -> None:
    async def main() -> None:
        async with simulating() as client:
            began = client.now()
            body = chat_body("[[tokens:50]] x" + "y" * 3985, stream=True)  # 4000 characters: 1004 tokens, 1.004 s
            arrivals = []
            async with client.open("/api/chat", body) as exchange:
                while await exchange.read(NEVER):
                    arrivals.append(client.now() - began)
            due = [5.0 + 1.004 + token * 0.1 for token in range(50)]
            assert arrivals[:50] == pytest.approx(due)
            assert arrivals[-1] == pytest.approx(due[-1] + 0.2)  # the end of the text is a token of its own

    run(main)


def test_a_slow_reader_does_not_shift_the_schedule_and_jitter_does_not_add_up() -> None:
    async def main() -> None:
        async with simulating(config(jitter=1.0)) as client:
            await client.post("/api/generate", {"model": "chat"})
            began = client.now()
            await client.chat("[[tokens:300]] x", stream=True)
            assert client.now() - began == pytest.approx(30.1 + 0.008, abs=0.11)

    run(main)


def test_the_reported_durations_are_those_that_passed() -> None:
    async def main() -> None:
        async with simulating() as client:
            began = client.now()
            whole = (await client.chat("[[tokens:20]] x")).json
            passed_ns = (client.now() - began) * 1e9
            assert whole["load_duration"] == pytest.approx(5e9)
            assert whole["prompt_eval_duration"] == pytest.approx(whole["prompt_eval_count"] * 1e6)
            assert whole["eval_duration"] == pytest.approx(21 * 1e8)
            assert whole["total_duration"] == pytest.approx(passed_ns)

    run(main)


def test_the_wait_for_a_slot_is_in_the_total_alone() -> None:
    async def main() -> None:
        async with simulating() as client:
            await client.post("/api/generate", {"model": "plain"})
            body = chat_body("[[tokens:9]] x", model="plain")
            first, second = await asyncio.gather(*(client.post("/api/chat", body) for _ in range(2)))
            assert second.json["load_duration"] == 0
            assert second.json["total_duration"] == pytest.approx(2 * first.json["total_duration"], rel=0.01)

    run(main)


def test_nothing_is_sent_before_the_first_token() -> None:
    async def main() -> None:
        async with simulating() as client:
            began = client.now()
            async with client.open("/api/chat", chat_body(stream=True)):
                assert client.now() - began > 5.0

    run(main)


# --- context --------------------------------------------------------------------------------------------------------


def long_chat(model: str = "chat", **fields: Any) -> Answer:
    turns = [{"role": "user", "content": "word " * 400}, {"role": "assistant", "content": "yes " * 100}]
    messages = [{"role": "system", "content": "be brief"}, *turns, {"role": "user", "content": "and now?"}]
    return chat(model=model, messages=messages, options={"num_ctx": 256}, **fields)


def test_the_oldest_messages_are_dropped_silently() -> None:
    answer = long_chat(model="plain")
    assert answer.status == 200
    assert answer.json["prompt_eval_count"] == (4 + 2) + (4 + 100) + (4 + 2)  # system, assistant, user


def exceeds(tokens: int) -> str:
    message = f"request ({tokens} tokens) exceeds the available context size (256 tokens), try increasing it"
    inner = f'"code":400,"message":"{message}","type":"exceed_context_size_error"'
    return f'{{"error":{{{inner},"n_prompt_tokens":{tokens},"n_ctx":256}}}}'


@pytest.mark.parametrize("stream", [True, False])
def test_truncate_false_makes_an_overlong_prompt_an_error(stream: bool) -> None:
    answer = long_chat(model="plain", truncate=False, stream=stream)
    assert (answer.status, answer.error) == (400, exceeds(6 + 504 + 104 + 6))
    assert answer.headers[b"content-type"].endswith(b"json" if stream else b"charset=utf-8")


def test_a_single_overlong_message_is_an_error_only_where_the_model_s_own_template_renders_it() -> None:
    prompt = "a" * 2000
    assert chat(prompt, model="plain", options={"num_ctx": 256}).error == exceeds(504)
    options = {"num_ctx": 256}
    assert generate(model="plain", prompt=prompt, options=options).json["prompt_eval_count"] == 131  # as recorded
    assert chat(prompt, model="thinker", options=options).json["prompt_eval_count"] == 131
    unshifted = generate(model="plain", prompt=prompt, options=options, shift=False)
    assert (unshifted.status, unshifted.error[:40]) == (400, "the prompt is longer than the context le")


def test_a_context_that_may_not_shift_ends_the_answer() -> None:
    answer = chat("[[tokens:500]] x", model="plain", options={"num_ctx": 100}, shift=False).json
    assert answer["done_reason"] == "length"
    assert answer["prompt_eval_count"] + answer["eval_count"] == 100


# --- embeddings -----------------------------------------------------------------------------------------------------


def embed(**fields: Any) -> Answer:
    return ask("POST", "/api/embed", {"model": "embedder", "input": "the cat sat", **fields})


def dot(left: list[float], right: list[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))


def test_embeddings_are_unit_vectors_that_depend_on_the_text_alone() -> None:
    answer = embed(input=["the cat sat", "the cat sits", "stock prices"])
    assert list(answer.json) == ["model", "embeddings", "total_duration", "load_duration", "prompt_eval_count"]
    cat, cats, stocks = answer.json["embeddings"]
    assert all(dot(vector, vector) == pytest.approx(1.0) for vector in (cat, cats, stocks))
    assert len(cat) == 64
    assert dot(cat, cats) > dot(cat, stocks)
    assert embed().json["embeddings"] == [cat]
    legacy = ask("POST", "/api/embeddings", {"model": "embedder", "prompt": "the cat sat"})
    assert legacy.json["embedding"] == pytest.approx(cat, abs=1e-8)


def test_fewer_dimensions_are_still_a_unit_vector() -> None:
    (vector,) = embed(dimensions=8).json["embeddings"]
    assert (len(vector), dot(vector, vector)) == (8, pytest.approx(1.0))


def test_nothing_to_embed_loads_the_model() -> None:
    assert embed(input=[]).json == {"model": "embedder", "embeddings": []}
    assert ask("POST", "/api/embeddings", {"model": "embedder"}).json == {"embedding": []}


def test_an_input_longer_than_the_context_is_cut_or_refused() -> None:
    assert embed(input="a" * 4000).json["prompt_eval_count"] == 256
    refused = embed(input="a" * 4000, truncate=False)
    assert (refused.status, refused.error) == (400, "the input length exceeds the context length")


# --- errors ---------------------------------------------------------------------------------------------------------

HI = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("chat", {"messages": HI}, 400, "model is required"),
        ("chat", {"model": "nope", "messages": HI}, 404, "model 'nope' not found"),
        ("chat", {"model": "a b", "messages": HI}, 400, "invalid model name"),
        ("chat", {"model": "embedder", "messages": HI}, 400, '"embedder" does not support chat'),
        ("chat", {"model": "plain", "messages": HI, "think": True}, 400, '"plain" does not support thinking'),
        (
            "chat",
            {"model": "plain", "messages": HI, "tools": TOOLS},
            400,
            "registry.ollama.ai/library/plain:latest does not support tools",
        ),
        (
            "chat",
            {"model": "plain", "messages": [{"role": "user", "images": [IMAGE]}]},
            500,
            '{"error":{"code":500,"message":"image input is not supported - hint: if this is unexpected, you may need'
            ' to provide the mmproj","type":"server_error"}}',
        ),
        ("chat", {"model": "chat", "messages": HI, "options": {"num_ctx": "x"}}, 500, None),
        ("generate", {"prompt": "x"}, 404, "model '' not found"),
        ("generate", {"model": "embedder", "prompt": "x"}, 400, '"embedder" does not support generate'),
        (
            "generate",
            {"model": "plain", "prompt": "x", "suffix": "y"},
            400,
            "registry.ollama.ai/library/plain:latest does not support insert",
        ),
        ("embed", {"input": "x"}, 404, "model '' not found"),
        ("embed", {"model": "nope", "input": "x"}, 404, 'model "nope" not found, try pulling it first'),
        (
            "embed",
            {"model": "plain", "input": "x"},
            501,
            "This server does not support embeddings. Start it with `--embeddings`",
        ),
        ("embeddings", {"prompt": "x"}, 400, "model is required"),
        ("show", {"model": ""}, 400, "model is required"),
        ("show", {"model": "nope"}, 404, "model 'nope:latest' not found"),
        ("copy", {"source": "", "destination": "x"}, 400, 'source "" is invalid'),
        ("copy", {"source": "nope", "destination": "x"}, 404, 'model "nope" not found'),
        ("pull", {}, 400, "invalid model name"),
        ("pull", {"model": "a/b/c/d/e"}, 400, "invalid model name"),
        ("pull", {"model": "nope", "stream": False}, 500, "pull model manifest: file does not exist"),
    ],
)
def test_errors_are_ollama_s(path: str, body: dict[str, Any], status: int, text: str | None) -> None:
    answer = ask("POST", f"/api/{path}", body)
    assert (answer.status, list(answer.json)) == (status, ["error"])
    assert text in (None, answer.error)


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({"model": ""}, 400, "model is required"),
        ({"model": "a b"}, 400, 'name "a b" is invalid'),
        ({"name": "nope"}, 404, "model 'nope' not found"),
    ],
)
def test_a_delete_that_fails_says_why(body: dict[str, Any], status: int, text: str) -> None:
    answer = ask("DELETE", "/api/delete", body)
    assert (answer.status, answer.error) == (status, text)


def test_a_full_queue_is_a_503() -> None:
    answer = ask("POST", "/api/chat", chat_body(), max_queue=0)
    assert answer.status == 503
    assert answer.error == "server busy, please try again.  maximum pending requests exceeded"


# --- the server itself ----------------------------------------------------------------------------------------------


def test_it_says_that_it_is_simulated() -> None:
    version = ask("GET", "/api/version")
    assert version.json == {"version": "0.33.0", "simulated": True}
    assert {version.headers[b"server"], chat(stream=True).headers[b"server"]} == {b"hermes-simulator"}


def test_it_is_taken_for_an_ollama() -> None:
    root = ask("GET", "/")
    assert (root.body, root.headers[b"content-type"]) == (b"Ollama is running", b"text/plain; charset=utf-8")
    assert ask("GET", "/api/status").json == {"cloud": {"disabled": True, "source": "env"}}
    for path in (b"/", b"/api/version", b"/api/tags"):
        head, _, body = tcp(b"Host: localhost\r\n", b"HEAD " + path).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK")
        assert body == b""


@pytest.mark.parametrize(
    ("method", "path", "status", "header", "text"),
    [
        ("GET", "/api/zork", 404, None, b"404 page not found"),
        ("POST", "/v1/chat/completions", 404, None, b"404 page not found"),
        ("GET", "/api/chat", 405, (b"allow", b"POST"), b"405 method not allowed"),
        ("POST", "/api/tags", 405, (b"allow", b"HEAD, GET"), b"405 method not allowed"),
        ("GET", "/api/tags/", 301, (b"location", b"/api/tags"), b'<a href="/api/tags">Moved Permanently</a>.\n\n'),
        ("POST", "/api/chat/", 307, (b"location", b"/api/chat"), None),
    ],
)
def test_what_is_no_route_gets_plain_text(
    method: str, path: str, status: int, header: tuple[bytes, bytes] | None, text: bytes | None
) -> None:
    answer = ask(method, path)
    assert answer.status == status
    assert text in (None, answer.body)
    assert header is None or answer.headers[header[0]] == header[1]
    assert not answer.headers[b"content-type"].startswith(b"application/json")


def tcp(head: bytes, request: bytes = b"GET /api/version") -> bytes:
    async def main() -> bytes:
        simulator = Simulator(SimulatorConfig())
        reader, writer = await asyncio.open_connection("127.0.0.1", await simulator.start())
        writer.write(request + b" HTTP/1.1\r\nConnection: close\r\n" + head + b"\r\n")
        answer = await reader.read()
        writer.close()
        await simulator.stop()
        return answer

    return asyncio.run(main())


@pytest.mark.parametrize("host", [b"localhost", b"127.0.0.1:11434", b"[::1]:80", b"10.1.2.3", b"box.local", b""])
def test_local_names_are_served(host: bytes) -> None:
    assert tcp(b"Host: " + host + b"\r\n").startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("head", [b"Host: evil.example\r\n", b"Host: 8.8.8.8\r\n"])
def test_a_foreign_host_is_refused(head: bytes) -> None:
    assert tcp(head).startswith(b"HTTP/1.1 403")


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (b"http://localhost:3000", b"200"),
        (b"http://127.0.0.1", b"200"),
        (b"app://x", b"200"),
        (b"http://box.local", b"200"),
        (b"https://evil.example", b"403"),
        (b"http://localhost.evil.example", b"403"),
        (b"null", b"403"),
    ],
)
def test_a_foreign_origin_is_refused(origin: bytes, status: bytes) -> None:
    assert tcp(b"Host: box.local\r\nOrigin: " + origin + b"\r\n").startswith(b"HTTP/1.1 " + status)


def test_running_models_are_listed_longest_first() -> None:
    async def main() -> None:
        async with simulating() as client:
            await client.post("/api/generate", {"model": "chat", "keep_alive": 100})
            await client.post("/api/generate", {"model": "plain", "keep_alive": -1})
            first, second = (await client.get("/api/ps")).json["models"]
            assert (first["name"], second["model"]) == ("plain:latest", "chat:latest")
            assert first["expires_at"] > "2300"
            assert list(second) == [
                "name",
                "model",
                "size",
                "digest",
                "details",
                "expires_at",
                "size_vram",
                "context_length",
            ]

    run(main)


@pytest.mark.parametrize("listed", [True, False])
def test_a_loading_model_is_listed_only_by_older_versions(listed: bool) -> None:
    async def main() -> None:
        async with simulating(config(lists_loading=listed)) as client:
            loading = client.spawn(client.chat())
            await asyncio.sleep(1.0)
            assert len((await client.get("/api/ps")).json["models"]) == listed
            await loading

    run(main)


def test_tags_and_show_describe_the_models() -> None:
    async def main() -> None:
        async with simulating() as client:
            tags = (await client.get("/api/tags")).json["models"]
            assert [model["name"] for model in tags] == [
                "embedder:latest",
                "plain:latest",
                "thinker:latest",
                "chat:latest",
            ]
            show = (await client.post("/api/show", {"model": "chat"})).json
            assert show["capabilities"] == ["completion", "tools", "vision"]
            assert show["model_info"]["llama.context_length"] == tags[3]["details"]["context_length"]
            assert tags[3]["size"] > 0

    run(main)


def test_the_same_simulator_serves_several_listeners(tmp_path: Any) -> None:
    async def main() -> None:
        simulator = Simulator(config())
        await simulator.start_unix(f"{tmp_path}/a")
        await simulator.start_unix(f"{tmp_path}/b")
        for name in "ab":
            client = Client(simulator, f"{tmp_path}/{name}")
            assert (await client.get("/")).status == 200
            client.close()
        await simulator.stop()
        await simulator.stop()

    run(main)


def test_a_server_that_others_can_reach_is_called_what_they_like() -> None:
    async def main() -> bytes:
        simulator = Simulator(SimulatorConfig())
        reader, writer = await asyncio.open_connection("127.0.0.1", await simulator.start("0.0.0.0"))
        writer.write(b"GET / HTTP/1.1\r\nHost: sim.example\r\n\r\n")
        line = await reader.readline()
        writer.close()
        await simulator.stop()
        return line

    assert asyncio.run(main()).startswith(b"HTTP/1.1 200")


def test_a_model_that_is_no_name_does_not_start() -> None:
    async def main() -> None:
        with pytest.raises(ConfigError, match="'a b' is no model name"):
            await Simulator(SimulatorConfig(models=(SimulatedModel("a b"),))).start()

    asyncio.run(main())


@pytest.mark.parametrize("wrong", [{"speed": 0.0}, {"speed": float("nan")}, {"jitter": 1.5}])
def test_a_pace_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="must be above 0"):
        Simulator(config(**wrong))


def test_a_machine_may_be_infinitely_fast() -> None:
    async def main() -> None:
        async with simulating(config(speed=float("inf"))) as client:
            began = client.now()
            assert len((await client.chat("[[tokens:500]]", stream=True)).lines) == 501
            assert (await client.post("/api/pull", {"model": "phi4-mini", "stream": False})).status == 200
            assert client.now() - began < 0.01

    run(main)


def test_a_bug_is_a_500_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with simulating() as client:
            await client.get("/")
            client.simulator.machine.library = None  # type: ignore[assignment]
            answer = await client.get("/api/tags")
            assert (answer.status, answer.error) == (500, "a bug in the simulated server")

    run(main)
    assert "AttributeError" in caplog.text


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10**20) | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
SCHEMA_KEYS = ["type", "properties", "items", "required", "enum", "$ref", "anyOf", "minItems", "maxLength", "minimum"]
SCHEMAS = st.dictionaries(st.sampled_from(SCHEMA_KEYS), JUNK | st.sampled_from(["object", "array", "#", {"a": {}}]))
BODIES = st.fixed_dictionaries(
    {"model": st.sampled_from(["chat", "thinker", "embedder"]) | JUNK},
    optional={
        "messages": st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "tool"]), "content": st.text()}))
        | JUNK,
        "prompt": st.text() | JUNK,
        "input": st.text() | JUNK,
        "format": SCHEMAS | JUNK,
        "tools": st.lists(st.fixed_dictionaries({"function": st.fixed_dictionaries({"parameters": SCHEMAS})})) | JUNK,
        "options": st.dictionaries(st.sampled_from(["num_ctx", "num_predict", "stop", "seed", "num_keep"]), JUNK),
        "stream": st.booleans() | JUNK,
        "think": st.booleans() | JUNK,
        "keep_alive": JUNK,
        "logprobs": st.booleans(),
        "dimensions": JUNK,
    },
)


@settings(max_examples=100, deadline=None)  # most of its time goes into drawing them
@given(
    st.lists(st.tuples(st.sampled_from(["chat", "generate", "embed", "embeddings"]), BODIES), min_size=1, max_size=2)
)
def test_no_body_is_a_bug(asked: list[tuple[str, dict[str, Any]]]) -> None:
    async def main() -> None:
        async with simulating() as client:
            for path, body in asked:
                answer = await client.post(f"/api/{path}", body)
                assert b"a bug in" not in answer.body
            assert client.simulator.stats.in_flight == 0

    run(main)
