"""hermes: the real scheduler, as it runs in the server."""

from collections.abc import Iterable, Iterator
from math import inf

from hermes.policy.scheduler import Scheduler
from hermes.policy.ticket import (
    Admit,
    BackendFacts,
    Bounds,
    ClassRules,
    Decision,
    Expire,
    ModelBounds,
    Reject,
    Rules,
    Ticket,
)
from hermes.policy.ticket import Load as LoadDecision
from hermes.policy.ticket import Unload as UnloadDecision
from hermes.principal import Class
from hermes.simulator.replay.actions import Action, Drain, Load, Promise, Refuse, Start, Unload
from hermes.simulator.replay.box import Box
from hermes.simulator.replay.workload import Request

_BACKEND = ("box",)
_UNBOUNDED = 10**9
# Sizes are in units of the box's memory; the scheduler counts whole bytes.
_UNIT = 2**20


class Hermes:
    """Every request is `interactive`: the box's longest wait is that class's."""

    def __init__(self, box: Box) -> None:
        self._draining: tuple[str, ...] = ()
        self._tickets: dict[int, Ticket] = {}
        self._requests: dict[Ticket, Request] = {}
        wait = ClassRules(1.0, box.max_wait_s)
        rules = Rules((wait, wait, wait), floor=box.floor, service_error=box.service_error)
        bounds = Bounds(None, _UNBOUNDED, _UNBOUNDED, _UNBOUNDED, _UNBOUNDED)
        self._scheduler = scheduler = Scheduler(bounds, ModelBounds(queue_limit=_UNBOUNDED), rules)
        sizes = {model.name: round(model.size * _UNIT) for model in box.models}
        for model in box.models:
            scheduler.configure(
                model.name,
                ModelBounds(queue_limit=_UNBOUNDED, load_s=model.load_s, size_bytes=sizes[model.name]),
            )
        loaded = {name: sizes[name] for name in box.loaded_at_start()}
        scheduler.observe(BackendFacts("box", True, box.slots, loaded, sizes, round(box.memory * _UNIT), -1.0), 0.0)

    def arrived(self, request: Request, now: float) -> Iterable[Action]:
        ticket = Ticket(
            request.model, request.model, request.tenant, _BACKEND, 1, now, inf, Class.INTERACTIVE,
            prompt_tokens=request.tokens_in,
        )  # fmt: skip
        self._tickets[request.number] = ticket
        self._requests[ticket] = request
        yield from self._actions(self._scheduler.offer(ticket, now))
        if ticket.told is not None and ticket in self._requests:
            yield Promise(request, ticket.told.eta_s, ticket.told.eta_high_s)

    def finished(self, request: Request, tokens_out: int, now: float) -> Iterable[Action]:
        ticket = self._tickets.pop(request.number)
        del self._requests[ticket]
        self._scheduler.settle(ticket, request.tokens_in, tokens_out)
        return self._actions(self._scheduler.finish(ticket, now))

    def loaded(self, model: str, now: float) -> Iterable[Action]:
        return self._actions(self._scheduler.loaded("box", model, now))

    def wakes_at(self) -> float | None:
        return self._scheduler.next_deadline()

    def woken(self, now: float) -> Iterable[Action]:
        return self._actions(self._scheduler.expire(now))

    def _actions(self, decisions: list[Decision]) -> Iterator[Action]:
        for decision in decisions:
            match decision:
                case Admit(ticket):
                    yield Start(self._requests[ticket])
                case Reject(ticket) | Expire(ticket):
                    request = self._requests.pop(ticket)
                    del self._tickets[request.number]
                    yield Refuse(request)
                case LoadDecision(_, model):
                    yield Load(model)
                case UnloadDecision(_, model):
                    yield Unload(model)
        draining = tuple(
            victim for change in self._scheduler.changes() if change.loading_since is None for victim in change.victims
        )
        yield from (Drain(model) for model in draining if model not in self._draining)
        self._draining = draining
