"""A faulty simulated server that notes when each marked request was there, and how it ended."""

import re
import time
from collections import defaultdict

from msgspec import Struct

from hermes.http.request import Request
from hermes.http.response import Response
from hermes.simulator import Simulator, SimulatorConfig

_MARK = re.compile(rb"\[\[tag:(chaos-\d+)\]\]")
_MODEL = re.compile(rb'"model":"([^":]+)')


class Visit(Struct):
    """One request at the backend of that name, in monotonic seconds. `aborted`: its sender left before the answer."""

    model: str
    began_at: float
    backend: str
    ended_at: float | None = None
    aborted: bool = False


class Witness(Simulator):
    """`visits` may be those of several."""

    def __init__(self, name: str, config: SimulatorConfig, visits: defaultdict[str, list[Visit]]) -> None:
        super().__init__(config)
        self.name = name
        self.visits = visits

    @property
    def present(self) -> int:
        """Marked requests that are here now."""
        return sum(visit.ended_at is None for visits in self.visits.values() for visit in visits)

    async def handle(self, request: Request, response: Response) -> None:
        mark = _MARK.search(request.body)
        if mark is None:
            await super().handle(request, response)
            return
        model = _MODEL.search(request.body)
        assert model is not None
        visit = Visit(model[1].decode(), time.monotonic(), self.name)
        self.visits[mark[1].decode()].append(visit)
        visit.aborted = True
        try:
            await super().handle(request, response)
            visit.aborted = False
        finally:
            visit.ended_at = time.monotonic()
