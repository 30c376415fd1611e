"""The log of a running server on standard error: by default lines to read on a terminal, of JSON anywhere else."""

import json
import logging
import sys
import traceback
from types import TracebackType

import click

from hermes.lines import are_read, escaped, stamp

_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]

log = logging.getLogger("hermes")


def log_to_stderr(level: str, format: str) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_Text() if are_read(format, sys.stderr.isatty()) else _JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler])


def tell(words: str, level: int = logging.INFO) -> None:
    """What whoever starts it should know: as it stands to people, as part of the log to what collects that."""
    if is_read():
        click.echo(escaped(words), err=True)
    else:
        log.log(level, "%s", words.strip())


def is_read() -> bool:
    """Whether people do, and nothing collects it."""
    collected = any(isinstance(each.formatter, _JsonLines) for each in logging.getLogger().handlers)
    return sys.stderr.isatty() and not collected


class _Text(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        return stamp(record.created)

    def format(self, record: logging.LogRecord) -> str:
        """Backends' words are in it, too."""
        return "\n".join(map(escaped, super().format(record).split("\n")))


class _JsonLines(_Text):
    """One event, one line (invariant I28)."""

    def format(self, record: logging.LogRecord) -> str:
        event = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _first_line(record),
        }
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return json.dumps(event)

    def formatException(self, ei: _ExcInfo) -> str:
        """Of what kind it is and where it comes from, not in its words: what was asked may be in them (I27)."""
        told: list[str] = []
        error = ei[1]
        while error is not None:
            kind = type(error)
            where = "".join(traceback.format_tb(error.__traceback__))
            told.append(f"Traceback (most recent call last):\n{where}{kind.__module__}.{kind.__qualname__}")
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        return "\n\nwhich was raised after\n\n".join(told)


def _first_line(record: logging.LogRecord) -> str:
    """Of what the loop tells, whose others repeat exceptions and tasks in all their words."""
    message = record.getMessage()
    return message.partition("\n")[0] if record.name == "asyncio" else message
