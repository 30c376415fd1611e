"""How logs are written: JSON for what collects them, lines for people. One request, one line (invariant I28)."""

import time
from collections.abc import Callable, Sequence

import msgspec

from hermes.errors import Outcome
from hermes.record import Record

Lines = Callable[[Sequence[Record]], bytes]

as_json: Lines = msgspec.json.Encoder().encode_lines


def are_read(format: str, is_terminal: bool) -> bool:
    """Whether somebody reads them, by `logging.format`."""
    return format == "human" or (format == "auto" and is_terminal)


def as_text(records: Sequence[Record]) -> bytes:
    return "".join([f"{line(each)}\n" for each in records]).encode()


def line(record: Record) -> str:
    """One request, to be read: when it ended, what came of it, and only what applies."""
    ended = record.outcome if record.outcome == Outcome.OK else record.code or record.outcome
    ended_at = record.created_at + record.duration_ms / 1000
    told = [stamp(ended_at), ended, str(record.status or "-"), record.method, record.route or "-"]
    if record.model:
        told.append(f"{record.model}@{record.backend}" if record.backend else record.model)
    told.append(f"{record.duration_ms} ms")
    if record.queue_ms:
        told.append(f"queued {record.queue_ms} ms")
    if record.loaded in ("load", "swap"):
        told.append(f"{record.loaded} {record.load_ms} ms")
    if record.stream and record.ttft_ms is not None:
        told.append(f"first token {record.ttft_ms} ms")
    if record.tokens_in or record.tokens_out:
        told.append(f"{record.tokens_in}+{record.tokens_out} tokens")
    if record.cache:
        told.append(f"cache {record.cache}")
    told += filter(None, (record.user or record.key_id, record.request_id))
    return escaped("  ".join(told))


def stamp(unix: float) -> str:
    """UTC, as ISO 8601 and RFC 3339 have it."""
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(unix))}.{int(unix * 1000) % 1000:03}Z"


def escaped(text: str) -> str:
    """Without what a terminal would obey."""
    if text.isprintable():
        return text
    return "".join([each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text])
