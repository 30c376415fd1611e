"""What is left of the limits on requests and on tokens, as header lines: OpenAI's, and Anthropic's."""

from datetime import UTC, datetime
from math import ceil

from hermes.principal import Quota

_REQUESTS, _TOKENS = (
    b"x-ratelimit-limit-%b: %%d\r\nx-ratelimit-remaining-%b: %%d\r\nx-ratelimit-reset-%b: %%b\r\n" % ((kind,) * 3)
    for kind in (b"requests", b"tokens")
)
_BOTH = _REQUESTS + _TOKENS
_SECONDS = tuple(b"%ds" % each for each in range(60))
_ANTHROPIC = (
    b"anthropic-ratelimit-%b-limit: %d\r\nanthropic-ratelimit-%b-remaining: %d\r\nanthropic-ratelimit-%b-reset: %b\r\n"
)


def openai_lines(requests: Quota | None, tokens: Quota | None, unix: float) -> bytes:
    if requests is not None and tokens is not None:
        return _BOTH % (
            requests.most,
            requests.remaining,
            _duration(requests.reset_s),
            tokens.most,
            tokens.remaining,
            _duration(tokens.reset_s),
        )
    if requests is not None:
        return _REQUESTS % (requests.most, requests.remaining, _duration(requests.reset_s))
    return b"" if tokens is None else _TOKENS % (tokens.most, tokens.remaining, _duration(tokens.reset_s))


def anthropic_lines(requests: Quota | None, tokens: Quota | None, unix: float) -> bytes:
    return b"".join(
        _ANTHROPIC % (kind, quota.most, kind, quota.remaining, kind, _instant(unix + quota.reset_s))
        for kind, quota in ((b"requests", requests), (b"tokens", tokens))
        if quota is not None
    )


def _duration(seconds: float) -> bytes:
    """As Go writes it: 6m0s, 1s, 20ms."""
    if seconds <= 0.999:
        return b"%dms" % ceil(seconds * 1000)
    whole = ceil(seconds)
    return _SECONDS[whole] if whole < 60 else b"%dm%ds" % divmod(whole, 60)


def _instant(unix: float) -> bytes:
    """RFC 3339, of whole seconds."""
    return f"{datetime.fromtimestamp(ceil(unix), UTC):%Y-%m-%dT%H:%M:%SZ}".encode("ascii")
