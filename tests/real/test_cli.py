"""The command line against a Hermes in front of a real Ollama."""

import json
from pathlib import Path

import yaml

from hermes import __version__
from tests.real.house import MODEL, OLLAMA_URL, RESIDENT, command, house, scenario


@scenario
async def test_models_shows_what_can_be_asked(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        told = await home.command("models")
        assert (told.code, told.err) == (0, "")
        head, *rows = [line.split() for line in told.out.splitlines()]
        assert head == ["MODEL", "CREATED", "CAPABILITIES"]
        assert {row[0] for row in rows} == set(await home.models())
        mine = next(row for row in rows if row[0] == RESIDENT)
        assert mine[1].startswith("20") and any("completion" in word for word in mine[2:])


@scenario
async def test_status_shows_what_is_loaded(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        await home.prompt("Hi", options={"max_tokens": 2})
        told = await home.command("status")
        assert told.code == 0
        assert f"Hermes {__version__}: ok" in told.out
        assert "backend ollama (ollama " in told.out and "SIMULATED" not in told.out
        assert f"  loaded {RESIDENT}: " in told.out
        as_json = json.loads((await home.command("status", "--json")).out)
        assert as_json["backends"][0]["url"] == OLLAMA_URL


@scenario
async def test_ask_prints_the_answer_and_what_it_took(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        told = await home.command("ask", MODEL, "Explain relativity", "--max-tokens", "50", "--stats")
        assert told.code == 0
        # A thinker may not come to its answer in 50 tokens.
        assert told.out.strip() or "thinking" in (await home.models())[RESIDENT]
        assert " tokens in, " in told.err


@scenario
async def test_what_ollama_refuses_is_told_and_exits_with_1(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        unknown = await home.command("ask", "no-such-model", "Hi")
        assert (unknown.code, unknown.out) == (1, "")
        assert "no-such-model" in unknown.err and "404" in unknown.err
        pulled = await home.command("pull", "no-such-namespace-here/no-such-model")
        assert (pulled.code, pulled.out) == (1, "")
        assert "could not pull" in pulled.err


@scenario
async def test_check_and_version_need_no_hermes(tmp_path: Path) -> None:
    checked = await command("check", OLLAMA_URL=OLLAMA_URL, XDG_CONFIG_HOME=str(tmp_path))
    assert (checked.code, checked.err.count("is good")) == (0, 1)
    assert [backend["url"] for backend in yaml.safe_load(checked.out)["backends"]] == [OLLAMA_URL]
    version = await command("version")
    assert (version.code, version.out.split()[:2]) == (0, ["hermes", __version__])
