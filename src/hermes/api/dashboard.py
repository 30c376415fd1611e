"""The dashboard: a page that holds nothing secret, and asks as anybody may; who asks is found out there."""

from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path

from msgspec.structs import replace

from hermes.api.routes import Call, Handler, Route, content_line
from hermes.dialects import ClientDialect
from hermes.http.wire import render_headers

FILES = Path(__file__).parents[1] / "dashboard"
_TYPES = {
    ".html": b"text/html; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
}
# Nothing but what is beside it, no words of script or style in it, and nobody's frame around it (I22).
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
_LINES = render_headers(
    (
        (b"content-security-policy", POLICY.encode("ascii")),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
        (b"cross-origin-opener-policy", b"same-origin"),
        (b"cross-origin-resource-policy", b"same-origin"),
        (b"cache-control", b"no-cache"),  # kept, and asked about each time: a new version is seen at once
    )
)
# What it asks besides, and what the same view in a terminal does.
ASKS = frozenset(
    (
        "/v1/status",
        "/v1/events",
        "/v1/history",
        "/v1/queue",
        "/v1/queue/{request_id}",
        "/v1/requests",
        "/v1/requests/{request_id}",
        "/v1/usage",
        "/v1/models",
        "/v1/llm/{model}/pull",
        "/v1/llm/{model}/load",
        "/v1/llm/{model}/unload",
        "/v1/chat/completions",
    )
)


def routes(dialect: ClientDialect, every: Iterable[Route]) -> Iterator[Route]:
    """The page, and of all routes those that it asks: for a listener that has no others."""
    yield from _pages(dialect)
    yield Route("GET", "/", "open", dialect, _open, quiet=True)
    yield from (route for route in every if route.path in ASKS)


def beside(dialect: ClientDialect, every: Iterable[Route]) -> Iterator[Route]:
    """All routes, and the page: whoever comes to the root with a browser is led to it."""
    yield from _pages(dialect)
    for route in every:
        yield replace(route, handler=_lead(route.handler)) if route.path == "/" else route


def _pages(dialect: ClientDialect) -> Iterator[Route]:
    yield Route("GET", "/dashboard", "open", dialect, _give(FILES / "index.html"), quiet=True)
    yield Route("GET", "/dashboard/", "open", dialect, _go_there, quiet=True)
    for file in sorted(file for file in FILES.iterdir() if file.suffix in _TYPES):
        yield Route("GET", f"/dashboard/{file.name}", "open", dialect, _give(file), quiet=True)


def _give(file: Path) -> Handler:
    async def give(call: Call) -> None:
        body = file.read_bytes()  # noqa: ASYNC240 - some KiB, seldom: neither a thread nor memory is worth it
        tag = b'"%b"' % sha256(body).hexdigest()[:32].encode("ascii")
        lines = b"%b%betag: %b\r\n" % (_LINES, call.exchange.id_line(), tag)
        if call.request.headers.get(b"if-none-match") == tag:
            call.response.not_modified(lines)
        else:
            call.response.send(200, content_line(_TYPES[file.suffix]) + lines, body)

    return give


def _lead(otherwise: Handler) -> Handler:
    """Browsers say that they would like HTML best; what else asks at the root says so seldom, and not for that."""

    async def lead(call: Call) -> None:
        await (_open if b"text/html" in call.request.headers.get(b"accept", b"") else otherwise)(call)

    return lead


async def _open(call: Call) -> None:
    call.response.send(302, b"location: ./dashboard\r\nvary: accept\r\n" + call.exchange.id_line(), b"")


async def _go_there(call: Call) -> None:
    """Whatever stands before it in the URL, the page finds its files and routes from there."""
    call.response.send(308, b"location: ../dashboard\r\n" + call.exchange.id_line(), b"")
