"""ollama: what Ollama's own scheduler does with requests that are simply passed on (server/sched.go).

1. A request whose model is loaded goes to it at once, and waits there for a slot, without bound.
2. All others wait in one queue, which is served strictly in order, one load or eviction at a time.
3. Where memory is short, one model goes: the first idle one by keep_alive, then by name; if all are busy the first of
   all, as soon as it falls idle. Requests for it go on coming in until then.
4. A model that was idle for its keep_alive is unloaded.
"""

from collections import deque
from collections.abc import Iterable, Iterator

from hermes.simulator.replay.actions import Action, Drain, Load, Start, Unload
from hermes.simulator.replay.box import Box
from hermes.simulator.replay.policies.memory import Memory
from hermes.simulator.replay.workload import Request

KEEP_ALIVE_S = 300.0  # OLLAMA_KEEP_ALIVE; no request says otherwise, so it differs only where one drains: 0


class Ollama:
    """Whether there is room is a matter of the box's memory alone: not of 80 % of what is free, as on a real GPU."""

    def __init__(self, box: Box) -> None:
        self._memory = Memory(box)
        self._queues: dict[str, deque[Request]] = {model.name: deque() for model in box.models}  # for a slot
        self._pending: deque[Request] = deque()  # for a model that is absent
        self._draining = ""
        self._idle_since = dict.fromkeys(self._memory.running, 0.0)

    def arrived(self, request: Request, now: float) -> Iterable[Action]:
        if request.model in self._memory.running:
            self._queues[request.model].append(request)
            return self._serve(request.model, now)
        self._pending.append(request)
        return self._serve_pending(now) if len(self._pending) == 1 else ()

    def finished(self, request: Request, tokens_out: int, now: float) -> Iterator[Action]:
        model = request.model
        self._memory.finish(model)
        yield from self._serve(model, now)
        if not self._memory.running[model]:
            self._idle_since[model] = now
            if model == self._draining:
                yield self._unload(model)
                yield from self._serve_pending(now)

    def loaded(self, model: str, now: float) -> Iterable[Action]:
        self._memory.loaded(model)
        return self._serve_pending(now)

    def wakes_at(self) -> float | None:
        return min(self._idle_since.values()) + KEEP_ALIVE_S if self._idle_since else None

    def woken(self, now: float) -> Iterator[Action]:
        for model in [model for model, since in self._idle_since.items() if since + KEEP_ALIVE_S <= now]:
            yield self._unload(model)
        yield from self._serve_pending(now)

    def _serve(self, model: str, now: float) -> Iterator[Action]:
        queue = self._queues[model]
        while queue and self._memory.has_slot(model):
            self._idle_since.pop(model, None)
            self._memory.start(model, now)
            yield Start(queue.popleft())

    def _serve_pending(self, now: float) -> Iterator[Action]:
        """As far as it goes: until its head waits for a load or for a model to fall idle."""
        memory = self._memory
        while self._pending and not memory.loading:
            model = self._pending[0].model
            if model in memory.running:
                self._queues[model].append(self._pending.popleft())
                yield from self._serve(model, now)
            elif memory.fits(model):
                memory.load(model)
                yield Load(model)
            else:
                victim = min(memory.running, key=lambda name: (memory.running[name] > 0, name))
                if memory.running[victim]:
                    self._draining = victim
                    yield Drain(victim)
                    return
                yield self._unload(victim)

    def _unload(self, model: str) -> Unload:
        self._memory.unload(model)
        del self._idle_since[model]
        if model == self._draining:
            self._draining = ""
        return Unload(model)
