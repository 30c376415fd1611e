"""What the simulated server has been asked, and what became of it: for tests of a gateway's promises."""

from collections import Counter, deque
from typing import Any

from msgspec import Struct

_KEPT_ABORTS = 20_000


class Abort(Struct, frozen=True):
    """A client that left before its answer was whole: when (by the loop), in which phase, and the prompt's tag."""

    at: float
    model: str
    phase: str
    tag: str


class Gauge:
    """How many there are at once, and the most there ever were."""

    __slots__ = ("most", "now")

    def __init__(self) -> None:
        self.now = 0
        self.most = 0

    def up(self) -> None:
        self.now += 1
        self.most = max(self.most, self.now)

    def down(self) -> None:
        self.now -= 1


class ModelStats:
    """`requests` are at the server, queued ones included; `running` hold a slot, to the end of an abandoned prefill."""

    __slots__ = ("requests", "running")

    def __init__(self) -> None:
        self.requests = Gauge()
        self.running = Gauge()


class Stats:
    """Counts inference requests: started = finished + aborted + in flight. What a fault has ended is finished.

    `statuses` are those of all answers, the server's own pages included.
    """

    def __init__(self) -> None:
        self.started = 0
        self.finished = 0
        self.aborted = 0
        self.aborts: deque[Abort] = deque(maxlen=_KEPT_ABORTS)
        self.statuses: Counter[int] = Counter()
        self.faults: Counter[str] = Counter()
        self.loads = 0
        self.aborted_loads = 0
        self.unloads = 0
        self.models: dict[str, ModelStats] = {}

    def model(self, name: str) -> ModelStats:
        return self.models.setdefault(name, ModelStats())

    @property
    def in_flight(self) -> int:
        return self.started - self.finished - self.aborted

    def render(self, now: float) -> dict[str, Any]:
        """For GET /sim/stats; of the aborts the last hundred, with how long ago they were."""
        return {
            "simulated": True,
            "started": self.started,
            "finished": self.finished,
            "aborted": self.aborted,
            "in_flight": self.in_flight,
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
            "faults": dict(self.faults),
            "loads": self.loads,
            "aborted_loads": self.aborted_loads,
            "unloads": self.unloads,
            "models": {name: _render_model(model) for name, model in sorted(self.models.items())},
            "aborts": [
                {"seconds_ago": round(now - abort.at, 3), "model": abort.model, "phase": abort.phase, "tag": abort.tag}
                for abort in list(self.aborts)[-100:]
            ],
        }


def _render_model(model: ModelStats) -> dict[str, int]:
    return {
        "requests": model.requests.now,
        "max_requests": model.requests.most,
        "running": model.running.now,
        "max_running": model.running.most,
    }
