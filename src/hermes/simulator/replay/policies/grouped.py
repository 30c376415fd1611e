"""grouped: whoever's model is loaded goes first; a swap is made when one is idle, as llama-swap does."""

from collections import deque
from collections.abc import Iterable, Iterator

from hermes.simulator.replay.actions import Action, Load, Start, Unload
from hermes.simulator.replay.box import Box
from hermes.simulator.replay.policies.memory import Memory
from hermes.simulator.replay.workload import Request


class Grouped:
    """One queue for each model. The longest waiting of those whose model is absent has it loaded."""

    def __init__(self, box: Box) -> None:
        self._memory = Memory(box)
        self._queues: dict[str, deque[Request]] = {model.name: deque() for model in box.models}

    def arrived(self, request: Request, now: float) -> Iterable[Action]:
        self._queues[request.model].append(request)
        return self._serve(request.model, now)

    def finished(self, request: Request, tokens_out: int, now: float) -> Iterable[Action]:
        self._memory.finish(request.model)
        return self._serve(request.model, now)

    def loaded(self, model: str, now: float) -> Iterable[Action]:
        self._memory.loaded(model)
        return self._serve(model, now)

    def wakes_at(self) -> float | None:
        return None

    def woken(self, now: float) -> Iterable[Action]:
        return ()

    def _serve(self, model: str, now: float) -> Iterator[Action]:
        memory, queue = self._memory, self._queues[model]
        while queue and memory.has_slot(model):
            memory.start(model, now)
            yield Start(queue.popleft())
        if not memory.loading:
            yield from self._swap()

    def _swap(self) -> Iterator[Action]:
        memory = self._memory
        absent = [queue[0] for model, queue in self._queues.items() if queue and model not in memory.running]
        for head in sorted(absent, key=lambda request: request.number):
            victims = memory.victims(head.model)
            if victims is not None:
                for name in victims:
                    memory.unload(name)
                    yield Unload(name)
                memory.load(head.model)
                yield Load(head.model)
                return
