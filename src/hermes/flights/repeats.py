"""Requests that come again in the very same bytes: what is on the shelf for them is given without reading them again.

That is worth most of what it costs to give an answer. Whatever else tells who is given which must be as it was: who
asks, how urgently, and how the model is served, which is another `Route` as soon as anything about that has changed.
"""

from hashlib import blake2b

from msgspec import Struct

from hermes.chat import Answer, ChatRequest
from hermes.dialects import ClientDialect
from hermes.policy.claim import Claim
from hermes.policy.ticket import Ticket
from hermes.principal import Principal
from hermes.router import Route

# What is longer takes its time anyway.
SHORT_BYTES = 16 * 1024
MOST_BYTES = 4 << 20
# What one takes besides its texts, and a character of a text in which one is wide: four bytes, and its UTF-8.
_REPEAT_BYTES = 1500
_WIDEST = 5

# The API, the model where it is named elsewhere, and of the body its length and a hash.
Name = tuple[ClientDialect, str | None, int, bytes]


class Repeat(Struct, frozen=True, eq=False):
    """One that was given the `answer` that is `packed` on the shelf, under `key`."""

    principal: Principal
    claim: Claim
    request: ChatRequest
    size_bytes: int
    prompt_bytes: int
    route: Route
    key: bytes
    packed: bytes
    answer: Answer
    ticket: Ticket

    @property
    def takes_bytes(self) -> int:
        packed = len(self.packed)
        return _WIDEST * (self.size_bytes + packed) + packed + _REPEAT_BYTES


def named(dialect: ClientDialect, model: str | None, body: bytes) -> Name:
    return dialect, model, len(body), blake2b(body, digest_size=16).digest()


class Repeats:
    """Those that were learned first make room (I4). `lengths` of bodies, and how many have each: what is of another
    length is none of them, which costs nobody anything to find out.
    """

    def __init__(self) -> None:
        self.size_bytes = 0
        self.lengths: dict[int, int] = {}
        self._known: dict[tuple[str, Name], Repeat] = {}

    def find(self, name: Name, principal: Principal, claim: Claim) -> Repeat | None:
        """As it was when they asked so before; never what another did (I21)."""
        known = self._known.get((principal.key_id, name))
        if known is None:
            return None
        # `is`, as they mostly are the same: to compare members takes ten times as long.
        as_before = known.principal is principal or known.principal == principal
        return known if as_before and (known.claim is claim or known.claim == claim) else None

    def learn(self, name: Name, repeat: Repeat) -> None:
        if len(repeat.packed) > SHORT_BYTES:
            return
        key, length = (repeat.principal.key_id, name), name[2]
        self._forget(key)
        self._known[key] = repeat
        self.lengths[length] = self.lengths.get(length, 0) + 1
        self.size_bytes += repeat.takes_bytes
        while self.size_bytes > MOST_BYTES:
            self._forget(next(iter(self._known)))

    def forget(self, name: Name, principal: Principal) -> None:
        self._forget((principal.key_id, name))

    def _forget(self, key: tuple[str, Name]) -> None:
        if (known := self._known.pop(key, None)) is None:
            return
        self.size_bytes -= known.takes_bytes
        length = key[1][2]
        self.lengths[length] -= 1
        if not self.lengths[length]:
            del self.lengths[length]
