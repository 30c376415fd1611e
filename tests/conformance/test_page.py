"""What can be said of the conformance suite without running it."""

import re
from pathlib import Path

import pytest

from tests.conformance import page
from tests.conformance.environments import HERE, Client, clients
from tests.conformance.tasks import TASKS

TOLD = {name: task.told for name, task in TASKS.items()}


def test_the_page_is_what_came_of_the_runs() -> None:
    assert page.PAGE.read_text() == page.render(page.load(), clients(), TOLD)


def test_every_client_is_pinned_and_has_a_script_and_a_class_for_each_error() -> None:
    for client in clients():
        assert all(re.fullmatch(r".+(==|@)\d+\.\d+\.\d+", package) for package in client.packages)
        assert (HERE / "clients" / client.script).exists()
        assert client.cannot.keys() | client.refused_by_ollama.keys() <= TASKS.keys() >= client.errors.keys()


def test_a_cell_says_what_is_wrong_what_cannot_be_and_what_was_not_run() -> None:
    one = Client(
        "one", ("a==1", "@b/c@2"), "x.py", {}, cannot={"404": "it does not ask"}, refused_by_ollama={"429": "no"}
    )
    two = Client("two", ("a==2",), "x.py", {})
    three = Client("three", ("a==1",), "x.py", {})
    told = {"versions": one.versions, "outcomes": {"401": "it said\n a|b", "429": None}}
    old = {"versions": "a 1", "outcomes": {}}
    some = {"versions": three.versions, "outcomes": {"401": None, "404": None}}
    results = {"E": {"kind": "ollama", "version": "E 1", "clients": {"one": told, "two": old, "three": some}}}
    text = page.render(results, [one, two, three], {"401": "x", "404": "y", "429": "z"})
    assert "| one | no[^1] | -[^2] | -[^3] |\n" in text
    assert (
        r"[^1]: it said a\|b" in text and "[^2]: it does not ask" in text and "[^3]: refused in clear words: no" in text
    )
    assert "| one | a 1, @b/c 2 | 0 of 1 |\n" in text
    assert "| two | a 2 |  |\n" in text and "| two | no" not in text
    assert "| three | yes | yes |  |\n" in text and "| three | a 1 | 2 of 3 |\n" in text


def test_an_agent_does_one_task_with_a_tool_of_its_own() -> None:
    agent = Client("agent", ("a==1",), "x.mjs", tools={"Read": "file_path"})
    told = {"versions": agent.versions, "outcomes": {"tools": None}}
    results = {"E": {"kind": "ollama", "version": "E 1", "clients": {"agent": told}}}
    text = page.render(results, [agent], {"chat": "x", "tools": "y"})
    assert "| agent | a 1 | all 1 |\n" in text and "| agent | -[^1] | yes |\n" in text


def test_what_is_known_of_others_stays_when_a_run_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(page, "PAGE", tmp_path / "page.md")
    told = {"kind": "ollama", "version": "1", "clients": {"one": {}}}
    page.save("E", told, [], TOLD)
    page.save("F", told, [], TOLD)
    page.save("E", told | {"version": "2", "clients": {"two": {}}}, [], TOLD)
    assert page.load() == {"E": told | {"version": "2", "clients": {"one": {}, "two": {}}}, "F": told}
