"""Who is let in: by the configuration's keys, stored ones, issuers' tokens; and what another Snapshot changes of it."""

import asyncio
from collections.abc import Callable, Collection, Coroutine
from typing import Any

from hermes import config as settings
from hermes.auth import Authenticator
from hermes.config.rules import check_bind
from hermes.errors import ConfigError, StorageError
from hermes.keyring import Keyring
from hermes.snapshot import Snapshot
from hermes.storage.store import Store


class Trust:
    """`send_away`: who waits by one of these keys, which let in nobody any more. `begin`: a task, and own it."""

    def __init__(
        self,
        first: Snapshot,
        store: Store,
        send_away: Callable[[Collection[str]], None],
        begin: Callable[[Coroutine[Any, Any, None], str], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.people = Authenticator({}, first.anonymous, first.issuers)
        self.keyring = Keyring(self.people, store, send_away=send_away)
        self.keyring.adopt(first.static_keys, first.stored_keys)
        self._begin = begin
        self._loop = loop

    def load(self, config: settings.Config) -> None:
        """The keys that are stored. Raises ConfigError: they cannot be used, or nobody needs one who should."""
        try:
            self.keyring.load()
        except StorageError as error:
            own = ". Stop that one, or give this one a server.state_dir of its own" if error.in_use else ""
            raise ConfigError(f"{error}{own}. Without any stored keys: server.state_dir: off") from error
        check_bind(config, stored=self.keyring.used)

    def start(self) -> None:
        if self.people.issuers is not None:
            self.people.issuers.start(self._loop)

    async def stop(self) -> None:
        if self.people.issuers is not None:
            await self.people.issuers.stop()

    def check(self, new: Snapshot) -> None:
        """Raises ConfigError where it would let in whom the one in force does not."""
        check_bind(new.config, stored=self.keyring.used)
        if not (self.people.open or new.static_keys or new.issuers or self.keyring.used):
            raise ConfigError("keys: the last one is gone, so everybody would be let in: that takes a restart")

    def adopt(self, new: Snapshot, before: settings.Config) -> None:
        """Issuers that are the same have their keys already."""
        people = self.people
        if new.config.jwt == before.jwt:
            if people.issuers is not None:
                people.issuers.adopt(new.config.scheduling.usual_class)
        else:
            if people.issuers is not None:
                self._begin(people.issuers.stop(), "issuers")
            people.issuers = new.issuers
            self.start()
        people.anonymous = new.anonymous
        self.keyring.adopt(new.static_keys, new.stored_keys)
