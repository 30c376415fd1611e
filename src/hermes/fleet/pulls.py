"""What one backend downloads: each model once however many ask for it, and no sooner again where that failed.

A download that requests wait for outlives them (`kept`): the next ones find it. Downloads go on beside the orders, so
that nothing waits for one but who wants the model; the scheduler is told by the facts what is on its way.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from math import inf

from msgspec import Struct

from hermes.errors import BackendError, GatewayError, ModelNotFound, ModelPulling, PullFailed
from hermes.fleet.backend import PROBE_TIMEOUT_S, Backend
from hermes.fleet.download import STALL_S, Download
from hermes.fleet.driver import PullProgress
from hermes.fleet.orders import Listener, tell
from hermes.metrics import Metrics
from hermes.policy.site import Rest

log = logging.getLogger(__name__)

# What a registry that does not have the model makes of Ollama (server/images.go).
_NOT_THERE = "file does not exist"


class _Failed(Struct):
    """A download that requests waited for has failed: it is not begun for others before the rest is over."""

    rest: Rest
    why: str = ""


class Pulls:
    """What `backend` downloads. What fails is told to `listener`."""

    def __init__(self, backend: Backend, listener: Listener, metrics: Metrics) -> None:
        self.backend = backend
        self._listener = listener
        self._metrics = metrics
        self._failed: dict[str, _Failed] = {}  # by model, of those that may be pulled on demand: they are configured
        self._group = asyncio.TaskGroup()

    async def work(self) -> None:
        """Own the downloads, for ever."""
        async with self._group:
            await asyncio.get_running_loop().create_future()

    async def until_over(self) -> None:
        """Wait until nothing is downloaded."""
        while tasks := [download.task for download in self.backend.pulling.values() if download.task is not None]:
            await asyncio.wait(tasks)

    def keep(self, model: str) -> None:
        """Download it, unless that is under way, whoever follows it or does not."""
        self._download(model).kept = True

    def follow(self, model: str) -> AsyncGenerator[PullProgress, None]:
        """Download it, unless that is under way, and tell how it goes. Raises GatewayError if it fails."""
        return self._download(model).follow()

    def rests_until(self, model: str) -> float:
        """Before then it is not tried again."""
        if model in self.backend.pulling or model not in self._failed:
            return -inf
        return self._failed[model].rest.until

    def failure(self, model: str) -> GatewayError | None:
        """Why it could not be had, as long as that is not tried again."""
        rest_s = self.rests_until(model) - asyncio.get_running_loop().time()
        if rest_s <= 0:
            return None
        why = self._failed[model].why
        return ModelNotFound(why, param="model") if _NOT_THERE in why else PullFailed(why, retry_after_s=rest_s)

    def refusal(self, model: str) -> GatewayError | None:
        """What to tell those that cannot wait for it. None: it is there, or nobody was to have it downloaded."""
        if model in self.backend.inventory.names:  # a newer one may be on its way
            return None
        download = self.backend.pulling.get(model)
        if download is None:
            return self.failure(model)
        left_s = download.left_s(asyncio.get_running_loop().time())
        return ModelPulling(
            f"{model!r} is being pulled: {download.percent} % of it is there", retry_after_s=max(1.0, left_s)
        )

    def _download(self, model: str) -> Download:
        pulling = self.backend.pulling
        if model not in pulling:
            pulling[model] = Download(model, asyncio.get_running_loop().time())
            pulling[model].task = self._group.create_task(self._run(pulling[model]), name=f"pull {model}")
            tell(self.backend, lambda: self._listener.observe(self.backend.facts))
        return pulling[model]

    async def _run(self, download: Download) -> None:
        backend, model = self.backend, download.model
        log.info("backend %s pulls %s", backend.name, model)
        outcome = "left"
        try:
            await backend.while_up(self._pull(download))
        except GatewayError as error:
            log.warning("backend %s could not pull %s: %s", backend.name, model, error.message)
            outcome, download.error = "failed", error
        except Exception:  # who waits for the model must hear of it all the same
            log.exception("pulling %s to backend %s met a bug", model, backend.name)
            outcome, download.error = "failed", GatewayError("pulling it met a bug; the log has its cause")
        else:
            log.info("backend %s has pulled %s", backend.name, model)
            outcome, download.error = "pulled", None
        finally:
            del backend.pulling[model]
            self._metrics.pulls.add((backend.name, model, outcome))
            if outcome != "left" or download.kept:  # somebody came to wait for it just then
                self._settle(download)
            download.end()

    def _settle(self, download: Download) -> None:
        """Whoever waits for what has failed hears why, and nobody tries again for a while."""
        backend, model, error = self.backend, download.model, download.error
        if error is None:
            self._failed.pop(model, None)
        elif download.kept and model not in backend.inventory.names:  # or others have put it there
            failed = self._failed.setdefault(model, _Failed(Rest()))
            failed.rest.fail(asyncio.get_running_loop().time())
            failed.why = error.message
            tell(backend, lambda: self._listener.load_failed(backend.name, model, ModelNotFound(error.message)))

    async def _pull(self, download: Download) -> None:
        """Raises GatewayError, also where the model is not there afterwards: it would be pulled again and again."""
        backend, model, clock = self.backend, download.model, asyncio.get_running_loop().time
        async with aclosing(backend.driver.pull(model, STALL_S)) as lines:
            async for line in lines:
                download.take(line, clock())
        if not download.is_told_complete:
            raise BackendError(f"the backend broke off pulling {model!r}", code="pull_failed")
        ended_at = clock()
        await backend.look(PROBE_TIMEOUT_S)
        if backend.inventory.asked_at >= ended_at and model not in backend.inventory.names:
            raise ModelNotFound(f"the backend has pulled {model!r}, and does not list it", param="model")
