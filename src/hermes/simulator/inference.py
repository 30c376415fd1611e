"""One generate or chat request: have the model loaded, wait for a slot, read the prompt, speak at the model's pace."""

import itertools
import random
from collections.abc import Callable, Iterable

from msgspec import Struct
from msgspec.structs import replace

from hermes.http.response import Response
from hermes.simulator.clock import Clock
from hermes.simulator.context import fit_prompt
from hermes.simulator.gojson import Refusal
from hermes.simulator.library import Installed
from hermes.simulator.machine import Machine, Visit
from hermes.simulator.models import full_name, short_name
from hermes.simulator.reply import Reply, RunnerCrashed
from hermes.simulator.requests import Inference, Options, read_options
from hermes.simulator.scheduler import Runner
from hermes.simulator.shapes import Shapes, Timing
from hermes.simulator.text import Script, compose

_NO_VISION = (
    '{"error":{"code":500,"message":"image input is not supported - hint: if this is unexpected, you may need to'
    ' provide the mmproj","type":"server_error"}}'
)
_NEVER_S = 1e6


class _Ask(Struct, frozen=True):
    """A request as it is answered: since when, by which clock, and with which oddity of the model itself."""

    request: Inference
    options: Options
    began: float
    oddity: str = ""


async def infer(machine: Machine, request: Inference, header: str, response: Response) -> None:
    """Answer. Raises Refusal or Ended. A fault that the request asks for is in its header or its last message."""
    began = machine.clock.now()
    installed = _find(machine, request)
    model = installed.model
    if request.empty and request.keep_alive_s == 0:
        machine.scheduler.expire(model)
        await Reply(response).whole(Shapes(request, model.built_in_parser, machine.clock, machine.rng).loaded("unload"))
        return
    _check_capabilities(request, installed)
    options = read_options(request.options)
    prompt = "" if request.empty else request.messages[-1].content
    with machine.visit(model, prompt) as visit:
        fault = machine.inference_fault(header, prompt)
        reply = machine.reply(response, request.stream, fault)
        ask = _Ask(request, options, began, fault.kind if fault is not None else "")
        try:
            async with machine.runner(
                model, options, shift=request.shift, keep_alive_s=request.keep_alive_s, fault=fault
            ) as runner:
                await _answer(machine, ask, runner, reply, visit)
        except RunnerCrashed:
            reply.crashed()


def _find(machine: Machine, request: Inference) -> Installed:
    name = request.model
    if not name.strip():
        raise Refusal(400, "model is required") if request.kind == "chat" else Refusal(404, f"model '{name}' not found")
    if short_name(name) is None:
        raise Refusal(400, "invalid model name")
    installed = machine.library.find(name)
    if installed is None:
        raise Refusal(404, f"model '{name}' not found")
    return installed


def _check_capabilities(request: Inference, installed: Installed) -> None:
    can = installed.model.capabilities
    if request.think not in (None, False) and "thinking" not in can:
        raise Refusal(400, f'"{request.model}" does not support thinking')
    if "completion" not in can:
        raise Refusal(400, f'"{request.model}" does not support {request.kind}')
    for needed, asked in (("tools", request.tools), ("insert", request.suffix)):
        if asked and needed not in can:
            raise Refusal(400, f"{full_name(installed.name)} does not support {needed}")
    if "vision" not in can and any(message.images for message in request.messages):
        raise Refusal(500, _NO_VISION)


async def _answer(machine: Machine, ask: _Ask, runner: Runner, reply: Reply, visit: Visit) -> None:
    request, model, clock = ask.request, runner.model, machine.clock
    shapes = Shapes(request, model.built_in_parser, clock, machine.rng)
    if request.empty:
        await reply.whole(shapes.loaded("load"))
        return
    loaded = clock.now()
    num_ctx = runner.options.num_ctx
    try:
        prompt_tokens = fit_prompt(request, ask.options, model, num_ctx)
        room = None if request.shift else num_ctx - prompt_tokens
        script = compose(model, request, ask.options, num_ctx, room, machine.config.seed)
    except Refusal as refusal:
        reply.error(refusal.status, refusal.text)
        return
    visit.phase = "slot"
    async with machine.scheduler.slot(runner) as slot:
        visit.phase = "prefill"
        reading = clock.now()
        speaking = slot.busy_until = reading + prompt_tokens / (model.prefill_tps * clock.speed)
        pace = _Pace(clock, runner, speaking, machine.config.jitter, machine.rng)
        await pace.reach(0)
        visit.phase = "decode"
        await _speak(machine, ask, script, shapes, pace, reply)
        await pace.reach(script.tokens)
        timing = Timing(
            load_s=loaded - ask.began,
            prefill_s=speaking - reading,
            decode_s=clock.now() - speaking,
            total_s=clock.now() - ask.began,
            prompt_tokens=prompt_tokens,
            tokens=script.tokens,
        )
    await _finish(machine, ask, script, timing, shapes, reply)


class _Pace:
    """Token n is due at a fixed time, so that delays never add up. A crash is noticed at the next token."""

    __slots__ = ("_begin", "_clock", "_interval_s", "_jitter", "_rng", "_runner")

    def __init__(self, clock: Clock, runner: Runner, begin: float, jitter: float, rng: random.Random) -> None:
        self._clock = clock
        self._runner = runner
        self._begin = begin
        self._interval_s = 1 / (runner.model.decode_tps * clock.speed)
        self._jitter = jitter
        self._rng = rng

    async def reach(self, token: int) -> None:
        late = self._rng.random() * self._jitter if self._jitter else 0.0
        await self._clock.until(self._begin + (token + late) * self._interval_s)
        await self._clock.until(self._runner.hangs_until)
        if self._runner.crashed:
            raise RunnerCrashed


async def _speak(machine: Machine, ask: _Ask, script: Script, shapes: Shapes, pace: _Pace, reply: Reply) -> None:
    endless = ask.oddity == "endless"
    if endless:
        machine.stats.faults[ask.oddity] += 1
    if not ask.request.stream:
        if endless:
            await machine.clock.until(machine.clock.now() + _NEVER_S)
        return
    thoughts: Iterable[tuple[Callable[[str], bytes], str]] = ((shapes.thought, token) for token in script.thinking)
    content = itertools.cycle(script.content or ("la, ",)) if endless else script.content
    for due, (render, token) in enumerate(itertools.chain(thoughts, ((shapes.text, token) for token in content))):
        await pace.reach(due)
        await reply.line(render(token))
    if script.calls and shapes.calls_early:
        await pace.reach(script.tokens)
        await reply.line(shapes.calls(script.calls))


async def _finish(machine: Machine, ask: _Ask, script: Script, timing: Timing, shapes: Shapes, reply: Reply) -> None:
    odd = ask.oddity == "wrong-usage"
    if odd:
        machine.stats.faults[ask.oddity] += 1
        timing = replace(timing, prompt_tokens=-5, tokens=10**15)
    if not ask.request.stream:
        await reply.whole(shapes.whole(script, timing))
        return
    for _ in range(2 if odd else 1):
        await reply.line(shapes.final(script, timing))
    reply.end()
