"""Faults on demand: which there are, how they are asked for, and which befalls a request.

Asked for by the header `x-simulate-fault: cut;after=3`, by `[[fault:cut after=3]]` in a prompt (a gateway forwards no
client headers), or by chance, from a seed.
"""

import random
import re
from collections.abc import Mapping

from msgspec import Struct

from hermes.errors import ConfigError

# What each does; docs/simulator.md says the same, and is checked against this.
KINDS = {
    "busy": "answers 503 as a full queue does",
    "html": "answers with an HTML page, `status` 200 unless said",
    "slow-load": "a load takes `for` seconds longer",
    "load-fail": "the load, if one is needed, fails: 500",
    "stall": "sends nothing more for `for` seconds, or for ever",
    "hang": "the model's process hangs for `for` seconds, or for ever, with all its requests; lists are answered",
    "cut": "closes the connection in the middle of the answer",
    "reset": "resets the connection (RST)",
    "error-line": "reports an error, and ends",
    "crash": "the model's process dies, with all its requests",
    "garbage": "sends a line that is no JSON, and goes on",
    "long-line": "sends one line of `bytes` (2 MiB), and goes on",
    "drip": "sends every line in small pieces",
    "repeat-abort": "repeats one token, then ends without done: true",
    "endless": "never stops generating",
    "wrong-usage": "ends twice, with a negative and a huge token count",
}
# The others strike before the answer begins, or change what the model says.
_WITHIN = frozenset(("stall", "cut", "reset", "error-line", "crash", "garbage", "long-line", "drip", "repeat-abort"))

_ASKED = re.compile(r"\[\[fault:([a-z-]+)([^\[\]]*)\]\]")
_TAG = re.compile(r"\[\[tag:([^\[\]]{1,100})\]\]")
_SHARE = re.compile(r"(\d+(?:\.\d+)?)(%?)")
_ARGUMENT = re.compile(r"(after|for|status|bytes)=[0-9.]+")


class Fault(Struct, frozen=True):
    """`after`: how many chunks are sent first; 0 strikes before the first byte of the answer."""

    kind: str
    after: int = 3
    for_s: float = float("inf")
    status: int = 200
    size_bytes: int = 2 * 1024 * 1024

    @property
    def strikes_within(self) -> bool:
        """On the way out, once `after` chunks have been sent."""
        return self.kind in _WITHIN


def parse_fault(text: str) -> Fault:
    """From `kind`, `kind;after=3;for=2` or `kind after=3`. Raises ConfigError that lists what there is."""
    kind, _, arguments = text.strip().replace(";", " ").replace(",", " ").partition(" ")
    if kind not in KINDS:
        raise ConfigError(f"there is no fault {kind!r}; there are {', '.join(KINDS)}")
    parts = arguments.split()
    if wrong := next((part for part in parts if not _ARGUMENT.fullmatch(part)), None):
        raise ConfigError(f"fault {kind!r}: {wrong!r} is none of after=N, for=SECONDS, status=N, bytes=N")
    given = dict(part.split("=") for part in parts)
    try:
        return Fault(
            kind,
            after=int(given.get("after", 3)),
            for_s=float(given.get("for", 30 if kind == "slow-load" else "inf")),
            status=int(given.get("status", 200)),
            size_bytes=min(int(given.get("bytes", 2 * 1024 * 1024)), 64 * 1024 * 1024),
        )
    except ValueError as error:
        raise ConfigError(f"fault {text!r}: {error}") from None


def parse_share(text: str) -> tuple[str, float]:
    """A fault and its probability, from `cut=0.05`, `cut=5%` or `cut;after=3=5%`. Raises ConfigError."""
    fault, _, share = text.rpartition("=")
    parse_fault(fault)
    match = _SHARE.fullmatch(share)
    if match is None:
        raise ConfigError(f"fault {text!r}: {share!r} is no probability; write cut=0.05 or cut=5%")
    return fault, float(match[1]) / (100 if match[2] else 1)


def asked_fault(header: str, prompt: str) -> Fault | None:
    """The fault that a request asks for itself; one that is misspelt is a mistake worth an error (ConfigError)."""
    if header:
        return parse_fault(header)
    asked = _ASKED.search(prompt) if "[[fault:" in prompt else None
    return parse_fault(asked[1] + asked[2]) if asked is not None else None


def tag(prompt: str) -> str:
    """What `[[tag:...]]` in a prompt says: it names the request in the records of aborts."""
    found = _TAG.search(prompt) if "[[tag:" in prompt else None
    return found[1] if found is not None else ""


class Chance:
    """Draws the fault of each request. A fault whose `after` is not given strikes after 0 to 10 chunks."""

    def __init__(self, probabilities: Mapping[str, float], seed: int) -> None:
        self._rng = random.Random(seed)  # noqa: S311 - chance that can be repeated
        self._faults = [(parse_fault(text), "after=" in text, share) for text, share in probabilities.items()]
        if sum(probabilities.values()) > 1 or any(share < 0 for share in probabilities.values()):
            raise ConfigError("the probabilities of faults must be 0 to 1, and 1 together at most")

    def draw(self) -> Fault | None:
        if not self._faults:
            return None
        at = self._rng.random()
        for fault, exact, share in self._faults:
            at -= share
            if at < 0:
                after = fault.after if exact else self._rng.randint(0, 10)
                return Fault(fault.kind, after, fault.for_s, fault.status, fault.size_bytes)
        return None
