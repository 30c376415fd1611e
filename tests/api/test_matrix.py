"""Who may do what: every route that there is, asked by everybody in every way (I16, I17, I19, I21, I24).

Nothing here names a route. The routes come from the tables of whatever listens, and the answer that a cell must have
from rules about who asks. What a handler would do is nobody's question here, so that the handlers are taken out: who is
let in is told LET_IN. Only where a path names a request the real ones answer, since whose that is they find out.
"""

import asyncio
import gc
import socket
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import cast

from msgspec import Struct
from msgspec.structs import replace

from hermes.api.app import Api
from hermes.api.routes import Call, Route, RouteTable
from hermes.config import Config
from hermes.http.server import Server
from tests.fakes.backend import FakeOllama, Then, ollama, play
from tests.fakes.gateway import CHAT, Hermes, bearer, chat, hermes, key, request_bytes, scenario
from tests.http.peers import Peer
from tests.support import until

LET_IN = 299  # nobody else answers so
HELD = "held-1"  # a request of ann's, which goes on for ever
HOLDING = "/hold"  # where it is made
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")


def basic(text: str) -> dict[str, str]:
    return {"authorization": f"Basic {b64encode(text.encode()).decode()}"}


FORMS: dict[str, Callable[[str], dict[str, str]]] = {
    "bearer": lambda key: {"authorization": f"Bearer {key}"},
    "x-api-key": lambda key: {"x-api-key": key},
    "api-key": lambda key: {"api-key": key},
    "basic, as password": lambda key: basic(f"anybody:{key}"),
    "basic, as user": lambda key: basic(f"{key}:"),
}
# Who asks, and on routes of which access they may. All else is nobody.
RIGHTS = {
    "ann": {"user"},
    "bob": {"user"},
    "prom": {"user", "metrics"},
    "ops": {"user", "metrics", "admin"},
}
NOBODIES = ("", "wrong", "expired", "revoked")
TWO = "two"  # ann's key, and bob's beside it
KEYS = [
    key("ann"),
    key("bob"),
    key("prom", metrics=True),
    key("ops", admin=True),
    key("expired", admin=True, expires="2026-01-31"),
    key("revoked", admin=True),
]


def revoke(gateway: Hermes, user: str) -> None:
    """A key that was good until now."""
    del gateway.runtime.api.authenticator._keys[sha256(f"sk-{user}".encode()).digest()]


def headers(who: str, form: str) -> dict[str, str]:
    if who != TWO:
        return FORMS[form](f"sk-{who}" if who else "")
    other = "x-api-key" if form != "x-api-key" else "bearer"
    return FORMS[form]("sk-ann") | FORMS[other]("sk-bob")


# --- what listens -----------------------------------------------------------------------------------------------------


class Door(Struct, eq=False):
    """A listener. `owners`: a socket that only the process's own user may open, who is the operator there."""

    server: Server
    table: RouteTable
    owners: bool


def doors(gateway: Hermes) -> Iterator[Door]:
    """Every listener of this gateway, whoever keeps it."""
    for server in [each for each in gc.get_objects() if isinstance(each, Server)]:
        app = server.app
        if isinstance(app, Api) and app.journal is gateway.runtime.journal and server._listeners:
            unix = server._listeners[0].sockets[0].family == socket.AF_UNIX
            yield Door(server, app.table, unix and server is not gateway.runtime.server)


@asynccontextmanager
async def connected(door: Door) -> AsyncIterator[Peer]:
    listener = door.server._listeners[0].sockets[0]
    with socket.socket(listener.family) as sock:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, listener.getsockname())
        yield Peer(sock)


async def ask(peer: Peer, method: str, path: str, sent: dict[str, str]) -> int:
    await peer.send(request_bytes(method, path, b"" if method == "POST" else None, sent))
    return (await peer.answer(method)).status


# --- the cells --------------------------------------------------------------------------------------------------------


def named(route: Route, request_id: str) -> str:
    """A path on this route."""
    before, _, rest = route.path.partition("{")
    what, closed, after = rest.partition("}")
    return before + (request_id if what == "request_id" else "gemma" if closed else "") + after


def known(route: Route) -> tuple[str, ...]:
    return (route.method, "HEAD") if route.method == "GET" else (route.method,)


def unknown(route: Route, table: RouteTable) -> str:
    there = {method for each in table.routes if each.path == route.path for method in known(each)}
    return next(method for method in reversed(METHODS) if method not in there)


def expected(door: Door, route: Route, method: str, who: str, found: dict[tuple[str, str, bool], int]) -> int:
    """`found`: what whoever may do all gets, for a request that there is and for one that there is not."""
    if method not in known(route):
        return 405
    if route.access != "open" and not door.owners:
        if who == TWO:
            return 400
        if who in NOBODIES:
            return 401
        if route.access not in RIGHTS[who]:
            return 403
    if "{request_id}" not in route.path:
        return LET_IN
    return found[method, route.path, who in ("ann", "ops") or door.owners]


@asynccontextmanager
async def handlerless(backend: FakeOllama) -> AsyncIterator[tuple[Hermes, list[Door], list[str]]]:
    """A gateway without handlers, its doors, and the routes on which somebody would have come to one."""
    reached: list[str] = []

    async def let_in(call: Call) -> None:
        reached.append(call.exchange.route)
        call.reply(b"{}", LET_IN)

    # With the listener for operators, where there is one.
    sections = {"admin": {"port": 0}} if "admin" in Config.__struct_fields__ else {}
    async with hermes(backend, keys=KEYS, **sections) as gateway:
        found = list(doors(gateway))
        for door in found:
            routes = [
                each if "{request_id}" in each.path else replace(each, handler=let_in) for each in door.table.routes
            ]
            asking = [replace(each, path=HOLDING) for each in door.table.routes if each.path == CHAT]
            cast(Api, door.server.app).table = RouteTable([*routes, *asking])
        yield gateway, found, reached


async def hold(gateway: Hermes, path: str, sent: dict[str, str]) -> None:
    """See to it that the request that is asked about is there."""

    def there() -> bool:
        return any(each.request_id == HELD and each.ticket for each in gateway.runtime.journal.exchanges)

    if not there():
        await gateway.open(path, chat(), {**sent, "x-request-id": HELD})
        await until(there)


async def what_is_found(backend: FakeOllama) -> dict[tuple[str, str, bool], int]:
    """Where nobody needs a key: what is answered about a request that there is, and about one that there is not."""
    found = {}
    async with hermes(backend) as gateway:
        for route in gateway.runtime.api.table.routes:
            for method in known(route) if "{request_id}" in route.path else ():
                for there, request_id in ((True, HELD), (False, "nobodys")):
                    await hold(gateway, CHAT, {})
                    found[method, route.path, there] = (
                        await gateway.ask(named(route, request_id), None, {}, method)
                    ).status
    return found


@scenario
async def test_every_cell_of_the_matrix_is_as_the_rules_have_it() -> None:
    cells = let_in = 0
    async with ollama() as backend:
        backend.default = play("Hel", then=Then.STALL)
        found = await what_is_found(backend)
        async with handlerless(backend) as (gateway, listening, reached):
            revoke(gateway, "revoked")
            for door in listening:
                async with connected(door) as peer:
                    for route in door.table.routes:
                        for method in (*known(route), unknown(route, door.table)):
                            for who in (*NOBODIES, TWO, *RIGHTS):
                                for form in FORMS:
                                    if "{request_id}" in route.path:
                                        await hold(gateway, HOLDING, bearer("ann"))
                                    status = await ask(peer, method, named(route, HELD), headers(who, form))
                                    must_be = expected(door, route, method, who, found)
                                    assert status == must_be, (method, route.path, who, form)
                                    cells += 1
                                    let_in += must_be == LET_IN
                                    assert len(reached) == let_in, "a handler was reached by who was refused"
    assert {200, 404} <= set(found.values()), "a request can be found, and not be found"
    assert cells > 3000
    print(f"{cells} cells, {let_in} let in")
