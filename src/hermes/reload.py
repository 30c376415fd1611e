"""The configuration read anew while everything runs: who asks for it, one after the other, and what came of the last.

Files are looked at every two seconds, by what `stat` says of them: that sees an editor's rename, and a link that leads
elsewhere now, as Kubernetes' do. What has changed is read when two looks agree, never half written.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from msgspec import Struct

from hermes.config import Config
from hermes.config.files import signature
from hermes.errors import ConfigError, Draining, GatewayError, InvalidConfig
from hermes.metrics import Metrics

log = logging.getLogger(__name__)

WATCH_EVERY_S = 2.0
AGREE_S = 0.5

S = TypeVar("S")


class Source(Protocol):
    """Where the configuration comes from."""

    def read(self) -> Config:
        """Raises ConfigError."""

    def files(self) -> Iterable[Path]:
        """What it is read from, or would be if it were there."""


class Unchanged(Struct, frozen=True):
    """One that nothing else is known of."""

    config: Config

    def read(self) -> Config:
        return self.config

    def files(self) -> Iterable[Path]:
        return ()


class Attempt(Struct, frozen=True):
    """The last one. `at`: UTC. `needs_restart`: what was left as it is."""

    result: str
    at: str
    error: str = ""
    needs_restart: tuple[str, ...] = ()


class Reload(Generic[S]):
    """`prepare` makes of a Config all that is to be in force, in a thread; `take` puts that in force, and tells what
    needs a restart. Until then nothing is changed; either may raise ConfigError.
    """

    def __init__(
        self,
        source: Source,
        prepare: Callable[[Config], S],
        take: Callable[[S], Awaitable[tuple[str, ...]]],
        beside: Callable[[], Iterable[str]],
        metrics: Metrics,
    ) -> None:
        self._source = source
        self._prepare = prepare
        self._take = take
        self._beside = beside  # other files that count
        self._counted = metrics.reloads
        self._counted.child(("refused",))  # from 0 on, so that the first one is an increase
        self._turn = asyncio.Lock()
        self._seen = self._look()
        self.last: Attempt | None = None
        self.under_way: Callable[[bool], None] = lambda begins: None
        self.succeeded_at = _now().timestamp()  # a start is one, too
        metrics.gauge(
            "hermes_config_last_reload_success_timestamp_seconds",
            "When the configuration in force was read.",
            (),
            lambda: {(): self.succeeded_at},
        )

    async def __call__(self, why: str) -> Attempt:
        """Read it and put it in force. Raises InvalidConfig, or Draining; then nothing has changed."""
        async with self._turn:
            self._seen = self._look()
            self.under_way(True)
            try:
                needs_restart = await self._take(await asyncio.to_thread(self._read))
            except (ConfigError, Draining) as error:
                self._end(Attempt("refused", _now().isoformat(), str(error)))
                log.warning("the configuration stays as it is (%s): %s", why, error)
                raise error if isinstance(error, Draining) else InvalidConfig(str(error)) from error
            finally:
                self.under_way(False)
            self._end(done := Attempt("ok", _now().isoformat(), needs_restart=needs_restart))
            self.succeeded_at = _now().timestamp()
            log.info("the configuration was read anew (%s)", why)
            for what in needs_restart:
                log.warning("%s: to be restarted for", what)
            return done

    def _read(self) -> S:
        return self._prepare(self._source.read())

    def _end(self, attempt: Attempt) -> None:
        self.last = attempt
        self._counted.add((attempt.result,))

    # --- who asks for it --------------------------------------------------------------------------------------------

    async def watch(self, asked: asyncio.Event, is_watching: Callable[[], bool]) -> None:
        """For ever: when it is `asked` for, and when a file has changed."""
        while True:
            why = "SIGHUP"
            if not await _is_set(asked, WATCH_EVERY_S if is_watching() else None):
                if not await self._has_changed():
                    continue
                why = "a file has changed"
            asked.clear()
            try:
                await self(why)
            except GatewayError:
                pass  # the log has it
            except Exception:  # what cannot be read anew goes on as it is
                log.exception("reading the configuration anew met a bug")

    async def _has_changed(self) -> bool:
        """Since it was last read, and has come to rest."""
        now = self._look()
        if now == self._seen:
            return False
        await asyncio.sleep(AGREE_S)
        return now == self._look()

    @property
    def is_late(self) -> bool:
        """Whether a file has changed since it was last read."""
        return self._look() != self._seen

    def _look(self) -> object:
        files = map(str, (*self._source.files(), *self._beside()))
        return tuple((path, signature(path)) for path in files)


async def _is_set(event: asyncio.Event, within_s: float | None) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            await event.wait()
    return event.is_set()


def _now() -> datetime:
    return datetime.now(UTC)
