"""All that can be asked here, by clients and by operators; and what another Snapshot changes of it."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from hermes import composition
from hermes import config as settings
from hermes.api import admin, dashboard
from hermes.api.app import Api
from hermes.api.cors import Cors
from hermes.api.door import Door
from hermes.api.hour import Hour
from hermes.api.inference import Inference
from hermes.api.live import Live
from hermes.api.loading import Loading
from hermes.api.management import Management
from hermes.api.models import Models
from hermes.api.ollama import Ollama
from hermes.api.ops import Ops
from hermes.api.queue import Queue
from hermes.api.routes import RouteTable
from hermes.api.table import routes
from hermes.api.usage import Usage
from hermes.auth import Authenticator
from hermes.dialects import ClientDialect
from hermes.dialects.anthropic import Anthropic
from hermes.dialects.openai import OpenAI
from hermes.dialects.openai_completions import Completions
from hermes.dialects.prompt import Prompt
from hermes.dialects.responses import Responses
from hermes.history import History
from hermes.journal import Journal
from hermes.listeners import Listeners
from hermes.metrics import Metrics
from hermes.reload import Reload
from hermes.serving import Serving
from hermes.snapshot import Snapshot
from hermes.trust import Trust

if TYPE_CHECKING:
    from hermes.tracing import Tracing


class Front:
    """`api` and its `server` are the clients'."""

    def __init__(
        self,
        first: Snapshot,
        door: Door,
        serving: Serving,
        trust: Trust,
        journal: Journal,
        history: History,
        metrics: Metrics,
        reload: Reload[Snapshot],
        listeners: Listeners,
        loop: asyncio.AbstractEventLoop,
        tracing: "Tracing | None",
    ) -> None:
        self._door = door
        self._tracing = tracing
        self._serving = serving
        self._trust = trust
        self._journal = journal
        self._metrics = metrics
        self._listeners = listeners
        self._clock = clock = loop.time
        wall = time.time  # noqa: TID251 - of records, and when keys end
        openai = self._openai = OpenAI()
        prompt, anthropic = Prompt(), Anthropic()
        router, fleet, admission = serving.router, serving.fleet, serving.admission
        models = self._models = Models(router, fleet)
        loading = self.loading = Loading(router, fleet, admission, openai)
        ops = self._ops = Ops(
            fleet,
            models,
            admission,
            router,
            metrics,
            clock=clock,
            draining=lambda: self.api.draining,
            connections=lambda: self.server.open_connections,
            reload=reload,
            reloaded=lambda: reload.last,
        )
        queue = Queue(journal, admission.scheduler, fleet, router, models, clock)
        hour = Hour(history, fleet, models, router, clock, wall)
        live = self.live = Live(journal, hour, queue, ops, trust.people, loop, wall)
        dialects = openai, Completions(), Responses(), prompt, anthropic
        inference = self._inference = Inference(
            serving.gateway, *dialects, serving.flights, alone=composition.alone(first.config)
        )
        ollama = Ollama(inference, models, loading)
        usage = Usage(serving.meter.ledger, trust.people, trust.keyring.names)
        self._routes = tuple(
            routes(inference, models, loading, ops, queue, live, hour, ollama, usage, openai, prompt, anthropic)
        )
        self._managing = tuple(Management(fleet, router, ollama.dialect).routes())
        self._let_in(first.config.server)
        areas: dict[bytes, ClientDialect] = {b"/api/": ollama.dialect, b"/v1/messages": anthropic}
        self.api = self._api(self._table(first.config), trust.people, areas)
        self.server = listeners.server(self.api)

    def adopt(self, new: Snapshot) -> None:
        """This holds from now on, for connections that there are too."""
        self._let_in(new.config.server)
        self._inference.adopt(composition.alone(new.config))
        self.api.table = self._table(new.config)
        self._listeners.adopt(new.limits, new.tls)

    def _let_in(self, said: settings.Server) -> None:
        cors = said.cors
        self._door.adopt(said.allowed_hosts, Cors(cors.origins, cors.headers, cors.credentials, cors.max_age_s))

    def _table(self, config: settings.Config) -> RouteTable:
        every = (*self._routes, *self._managing) if config.server.ollama_management else self._routes
        shown = composition.shows_dashboard_to_clients(config)
        return RouteTable(dashboard.beside(self._openai, every) if shown else every)

    def for_operators(self, said: settings.Admin, people: Authenticator, restart: Callable[[], Awaitable[int]]) -> Api:
        """What they can ask at a place of their own. `restart` as `admin.routes` has it."""
        own = admin.routes(self._trust.keyring, self._ops, self._openai, said.metrics, restart)
        shown = dashboard.routes(self._openai, self._routes) if said.dashboard else ()
        return self._api(RouteTable((*own, *shown)), people, {})

    def _api(self, table: RouteTable, people: Authenticator, areas: dict[bytes, ClientDialect]) -> Api:
        left, served = self._serving.come_again.left, self._models.served
        return Api(
            table,
            self._door,
            people,
            self._journal,
            self._metrics,
            self._openai,
            self._clock,
            areas,
            left,
            served,
            self._tracing,
        )
