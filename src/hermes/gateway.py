"""The line: one request for tokens, from what the client asked to the answer it gets. It reads from top to bottom."""

import asyncio
from contextlib import suppress

from msgspec import Struct
from msgspec.structs import replace

from hermes import attempt
from hermes.admission import Admission
from hermes.attempt import EmbedJob, Job
from hermes.chat import UNSEEN_TOKENS, ChatRequest, EmbedRequest
from hermes.dialects import ClientDialect, EmbedDialect, Meta
from hermes.errors import (
    BackendBusy,
    BackendCrashed,
    BackendError,
    BackendUnreachable,
    DeadlineUnreachable,
    GatewayError,
    InsufficientMemory,
    LoadFailed,
    ModelNotFound,
    ModelPulling,
    Moved,
    NoBackend,
    PullFailed,
    QueueFull,
    QueueTimeout,
)
from hermes.exchange import Exchange
from hermes.fleet.backend import Backend
from hermes.fleet.fleet import Fleet
from hermes.http.response import Response
from hermes.meter import Meter
from hermes.metrics import Metrics
from hermes.policy import affinity, volatile
from hermes.policy.claim import NO_CLAIM, Claim, urgency
from hermes.policy.estimates import Outlook
from hermes.policy.retry import RetryBudget
from hermes.policy.routing import Candidates, Service, fill_in
from hermes.policy.ticket import Ticket
from hermes.principal import UNBOUNDED, Principal
from hermes.router import Route, Router

# A prompt that so many backends have died of is not tried on another.
MAX_CRASHES = 2

# Besides failed attempts what another model may answer for instead: the time is not over, and it is nobody's own fault.
_CANNOT_BE_SERVED = (
    ModelNotFound,
    NoBackend,
    InsufficientMemory,
    LoadFailed,
    PullFailed,
    ModelPulling,
    QueueFull,
    DeadlineUnreachable,
)


class Heart(Struct, frozen=True):
    """A stream that waits is begun, and told its place every so often, before anybody in between gives up on it."""

    every_s: float
    job: Job

    def tell(self, outlook: Outlook) -> None:
        response = self.job.response
        if not response.started:
            response.start(200, attempt.stream_lines(self.job.dialect, self.job.exchange))
        response.write(self.job.dialect.queued(outlook.position, int(outlook.eta_s * 1000), self.job.meta))
        self.job.meta.beats += 1


class Gateway:
    def __init__(
        self,
        router: Router,
        fleet: Fleet,
        admission: Admission,
        retries: RetryBudget,
        metrics: Metrics,
        meter: Meter,
        heartbeat_s: float = 0.0,
        volatile_lines: tuple[str, ...] = (),
    ) -> None:
        self.router = router
        self._meter = meter
        self._fleet = fleet
        self._admission = admission
        self._metrics = metrics
        self.heartbeat_s = heartbeat_s
        self.volatile_lines = volatile_lines
        self.retries = retries

    async def complete(
        self,
        exchange: Exchange,
        principal: Principal,
        dialect: ClientDialect,
        request: ChatRequest,
        response: Response,
        size_bytes: int,
        prompt_bytes: int,
        claim: Claim = NO_CLAIM,
    ) -> None:
        """Answer `request`, which takes about `size_bytes` of memory and is as urgent as `claim` says.

        `prompt_bytes` is how long its prompt is.

        Raises GatewayError; nothing has been sent then unless `response.started`.
        """
        if self.volatile_lines:
            request = volatile.without(request, self.volatile_lines)
        router, job = self.router, None
        if principal.models:
            router.check_allowed(principal, request.model)
        route = router.known(request.model, dialect)
        while True:
            try:
                route = router.able(route or await router.find(request.model, dialect), request)
                ticket = self._ticket(exchange, principal, route, request, size_bytes, prompt_bytes, claim)
                if route.spreads:
                    session = claim.session or _cache_key(request)
                    ticket.prefix = affinity.prefix(ticket.resident, ticket.tenant, session, request.messages)
                sampling = fill_in(request.sampling, route.filling)
                filled = request if sampling is request.sampling else replace(request, sampling=sampling)
                if principal.counted or route.service.allowance is not UNBOUNDED:
                    waits = self._meter.reserve(
                        exchange, principal, route.service, dialect, ticket, sampling.max_tokens
                    )
                    if waits is not None:
                        await waits
                id, created_at = exchange.request_id, int(exchange.created_at)
                meta = Meta(id, request.model, created_at, exchange.timings, ticket.prompt_tokens)
                if job is not None:
                    meta.beats = job.meta.beats  # of the same stream, by another model
                job = Job(exchange, route.service, meta, response, ticket.deadline, prompt_bytes, dialect, filled)
                if request.tools:
                    exchange.holds_back = True
                heart = Heart(self.heartbeat_s, job) if request.stream and self.heartbeat_s else None
                return await self._serve(job, ticket, heart)
            except BaseException as error:
                try:
                    route = await self._fallback(error, exchange, principal, dialect, request)
                except BaseException as last:
                    if job is not None:
                        attempt.break_off(job, last)
                    raise
                request = replace(request, model=route.service.model)

    async def embed(
        self,
        exchange: Exchange,
        principal: Principal,
        dialect: EmbedDialect,
        request: EmbedRequest,
        response: Response,
        size_bytes: int,
        claim: Claim = NO_CLAIM,
    ) -> None:
        """The same for embeddings."""
        router = self.router
        if principal.models:
            router.check_allowed(principal, request.model)
        route = router.known(request.model, dialect) or await router.find(request.model, dialect)
        route = router.able(route, request)
        ticket = self._ticket(exchange, principal, route, request, size_bytes, size_bytes, claim)
        if principal.counted or route.service.allowance is not UNBOUNDED:
            waits = self._meter.reserve(exchange, principal, route.service, dialect, ticket, 0)
            if waits is not None:
                await waits
        meta = Meta(exchange.request_id, request.model, int(exchange.created_at), exchange.timings)
        job = EmbedJob(exchange, route.service, meta, response, ticket.deadline, size_bytes, dialect, request)
        await self._serve(job, ticket, None)

    def count(
        self, exchange: Exchange, principal: Principal, service: Service, dialect: ClientDialect, room: int = 0
    ) -> None:
        """It is answered without a run of its own, where there is `room` for so many tokens. Raises RateLimited."""
        if principal.counted or service.allowance is not UNBOUNDED:
            self._meter.reserve(exchange, principal, service, dialect, None, room)

    async def _serve(self, job: Job | EmbedJob, ticket: Ticket, heart: Heart | None) -> None:
        """Wait for a turn, and try; again where that may help."""
        exchange = job.exchange
        exchange.cancel = job.response.cancel
        before, again = exchange.attempts, False  # before: with another model
        while True:
            try:
                async with self._admission.admit(ticket, heart, again=again):
                    await self._attempt(job, ticket)
                return
            except BackendError as error:
                pause_s = self._pause_before_retry(error, exchange, ticket.deadline)
            except (ModelNotFound, QueueTimeout, DeadlineUnreachable, Moved) as error:
                found, pause_s, again = await self._who_else(error, ticket, job), 0.0, isinstance(error, Moved)
                ticket = replace(ticket, resident=found.resident, candidates=found.names)
            again = again or exchange.attempts > before
            await asyncio.sleep(pause_s)
            exchange.forget_attempt()
            ticket = exchange.ticket = ticket.again()

    def _ticket(
        self,
        exchange: Exchange,
        principal: Principal,
        route: Route,
        request: ChatRequest | EmbedRequest,
        size_bytes: int,
        prompt_bytes: int,
        claim: Claim,
    ) -> Ticket:
        """The request as the scheduler sees it."""
        service, found, arrived_at = route.service, route.found, exchange.arrived_at
        exchange.model, exchange.stream, exchange.request = service.model, request.stream, request
        within_s = service.timeout_s
        if service.awaits_load:
            within_s = max(within_s, self._admission.scheduler.patience_s(found.resident))
        if claim is not NO_CLAIM:
            within_s = min(within_s, claim.within_s, within_s if request.stream else claim.whole_within_s)
        ticket = exchange.ticket = Ticket(
            service.model,
            found.resident,
            principal.tenant,
            found.names,
            size_bytes,
            arrived_at,
            arrived_at + within_s,
            urgency(claim, request.service_tier, principal, service.highest),
            request.priority,
            principal.weight,
            prompt_tokens=round(prompt_bytes * route.tokens_per_byte.value),
            whole=not request.stream,
            place=exchange.place,
        )
        return ticket

    async def _fallback(
        self,
        error: BaseException,
        exchange: Exchange,
        principal: Principal,
        dialect: ClientDialect,
        request: ChatRequest,
    ) -> Route:
        """How another model may answer, where this one cannot be served. Raises `error` if none does (invariant I5)."""
        names = exchange.fallbacks
        if names is None:
            names = self.router.fallbacks(request.model)
        failed = isinstance(error, BackendError) and error.retryable and exchange.crashes < MAX_CRASHES
        if (failed or isinstance(error, _CANNOT_BE_SERVED)) and not exchange.begun:
            for place, name in enumerate(names, 1):
                with suppress(GatewayError):
                    self.router.check_allowed(principal, name)
                    route = self.router.known(name, dialect) or await self.router.find(name, dialect)
                    exchange.asked, exchange.fallbacks = exchange.asked or request.model, names[place:]
                    exchange.forget_attempt()
                    return self.router.able(route, request)
        raise error

    async def _who_else(self, error: GatewayError, ticket: Ticket, job: Job | EmbedJob) -> Candidates:
        """A backend does not have the model that it had. Who has it now? Asked once per request (invariant I8), and
        after each change of the configuration that moves what waits: that costs no backend anything.

        Raises why not, and how far it is, where the model is to be downloaded.
        """
        exchange = job.exchange
        if isinstance(error, Moved):
            return await self._found(job)
        if job.service.pulled and (unfetched := self._fleet.unfetched(ticket.resident, ticket.candidates)):
            raise unfetched from error
        if not isinstance(error, ModelNotFound):
            raise error
        if exchange.looked_again or self.retries.withdraw(exchange.attempts) is None:
            error.should_retry = False
            raise error
        exchange.looked_again = True
        await self._fleet.refresh()
        return await self._found(job)

    async def _found(self, job: Job | EmbedJob) -> Candidates:
        return self.router.able(await self.router.find(job.request.model, job.dialect), job.request).found

    async def _attempt(self, job: Job | EmbedJob, ticket: Ticket) -> None:
        exchange = job.exchange
        try:
            backend = self._fleet.backends[ticket.backend]
        except KeyError:
            raise Moved(f"the backend {ticket.backend} is gone", retry_after_s=1.0) from None
        exchange.backend = backend.name
        if not exchange.attempts:
            exchange.queue_s = ticket.started_at - exchange.arrived_at
            self.retries.deposit()
        exchange.attempts += 1
        try:
            await attempt.run(job, backend.server or backend.driver.server_of(ticket.resident), ticket)
        except BaseException as error:
            self._metrics.attempts.add((backend.name, result := _result_of(error)))
            if exchange.traced is not None:
                exchange.traced.failed(result)
            if isinstance(error, BackendError):
                self._blame(backend, ticket, exchange, error)
            raise
        finally:
            if job.request.stream and exchange.ttft_s is not None:
                self._admission.scheduler.begun(ticket, exchange.arrived_at + exchange.ttft_s)
            usage = exchange.usage
            if usage.prompt_tokens + usage.completion_tokens > UNSEEN_TOKENS:
                attempt.doubt(exchange, ticket)
        self._metrics.attempts.add((backend.name, "ok"))
        if backend.breakers and (health := self._fleet.health_of(backend)) is not None:
            health.succeeded(ticket, self._admission.scheduler.slots(ticket.model, backend.name))
        usage = exchange.usage
        self._admission.scheduler.settle(ticket, usage.prompt_tokens, usage.completion_tokens)
        if usage.prompt_tokens:
            self.router.prompts[ticket.resident].add(usage.prompt_tokens / job.prompt_bytes)

    def _blame(self, backend: Backend, ticket: Ticket, exchange: Exchange, error: BackendError) -> None:
        """An attempt has failed there."""
        if isinstance(error, BackendCrashed):
            exchange.crashes += 1
        if BackendUnreachable in (type(error), type(error.__cause__)):
            backend.suspect()
        if (health := self._fleet.health_of(backend)) is not None:
            health.failed(ticket, error, self._admission.scheduler.where(ticket.resident).get(backend.name, 1) - 1)

    def _pause_before_retry(self, error: BackendError, exchange: Exchange, deadline: float) -> float:
        """Seconds to wait before the next attempt. Raises `error` where there is to be none (invariants I5, I8)."""
        spent = exchange.attempts > 1
        if error.retryable and not exchange.begun:
            pause_s = self.retries.withdraw(exchange.attempts)
            if pause_s is not None and exchange.crashes >= MAX_CRASHES:
                words = f"backends have died at this request {exchange.crashes} times, it is not tried on another"
                error = BackendCrashed(f"{words}: {error.message}", code="request_crashes_backends")
            elif pause_s is not None and asyncio.get_running_loop().time() + pause_s < deadline:
                return pause_s
            # A busy backend says when to come back.
            spent = spent or (pause_s is None and not isinstance(error, BackendBusy))
        if spent:
            error.should_retry = False
        if isinstance(error, BackendBusy):
            error.retry_after_s = error.retry_after_s or 1.0
        raise error


def _cache_key(request: ChatRequest) -> bytes:
    """OpenAI's word for what belongs together."""
    said = (request.extra or {}).get("prompt_cache_key")
    return said.encode("utf-8", "surrogatepass") if isinstance(said, str) else b""


def _result_of(error: BaseException) -> str:
    """How an attempt ended that gave no whole answer, as the metric tells it."""
    if isinstance(error, GatewayError):
        return error.code
    return "cancelled" if isinstance(error, asyncio.CancelledError) else "internal_error"
