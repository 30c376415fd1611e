"""What the plain policies share: they serve when something happens, and never wake up by themselves."""

from abc import ABC, abstractmethod
from collections.abc import Iterable

from hermes.simulator.replay.actions import Action
from hermes.simulator.replay.box import Box
from hermes.simulator.replay.policies.memory import Memory
from hermes.simulator.replay.workload import Request


class Plain(ABC):
    """All but `arrived` of a Policy."""

    def __init__(self, box: Box) -> None:
        self._memory = Memory(box)

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

    @abstractmethod
    def _serve(self, model: str, now: float) -> Iterable[Action]:
        """`model` has something to do, or a slot to do it in."""
