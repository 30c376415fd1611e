"""What is left of the limits on requests and on tokens, as header lines: OpenAI's, and Anthropic's."""

from datetime import UTC, datetime
from functools import lru_cache
from math import ceil

from hermes.principal import Quota

_REQUESTS, _TOKENS = (
    b"x-ratelimit-limit-%b: %%d\r\nx-ratelimit-remaining-%b: %%d\r\nx-ratelimit-reset-%b: %%b\r\n" % ((kind,) * 3)
    for kind in (b"requests", b"tokens")
)
_ANTHROPIC = (
    b"anthropic-ratelimit-%b-limit: %d\r\nanthropic-ratelimit-%b-remaining: %d\r\nanthropic-ratelimit-%b-reset: %b\r\n"
)


def openai_lines(requests: Quota | None, tokens: Quota | None, unix: float) -> bytes:
    lines = b""
    if requests is not None:
        lines = _REQUESTS % (requests.most, requests.remaining, _duration(requests.reset_s))
    if tokens is not None:
        lines += _TOKENS % (tokens.most, tokens.remaining, _duration(tokens.reset_s))
    return lines


def anthropic_lines(requests: Quota | None, tokens: Quota | None, unix: float) -> bytes:
    return b"".join(
        _ANTHROPIC % (kind, quota.most, kind, quota.remaining, kind, _instant(unix + quota.reset_s))
        for kind, quota in ((b"requests", requests), (b"tokens", tokens))
        if quota is not None
    )


def _duration(seconds: float) -> bytes:
    """As Go writes it: 6m0s, 1s, 20ms."""
    return _written(ceil(seconds * 1000) if seconds < 1 else ceil(seconds) * 1000)


@lru_cache(maxsize=2048)
def _written(ms: int) -> bytes:
    if ms < 1000:
        return b"%dms" % ms
    whole = ms // 1000
    return b"%ds" % whole if whole < 60 else b"%dm%ds" % (whole // 60, whole % 60)


def _instant(unix: float) -> bytes:
    """RFC 3339, of whole seconds."""
    return f"{datetime.fromtimestamp(ceil(unix), UTC):%Y-%m-%dT%H:%M:%SZ}".encode("ascii")
