"""What a policy is told, and asked: events in, actions out."""

from collections.abc import Iterable
from typing import Protocol

from hermes.simulator.replay.actions import Action
from hermes.simulator.replay.workload import Request


class Policy(Protocol):
    """Made with the Box, whose first models are loaded already. Actions are executed in order, at once."""

    def arrived(self, request: Request, now: float) -> Iterable[Action]: ...

    def finished(self, request: Request, tokens_out: int, now: float) -> Iterable[Action]: ...

    def loaded(self, model: str, now: float) -> Iterable[Action]: ...

    def wakes_at(self) -> float | None:
        """When to call `woken`, if nothing else happens before; asked after each event."""

    def woken(self, now: float) -> Iterable[Action]: ...
