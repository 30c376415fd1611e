"""One picture of a server: lines that are exactly as wide as asked, and no more of them than there is room for.

Names are others' words: what could drive a terminal is taken out, and a character that takes two cells counts two.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import cycle

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from hermes.cli.options import gib
from hermes.cli.top.sight import LATELY_S, Memory, Model, Request, Sight
from hermes.cli.top.view import View
from hermes.lines import escaped
from hermes.principal import CLASS_NAMES

Cell = tuple[str, int, str]
"""Text, its width in cells (below 0: from the right; 0: all that is left), and its style."""

_TITLE = "bold"
# Of the cell that gets what is left. Where even that is too much, what is on the right is cut off.
_LEAST = 12
_PARTS = ("black on cyan", "black on green", "black on yellow", "black on magenta", "black on bright_blue")
_KEYS = "tab: pane  up, down: choose  c: cancel  l: load  u: unload  ?: help  q: quit"
_HELP = (
    "tab, left, right    the other pane: models or requests",
    "up, down, k, j      choose a row; page up, page down, g, G: further away",
    "c                   cancel the chosen request, after a question",
    "l                   load the chosen model",
    "u                   unload the chosen model, after a question",
    "q, ctrl-c           quit; ctrl-z: later",
    "",
    "A backend's memory: a block for each model, as wide as what it takes.",
    "IN: the backends that have it in memory. RUN: how many, of how many slots.",
    "INT, NORM, BATCH: how many wait, by class. NEXT, LAST: when these will start.",
)


def frame(sight: Sight, view: View, width: int, height: int | None, where: str, lost: str = "") -> list[Text]:
    """Exactly `height` lines; None: as many as there are, to be printed. `lost`: why this is not of now."""
    view.settle(sight)
    head = [*_head(sight, width, where, lost), _tenants(sight, width)]
    if height is None:
        return [*head, *_body(sight, view, width, None)]
    foot = _foot(view, width)
    room = max(0, height - len(head) - 1)
    body = [_row(width, (line, 0, "")) for line in _HELP] if view.help else [*_body(sight, view, width, room)]
    body = [*body, *(_row(width) for _ in range(room - len(body)))][:room]
    return [*head, *body, foot][-height:]


def _body(sight: Sight, view: View, width: int, room: int | None) -> Iterator[Text]:
    """Backends, models and requests. Room that one does not need is another's."""
    memory = [list(_memory(backend, width)) for backend in sight.memory]
    models = [_model(model, width) for model in sight.models]
    requests = [_request(request, width) for request in sight.requests]
    if room is not None:
        if chosen := models if view.pane == "models" else requests:
            chosen[view.at[view.pane]].stylize("reverse")
        memory = _at_most(max(1, room // 3), memory)
        left = max(0, room - sum(map(len, memory)) - 2)
        some = min(len(models), max(left // 2, left - len(requests)))
        models = _window(models, view.at["models"], some)
        requests = _window(requests, view.at["requests"], left - some)
    for lines in memory:
        yield from lines
    yield _row(width, *_model_cells("MODEL", "IN", "MEMORY", "RUN", ("INT", "NORM", "BATCH"), "NEXT", "LAST", _TITLE))
    yield from models
    yield _row(width, *_request_cells("REQUEST FOR", "USER", "CLASS", "STATE", "ID", _TITLE))
    yield from requests or [_row(width, ("nothing runs or waits", 0, "dim"))]


def _at_most(room: int, blocks: Sequence[list[Text]]) -> list[list[Text]]:
    """The blocks, each without its last lines where all would be more."""
    most = max(map(len, blocks), default=0)
    while most > 1 and sum(min(most, len(block)) for block in blocks) > room:
        most -= 1
    return [block[:most] for block in blocks[:room]]


def _window(lines: Sequence[Text], at: int, room: int) -> list[Text]:
    """So many of them that the chosen one is among them."""
    first = max(0, min(at - room // 2, len(lines) - room))
    return list(lines[first : first + room])


# --- head and foot ----------------------------------------------------------------------------------------------------


def _head(sight: Sight, width: int, where: str, lost: str) -> Iterator[Text]:
    clock = f"{datetime.fromtimestamp(sight.at):%H:%M:%S}"
    if lost:
        yield _row(width, (f"LOST at {clock}, trying again: {lost}", 0, "bold white on red"))
    else:
        up = f"{sight.status}, up {_span(sight.uptime_s)}"
        style = "" if sight.status == "ok" else "bold red"
        yield _row(width, (f"Hermes {sight.version} at {where}", 0, _TITLE), (up, 24, style), (clock, -8, ""))
    told = [f"{sight.running} running", f"{sight.waiting} waiting"]
    if (rates := sight.rates) is not None:
        told += [f"{rates['requests']:.3g} requests/s", f"{rates['failed']:.3g} failed/s"]
        told += [f"{rates['tokens_in']:.0f} + {rates['tokens_out']:.0f} tokens/s"]
    yield _row(width, ("  ".join(told), 0, ""))


def _tenants(sight: Sight, width: int) -> Text:
    used = "  ".join(f"{escaped(user)} {tokens:,}" for user, tokens in sight.tenants) or "-"
    return _row(width, (f"tokens in {LATELY_S // 60} min: {used}", 0, ""))


def _foot(view: View, width: int) -> Text:
    if view.asking is not None:
        return _row(width, (f"{view.asking}? y: yes, any other key: no", 0, "bold reverse"))
    return _row(width, (view.message or _KEYS, 0, "bold" if view.message else "dim"))


# --- rows -------------------------------------------------------------------------------------------------------------


def _memory(backend: Memory, width: int) -> Iterator[Text]:
    used = sum(size_bytes for _, size_bytes in backend.parts)
    of = f"{used / 2**30:.1f}/{backend.capacity / 2**30:.1f} GiB" if backend.capacity else gib(used)
    line = _row(19, (backend.name, 10, ""), (backend.state, 8, "green" if backend.well else "bold red"))
    line.append(" [")
    line.append_text(_bar(backend.parts, backend.capacity or used, max(_LEAST, width - 19 - 3 - 15)))
    line.append(f"] {_fit(of, -14)}")
    line.truncate(width, pad=True)
    yield line
    yield from (_row(width, ("", 10, ""), (note, 0, "yellow" if backend.well else "red")) for note in backend.notes)


def _bar(parts: Sequence[tuple[str, int]], capacity: int, width: int) -> Text:
    """A block for each; its last cell ends it where there are no colours."""
    line, done, taken = Text(no_wrap=True), 0, 0
    for (name, size_bytes), style in zip(parts, cycle(_PARTS), strict=False):
        done += size_bytes
        end = min(width, max(taken + 1, round(width * done / capacity) if capacity else 0))
        if end > taken:
            line.append(_fit(name, end - taken - 1) + "|", style)
        taken = max(taken, end)
    line.append("·" * (width - taken), "dim")
    return line


def _model(model: Model, width: int) -> Text:
    is_in = ",".join(model.where) if model.state == "loaded" else model.state
    style = {"loaded": "", "-": "dim", "loading": "yellow", "to load": "yellow"}.get(model.state, "bold red")
    running = f"{model.running}/{model.slots}" if model.slots else str(model.running or "-")
    waiting = tuple(str(count or "-") for count in model.waiting)
    memory = gib(model.size_bytes) if model.size_bytes else "-"
    cells = _model_cells(model.name, is_in, memory, running, waiting, _eta(model.next_ms), _eta(model.last_ms), style)
    return _row(width, *cells)


def _model_cells(
    name: str, is_in: str, memory: str, running: str, waiting: Sequence[str], first: str, last: str, style: str
) -> list[Cell]:
    numbers = zip((memory, running, *waiting, first, last), (-9, -5, *(-5 for _ in CLASS_NAMES), -6, -6), strict=True)
    return [(name, 0, style), (is_in, 12, style), *((text, cells, style) for text, cells in numbers)]


def _request(request: Request, width: int) -> Text:
    style = "" if not request.waits else "yellow"
    return _row(
        width, *_request_cells(request.model, request.user, request.urgency, request.words, request.name, style)
    )


def _request_cells(model: str, user: str, urgency: str, words: str, name: str, style: str) -> list[Cell]:
    end = escaped(name)
    end = end if cell_len(end) <= 9 else f"…{end[-8:]}"  # made by us, it is the end by which they differ
    return [(model, 18, style), (user, 11, style), (urgency, 11, style), (words, 0, style), (end, -9, style)]


def _row(width: int, *cells: Cell) -> Text:
    """The cells with a space between them, in exactly so many cells of a terminal."""
    left = width - sum(abs(cells) for _, cells, _ in cells) - max(0, len(cells) - 1)
    line = Text(no_wrap=True)
    for index, (text, cells_, style) in enumerate(cells):
        line.append((" " if index else "") + _fit(text, cells_ or max(_LEAST, left)), style)
    line.truncate(width, pad=True)
    return line


def _fit(text: str, width: int) -> str:
    """In so many cells, from the right where they are below 0; what is cut off is told by an ellipsis."""
    text, cells = escaped(text), abs(width)
    if cell_len(text) > cells:
        text = set_cell_size(text, cells - 1) + "…" if cells else ""
    return " " * (cells - cell_len(text)) + text if width < 0 else set_cell_size(text, cells)


def _eta(ms: int | None) -> str:
    return "-" if ms is None else _span(ms / 1000)


def _span(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h" if minutes < 6000 else f"{minutes // 1440} d"
