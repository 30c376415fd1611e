"""What a backend does with each of its models, as requests and probes tell: its breakers, and what mends them.

A model that has given no trouble has no breaker. What a breaker says, the scheduler is told as facts: it decides who
runs where. Waiting for the end of a pause costs nothing meanwhile; what is stuck is probed again after each.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import cached_property
from math import inf

from hermes.errors import BackendBusy, BackendError, BackendTimeout, BackendUnreachable, GatewayError, ModelNotFound
from hermes.fleet.backend import Backend
from hermes.fleet.inventory import ModelInfo
from hermes.fleet.orders import Listener, tell
from hermes.fleet.probe import generate
from hermes.metrics import Metrics
from hermes.policy.breaker import OPEN, STUCK, Breaker
from hermes.policy.pulse import Patience
from hermes.policy.ticket import EVERY, Ticket

log = logging.getLogger(__name__)

# More slots than there are: what has only begun closes no breaker.
UNTOLD = 1 << 30


class Health:
    """Of `backend`. `on_probed` hears how each probe ended: of which model, and whether that is stuck.

    `is_silent` tells whether nothing has come of a model since then: where something has, no answer to a probe proves
    nothing.
    """

    def __init__(self, backend: Backend, listener: Listener, metrics: Metrics, patience: Patience) -> None:
        self.backend = backend
        self.on_probed: Callable[[str, bool], None] = lambda model, is_stuck: None
        self.is_silent: Callable[[str, float], bool] = lambda model, since: True
        self._listener = listener
        self._metrics = metrics
        self.patience = patience
        self._state = backend.state  # when it was last looked at
        self._probing: set[str] = set()
        self._group = asyncio.TaskGroup()
        self._timer: asyncio.TimerHandle | None = None
        self._is_over = False

    async def work(self) -> None:
        """Own the probes, for ever."""
        async with self._group:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                self._is_over = True
                self._arm()

    def _arm(self) -> None:
        """Pauses end, and what is stuck is probed, when it is time."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._is_over and (due := self._due()) < inf:
            self._timer = self._loop.call_at(due, self._on_time)

    @cached_property
    def _loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    def _on_time(self) -> None:
        now = self._loop.time()
        for model, breaker in self.backend.breakers.items():
            if breaker.wake(now):
                self._tell(model, breaker)
            if breaker.probe_at <= now and self._may_probe(model):
                self.probe(model)
        self._arm()

    def _due(self) -> float:
        """When there is something to do, as things are."""
        due = inf
        for model, breaker in self.backend.breakers.items():
            if breaker.rests:
                due = min(due, breaker.until)
            if self._may_probe(model):
                due = min(due, breaker.probe_at)
        return due

    def _may_probe(self, model: str) -> bool:
        """Of what is not in memory a probe would be a load."""
        return self.backend.state == "up" and model not in self._probing and self.backend.has_in_memory(model)

    def looked(self) -> None:
        """The backend was looked at. If it has come back, it begins slowly.

        What is stuck and is not in its memory any more is not stuck any more.
        """
        backend, now = self.backend, self._loop.time()
        before, self._state = self._state, backend.state
        if (before, backend.state) == ("down", "up"):
            self._breaker(EVERY).begin(now)
        for model, breaker in list(backend.breakers.items()):
            if breaker.state is STUCK and backend.state == "up" and not backend.has_in_memory(model):
                breaker.generates(now)
                self._tell(model, breaker)
            elif breaker.is_forgotten(now):
                del backend.breakers[model]
        self._arm()

    # --- what requests tell -----------------------------------------------------------------------------------------

    def succeeded(self, ticket: Ticket, slots: int) -> None:
        """Only to be told where there are breakers. `slots`: what the model has here when all is well."""
        for model in (ticket.resident, EVERY):
            breaker = self.backend.breakers.get(model)
            if breaker is not None:
                before = breaker.state
                if breaker.succeeded(ticket.started_at, slots, self._loop.time()):
                    self._tell(model, breaker, is_news=breaker.state != before)

    def began(self, ticket: Ticket) -> None:
        """A run goes well so far, and may do so for an hour: the next one need not wait for its end."""
        self.succeeded(ticket, UNTOLD)

    def failed(self, ticket: Ticket, error: GatewayError, others: int) -> None:
        """A run has failed, while so many `others` of its model ran here."""
        if not isinstance(error, BackendError) or not error.retryable:
            return  # the client's fault, or only too late
        model, now = ticket.resident, self._loop.time()
        breaker = self._breaker(model)
        if isinstance(error, BackendBusy):
            changed = breaker.busy(ticket.started_at, others, error.retry_after_s, now)
        else:
            changed = breaker.failed(ticket.started_at, error.message, now, again=ticket.avoid == self.backend.name)
        if changed:
            self._eject(model, breaker)

    # --- what probes tell -------------------------------------------------------------------------------------------

    def probe(self, model: str) -> None:
        """See whether it generates, unless that is under way."""
        if model not in self._probing and not self._is_over:
            self._probing.add(model)
            log.info("backend %s: whether %s generates is asked", self.backend.name, model)
            self._group.create_task(self._probe(model), name=f"probe of {model}")

    async def _probe(self, model: str) -> None:
        backend, result, began_at = self.backend, "ok", self._loop.time()
        info = backend.inventory.models.get(backend.own_name(model)) or ModelInfo(model)
        try:
            async with asyncio.timeout(self.patience.probe_timeout_s):
                await backend.while_up(generate(backend.driver.server_of(model), info))
        except (TimeoutError, BackendTimeout):
            result = "timeout"
            if self.is_silent(model, began_at):
                why = f"it did not generate one token within {self.patience.probe_timeout_s:.3g} s"
                if not self._stick(model, why):  # it will not mend by itself
                    backend.driver.give_up(backend.own_name(model))
            else:
                self._mend(model)
        except GatewayError as error:
            result = error.code
            self._weigh(model, error)
        except Exception:  # one model's probe must not end the others'
            result = "internal_error"
            log.exception("probing %s on backend %s met a bug", model, backend.name)
            self._weigh(model, BackendError("probing it met a bug; the log has its cause"))
        else:
            self._mend(model)
        finally:
            self._probing.discard(model)
            self._metrics.probes.add((backend.name, model, result))
            self._arm()

    def _weigh(self, model: str, error: GatewayError) -> None:
        """The probe was answered, but not with a token."""
        breaker = self.backend.breakers.get(model)
        if isinstance(error, BackendUnreachable | ModelNotFound):
            self.backend.suspect()
        if breaker is not None and breaker.state is STUCK and isinstance(error, BackendError) and error.retryable:
            self._stick(model, error.message)
        else:  # it is not silent
            self._mend(model)

    def _stick(self, model: str, why: str) -> bool:
        """False: it was stuck before."""
        breaker = self._breaker(model)
        is_news = breaker.stick(why, self._loop.time())
        if is_news:
            self._eject(model, breaker)
        self.on_probed(model, True)
        return is_news

    def _breaker(self, model: str) -> Breaker:
        breaker = self.backend.breakers.get(model)
        if breaker is None:
            breaker = self.backend.breakers[model] = Breaker(f"{self.backend.name} {model}", self.patience.pause_s)
        return breaker

    def _mend(self, model: str) -> None:
        breaker = self.backend.breakers.get(model)
        if breaker is not None and breaker.generates(self._loop.time()):
            self._tell(model, breaker)
        self.on_probed(model, False)

    # --- telling ----------------------------------------------------------------------------------------------------

    def _eject(self, model: str, breaker: Breaker) -> None:
        if breaker.rests:
            self._metrics.ejections.add((self.backend.name, model, breaker.state))
        self._tell(model, breaker)

    def _tell(self, model: str, breaker: Breaker, *, is_news: bool = True) -> None:
        if is_news:
            why = f": {breaker.why}" if breaker.why else ""
            level = logging.WARNING if breaker.state in (OPEN, STUCK) else logging.INFO
            log.log(level, "backend %s: %s is %s%s", self.backend.name, model, breaker.state, why)
        tell(self.backend, lambda: self._listener.observe(self.backend.facts))
        self._arm()
