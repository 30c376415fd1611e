"""Embeddings: the same text always has the same unit vector, and texts that share words have similar ones."""

import hashlib
import math
import random
import re
from collections.abc import Sequence

import msgspec

from hermes.http.response import Response
from hermes.simulator.clock import nanoseconds
from hermes.simulator.gojson import Refusal
from hermes.simulator.library import Installed
from hermes.simulator.machine import Machine, Visit
from hermes.simulator.models import short_name
from hermes.simulator.reply import RunnerCrashed
from hermes.simulator.requests import Embedding, read_options
from hermes.simulator.scheduler import Runner
from hermes.simulator.text import count_tokens

_WORD = re.compile(r"\w+")
_MARKS_PER_WORD = 8
_SPECIAL_TOKENS = 2  # what a tokenizer puts around a text
_NOISE = 0.02


async def embed(machine: Machine, request: Embedding, header: str, response: Response, legacy: bool) -> None:
    """Answer /api/embed, or its predecessor /api/embeddings. Raises Refusal or Ended."""
    began = machine.clock.now()
    installed = _find(machine, request, legacy)
    options = read_options(request.options)
    prompt = "\n".join(request.inputs)
    with machine.visit(installed.model, prompt) as visit:
        fault = machine.inference_fault(header, prompt)
        reply = machine.reply(response, False, fault)
        try:
            async with machine.runner(
                installed.model, options, shift=True, keep_alive_s=request.keep_alive_s, fault=fault
            ) as runner:
                load_s = machine.clock.now() - began
                tokens = await _read(machine, request, runner, visit)
                timing = {"total_duration": nanoseconds(machine.clock.now() - began)}
                timing |= {"load_duration": nanoseconds(load_s), "prompt_eval_count": tokens}
                vectors = [_vector(text, request.dimensions, runner) for text in request.inputs]
                await reply.whole(_legacy(vectors) if legacy else _answer(request, vectors, timing))
        except RunnerCrashed:
            reply.crashed()


def _find(machine: Machine, request: Embedding, legacy: bool) -> Installed:
    name = request.model
    if not name.strip():
        raise Refusal(400, "model is required") if legacy else Refusal(404, f"model '{name}' not found")
    if short_name(name) is None:
        raise Refusal(400, "invalid model name")
    installed = machine.library.find(name)
    if installed is None:
        raise Refusal(404, f'model "{name}" not found, try pulling it first')
    return installed


async def _read(machine: Machine, request: Embedding, runner: Runner, visit: Visit) -> int:
    """Take the time that reading takes. Returns tokens; raises Refusal for a text that may not be shortened."""
    if not request.inputs:
        return 0
    if "embedding" not in runner.model.capabilities:
        raise Refusal(501, "This server does not support embeddings. Start it with `--embeddings`")
    counts = [count_tokens(text) + _SPECIAL_TOKENS for text in request.inputs]
    num_ctx = runner.options.num_ctx
    if not request.truncate and max(counts) > num_ctx:
        raise Refusal(400, "the input length exceeds the context length")
    tokens = sum(min(count, num_ctx) for count in counts)
    visit.phase = "slot"
    async with machine.scheduler.slot(runner) as slot:
        visit.phase = "prefill"
        slot.busy_until = machine.clock.now() + tokens / (runner.model.prefill_tps * machine.clock.speed)
        await machine.clock.until(max(slot.busy_until, runner.hangs_until))
    return tokens


def _vector(text: str, dimensions: int, runner: Runner) -> list[float]:
    whole = unit_vector(text, runner.model.embedding_length)
    return _normalised(whole[:dimensions]) if 0 < dimensions < len(whole) else whole


def unit_vector(text: str, dimensions: int) -> list[float]:
    """Each word leaves its marks, the whole text a little noise."""
    rng = random.Random(_hash(text))  # noqa: S311 - noise that can be repeated
    vector = [rng.uniform(-_NOISE, _NOISE) for _ in range(dimensions)]
    for word in _WORD.findall(text.lower()):
        marks = _hash(word)
        for _ in range(_MARKS_PER_WORD):
            marks, sign = divmod(marks, 2)
            marks, place = divmod(marks, dimensions)
            vector[place] += 1.0 if sign else -1.0
    return _normalised(vector)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=32).digest())


def _normalised(vector: Sequence[float]) -> list[float]:
    norm = math.sqrt(math.fsum(value * value for value in vector)) or 1.0
    return [value / norm for value in vector]


def _answer(request: Embedding, vectors: list[list[float]], timing: dict[str, int]) -> bytes:
    rounded = [[round(value, 9) for value in vector] for vector in vectors]
    return msgspec.json.encode({"model": request.model, "embeddings": rounded} | (timing if vectors else {}))


def _legacy(vectors: list[list[float]]) -> bytes:
    return msgspec.json.encode({"embedding": vectors[0] if vectors else []})
