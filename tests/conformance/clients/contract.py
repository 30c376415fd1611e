"""What all scripts in Python share: tasks come in as lines of JSON, one line of facts goes out for each.

A script says how its client does things and judges nothing: `chat`, `pieces` (a generator of a stream's text), `tool`,
`tool_streamed`, `schema`, `image`, `embeddings`, `thoughts`. A stream that is held is left as its users leave it: the
generator is closed.
"""

import asyncio
import inspect
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from types import SimpleNamespace
from typing import Any


def serve(script: Mapping[str, Any]) -> None:
    told = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints is none of the facts
    session = _Session(script)
    for line in sys.stdin:
        told.write(json.dumps(session.do(json.loads(line))) + "\n")


class _Session:
    def __init__(self, script: Mapping[str, Any]) -> None:
        self._script = script
        self._held: Iterator[str] | None = None

    def do(self, task: dict[str, Any]) -> dict[str, Any]:
        what = task.pop("do")
        ask = SimpleNamespace(**task)
        try:
            own = {"stream": self._stream, "hold": self._hold, "leave": self._leave}.get(what)
            return (own or self._script[what])(ask)
        except Exception as error:
            return raised(error)

    def _stream(self, ask: SimpleNamespace) -> dict[str, Any]:
        return {"pieces": list(self._pieces(ask))}

    def _hold(self, ask: SimpleNamespace) -> dict[str, Any]:
        self._held = self._pieces(ask)
        return {"pieces": [next(self._held) for _ in range(2)]}

    def _leave(self, _: SimpleNamespace) -> dict[str, Any]:
        self._held.close()
        return {}

    def _pieces(self, ask: SimpleNamespace) -> Iterator[str]:
        made = self._script["pieces"](ask)
        return filtered(made if inspect.isgenerator(made) else awaited(made))


def filtered(pieces: Iterator[str]) -> Iterator[str]:
    try:
        yield from (piece for piece in pieces if piece)
    finally:
        pieces.close()


LOOP = asyncio.new_event_loop()


def awaited(pieces: AsyncIterator[str]) -> Iterator[str]:
    """An asynchronous stream, read by one task, which is cancelled when it is left."""
    told: asyncio.Queue[Any] = asyncio.Queue()
    over = object()

    async def read() -> None:
        try:
            async for piece in pieces:
                told.put_nowait(piece)
            told.put_nowait(over)
        except Exception as error:
            told.put_nowait(error)

    reading = LOOP.create_task(read())
    try:
        while (piece := LOOP.run_until_complete(told.get())) is not over:
            if isinstance(piece, Exception):
                raise piece
            yield piece
    finally:
        reading.cancel()
        LOOP.run_until_complete(asyncio.wait([reading]))


def raised(error: BaseException) -> dict[str, Any]:
    status = getattr(error, "status_code", None) or getattr(getattr(error, "response", None), "status_code", None)
    return {"raised": [kind.__name__ for kind in type(error).__mro__], "message": str(error), "status": status}


def knobs(ask: SimpleNamespace, name: str = "max_retries") -> dict[str, Any]:
    """How often the client is to try again, and how long to wait, where that is not left to it."""
    told = {name: ask.retries, "timeout": ask.patience_s}
    return {name: value for name, value in told.items() if value is not None}


def city() -> Any:
    """The schema that is asked for, as the class that some libraries want."""
    from pydantic import BaseModel, create_model

    return create_model("City", __base__=BaseModel, city=(str, ...), people=(int, ...))


def weather() -> Any:
    """The tool's arguments, likewise."""
    from pydantic import create_model

    return create_model("get_weather", city=(str, ...))
