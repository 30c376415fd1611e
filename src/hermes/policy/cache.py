"""Answers that were given before: what tells a request from others, when an answer is good for another, what is kept.

Two requests are the same if the backend would be asked the same: in whichever dialect, streamed or not.
"""

from collections import OrderedDict
from collections.abc import Mapping
from hashlib import blake2b
from math import inf
from operator import attrgetter
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from hermes.chat import (
    Answer,
    ChatRequest,
    Embeddings,
    EmbedRequest,
    ReasoningDelta,
    Sampling,
    Stop,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
    Usage,
)

# What an answer takes besides its bytes: its key, its place, what holds them.
_ENTRY_BYTES = 300

_pack = msgspec.msgpack.Encoder().encode


class Terms(Struct, frozen=True):
    """What a request's `Cache-Control` says: whether an answer may be `kept`, and of what age one may be given."""

    kept: bool = True
    max_age_s: float = inf


ANY_AGE = Terms()


def terms(headers: Mapping[bytes, bytes]) -> Terms | None:
    """By RFC 9111, 5.2.1; None: nothing that means anything here."""
    said = headers.get(b"cache-control")
    if said is None:
        return None
    words = {word.strip().lower() for word in said.split(b",")}
    if b"no-store" in words:
        return Terms(kept=False, max_age_s=0.0)
    ages = [inf]
    for word in words:
        name, _, age = word.partition(b"=")
        if name == b"max-age" and age.isdigit() and len(age) < 10:
            ages.append(float(age))
    found = Terms(max_age_s=0.0 if b"no-cache" in words else min(ages))
    return None if found == ANY_AGE else found


# How an answer is to be told, and how soon, is no part of what is asked.
_NOT_ASKED = {"model", "sampling", "stream", "include_usage", "priority", "service_tier", "base64"}
_asked_of_chat, _asked_of_embed = (
    attrgetter(*[name for name in kind.__struct_fields__ if name not in _NOT_ASKED])
    for kind in (ChatRequest, EmbedRequest)
)


def digest(request: ChatRequest | EmbedRequest, sampling: Sampling | None, resident: str, owner: str) -> bytes:
    """The same for requests that are the same, of one owner. `sampling`: with the model's settings filled in."""
    told: tuple[Any, ...]
    if isinstance(request, ChatRequest):
        if sampling is not None and sampling.temperature == 0:  # the likeliest token, however others are drawn
            sampling = replace(sampling, top_p=None, top_k=None, min_p=None, typical_p=None, seed=None)
        told = "chat", owner, resident, sampling, _asked_of_chat(request)
    else:
        told = "embed", owner, resident, _asked_of_embed(request)
    try:
        packed = _pack(told)
    except (ValueError, OverflowError):  # half a character, or a number that only JSON can hold
        packed = repr(told).encode("utf-8", "surrogatepass")
    return blake2b(packed, digest_size=16).digest()


def is_deterministic(sampling: Sampling | None) -> bool:
    """Whether its answer would be the same another time, as far as is asked of the backend. None: vectors are."""
    return sampling is None or sampling.temperature == 0 or sampling.seed is not None


def events(answer: Answer) -> list[StreamEvent]:
    """The events that add up to this answer."""
    found: list[StreamEvent] = []
    if answer.reasoning:
        found.append(ReasoningDelta(answer.reasoning))
    if answer.text or answer.logprobs:
        found.append(TextDelta(answer.text, answer.logprobs))
    for index, call in enumerate(answer.tool_calls):
        found.append(ToolCallDelta(index, call.arguments, call.id, call.name))
    if answer.usage != _NO_USAGE:
        found.append(answer.usage)
    found.append(Stop(answer.reason, answer.stop_text))
    return found


_NO_USAGE = Usage()
unpack_answer = msgspec.msgpack.Decoder(Answer).decode
unpack_embeddings = msgspec.msgpack.Decoder(Embeddings).decode


def pack(answer: Answer | Embeddings) -> bytes:
    return _pack(answer)


class _Entry(Struct, frozen=True, gc=False):
    packed: bytes
    kept_at: float


class Shelf:
    """Packed answers by digest. Those that were not asked for for longest make room; none is older than `ttl_s`."""

    def __init__(self, max_bytes: int, ttl_s: float) -> None:
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self.size_bytes = 0
        self.adopt(max_bytes, ttl_s)

    def adopt(self, max_bytes: int, ttl_s: float) -> None:
        """This is the room that there is, from now on; what is there already is no younger for it."""
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._make_room(0)

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, key: bytes, now: float, max_age_s: float = inf) -> bytes | None:
        """The answer, if there is one that is younger than that."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        age_s = now - entry.kept_at
        if age_s >= self._ttl_s:
            self._drop(key)
            return None
        if age_s >= max_age_s:
            return None
        self._entries.move_to_end(key)
        return entry.packed

    def keep(self, key: bytes, packed: bytes, now: float) -> None:
        """Of one that is larger than all room there is, nothing is kept."""
        if key in self._entries:
            self._drop(key)
        size_bytes = len(packed) + _ENTRY_BYTES
        if size_bytes > self._max_bytes:
            return
        self._make_room(size_bytes)
        self._entries[key] = _Entry(packed, now)
        self.size_bytes += size_bytes

    def _make_room(self, size_bytes: int) -> None:
        while self.size_bytes + size_bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: bytes) -> None:
        self.size_bytes -= len(self._entries.pop(key).packed) + _ENTRY_BYTES
