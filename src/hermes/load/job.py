"""One run from beginning to end: a server, what it is to be asked, and what that came to."""

import asyncio
from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from hermes.http.origin import Origin
from hermes.load.figures import Figures, figures
from hermes.load.plan import Asked
from hermes.load.run import Load, Render, Show, now
from hermes.load.tally import Tally


class Job(Struct, frozen=True):
    """`connections` None: as many as it takes. `duration_s` None: until the plan is at its end, which has this
    many `requests` at most. `setting`: as it is told.
    """

    origin: Origin
    render: Render
    plan: Iterator[Asked]
    connections: int | None
    is_closed: bool
    duration_s: float | None
    requests: int | None
    warmup_s: float
    think_s: float
    timeout_s: float
    slo: dict[str, float]
    tenants: list[str]
    setting: dict[str, Any]


async def carry_out(job: Job, show: Show | None = None) -> Figures:
    """`show` is called a few times a second. Cancelled, it is over at once, and tells what there was until then."""
    load = Load(job.origin, job.render, job.timeout_s, job.connections, show)
    tally = Tally(now(), job.warmup_s, job.duration_s, job.slo, job.tenants)
    setting = job.setting
    try:
        await load.run(job.plan, tally, job.think_s)
    except asyncio.CancelledError:
        setting = {**setting, "interrupted": True}
        tally.until_at = now()
    return figures(tally, load.strain, setting, job.connections, job.is_closed)
