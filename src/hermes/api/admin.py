"""The operators' own routes, on a listener of their own: keys, and how Hermes is (invariant I24)."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec

from hermes.api.ops import Ops
from hermes.api.routes import Call, Handler, Route
from hermes.dialects import ClientDialect
from hermes.dialects.strict import parse_object
from hermes.keyring import Keyring
from hermes.keyring.words import ASKED
from hermes.principal import Principal

_json = msgspec.json.Encoder().encode

Operation = Callable[[str, dict[str, Any], Principal], Awaitable[dict[str, Any]]]
"""What the path names, what the body says, who asks; what is answered."""


def routes(
    keyring: Keyring, ops: Ops, dialect: ClientDialect, metrics: bool, restart: Callable[[], Awaitable[int]]
) -> Iterable[Route]:
    """`restart` has another process go on, and tells its pid."""

    async def go_on(call: Call) -> None:
        call.reply(_json({"pid": await restart()}))

    yield Route("GET", "/admin/keys", "admin", dialect, _answer(keyring.list))
    yield Route("POST", "/admin/keys", "admin", dialect, _answer(keyring.create, 201))
    yield Route("GET", "/admin/keys/{key}", "admin", dialect, _answer(keyring.show))
    yield Route("PATCH", "/admin/keys/{key}", "admin", dialect, _answer(keyring.update))
    yield Route("DELETE", "/admin/keys/{key}", "admin", dialect, _answer(keyring.revoke))
    yield Route("POST", "/admin/keys/{key}/rotate", "admin", dialect, _answer(keyring.rotate))
    yield Route("POST", "/admin/reload", "admin", dialect, ops.reload)
    yield Route("POST", "/admin/restart", "admin", dialect, go_on)
    if metrics:
        yield Route("GET", "/metrics", "metrics", dialect, ops.scrape, quiet=True)
    for path in ("/v1/health", "/health", "/livez"):
        yield Route("GET", path, "open", dialect, ops.alive, quiet=True)
    yield Route("GET", "/readyz", "open", dialect, ops.ready, quiet=True)


def _answer(operation: Operation, status: int = 200) -> Handler:
    async def handle(call: Call) -> None:
        asked = parse_object(call.request.take_body() or b"{}", ASKED)
        call.reply(_json(await operation(call.named or "", asked, call.principal)), status)

    return handle
