"""The server of docs/custom-backends.md, and the class that is written there."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from tests.fakes.backend import Asked, Done, FakeOllama

PAGE = (Path(__file__).parents[2] / "docs" / "custom-backends.md").read_text()

_json = msgspec.json.Encoder().encode


def on_the_page(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(found)


@contextmanager
def module(name: str, source: str) -> Iterator[ModuleType]:
    """One that can be imported, as long as this lasts."""
    made = sys.modules[name] = ModuleType(name)
    try:
        exec(compile(source, name, "exec"), made.__dict__)
        yield made
    finally:
        del sys.modules[name]


class AskedParrot(Asked):
    content_type = b"text/plain"

    @property
    def streams(self) -> bool:
        return True

    def piece(self, text: str) -> bytes:
        return self.told({"word": text})

    def end(self, done: Done) -> bytes:
        over = "tired" if done.reason == "length" else "bored"
        return self.told({"over": over, "heard": done.prompt_eval_count, "said": done.eval_count})


class Aviary(FakeOllama):
    kind = "custom"
    asking = AskedParrot

    def __init__(self) -> None:
        super().__init__()
        self.listed: Any = {"names": ["polly"], "perches": 2}

    def _is_for_tokens(self, asked: Asked) -> bool:
        return asked.path == "/say"

    async def _manage(self, asked: Asked) -> None:
        asked.response.send(200 if asked.path == "/parrots" else 404, b"", _json(self.listed))
