"""static: the most used models stay loaded, requests for all others are refused."""

from collections import deque
from collections.abc import Iterable, Iterator

from hermes.simulator.replay.actions import Action, Load, Refuse, Start, Unload
from hermes.simulator.replay.box import Box
from hermes.simulator.replay.policies.plain import Plain
from hermes.simulator.replay.workload import Request


class Static(Plain):
    """The most used are those of the largest shares that fit together. What has waited past the bound is refused."""

    def __init__(self, box: Box) -> None:
        super().__init__(box)
        self._max_wait_s = box.max_wait_s
        self._queues: dict[str, deque[Request]] = {}
        free = box.memory
        for model in sorted(box.models, key=lambda model: -model.share):
            if model.size <= free:
                free -= model.size
                self._queues[model.name] = deque()

    def arrived(self, request: Request, now: float) -> Iterable[Action]:
        queue = self._queues.get(request.model)
        if queue is None:
            return [Refuse(request), *self._settle_in()]
        queue.append(request)
        return self._serve(request.model, now)

    def _serve(self, model: str, now: float) -> Iterator[Action]:
        yield from self._settle_in()
        memory, queue = self._memory, self._queues[model]
        while queue and memory.has_slot(model):
            request = queue.popleft()
            if now > request.arrived_at + self._max_wait_s:
                yield Refuse(request)
            else:
                memory.start(model, now)
                yield Start(request)

    def _settle_in(self) -> Iterator[Action]:
        """Unload what was loaded at the start and is not to stay; load what is, one after the other."""
        memory = self._memory
        for name in [name for name in memory.running if name not in self._queues]:
            memory.unload(name)
            yield Unload(name)
        missing = next((name for name in self._queues if name not in memory.running), None)
        if missing is not None and not memory.loading:
            memory.load(missing)
            yield Load(missing)
