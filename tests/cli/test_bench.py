"""`hermes bench` as it is typed: against a whole Hermes, and what it makes of options that do not fit together."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from tests.cli.verbs import Run, ask
from tests.fakes.backend import ollama, speak
from tests.fakes.gateway import hermes, scenario
from tests.fakes.gateway import key as made

APIS = {
    "openai": "/v1/chat/completions",
    "completions": "/v1/completions",
    "ollama": "/api/chat",
    "generate": "/api/generate",
    "prompt": "/v1/llm/gemma",
}


def told(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize("api", APIS)
@scenario
async def test_each_api_is_spoken_whole_and_streamed(verb: Run, api: str) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        backend.default = speak("Hel", "lo")
        arguments = (
            "bench",
            "gemma",
            "--api",
            api,
            "-n",
            "6",
            "-c",
            "2",
            "--streamed",
            "0.5",
            "--output",
            "7",
            "--json",
        )
        found = told(await ask(verb, gateway, *arguments))
        assert (found["all"]["answered"], found["all"]["errors"]) == (6, {})
        assert found["all"]["tokens_out"] > 0 and found["all"]["tokens_in"] > 0
        streamed = found["all"]["times"]["ttft"]["count"]
        assert 0 < streamed < 6 and found["all"]["times"]["itl"]["count"] == streamed
        assert found["all"]["times"]["wait"]["count"] == 6
        assert {record.route for record in gateway.records} == {APIS[api].replace("gemma", "{model}")}
        assert {asked.body["options"]["num_predict"] for asked in backend.asked if "options" in (asked.body or {})} == {
            7
        }


@scenario
async def test_the_api_is_known_by_the_path_of_the_url(verb: Run) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        for path, route in (("/v1", "/v1/chat/completions"), ("/api/chat", "/api/chat"), ("/", "/v1/chat/completions")):
            url = f"http://127.0.0.1:{gateway.port}{path}"
            assert (await ask(verb, gateway, "bench", "gemma", "-n", "1", "--url", url)).exit_code == 0
            assert gateway.records.pop().route == route


@scenario
async def test_tenants_and_classes_ask_with_their_keys_which_are_told_nowhere(verb: Run, tmp_path: Path) -> None:
    """I26: a report is shown around."""
    (tmp_path / "keys").write_text("# of the test\nann=sk-ann\nsk-ben\n")
    async with ollama() as backend, hermes(backend, keys=[made("ann"), made("ben")]) as gateway:
        page = tmp_path / "report.html"
        arguments = ("--keys", "keys", "--class", "batch", "--class", "interactive=2", "--html", str(page), "--json")
        result = await ask(verb, gateway, "bench", "gemma", "-n", "30", *arguments)
        found = told(result)
        assert {name: group["asked"] for name, group in found["by"]["tenant"].items()}.keys() == {"ann", "key 2"}
        assert {record.user for record in gateway.records} == {"ann", "ben"}
        assert {record.urgency for record in gateway.records} == {"batch", "interactive"}
        assert "sk-" not in result.output + page.read_text()


@scenario
async def test_a_log_is_asked_again_with_its_models_lengths_and_classes(verb: Run, tmp_path: Path) -> None:
    lines = [
        {"created_at": 100.0 + number / 100, "model": model, "class": said, "tokens_in": 9, "tokens_out": 5 + number}
        for number, (model, said) in enumerate((("gemma", "batch"), ("phi", "interactive"), ("gemma", "batch")))
    ]
    (tmp_path / "access.log").write_text("".join(json.dumps(line) + "\n" for line in lines))
    async with ollama("gemma:latest", "phi:latest") as backend, hermes(backend) as gateway:
        found = told(await ask(verb, gateway, "bench", "--trace", "access.log", "--json"))
        assert {name: group["asked"] for name, group in found["by"]["model"].items()} == {"gemma": 2, "phi": 1}
        asked = [each.body for each in backend.asked if each.path == "/api/chat"]
        assert [one["options"]["num_predict"] for one in asked] == [5, 6, 7]
        assert [len(one["messages"][0]["content"].split()) for one in asked] == [9, 9, 9]
        assert [record.urgency for record in gateway.records] == ["batch", "interactive", "batch"]
        assert (found["setting"]["arrivals"], found["setting"]["models"]) == ("trace", ["gemma", "phi"])


@scenario
async def test_a_number_alone_is_seconds_and_a_rate_may_be_of_each(verb: Run) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        arguments = ("-n", "1", "--timeout", "25", "--slo", "ttft=2", "--rate", "50/s", "--json")
        found = told(await ask(verb, gateway, "bench", "gemma", *arguments))
        assert (found["setting"]["timeout_s"], found["slo"], found["setting"]["rate"]) == (25.0, {"ttft": 2.0}, 50.0)


@scenario
async def test_extra_and_headers_go_with_each_request(verb: Run) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        extra = ("--extra", '{"temperature": 0.25}', "--header", "x-request-id: from-bench")
        assert (await ask(verb, gateway, "bench", "gemma", "-n", "1", *extra)).exit_code == 0
        assert backend.asked[-1].body["options"]["temperature"] == 0.25
        assert gateway.records[-1].request_id == "from-bench"


@scenario
async def test_anything_that_answers_can_be_asked_for_a_page(verb: Run) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        url = f"http://127.0.0.1:{gateway.port}/health"
        result = await ask(verb, gateway, "bench", "--api", "plain", "--url", url, "-n", "5")
        assert result.exit_code == 0
        assert "5 answered" in result.stdout
        (corrected,) = [line for line in result.stdout.splitlines() if line.startswith("e2e, corrected")]
        assert len(corrected) <= 80


@scenario
async def test_where_nothing_is_answered_it_says_why_and_exits_with_1(verb: Run) -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        url = f"http://127.0.0.1:{gateway.port}/v1/chat/completions"
        result = await ask(verb, gateway, "bench", "--api", "plain", "--url", url, "-n", "3")
        assert result.exit_code == 1
        assert "3  405 method_not_allowed" in result.stdout and "WARNING: nothing was answered" in result.stdout


@pytest.mark.parametrize(
    ("model", "key", "words"),
    [
        ("gemma", "", ("401", "HERMES_API_KEY")),
        ("gemma", "sk-wrong", ("401 Incorrect API key", "--keys")),
        ("phi", "sk-ann", ("403", "another key")),
        ("nobody", "sk-ops", ("404", "nobody", "--url")),
    ],
)
@pytest.mark.parametrize("rate", [(), ("--rate", "500")])
@scenario
async def test_what_more_requests_do_not_change_ends_it_with_the_servers_words(
    verb: Run, model: str, key: str, words: tuple[str, ...], rate: tuple[str, ...]
) -> None:
    people = [made("ann", models=["gemma"]), made("ops", admin=True)]
    async with ollama("gemma:latest", "phi:latest") as backend, hermes(backend, keys=people) as gateway:
        result = await ask(verb, gateway, "bench", model, *rate, "-d", "5s", HERMES_API_KEY=key)
        assert result.exit_code == 1 and not result.stdout
        assert all(word in result.stderr for word in words), result.stderr
        assert len(gateway.records) < 100


def test_where_nobody_is_it_says_so_at_once_and_exits_with_3(verb: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    result = verb("bench", "gemma", "--url", url)
    assert result.exit_code == 3
    assert f"no server answers at {url}" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name a model"),
        (["gemma", "--arrivals", "poisson"], "--rate"),
        (["gemma", "--arrivals", "trace"], "--trace"),
        (["gemma=0"], "more than nothing"),
        (["gemma", "--rate", "inf"], "finite"),
        (["gemma", "--rate", "nan"], "finite"),
        (["gemma", "--rate", "5/m"], "5/m"),
        (["../x"], "model"),
        (["gemma", "--slo", "ttl=3s"], "ttft"),
        (["gemma", "--slo", "ttft=3x"], "250ms"),
        (["gemma", "--prompt", "many"], "lognormal"),
        (["gemma", "--duration", "soon"], "1.5s"),
        (["gemma", "--extra", "[]"], "object"),
        (["gemma", "--header", "a b: c"], "header"),
        (["gemma", "--body", "@missing"], "missing"),
        (["gemma", "--trace", "empty"], "no column"),
        (["gemma", "--class", "a\nb"], "class"),
        (["gemma", "--trace", "broken"], "class"),
        (["gemma", "-d", "0"], "no time"),
        (["gemma", "--timeout", "0ms"], "no time"),
        (["gemma", "--prompt", "1000001"], "1,000,000"),
        (["gemma", "--output", "lognormal:5,9999999"], "1,000,000"),
        (["gemma", "--keys", "empty"], "no key"),
    ],
)
def test_what_does_not_fit_together_is_told_and_exits_with_2(
    verb: Run, tmp_path: Path, arguments: list[str], words: str
) -> None:
    (tmp_path / "empty").write_text("")
    (tmp_path / "broken").write_text(
        '{"created_at": 1, "model": "gemma", "tokens_in": 1, "tokens_out": 1, "class": "a\\nb"}\n'
    )
    result = verb("bench", *arguments)
    assert result.exit_code == 2
    assert words in result.stderr
