"""What can be said of the conformance suite without running it."""

import re

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
    told = {"versions": one.versions, "outcomes": {"401": "it said\n a|b", "429": None}}
    old = {"versions": "a 1", "outcomes": {}}
    results = {"E": {"kind": "ollama", "version": "E 1", "clients": {"one": told, "two": old}}}
    text = page.render(results, [one, two], {"401": "x", "404": "y", "429": "z"})
    assert "| one | no[^1] | -[^2] | -[^3] |\n" in text
    assert (
        r"[^1]: it said a\|b" in text and "[^2]: it does not ask" in text and "[^3]: refused in clear words: no" in text
    )
    assert "| one | a 1, @b/c 2 | 0 of 1 |\n" in text
    assert "| two | a 2 |  |\n" in text and "| two | no" not in text
