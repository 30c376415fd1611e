"""What is handed over, or has to do with it."""

from collections.abc import Callable, Collection
from typing import Any

from msgspec import Struct

from hermes.admission import Admission
from hermes.fleet.fleet import Fleet
from hermes.http.wire import Deadlines
from hermes.journal import Journal
from hermes.listeners import Listeners
from hermes.meter import Meter
from hermes.storage.store import Store


class Parts(Struct, frozen=True):
    """`said`: what its configuration was told, besides what it has read. `send_away`: who waits by one of the keys."""

    listeners: Listeners
    admission: Admission
    meter: Meter
    journal: Journal
    fleet: Fleet
    store: Store
    deadlines: Deadlines
    said: dict[str, Any]
    send_away: Callable[[Collection[str]], None]
