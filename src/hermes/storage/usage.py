"""What was used, as it is read: sums, and the last rows, of what is on the disk and of what is on its way there.

Work for a thread. SQLite adds up hundreds of thousands of rows without holding anybody up; in Python only the last
come (I36).
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from sqlite3 import Connection

# That are told at once.
MOST_ROWS = 10_000

Key = tuple[str, str, str]  # day, key, model


class Use(Struct, gc=False):
    """What was used, and how often it was refused to be."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    refused: int = 0

    def add(self, more: "Use") -> None:
        self.requests += more.requests
        self.prompt_tokens += more.prompt_tokens
        self.completion_tokens += more.completion_tokens
        self.refused += more.refused


class Wanted(Struct, frozen=True):
    """The days from `since` on, of these keys and models; None: of all."""

    since: str
    keys: frozenset[str] | None = None
    models: frozenset[str] | None = None

    def takes(self, row: Key) -> bool:
        day, key, model = row
        return day >= self.since and (
            (self.keys is None or key in self.keys) and (self.models is None or model in self.models)
        )


class Used(Struct, frozen=True):
    """All of it, and the last `rows` of it in their order. `has_more`: there are others before them."""

    total: Use
    rows: dict[Key, Use]
    has_more: bool


def read(wanted: Wanted, fresh: Iterable[Mapping[Key, Use]], connection: "Connection | None" = None) -> Used:
    """Of the database, if there is one, and of what is not there yet."""
    total, rows, count = Use(), {}, 0
    if connection is not None:
        asked = {"since": wanted.since, "keys": _listed(wanted.keys), "models": _listed(wanted.models)}
        count, *numbers = connection.execute(_TOTAL, asked).fetchone()
        total.add(Use(*numbers))
        last = connection.execute(_LAST, {**asked, "most": MOST_ROWS})
        rows = {(day, key, model): Use(*numbers) for day, key, model, *numbers in last}
    for batch in fresh:
        for row, use in batch.items():
            if wanted.takes(row):
                total.add(use)
                rows.setdefault(row, Use()).add(use)
    # What is fresh of a row before the last is less than all of it, and is cut off here: it is before the last.
    kept = sorted(rows)[-MOST_ROWS:]
    return Used(total, {row: rows[row] for row in kept}, max(count, len(rows)) > MOST_ROWS)


def _listed(names: frozenset[str] | None) -> str | None:
    """For `instr`: no name has a line's end in it."""
    return None if names is None else "".join(f"\n{name}\n" for name in names)


_WHERE = """
FROM usage WHERE day >= :since
  AND (:keys IS NULL OR instr(:keys, char(10) || key || char(10)))
  AND (:models IS NULL OR instr(:models, char(10) || model || char(10)))
"""
_TOTAL = """
SELECT count(*), coalesce(sum(requests), 0), coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0),
  coalesce(sum(refused), 0)
""" + _WHERE  # fmt: skip
_LAST = (
    "SELECT day, key, model, requests, prompt_tokens, completion_tokens, refused"
    + _WHERE
    + "ORDER BY day DESC, key DESC, model DESC LIMIT :most"
)
