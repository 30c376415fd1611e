"""grouped: whoever's model is loaded goes first; a swap is made when one is idle, as llama-swap does."""

from collections import deque
from collections.abc import Iterable, Iterator

from hermes.simulator.replay.actions import Action, Start
from hermes.simulator.replay.box import Box
from hermes.simulator.replay.policies.plain import Plain
from hermes.simulator.replay.workload import Request


class Grouped(Plain):
    """One queue for each model. The longest waiting of those whose model is absent has it loaded."""

    def __init__(self, box: Box) -> None:
        super().__init__(box)
        self._queues: dict[str, deque[Request]] = {model.name: deque() for model in box.models}

    def arrived(self, request: Request, now: float) -> Iterable[Action]:
        self._queues[request.model].append(request)
        return self._serve(request.model, now)

    def _serve(self, model: str, now: float) -> Iterator[Action]:
        memory, queue = self._memory, self._queues[model]
        while queue and memory.has_slot(model):
            memory.start(model, now)
            yield Start(queue.popleft())
        if not memory.loading:
            yield from self._swap()

    def _swap(self) -> list[Action]:
        absent = [queue[0] for model, queue in self._queues.items() if queue and model not in self._memory.running]
        for head in sorted(absent, key=lambda request: request.number):
            if actions := self._memory.swap(head.model):
                return actions
        return []
