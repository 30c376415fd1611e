"""The pages' blocks of code, and the commands in them."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").glob("*.md"))]

# A block that is not to be tried has a comment above it that says why.
_BLOCK = re.compile(
    r"(?:^ *<!-- not run: (?P<why>.+?) -->\n+)?"
    r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_INLINE = re.compile(r"`(hermes [a-z]+(?: [^`]+)?)`")


class Block(Struct, frozen=True):
    page: Path
    line: int
    language: str
    text: str
    why: str | None

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks() -> Iterator[Block]:
    for page in PAGES:
        text = page.read_text()
        for found in _BLOCK.finditer(text):
            line = text.count("\n", 0, found.start("text"))
            yield Block(page, line, found["language"], found["text"], found["why"])


def lines(block: Block) -> list[str]:
    """What is typed, a line each: after a `$ ` in a console, which shows answers too; all of a script."""
    text = block.text.replace("\\\n", " ")
    if block.language == "console":
        return [line.removeprefix("$ ") for line in text.splitlines() if line.startswith("$ ")]
    return text.splitlines()


def commands(line: str) -> Iterator[list[str]]:
    """The single commands of a line, without what is set before them, redirections and comments."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="();|&")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if not set(word) <= set("();|&"):
            words.append(word)
            continue
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0], re.DOTALL):
            words.pop(0)
        if words:
            yield words[: words.index(">")] if ">" in words else words
        words = []


def inline() -> Iterator[tuple[str, str]]:
    """Commands of ours in running text: the page's name, what it says."""
    for page in PAGES:
        text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        for said in dict.fromkeys(_INLINE.findall(text)):
            yield page.name, said
