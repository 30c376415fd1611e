"""What a server tells, gathered by a thread of its own, and what it is told to do, each by another."""

from collections.abc import Callable, Mapping
from threading import Event, Thread
from typing import Any
from urllib.parse import quote

from hermes.cli.feed import LOST, SILENCE_S, follow
from hermes.cli.options import Failed, fail
from hermes.cli.remote import events, get, model_path
from hermes.cli.shapes import Ended, HasLoaded, HasUnloaded, Listing, Past, State
from hermes.cli.top.sight import Sight, Tenants, see
from hermes.cli.top.view import Order

SHAPES: Mapping[str, type] = {"state": State, "request": Ended}
# What the server lists at most.
_RECENT = "/v1/requests?limit=1000"


class Watch:
    """`sight` is how it was when it was last seen; `lost`: why that is not now. `failed`: nothing more will come."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.sight: Sight | None = None
        self.lost = ""
        self.failed: BaseException | None = None
        self.changed: Callable[[], None] = lambda: None
        self._seen = Event()

    def start(self) -> Sight:
        """The first sight. Exits with a message where there is none."""
        Thread(target=self._gather, name="events", daemon=True).start()
        self._seen.wait()
        if self.sight is None:
            assert self.failed is not None
            raise self.failed
        return self.sight

    def _gather(self) -> None:
        try:
            self._follow()
        except BaseException as error:  # whoever looks on raises it, once his terminal is as it was
            self.failed = error
        self._tell()

    def _follow(self) -> None:
        tenants, names, listed = Tenants(), list[str](), False
        for event, told in follow(self.url, SHAPES):
            if event == "request":
                tenants.add((told,))
                continue
            if event == LOST:
                self.lost, listed = told, False
            elif event == "state":
                if not listed:
                    names, listed = models(self.url), True
                    tenants.add(recent(self.url))
                self.sight, self.lost = see(told, names, tenants.lately(told["at"])), ""
            self._tell()

    def _tell(self) -> None:
        self._seen.set()
        self.changed()

    def order(self, order: Order, then: Callable[[str], None]) -> None:
        """Have it done, and told what came of it; a load may take minutes."""

        def carry_out() -> None:
            try:
                then(carried_out(self.url, order))
            except Failed as error:
                then(f"{order}: {error.message}")

        Thread(target=carry_out, name=str(order), daemon=True).start()


def look(url: str) -> Sight:
    """How it is now. Exits with a message where that cannot be told."""
    states = (told for name, told in events(url, "/v1/events", SILENCE_S, SHAPES) if name == "state")
    state = next(states, None) or fail(f"what answers at {url} is no Hermes: it does not tell how it is", 1)
    tenants = Tenants()
    tenants.add(recent(url))
    return see(state, models(url), tenants.lately(state["at"]))


def models(url: str) -> list[str]:
    return [model["id"] for model in get(url, "/v1/models", shape=Listing)["data"]]


def recent(url: str) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = get(url, _RECENT, shape=Past)["data"]
    return told


def carried_out(url: str, order: Order) -> str:
    """Do what was ordered. Returns what came of it; exits with a message where nothing did."""
    if order.verb == "cancel":
        get(url, f"/v1/queue/{quote(order.key, safe='')}", "DELETE")
        return f"{order.name} is cancelled"
    shape = HasLoaded if order.verb == "load" else HasUnloaded
    told = get(url, model_path(order.name, order.verb), "POST", shape=shape)
    if order.verb == "load":
        return f"{order.name} is loaded on {', '.join(told['loaded'])}"
    return f"{order.name} is let go from {', '.join(told['unloading']) or 'nowhere: it is not loaded'}"
