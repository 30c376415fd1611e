"""What is left of the limits on requests and on tokens, as header lines: OpenAI's, and Anthropic's."""

from datetime import UTC, datetime
from math import ceil

from hermes.principal import Quota

_OPENAI = b"x-ratelimit-limit-%b: %d\r\nx-ratelimit-remaining-%b: %d\r\nx-ratelimit-reset-%b: %b\r\n"
_ANTHROPIC = (
    b"anthropic-ratelimit-%b-limit: %d\r\nanthropic-ratelimit-%b-remaining: %d\r\nanthropic-ratelimit-%b-reset: %b\r\n"
)


def openai_lines(requests: Quota | None, tokens: Quota | None, unix: float) -> bytes:
    return b"".join(
        _OPENAI % (kind, quota.most, kind, quota.remaining, kind, _duration(quota.reset_s))
        for kind, quota in ((b"requests", requests), (b"tokens", tokens))
        if quota is not None
    )


def anthropic_lines(requests: Quota | None, tokens: Quota | None, unix: float) -> bytes:
    return b"".join(
        _ANTHROPIC % (kind, quota.most, kind, quota.remaining, kind, _instant(unix + quota.reset_s))
        for kind, quota in ((b"requests", requests), (b"tokens", tokens))
        if quota is not None
    )


def _duration(seconds: float) -> bytes:
    """As Go writes it: 6m0s, 1.5s, 20ms."""
    thousandths = ceil(seconds * 1000)
    if thousandths < 1000:
        return b"%dms" % thousandths
    minutes, rest = divmod(thousandths, 60_000)
    text = b"%bs" % f"{rest / 1000:g}".encode("ascii")
    return b"%dm%b" % (minutes, text) if minutes else text


def _instant(unix: float) -> bytes:
    """RFC 3339, of whole seconds."""
    return f"{datetime.fromtimestamp(ceil(unix), UTC):%Y-%m-%dT%H:%M:%SZ}".encode("ascii")
