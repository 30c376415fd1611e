"""fifo: strict arrival order, the least recently used model makes room. A reference: nobody is overtaken."""

from collections import deque
from collections.abc import Iterable, Iterator

from hermes.simulator.replay.actions import Action, Start
from hermes.simulator.replay.box import Box
from hermes.simulator.replay.policies.plain import Plain
from hermes.simulator.replay.workload import Request


class Fifo(Plain):
    """The head of the queue starts, or has its model loaded; everybody behind it waits for that."""

    def __init__(self, box: Box) -> None:
        super().__init__(box)
        self._queue: deque[Request] = deque()

    def arrived(self, request: Request, now: float) -> Iterable[Action]:
        self._queue.append(request)
        return self._serve(request.model, now)

    def _serve(self, model: str, now: float) -> Iterator[Action]:
        memory = self._memory
        while self._queue and memory.has_slot(model := self._queue[0].model):
            memory.start(model, now)
            yield Start(self._queue.popleft())
        if self._queue and model not in memory.running and not memory.loading:
            yield from memory.swap(model)
