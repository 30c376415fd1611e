"""fifo: strict arrival order, the least recently used model makes room. A reference: nobody is overtaken."""

from collections import deque
from collections.abc import Iterable, Iterator

from hermes.simulator.replay.actions import Action, Load, Start, Unload
from hermes.simulator.replay.box import Box
from hermes.simulator.replay.policies.memory import Memory
from hermes.simulator.replay.workload import Request


class Fifo:
    """The head of the queue starts, or has its model loaded; everybody behind it waits for that."""

    def __init__(self, box: Box) -> None:
        self._memory = Memory(box)
        self._queue: deque[Request] = deque()

    def arrived(self, request: Request, now: float) -> Iterable[Action]:
        self._queue.append(request)
        return self._serve(now)

    def finished(self, request: Request, tokens_out: int, now: float) -> Iterable[Action]:
        self._memory.finish(request.model)
        return self._serve(now)

    def loaded(self, model: str, now: float) -> Iterable[Action]:
        self._memory.loaded(model)
        return self._serve(now)

    def wakes_at(self) -> float | None:
        return None

    def woken(self, now: float) -> Iterable[Action]:
        return ()

    def _serve(self, now: float) -> Iterator[Action]:
        memory = self._memory
        while self._queue and memory.has_slot(model := self._queue[0].model):
            memory.start(model, now)
            yield Start(self._queue.popleft())
        if self._queue and model not in memory.running and not memory.loading:
            victims = memory.victims(model)
            if victims is not None:
                for name in victims:
                    memory.unload(name)
                    yield Unload(name)
                memory.load(model)
                yield Load(model)
