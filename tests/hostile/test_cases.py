"""Must show 5 of issue 5: what is malformed or hostile gets the answer that it must get, and reaches no backend.

On real sockets, through a whole Hermes (I10, I11, I12, I14, I16, I19, I22, I23, I25).
"""

import json
from contextlib import suppress

import pytest

from tests.fakes.backend import ollama
from tests.fakes.gateway import Hermes, error_in, hermes, in_common, key, scenario
from tests.hostile import cases
from tests.hostile.cases import CASES, HOST, Case
from tests.http.peers import Answer, Peer
from tests.http.test_requests import REFUSED

KEYS = [key("ann"), key("bob"), key("ops", admin=True)]
LOOKS = {"/api/version", "/api/tags", "/api/ps", "/api/show"}  # what Hermes asks by itself
GROUPS = {name: table for name, table in vars(cases).items() if name.isupper() and table and isinstance(table, list)}
HEALTH = b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n"


def code_of(answer: Answer) -> str:
    return str(error_in(in_common(json.loads(answer.body)))["code"]) if answer.status >= 400 else ""


async def send(gateway: Hermes, data: bytes) -> Peer:
    peer = await gateway.connect()
    with suppress(ConnectionError):  # what is refused in its middle need not arrive
        await peer.send(data)
    return peer


async def check(gateway: Hermes, case: Case) -> None:
    peer = await send(gateway, case.sent)
    answer = await peer.answer()
    assert (answer.status, code_of(answer)) == (case.status, case.code), (case.name, answer.body)
    assert (answer.headers.get("connection") == "close") == case.closes, case.name
    if case.closes:
        assert await peer.rest() == b"", f"{case.name}: something that was hidden in it was answered"
    else:  # the next request begins where it does, and nowhere before
        await peer.send(HEALTH)
        after = await peer.answer()
        assert (after.status, json.loads(after.body)["status"]) == (200, "ok"), case.name


@pytest.mark.parametrize("group", [name for name in GROUPS if name != "CASES"])
@scenario
async def test_what_is_hostile_is_answered_as_it_must_be_and_reaches_no_backend(group: str) -> None:
    async with ollama("gemma:latest", "phi:latest") as backend, hermes(backend, keys=KEYS) as gateway:
        for case in GROUPS[group]:
            await check(gateway, case)
        assert not backend.asked
        assert {asked.path for asked in backend.managed} == LOOKS
        assert (await gateway.ask(cases.CHAT, cases.SAY, {"authorization": "Bearer sk-ann"})).status == 200, "as ever"


@scenario
async def test_what_is_no_http_ends_at_the_parser() -> None:
    async with ollama() as backend, hermes(backend, keys=KEYS) as gateway:
        for name, data, code in REFUSED:
            peer = await send(gateway, data + cases.WHOLE)
            answer = await peer.answer()
            assert 400 <= answer.status < 500 and code in (None, code_of(answer)), name
            assert await peer.rest() == b"", name
        assert not backend.asked


def test_no_case_is_twice_in_the_table_nor_left_out_of_it() -> None:
    assert len(CASES) == sum(len(table) for name, table in GROUPS.items() if name != "CASES") > 250
    assert len({case.name for case in CASES}) == len({case.sent for case in CASES}) == len(CASES)


def test_every_refusal_of_the_door_and_of_strict_json_is_in_the_table() -> None:
    assert {case.code for case in CASES} >= {
        *(
            "malformed_http",
            "duplicate_header",
            "headers_too_large",
            "uri_too_long",
            "malformed_target",
            "request_too_large",
        ),
        *("host_not_allowed", "origin_not_allowed", "unsupported_content_encoding", "malformed_hops", "admin_only"),
        *(
            "invalid_json",
            "duplicate_key",
            "ambiguous_key",
            "request_too_complex",
            "ambiguous_credentials",
            "not_found",
        ),
        *("malformed_credentials", "unsupported_transfer_encoding", "invalid_api_key", "method_not_allowed"),
    }
