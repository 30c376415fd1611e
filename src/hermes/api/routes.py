"""The route table: the only paths there are, and who may use each (invariant I16)."""

import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Literal
from urllib.parse import unquote_to_bytes

from msgspec import Struct

from hermes.dialects import ClientDialect
from hermes.errors import BadRequest, MethodNotAllowed, RouteNotFound
from hermes.exchange import Exchange
from hermes.http.request import Request
from hermes.http.response import Response
from hermes.policy.claim import NO_CLAIM, Claim
from hermes.policy.routing import check_model_name
from hermes.principal import Principal

Access = Literal["open", "user", "metrics", "admin"]


class Call(Struct):
    """One request on its route. `named` is what the path names, a model, a request, a backend or a key, or None."""

    request: Request
    response: Response
    exchange: Exchange
    principal: Principal
    named: str | None
    claim: Claim = NO_CLAIM

    @property
    def model(self) -> str | None:
        return self.named

    def query(self, name: str) -> str | None:
        """What the query says of this. Raises BadRequest where that is said twice."""
        said = self.request.head.query_values(name)
        if len(said) > 1:
            raise BadRequest(f"`{name}` is said more than once", param=name)
        return said[0] if said else None

    def reply(self, body: bytes, status: int = 200, content_type: bytes = b"application/json") -> None:
        """Answer whole, with the request's id."""
        self.response.send(status, content_line(content_type) + self.exchange.id_line(), body)


_PLACEHOLDER = re.compile(rb"(\{\w+\})")

Handler = Callable[[Call], Awaitable[None]]


class Route(Struct, frozen=True):
    """`path` may hold one `{model}`, `{request_id}`, `{backend}`, `{key}` or `{digest}`: any number of segments.

    `quiet` routes are not logged when well. Requests of those that `queues` may say how urgent they are. `also_id` is
    another header in which their clients look for the request's id.
    """

    method: str
    path: str
    access: Access
    dialect: ClientDialect
    handler: Handler
    quiet: bool = False
    queues: bool = False
    also_id: bytes = b""


class Match(Struct, frozen=True):
    route: Route
    named: str | None


class RouteTable:
    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = tuple(routes)
        self._exact: dict[bytes, dict[str, Route]] = {}
        self._around: dict[tuple[bytes, bytes, bytes], dict[str, Route]] = {}
        for route in self.routes:
            before, placeholder, after = (*_PLACEHOLDER.split(route.path.encode("ascii")), b"", b"")[:3]
            around = before, placeholder, after
            methods = self._around.setdefault(around, {}) if placeholder else self._exact.setdefault(before, {})
            methods[route.method] = route
        self._matches = {
            (path, method): Match(route, None)
            for path, methods in self._exact.items()
            for method, route in methods.items()
        }
        # The longest suffix first: `/v1/llm/{model}/pull` before `/v1/llm/{model}`.
        self._around = dict(sorted(self._around.items(), key=lambda item: -len(item[0][2])))

    def match(self, method: str, path: bytes) -> Match:
        """The route of a raw path. Raises RouteNotFound, MethodNotAllowed, or BadRequest for a bad model name."""
        match = self._matches.get((path, method))
        if match is not None:
            return match
        methods = self._exact.get(path)
        if methods is not None:
            return Match(_of_method(methods, method), None)
        for (before, placeholder, after), methods in self._around.items():
            if path.startswith(before) and path.endswith(after) and len(path) > len(before) + len(after):
                named = path[len(before) : len(path) - len(after)]
                return Match(_of_method(methods, method), _NAMES[placeholder](named))
        ollamas = "; what changes Ollama's models is turned on by server.ollama_management"
        more = ollamas if path.startswith(b"/api/") else ""
        raise RouteNotFound(f"there is nothing at this path; the API is under /v1 (docs/api.md lists it){more}")


def _of_method(methods: dict[str, Route], method: str) -> Route:
    route = methods.get(method) or (methods.get("GET") if method == "HEAD" else None)
    if route is None:
        allowed = sorted({*methods, "HEAD"} if "GET" in methods else methods)
        allow = ", ".join(allowed)
        raise MethodNotAllowed(f"use {allow} here", headers=((b"allow", allow.encode("ascii")),))
    return route


def _model_name(named: bytes) -> str:
    """Percent-decoded exactly once (I16)."""
    name = check_model_name(_plain_name(named))
    if name.endswith("/"):
        raise BadRequest(f"the model name {name!r} ends in a slash; leave it out", param="model")
    return name


def _plain_name(named: bytes) -> str:
    return unquote_to_bytes(named).decode(errors="replace")


def _digest(named: bytes) -> str:
    if not _is_digest(named):
        raise BadRequest("a digest is sha256: and 64 hex digits", param="digest")
    return named.decode("ascii")


_is_digest = re.compile(rb"sha256[:-][0-9a-f]{64}").fullmatch
_NAMES = {
    b"{model}": _model_name,
    b"{request_id}": _plain_name,
    b"{backend}": _plain_name,
    b"{key}": _plain_name,
    b"{digest}": _digest,
}


def content_line(content_type: bytes) -> bytes:
    return b"content-type: %b\r\n" % content_type
