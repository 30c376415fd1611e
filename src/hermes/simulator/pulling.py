"""A pull: the library's progress as lines, or its end alone."""

import msgspec

from hermes.http.response import Response
from hermes.simulator.gojson import Refusal
from hermes.simulator.machine import Machine
from hermes.simulator.reply import RunnerCrashed


async def pull(machine: Machine, name: str, streaming: bool, header: str, response: Response) -> None:
    """Answer /api/pull. What is not in the registry is told after `pulling manifest`, so as a line if streaming."""
    lines = machine.library.pull(name)
    fault = machine.fault(header) or machine.pull_fault
    reply = machine.reply(response, True, fault)
    progress: dict[str, object] = {}
    try:
        async for progress in lines:
            if streaming:
                await reply.line(msgspec.json.encode(progress) + b"\n")
    except Refusal as refusal:
        reply.error(refusal.status, refusal.text)
        return
    except RunnerCrashed:
        reply.crashed()
        return
    if streaming:
        reply.end()
    else:
        await reply.whole(msgspec.json.encode(progress))
