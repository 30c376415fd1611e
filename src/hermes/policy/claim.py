"""What a request says in its head of its own urgency, its class and by when it is of use; and of which session it is.

Ours are `x-hermes-class` and `x-hermes-deadline-ms`, taken strictly, and `x-hermes-session`. The others come from
clients that do not know us: `x-app: cli-bg` from Claude Code's background calls, `x-request-timeout` and the SDKs' own
timeouts in seconds (`x-stainless-read-timeout` of the Python SDKs, `x-stainless-timeout` of the Node SDKs); what makes
no sense there is as if it were not said. And whether it may be answered with what was, or is being, said to another:
`cache-control`, `idempotency-key`, and that it is another try of what was asked before (`x-stainless-retry-count`).
"""

from collections.abc import Mapping
from math import inf

from msgspec import Struct

from hermes.errors import BadRequest
from hermes.policy import cache
from hermes.principal import CLASS_NAMES, Class, Principal

_CLASSES = {CLASS_NAMES[each].encode("ascii"): each for each in Class}
_MAX_S = 86400.0
# As Stripe's, who came up with it.
MAX_ONCE_BYTES = 255
# The first that is there: ours, Claude Code's, opencode's, and those that many send.
_SESSIONS = (
    b"x-hermes-session",
    b"x-claude-code-session-id",
    b"x-session-affinity",
    b"x-session-id",
    b"x-litellm-session-id",
    b"x-conversation-id",
)


class Reuse(Struct, frozen=True):
    """How a request stands to others like it. `once`: its idempotency key; `again`: it is not the first try."""

    terms: cache.Terms = cache.ANY_AGE
    once: bytes = b""
    again: bool = False


NO_REUSE = Reuse()


class Claim(Struct, frozen=True):
    """`within_s` bounds the time from arrival, `whole_within_s` only that of a whole answer.

    `urgency` holds against whatever the body says, `background` only where nothing else is said. `session` is the
    client's own name for what belongs together. `reuse`: None where nothing is said of it.
    """

    urgency: Class | None = None
    background: bool = False
    within_s: float = inf
    whole_within_s: float = inf
    session: bytes = b""
    reuse: Reuse | None = None


NO_CLAIM = Claim()
# OpenAI's service tiers; others say nothing.
_TIERS = {"priority": Class.INTERACTIVE, "default": Class.NORMAL, "auto": Class.NORMAL, "flex": Class.BATCH}


def urgency(claim: Claim, service_tier: str, principal: Principal, highest: Class) -> Class:
    """The class of a request: what it asks for, else what is usual; never above the key's ceiling or the model's."""
    asked = principal.usual
    if claim is not NO_CLAIM or service_tier:
        if claim.urgency is not None:
            asked = claim.urgency
        elif service_tier in _TIERS:
            asked = _TIERS[service_tier]
        elif claim.background:
            asked = Class.NORMAL
        asked = max(asked, principal.ceiling)
    return max(asked, highest)


def read(headers: Mapping[bytes, bytes]) -> Claim:
    """Raises BadRequest for a header of ours that cannot be understood."""
    claim = Claim(
        _urgency(headers),
        headers.get(b"x-app") == b"cli-bg",
        min(_deadline_s(headers), _seconds(headers.get(b"x-request-timeout"))),
        min(map(_seconds, (headers.get(b"x-stainless-read-timeout"), headers.get(b"x-stainless-timeout")))),
        next(filter(None, map(headers.get, _SESSIONS)), b""),
        _reuse(headers),
    )
    return NO_CLAIM if claim == NO_CLAIM else claim


def _reuse(headers: Mapping[bytes, bytes]) -> Reuse | None:
    once, tries = headers.get(b"idempotency-key", b""), headers.get(b"x-stainless-retry-count", b"")
    if len(once) > MAX_ONCE_BYTES:
        raise BadRequest(
            f"the header idempotency-key is longer than {MAX_ONCE_BYTES} characters", param="idempotency-key"
        )
    reuse = Reuse(cache.terms(headers) or cache.ANY_AGE, once, tries.isdigit() and tries.strip(b"0") != b"")
    return None if reuse == NO_REUSE else reuse


def _urgency(headers: Mapping[bytes, bytes]) -> Class | None:
    if (said := headers.get(b"x-hermes-class")) is None:
        return None
    if (urgency := _CLASSES.get(said.lower())) is None:
        raise BadRequest("the header x-hermes-class must be interactive, normal or batch", param="x-hermes-class")
    return urgency


def _deadline_s(headers: Mapping[bytes, bytes]) -> float:
    if (said := headers.get(b"x-hermes-deadline-ms")) is None:
        return inf
    if not (len(said) <= 8 and said.isdigit() and 0 < int(said) <= _MAX_S * 1000):
        raise BadRequest(
            "the header x-hermes-deadline-ms must be a whole number of milliseconds from now, above 0, at most a day",
            param="x-hermes-deadline-ms",
        )
    return int(said) / 1000


def _seconds(said: bytes | None) -> float:
    try:
        seconds = float(said or b"")
    except ValueError:  # `not-given`, or nothing
        return inf
    return seconds if 0 < seconds <= _MAX_S else inf
