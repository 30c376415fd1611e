"""What each dialect cannot say, and what becomes of it then: found out by trying, and told in docs/translation.md.

`python -m tests.dialects.losses` prints the tables; `test_losses` holds the document to them. A cell is "yes" where
what was said makes a difference of its own, "left out" where it makes none, else the words for what is said instead.
"""

import json
from collections.abc import Iterable

from tests.dialects.losses_asked import CLIENTS, IGNORED, REFUSALS, WISHES, Fields, refused, wish_cell
from tests.dialects.losses_told import BACKENDS, HAPPENED, TELLERS, TOLD, backend_cell, client_cell


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _json(said: Fields) -> str:
    return f"`{json.dumps(said)[1:-1]}`"


def tables() -> dict[str, str]:
    """By the headings that they stand under."""
    wishes = [(wish.what, *(wish_cell(wish, name) for name in CLIENTS)) for wish in WISHES]
    asked = [(told.what, *(backend_cell(told, each) for each in BACKENDS.values())) for told in TOLD]
    happened = [(each.what, *(client_cell(each, teller) for teller in TELLERS.values())) for each in HAPPENED]
    refusals = [(name, _json(said), f"`{refused(name, said)}`") for name, said, _ in REFUSALS]
    return {
        "What can be asked for": _table(("", *CLIENTS), wishes),
        "What is refused": _table(("", "body", "code"), refusals),
        "What is left out": _table(("", "body"), [(name, _json(said)) for name, said in IGNORED]),
        "What backends are asked": _table(("", *BACKENDS), asked),
        "What clients are told": _table(("", *TELLERS), happened),
    }


if __name__ == "__main__":
    for heading, table in tables().items():
        print(f"## {heading}\n\n{table}\n")
