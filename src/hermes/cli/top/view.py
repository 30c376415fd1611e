"""What whoever looks on has chosen, and what his keys do to it. Decides only: what is to be done is an Order."""

from typing import Literal, TypeAlias

from msgspec import Struct

from hermes.cli.top.sight import Model, Request, Sight

Pane = Literal["models", "requests"]
Verb = Literal["quit", "load", "unload", "cancel"]
_PAGE = 10


class Order(Struct, frozen=True):
    """`of`: more of what it is about, for whoever is asked. `key`: of several requests of one name the one."""

    verb: Verb
    name: str = ""
    of: str = ""
    key: str = ""

    def __str__(self) -> str:
        name = self.name if self.verb != "cancel" or len(self.name) <= 9 else f"…{self.name[-8:]}"  # as it is listed
        return f"{self.verb} {name}{self.of}"


Row: TypeAlias = Model | Request


class View(Struct):
    """`chosen` and `at`: the row of each pane that is chosen, by its name, and where it was seen last. `asking`: what
    waits for a yes. `message`: what came of the last order.
    """

    pane: Pane = "models"
    chosen: dict[Pane, str] = {}
    at: dict[Pane, int] = {}
    asking: Order | None = None
    message: str = ""
    help: bool = False

    def settle(self, sight: Sight) -> None:
        """After another look: who was chosen is followed; where he is gone it is whoever has taken his place."""
        panes: tuple[Pane, Pane] = "models", "requests"
        for pane in panes:
            rows = _rows(sight, pane)
            keys = [row.key for row in rows]
            at = self.at.get(pane, 0)
            if self.chosen.get(pane) in keys:
                at = keys.index(self.chosen[pane])
            self._choose(pane, at, rows)

    def press(self, key: str, sight: Sight) -> Order | None:
        """What is to be done now, if anything."""
        if self.asking is not None:
            order, self.asking = self.asking, None
            return order if key in ("y", "Y") else None
        self.message, self.help = "", key in ("?", "h") and not self.help
        rows = _rows(sight, self.pane)
        at = self.at.get(self.pane, 0)
        match key:
            case "q":
                return Order("quit")
            case "tab" | "left" | "right":
                self.pane = "models" if self.pane == "requests" else "requests"
            case "up" | "k":
                self._choose(self.pane, at - 1, rows)
            case "down" | "j":
                self._choose(self.pane, at + 1, rows)
            case "pageup":
                self._choose(self.pane, at - _PAGE, rows)
            case "pagedown":
                self._choose(self.pane, at + _PAGE, rows)
            case "home" | "g":
                self._choose(self.pane, 0, rows)
            case "end" | "G":
                self._choose(self.pane, len(rows) - 1, rows)
            case "c" | "l" | "u":
                return self._order(key, sight)
        return None

    def _order(self, key: str, sight: Sight) -> Order | None:
        """Loading takes nothing from anybody at once; the others are asked for twice."""
        pane: Pane = "requests" if key == "c" else "models"
        row = next((row for row in _rows(sight, pane) if row.key == self.chosen.get(pane)), None)
        if self.pane != pane or row is None:
            self.message = f"choose one of the {pane} first (tab, then up and down)"
        elif key == "l":
            return Order("load", row.name)
        elif isinstance(row, Request):
            self.asking = Order("cancel", row.name, f" of {row.user} for {row.model}", row.key)
        else:
            self.asking = Order("unload", row.name)
        return None

    def _choose(self, pane: Pane, at: int, rows: tuple[Row, ...]) -> None:
        at = max(0, min(at, len(rows) - 1))
        self.at[pane] = at
        if rows:
            self.chosen[pane] = rows[at].key
        else:
            self.chosen.pop(pane, None)


def _rows(sight: Sight, pane: Pane) -> tuple[Row, ...]:
    return sight.models if pane == "models" else sight.requests
