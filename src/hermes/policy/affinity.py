"""Where a conversation is at home, so that what a backend has read of it need not be read again.

New ones are laid out by consistent hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam, SODA 2018): each has
an order of backends of its own, by weighted rendezvous hashing, the same in every process, and goes to the first of
them that has no more than its share of the conversations, times `SPREAD`. From then on it is at home where it ran last,
whatever the hash says: that is where its prefix is cached.
"""

from collections.abc import Iterable
from hashlib import blake2b
from math import log

from hermes.chat import Message, RichMessage, Text

# Less is more even, and sends more elsewhere after a restart: of 60 on three backends half at 1, a fifth at 1.1, 9 % at
# 1.25.
SPREAD = 1.1
# Conversations; those that were silent for longest are forgotten. Some 100 bytes each, and more than are cached.
REMEMBERED = 4096
# Characters of a message that tell it from others: all of 10 MiB would hold the event loop up for 10 ms (I36).
TOLD_BY = 64 * 1024


class Homes:
    """Of conversations, by their `prefix`: a number that is not 0."""

    __slots__ = ("_conversations", "_homes")

    def __init__(self) -> None:
        self._homes: dict[int, str] = {}
        self._conversations: dict[str, int] = {}  # how many are at home on a backend

    def find(self, prefix: int) -> str:
        """The backend where it ran last; "" if that is not known."""
        return self._homes.get(prefix, "")

    def found(self, prefix: int, weights: dict[str, float]) -> str:
        """Where a new one goes, of these backends by their weights."""
        conversations = {name: self._conversations.get(name, 0) for name in weights}
        allowed = SPREAD * (sum(conversations.values()) + 1) / sum(weights.values())
        fit = [name for name, weight in weights.items() if conversations[name] < allowed * weight]
        return max(fit, key=lambda name: _score(prefix, name, weights[name]))

    def move(self, prefix: int, backend: str) -> None:
        """It runs there now."""
        before = self._homes.pop(prefix, "")
        if not before and len(self._homes) >= REMEMBERED:
            before = self._homes.pop(next(iter(self._homes)))
        if before:
            self._conversations[before] -= 1
        self._homes[prefix] = backend
        self._conversations[backend] = self._conversations.get(backend, 0) + 1


def _score(prefix: int, name: str, weight: float) -> float:
    """The greatest is first with a probability in proportion to its weight."""
    drawn = int.from_bytes(blake2b(b"%d %b" % (prefix, name.encode()), digest_size=6).digest(), "big")
    return -weight / log((drawn + 0.5) / 2**48)


def prefix(model: str, tenant: str, session: bytes, messages: Iterable[Message | RichMessage]) -> int:
    """What stays the same while a conversation grows: by the name that its tenant has given it, if there is one; else
    all that was said up to the first word of its user.
    """
    number = blake2b(model.encode(), digest_size=8)
    if session:
        number.update(b" %b " % tenant.encode())
        number.update(session)
    else:
        for message in messages:
            number.update(_said(message))
            if message.role == "user":
                break
    return int.from_bytes(number.digest(), "big")


def _said(message: Message | RichMessage) -> bytes:
    if type(message) is Message:
        text = message.content
    else:
        # The end of an image tells it from others as well as all of it.
        text = "".join([part.text if isinstance(part, Text) else part.data[-64:] for part in message.parts])
    return text[:TOLD_BY].encode("utf-8", "surrogatepass")
