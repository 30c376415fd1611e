"""What is handed over, or has to do with it."""

from typing import Any

from msgspec import Struct

from hermes.admission import Admission
from hermes.exchange import Journal
from hermes.fleet.fleet import Fleet
from hermes.http.wire import Deadlines
from hermes.listeners import Listeners
from hermes.meter import Meter
from hermes.storage.store import Store


class Parts(Struct, frozen=True):
    """`said`: what its configuration was told, besides what it has read."""

    listeners: Listeners
    admission: Admission
    meter: Meter
    journal: Journal
    fleet: Fleet
    store: Store
    deadlines: Deadlines
    said: dict[str, Any]
