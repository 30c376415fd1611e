"""Traces: who asked when, and for how much. The columns of Azure's public traces, or our own access log."""

import csv
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Struct, field

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


class Arrival(Struct, frozen=True, gc=False):
    """`model`, `tenant` and `urgency` (its class) are "" where the trace does not tell."""

    at_s: float
    tokens_in: int
    tokens_out: int
    model: str = ""
    tenant: str = ""
    urgency: str = ""


_Tokens = Annotated[int, msgspec.Meta(ge=0)]


class _Line(Struct):
    """What is read of a line of the access log (record.Record)."""

    created_at: float | None = None
    model: str = ""
    user: str = ""
    key_id: str = ""
    cache: str = ""
    tokens_in: _Tokens = 0
    tokens_out: _Tokens = 0
    urgency: str = field(default="", name="class")


def read_trace(path: Path) -> list[Arrival]:
    """In order of arrival. Raises OSError, and ValueError naming what is wrong and where."""
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            is_log = lines.read(1) == "{"
            lines.seek(0)
            arrivals = list(_read_log(lines) if is_log else _read_table(lines))
        arrivals.sort(key=lambda arrival: arrival.at_s)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text: {error.reason} at byte {error.start}") from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error
    if not arrivals:
        raise ValueError(f"{path}: no request in it")
    return arrivals


def _read_table(lines: Iterable[str]) -> Iterable[Arrival]:
    rows = csv.reader(lines)
    heading = next(rows, [])
    if missing := [column for column in COLUMNS if column not in heading]:
        or_log = "our access log, from its first line on JSON (logging.format)"
        raise ValueError(f"no column {', '.join(missing)}; a trace is CSV with {','.join(COLUMNS)}, or {or_log}")
    when, read, written = map(heading.index, COLUMNS)
    for number, row in enumerate(rows, start=2):
        if not row:
            continue
        if len(row) < len(heading):
            raise ValueError(f"line {number}: {len(row)} of {len(heading)} columns")
        try:
            at_s = datetime.fromisoformat(row[when]).timestamp()
            tokens = int(row[read]), int(row[written])
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
        if min(tokens) < 0:
            raise ValueError(f"line {number}: a negative number of tokens")
        yield Arrival(at_s, *tokens)


def _read_log(lines: Iterable[str]) -> Iterable[Arrival]:
    """Requests that never ran have no tokens, or those of another's run: they are left out, as other events are."""
    decode = msgspec.json.Decoder(_Line).decode
    for number, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        try:
            line = decode(text)
        except msgspec.DecodeError as error:
            raise ValueError(f"line {number}: {error}") from error
        has_run = line.model and line.cache != "hit" and line.tokens_in + line.tokens_out > 0
        if line.created_at is not None and has_run:
            who = line.user or line.key_id
            yield Arrival(line.created_at, line.tokens_in, line.tokens_out, line.model, who, line.urgency)
