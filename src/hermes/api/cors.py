"""Which web pages may ask, and read what is answered: the server's side of CORS, as the Fetch standard has it.

One list for both: what comes from an origin that is not on it is refused, and not only kept from being read. With `*`
any page may, but without credentials (the configuration refuses both together): those are its visitor's.
"""

import re
from collections.abc import Iterable

from msgspec.structs import replace

from hermes.api.routes import Call, Route
from hermes.http.request import Head

# What pages may read besides the body. Where there are credentials, `*` would be a name like any other.
_LIMITS = [(what, which) for which in ("requests", "tokens") for what in ("limit", "remaining", "reset")]
EXPOSED = ", ".join(
    (
        "x-request-id, request-id, idempotent-replayed, retry-after, retry-after-ms, x-should-retry, server-timing",
        "x-hermes-backend, x-hermes-cache, x-hermes-eta-ms, x-hermes-loaded, x-hermes-model-served, x-hermes-queue-ms",
        "x-hermes-queue-position",
        *(f"x-ratelimit-{what}-{which}" for what, which in _LIMITS),
        *(f"anthropic-ratelimit-{which}-{what}" for what, which in _LIMITS),
    )
)
_TOKEN = rb"[\w!#$%&'*+.^`|~-]{1,100}"
_are_names = re.compile(rb"%b(?:[ \t]*,[ \t]*%b){0,99}" % (_TOKEN, _TOKEN), re.ASCII).fullmatch


class Cors:
    """`origins`: whole, or `*`; none: no page may ask. `headers`: what pages may send; none: what they ask for."""

    def __init__(
        self, origins: Iterable[str] = (), headers: Iterable[str] = (), credentials: bool = False, max_age_s: float = 0
    ) -> None:
        self._origins = frozenset(origin.lower().encode("ascii") for origin in origins)
        self._any = b"*" in self._origins
        self._headers = ", ".join(headers).encode("ascii")
        more = b"access-control-allow-credentials: true\r\n" if credentials else b""
        self._more = b"access-control-expose-headers: %b\r\n%b" % (EXPOSED.encode("ascii"), more)
        self._max_age = b"access-control-max-age: %d\r\n" % max_age_s

    def admits(self, origin: bytes) -> bool:
        return self._any or origin.lower() in self._origins

    def lines(self, origin: bytes | None) -> bytes:
        """The header lines of every answer to a request from there. Caches must know that others would get others."""
        if self._any:
            return b"access-control-allow-origin: *\r\n" + self._more
        vary = b"vary: origin\r\n" if self._origins else b""
        if origin is None or not self.admits(origin):
            return vary
        return b"access-control-allow-origin: %b\r\n%b%b" % (origin, self._more, vary)

    def asked(self, head: Head) -> str:
        """The method that a preflight asks for; "": it is none."""
        if head.method != "OPTIONS" or not self._origins or b"origin" not in head.headers:
            return ""
        return head.header(b"access-control-request-method")

    def preflight(self, route: Route) -> Route:
        """What answers for a route that is asked about. Browsers send no credentials with it."""
        return replace(route, method="OPTIONS", access="open", handler=self._permit, quiet=True, queues=False)

    async def _permit(self, call: Call) -> None:
        headers = call.request.headers
        names = headers.get(b"access-control-request-headers", b"")
        allowed = self._headers or (names if _are_names(names) else b"")
        lines = b"access-control-allow-methods: %b\r\n" % headers[b"access-control-request-method"]
        if allowed:
            lines += b"access-control-allow-headers: %b\r\n" % allowed
        call.response.send(200, call.exchange.id_line() + self._max_age + lines, b"")
