"""What the pages show to write down: it is loaded, parsed or compiled by what it is for."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import click
import pytest
from click import Command, Context, Group

from hermes.cli import cli
from hermes.config import files
from hermes.config.load import resolve
from tests.documents.blocks import PAGES, ROOT, Block, blocks, commands, inline, lines

BLOCKS = list(blocks())
TRIED = [block for block in BLOCKS if block.why is None]
# Words that begin a command which is tried, or looked up; anything else says in a comment why it is not.
KNOWN = {"hermes", ".venv/bin/hermes", ".venv/bin/python", "make", "curl", "cp"}


def of(*languages: str) -> Any:
    found = [block for block in TRIED if block.language in languages]
    assert found
    return pytest.mark.parametrize("block", found, ids=str)


def test_every_block_is_of_a_language_that_is_tried_or_says_why_it_is_not() -> None:
    tried = {"console", "sh", "yaml", "toml", "json", "python", "text", ""}  # the last two are figures and answers
    assert [str(block) for block in TRIED if block.language not in tried] == []
    assert 2 * len(BLOCKS) == sum(len(re.findall(r"^ *```", page.read_text(), re.MULTILINE)) for page in PAGES)
    assert len(BLOCKS) > 80


@of("yaml", "toml")
def test_a_configuration_is_one(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "SYSTEM_DIR", tmp_path)
    (tmp_path / f"hermes.{block.language}").write_text(block.text)
    resolve(None, {}, {}, tmp_path)


@of("json")
def test_json_is_json(block: Block) -> None:
    json.loads(block.text)


@of("python")
def test_python_is_python(block: Block) -> None:
    compile(block.text, str(block), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


# --- what is typed ----------------------------------------------------------------------------------------------------


def parsed(words: list[str], missing: bool = False) -> None:
    """Through the parser of the command line: every option is there, every value good. `missing`: some may lack."""
    command: Command = cli
    context = Context(cli, info_name="hermes")
    rest = words[1:]
    while isinstance(command, Group) and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        found = command.get_command(context, name)
        assert found is not None, f"there is no {' '.join(words)}"
        command = found
    try:
        if not isinstance(command, Group) or rest:
            command.make_context(words[0], rest, parent=context)
    except click.exceptions.Exit:
        pass
    except click.MissingParameter:
        assert missing, words


@of("console", "sh")
def test_what_is_typed_can_be(block: Block) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    typed = [words for line in lines(block) for words in commands(line)]
    assert typed, "nothing is typed here"
    for words in typed:
        assert words[0] in KNOWN, f"{words}: say in a comment above why it is not tried"
        if words[0] == "make":
            assert {word for word in words[1:] if "=" not in word} <= targets
        if words[0] == ".venv/bin/python":
            assert (ROOT / words[1]).exists()


OURS = [
    (str(block), words)
    for block in BLOCKS
    if block.language in ("console", "sh")
    for line in lines(block)
    for words in commands(line)
    if words[0].endswith("hermes")
]


@pytest.mark.parametrize(("where", "words"), OURS, ids=[f"{where} {' '.join(words)}" for where, words in OURS])
def test_a_command_of_ours_is_taken_by_its_parser(
    where: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (trace := tmp_path / "trace.csv").write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03,9,9\n")
    for word in words:
        if word.endswith(".yaml"):  # which is there where it is typed
            Path(word).touch()
    parsed([str(trace) if word.endswith((".csv", ".log")) else word for word in words])


INLINE = list(inline())


@pytest.mark.parametrize(("page", "said"), INLINE, ids=[f"{page} {said}" for page, said in INLINE])
def test_a_command_in_running_text_is_taken_too(page: str, said: str) -> None:
    for words in commands(said):
        parsed(words, missing=True)


@pytest.mark.parametrize("wrong", ["hermes chekc", "hermes check --quite", "hermes sim --port many", "hermes ask"])
def test_a_slip_is_found(wrong: str) -> None:
    with pytest.raises((AssertionError, click.UsageError)):
        parsed(wrong.split())


def test_commands_are_told_apart() -> None:
    line = """A=1 B='x y' hermes keys create a --rpm 60 > f && curl -d '{"a": "b|c"}' h | hermes check & # why"""
    assert list(commands(line)) == [
        ["hermes", "keys", "create", "a", "--rpm", "60"],
        ["curl", "-d", '{"a": "b|c"}', "h"],
        ["hermes", "check"],
    ]
