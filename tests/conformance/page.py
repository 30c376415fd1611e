"""What came of the runs: results.json keeps each client's last at each engine, docs/compatibility.md tells of it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.conformance.environments import Client

RESULTS = Path(__file__).parent / "results.json"
PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"

# By engine: its version, and by client what its versions were and, by task, what was wrong (None: nothing).
Results = dict[str, dict[str, Any]]

_HEAD = """# Compatibility

Which clients work with Hermes, in front of which backends. `make conformance` writes this page
([development.md](development.md#against-real-clients)): every client does the same, in an environment of its own.

An error has to be of the client's own class for it, with Hermes's words in it, and is asked for once: none is tried
again by the client that should not be (429 and 503 are asked for with its retries switched off).
"""
_KEY = "`yes`: it does. `no`: it fails, for the reason in the note. `-`: it cannot be had, for the reason in the note."


def load() -> Results:
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def save(engine: str, told: dict[str, Any], clients: Sequence[Client], tasks: Mapping[str, str]) -> None:
    """Beside what is known of other engines, and of its other clients."""
    results = load()
    others = results[engine]["clients"] if engine in results else {}
    results[engine] = told | {"clients": others | told["clients"]}
    RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    PAGE.write_text(render(load(), clients, tasks))


def render(results: Results, clients: Sequence[Client], tasks: Mapping[str, str]) -> str:
    """`tasks`: what each is about. What was not run, or of other versions, is left out."""
    notes: list[str] = []
    parts = [_HEAD, "## Clients and backends\n", _overview(results, clients, tasks), "## What they do\n"]
    parts.append("\n".join(f"* **{task}**: {about}" for task, about in tasks.items()) + f"\n\n{_KEY}\n")
    for engine, told in results.items():
        rows = [
            (client.name, *(_cell(client, told, outcome, task, notes) for task in tasks))
            for client in clients
            if (outcome := _outcome(told, client)) is not None
        ]
        parts += [f"### {engine}\n", f"{told['version']}.\n", _table(("client", *tasks), rows)]
    parts.append("\n".join(f"[^{number}]: {note}" for number, note in enumerate(notes, 1)) + "\n")
    return "\n".join(parts)


def _overview(results: Results, clients: Sequence[Client], tasks: Mapping[str, str]) -> str:
    rows = []
    for client in clients:
        cells = []
        for told in results.values():
            outcome = _outcome(told, client)
            cells.append("" if outcome is None else _share(client, told, outcome, tasks))
        rows.append((client.name, client.versions, *cells))
    return _table(("client", "versions", *results), rows)


def _share(client: Client, told: dict[str, Any], outcome: dict[str, str | None], tasks: Mapping[str, str]) -> str:
    done = [_mark(client, told, outcome, task)[0] for task in tasks]
    able = len(done) - done.count("-")
    return f"all {able}" if done.count("yes") == able else f"{done.count('yes')} of {able}"


def _outcome(told: dict[str, Any], client: Client) -> dict[str, str | None] | None:
    found = told["clients"].get(client.name)
    return found["outcomes"] if found and found["versions"] == client.versions else None


def _mark(client: Client, told: dict[str, Any], outcome: dict[str, str | None], task: str) -> tuple[str, str]:
    wrong = outcome.get(task)
    if wrong:
        return "no", " ".join(wrong.split()).replace("|", "\\|")
    if why := client.why_not(task):
        return "-", why
    if told["kind"] == "ollama" and task in client.refused_by_ollama:
        return "-", f"refused in clear words: {client.refused_by_ollama[task]}"
    return "yes" if task in outcome else "", ""


def _cell(client: Client, told: dict[str, Any], outcome: dict[str, str | None], task: str, notes: list[str]) -> str:
    mark, note = _mark(client, told, outcome, task)
    if not note:
        return mark
    if note not in notes:
        notes.append(note)
    return f"{mark}[^{notes.index(note) + 1}]"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
