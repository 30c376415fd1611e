"""What happened in one replay: each request's fate, and what was in memory when."""

from typing import Literal

from msgspec import Struct

from hermes.simulator.replay.actions import Promise

State = Literal["loading", "loaded", "draining"]


class Span(Struct, frozen=True, gc=False):
    """A model in one state, from `since` to `until`."""

    model: str
    state: State
    since: float
    until: float


class Run(Struct):
    """Times by request number; None: it never did. Every request has started or was refused."""

    started_at: list[float | None]
    refused_at: list[float | None]
    promises: dict[int, Promise]
    spans: list[Span]
    loads: int = 0
    ended_at: float = 0.0
