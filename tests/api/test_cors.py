"""Web pages: whose may ask, and read the answers (I22)."""

from pathlib import Path

import pytest

from hermes.api.cors import EXPOSED
from tests.fakes.backend import fail, ollama, play
from tests.fakes.gateway import CHAT, PROMPT, STREAMS, WHOLE, bearer, chat, hermes, key, prompt, scenario

PAGE = "https://ok.example"
CORS = {"cors": {"origins": [PAGE, "app://obsidian.md"]}}


def allowed(headers: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.startswith("access-control-") or name == "vary"}


def preflight(method: str = "POST", origin: str = PAGE, headers: str = "authorization, content-type") -> dict[str, str]:
    asks = {"access-control-request-headers": headers} if headers else {}
    return {"origin": origin, "access-control-request-method": method, **asks}


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:3000", "https://ok.example:444"])
@pytest.mark.parametrize("server", [CORS, {}], ids=["on", "off"])
@scenario
async def test_a_page_is_refused_unless_its_origin_is_listed(origin: str, server: dict[str, object]) -> None:
    async with ollama() as backend, hermes(backend, server=server) as gateway:
        # What a page may send without asking first: a simple request with a text body.
        reply = await gateway.ask(PROMPT, prompt(), {"origin": origin, "content-type": "text/plain"})
        assert (reply.status, reply.error["code"]) == (403, "origin_not_allowed")
        assert (await gateway.record()).outcome == "denied"
        assert not backend.asked
        for asked in (reply, await gateway.ask(PROMPT, None, preflight(origin=origin), "OPTIONS")):
            assert asked.status == 403
            assert allowed(asked.headers) == ({"vary": "origin"} if server else {})


@pytest.mark.parametrize(("path", "body"), [*WHOLE, *STREAMS])
@scenario
async def test_a_listed_page_reads_every_answer(path: str, body: dict[str, object]) -> None:
    async with ollama() as backend, hermes(backend, server=CORS, keys=[key("ann")]) as gateway:
        for headers, status in ((bearer("ann"), 200), (bearer("nobody"), 401), ({}, 401)):
            reply = await gateway.ask(path, body, {"origin": PAGE, **headers})
            assert reply.status == status
            assert allowed(reply.headers) == {
                "access-control-allow-origin": PAGE,
                "access-control-expose-headers": EXPOSED,
                "vary": "origin",
            }
            told = {
                name for name in reply.headers if name.startswith(("x-", "retry", "server-t")) or "request-id" in name
            }
            assert told - {"x-accel-buffering"} <= set(EXPOSED.split(", "))


@scenario
async def test_a_page_reads_whatever_an_answer_that_is_given_again_says_of_itself(tmp_path: Path) -> None:
    server = {**CORS, "state_dir": str(tmp_path)}
    ours = {"x-hermes-cache", "x-ratelimit-remaining-requests", "idempotent-replayed"}
    sections = {"keys": [key("ann", rpm=9, tpm=999)], "defaults": {"cache": True}}
    async with ollama() as backend, hermes(backend, server=server, **sections) as gateway:
        seen: set[str] = set()
        for more in ({}, {}, {"idempotency-key": "x"}, {"idempotency-key": "x"}):
            reply = await gateway.ask(CHAT, chat(temperature=0), {"origin": PAGE, **bearer("ann"), **more})
            seen |= {name for name in reply.headers if name.startswith(("x-hermes", "x-ratelimit", "idempotent"))}
        assert ours <= seen <= set(EXPOSED.split(", "))


@scenario
async def test_a_stream_that_fails_and_a_path_that_is_none_are_read_too() -> None:
    async with ollama() as backend, hermes(backend, server=CORS) as gateway:
        backend.scripts += [play("Hel", {"error": "CUDA error"}), *[fail(500, "CUDA error")] * 3]
        for asked in [(PROMPT, prompt(stream=True)), (PROMPT, prompt()), ("/v1/nowhere",), (CHAT, b"{"), (CHAT,)]:
            reply = await gateway.ask(asked[0], *asked[1:], headers={"origin": PAGE})
            assert reply.headers["access-control-allow-origin"] == PAGE, asked


@scenario
async def test_a_preflight_is_answered_without_a_key_for_routes_that_there_are() -> None:
    async with ollama() as backend, hermes(backend, server=CORS, keys=[key("ann")]) as gateway:
        reply = await gateway.ask(CHAT, None, preflight(), "OPTIONS")
        assert (reply.status, reply.body) == (200, b"")
        assert allowed(reply.headers) == {
            "access-control-allow-origin": PAGE,
            "access-control-allow-methods": "POST",
            "access-control-allow-headers": "authorization, content-type",
            "access-control-expose-headers": EXPOSED,
            "access-control-max-age": "600",
            "vary": "origin",
        }
        table = gateway.runtime.api.table
        for route in table.routes:
            path = route.path.replace("{", "").replace("}", "")
            asked = await gateway.ask(path, None, preflight(route.method, headers=""), "OPTIONS")
            assert (asked.status, asked.headers["access-control-allow-methods"]) == (200, route.method)
            assert "access-control-allow-headers" not in asked.headers
        assert (await gateway.ask("/v1/nowhere", None, preflight(), "OPTIONS")).status == 404
        assert (await gateway.ask(CHAT, None, preflight("GET"), "OPTIONS")).status == 405
        assert not backend.asked


@pytest.mark.parametrize(
    "headers",
    [{}, {"origin": PAGE}, {"access-control-request-method": "POST"}],
)
@scenario
async def test_options_is_no_method_here_but_for_preflights(headers: dict[str, str]) -> None:
    async with ollama() as backend, hermes(backend, server=CORS) as gateway:
        assert (await gateway.ask(CHAT, None, headers, "OPTIONS")).status == 405


@scenario
async def test_without_cors_no_answer_says_a_word_of_it() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        assert allowed((await gateway.ask(PROMPT, prompt())).headers) == {}
        assert (await gateway.ask(CHAT, None, {"access-control-request-method": "POST"}, "OPTIONS")).status == 405


@scenario
async def test_who_is_no_page_is_told_only_that_pages_would_get_other_heads() -> None:
    async with ollama() as backend, hermes(backend, server=CORS) as gateway:
        assert allowed((await gateway.ask(PROMPT, prompt())).headers) == {"vary": "origin"}


@pytest.mark.parametrize("names", ["a b", "a,,b", "a: b", ",", "x" * 101, ", ".join(["a"] * 101)])
@scenario
async def test_names_of_headers_that_are_none_are_not_said_back(names: str) -> None:
    async with ollama() as backend, hermes(backend, server=CORS) as gateway:
        reply = await gateway.ask(CHAT, None, preflight(headers=names), "OPTIONS")
        assert reply.status == 200 and "access-control-allow-headers" not in reply.headers


@scenario
async def test_headers_credentials_and_age_are_as_configured() -> None:
    cors = {"origins": [PAGE], "headers": ["authorization", "x-mine"], "credentials": True, "max_age_s": 60}
    async with ollama() as backend, hermes(backend, server={"cors": cors}) as gateway:
        reply = await gateway.ask(CHAT, None, preflight(headers="x-other"), "OPTIONS")
        assert reply.headers["access-control-allow-headers"] == "authorization, x-mine"
        assert reply.headers["access-control-max-age"] == "60"
        for told in (reply, await gateway.ask(PROMPT, prompt(), {"origin": PAGE})):
            assert told.headers["access-control-allow-credentials"] == "true"
            assert told.headers["access-control-allow-origin"] == PAGE


@scenario
async def test_any_page_may_where_the_operator_says_so_but_never_with_credentials() -> None:
    server = {"cors": {"origins": ["*"]}}
    async with ollama() as backend, hermes(backend, server=server, keys=[key("ann")]) as gateway:
        for origin in ("https://any.example", "null"):
            reply = await gateway.ask(PROMPT, prompt(), {"origin": origin, **bearer("ann")})
            assert (reply.status, reply.headers["access-control-allow-origin"]) == (200, "*")
            assert "access-control-allow-credentials" not in reply.headers


@scenario
async def test_an_origin_is_good_in_any_case_and_said_back_as_it_came() -> None:
    async with ollama() as backend, hermes(backend, server=CORS) as gateway:
        reply = await gateway.ask(PROMPT, prompt(), {"origin": "https://OK.example"})
        assert (reply.status, reply.headers["access-control-allow-origin"]) == (200, "https://OK.example")


@scenario
async def test_the_same_head_with_and_without_an_origin_are_two() -> None:
    """Heads that come again are remembered, with what was concluded from them."""
    async with ollama() as backend, hermes(backend, server=CORS) as gateway:
        peer = await gateway.connect()
        for _ in range(3):
            for headers in ({"origin": PAGE}, {}):
                reply = await gateway.ask(PROMPT, prompt(), headers, on=peer)
                assert ("access-control-allow-origin" in reply.headers) == bool(headers)
        assert len(backend.asked) == 6
