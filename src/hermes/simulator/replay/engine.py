"""The engine: plays a box in virtual time, tells a policy what happens, and executes what it decides.

The rules of the box are asserted, so a policy that cheats fails loudly:
- Only what waits starts or is refused, only on a model that is loaded, never past its slots.
- One model loads at a time, into memory that is free; the others keep serving. Unloading takes no time.
- A busy model is not unloaded.
- A prediction is made at arrival, before anything more is known.
- In the end nobody waits: every request has started or was refused.
"""

from collections.abc import Callable, Iterable
from heapq import heapify, heappop, heappush
from math import inf
from typing import Any, assert_never

from hermes.simulator.replay.actions import Action, Drain, Load, Promise, Refuse, Start, Unload
from hermes.simulator.replay.box import Box
from hermes.simulator.replay.policies.protocol import Policy
from hermes.simulator.replay.run import Run, Span, State
from hermes.simulator.replay.workload import Request, Workload

_ROUNDING = 1e-9  # of sizes that are added and taken away again


def replay(policy: Policy, box: Box, workload: Workload) -> Run:
    """Run a policy against a workload, from the first arrival until everything is over."""
    return _Engine(policy, box, workload).run()


class _Engine:
    def __init__(self, policy: Policy, box: Box, workload: Workload) -> None:
        self._policy = policy
        self._box = box
        self._tokens_out = workload.tokens_out
        self._models = {model.name: model for model in box.models}
        # Numbered, so that what happens at the same time happens in the order in which it was foreseen.
        self._events: list[tuple[float, int, Callable[[Any], Iterable[Action]], Any]] = [
            (request.arrived_at, request.number, self._arrive, request) for request in workload.requests
        ]
        heapify(self._events)
        self._foreseen = len(self._events)
        self._now = 0.0
        self._waiting: set[int] = set()
        self._running = dict.fromkeys(box.loaded_at_start(), 0)  # by loaded model
        self._loading = ""
        self._free = box.memory - sum(self._models[name].size for name in self._running)
        self._states: dict[str, tuple[State, float]] = dict.fromkeys(self._running, ("loaded", 0.0))
        count = len(workload.requests)
        self._run = Run([None] * count, [None] * count, {}, [])

    def run(self) -> Run:
        events, policy = self._events, self._policy
        while events or self._waiting:
            next_event_at = events[0][0] if events else inf
            wakes_at = policy.wakes_at()
            if wakes_at is not None and wakes_at < next_event_at:
                self._now = max(self._now, wakes_at)
                self._execute(policy.woken(self._now))
                again_at = policy.wakes_at()
                assert again_at is None or again_at > wakes_at, "a policy that was woken moves its alarm on"
            else:
                assert events, f"{len(self._waiting)} requests were forgotten"
                self._now, _, happen, what = heappop(events)
                self._execute(happen(what))
        for name in list(self._states):
            self._enter(name, None)
        self._run.ended_at = self._now
        return self._run

    # --- what happens -----------------------------------------------------------------------------------------------

    def _foresee(self, in_s: float, happen: Callable[[Any], Iterable[Action]], what: object) -> None:
        heappush(self._events, (self._now + in_s, self._foreseen, happen, what))
        self._foreseen += 1

    def _arrive(self, request: Request) -> Iterable[Action]:
        self._waiting.add(request.number)
        return self._policy.arrived(request, self._now)

    def _finish(self, request: Request) -> Iterable[Action]:
        self._running[request.model] -= 1
        return self._policy.finished(request, self._tokens_out[request.number], self._now)

    def _loaded(self, name: str) -> Iterable[Action]:
        self._loading = ""
        self._running[name] = 0
        self._enter(name, "loaded")
        return self._policy.loaded(name, self._now)

    # --- what is done -----------------------------------------------------------------------------------------------

    def _execute(self, actions: Iterable[Action]) -> None:
        """In order, each before the policy decides on the next: it may yield them."""
        for action in actions:
            match action:
                case Start(request):
                    self._start(request)
                case Refuse(request):
                    assert request.number in self._waiting, f"{request} does not wait"
                    self._waiting.remove(request.number)
                    self._run.refused_at[request.number] = self._now
                case Load(name):
                    self._load(name)
                case Unload(name):
                    assert self._running.get(name) == 0, f"{name} is busy, or not loaded"
                    del self._running[name]
                    self._free += self._models[name].size
                    self._enter(name, None)
                case Drain(name):
                    assert name in self._running, f"{name} is not loaded"
                    self._enter(name, "draining")
                case Promise(request):
                    assert request.arrived_at == self._now, "a promise is made at arrival, not when more is known"
                    self._run.promises.setdefault(request.number, action)
                case _ as never:
                    assert_never(never)

    def _start(self, request: Request) -> None:
        number, name = request.number, request.model
        assert number in self._waiting, f"{request} does not wait"
        assert name in self._running, f"{name} is not loaded"
        assert self._running[name] < self._box.slots, f"{name} has no free slot"
        self._waiting.remove(number)
        self._running[name] += 1
        self._run.started_at[number] = self._now
        self._foresee(self._box.service_s(request.tokens_in, self._tokens_out[number]), self._finish, request)

    def _load(self, name: str) -> None:
        assert not self._loading, f"{self._loading} is still loading"
        assert name not in self._running, f"{name} is loaded"
        self._free -= self._models[name].size
        assert self._free > -_ROUNDING, f"no memory for {name}"
        self._loading = name
        self._run.loads += 1
        self._enter(name, "loading")
        self._foresee(self._models[name].load_s, self._loaded, name)

    def _enter(self, name: str, state: State | None) -> None:
        """Note how long the model was in the state that it leaves."""
        if left := self._states.pop(name, None):
            self._run.spans.append(Span(name, left[0], left[1], self._now))
        if state:
            self._states[name] = state, self._now
