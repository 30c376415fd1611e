"""Another configuration, while everything runs (I34): what is new is in force at once, what runs goes on."""

import asyncio
import json
import logging
import shutil
import ssl
from pathlib import Path
from typing import Any

import pytest

from hermes.errors import Draining, InvalidConfig
from tests.fakes.backend import FakeOllama, ollama
from tests.fakes.gateway import CHAT, PROMPT, Hermes, bearer, chat, hermes, hold_slot, key, prompt, scenario
from tests.http.test_origin import Authority
from tests.support import until


def reloads(gateway: Hermes) -> dict[tuple[str, ...], float]:
    return gateway.counted("hermes_config_reloads_total")


def connections(gateway: Hermes, name: str = "b0") -> int:
    server = gateway.runtime.fleet.backends[name].server
    assert server is not None
    return server.pool.open_connections


# --- who may ----------------------------------------------------------------------------------------------------------


@scenario
async def test_a_key_that_is_gone_is_refused_at_once_and_a_new_one_is_known() -> None:
    """I17."""
    async with ollama() as backend, hermes(backend, keys=[key("ann"), key("bob")]) as gateway:
        peer = await gateway.connect()
        for _ in range(3):  # its head is remembered
            assert (await gateway.ask(PROMPT, prompt(), bearer("ann"), on=peer)).status == 200
        await gateway.reload(backend, keys=[key("bob"), key("eve")])
        assert (await gateway.ask(PROMPT, prompt(), bearer("ann"), on=peer)).error["code"] == "invalid_api_key"
        assert (await gateway.ask(PROMPT, prompt(), bearer("eve"))).status == 200


@scenario
async def test_a_host_that_is_no_longer_listed_is_refused_though_its_head_is_remembered() -> None:
    """I22."""
    listed = {"server": {"allowed_hosts": ["gpu.example.org"]}}
    async with ollama() as backend, hermes(backend, **listed) as gateway:
        peer, host = await gateway.connect(), {"host": "gpu.example.org"}
        for _ in range(3):
            assert (await gateway.ask(PROMPT, prompt(), host, on=peer)).status == 200
        await gateway.reload(backend)
        refused = await gateway.ask(PROMPT, prompt(), host, on=peer)
        assert (refused.status, refused.error["code"]) == (403, "host_not_allowed")
        await gateway.reload(backend, **listed)
        assert (await gateway.ask(PROMPT, prompt(), host)).status == 200


@scenario
async def test_a_limit_holds_from_the_next_request_on_also_of_a_connection_that_is_open() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        peer = await gateway.connect()
        assert (await gateway.ask(PROMPT, prompt("x" * 2000), on=peer)).status == 200
        await gateway.reload(backend, server={"max_body_bytes": 1000})
        assert (await gateway.ask(PROMPT, prompt("x" * 2000), on=peer)).status == 413


# --- what cannot be used ----------------------------------------------------------------------------------------------


@scenario
async def test_what_cannot_be_used_changes_nothing_and_says_why() -> None:
    async with ollama() as backend, hermes(backend, keys=[key("ann", admin=True)]) as gateway:
        gateway.given.problem = "server.port: nothing is not a port"
        refused = await gateway.ask("/v1/reload", headers=bearer("ann"), method="POST")
        assert (refused.status, refused.error["code"]) == (422, "invalid_config")
        assert refused.error["message"] == gateway.given.problem
        told = (await gateway.ask("/v1/status", headers=bearer("ann"))).json["reload"]
        assert (told["result"], told["error"]) == ("refused", gateway.given.problem)
        assert reloads(gateway) == {("refused",): 1.0}
        assert (await gateway.ask(PROMPT, prompt(), bearer("ann"))).status == 200
        gateway.given.problem = ""
        assert (await gateway.ask("/v1/reload", headers=bearer("ann"), method="POST")).json["result"] == "ok"
        assert reloads(gateway) == {("refused",): 1.0, ("ok",): 1.0}


@scenario
async def test_what_was_wrong_is_not_told_to_everybody() -> None:
    async with ollama() as backend, hermes(backend, keys=[key("ann", admin=True), key("bob")]) as gateway:
        assert "reload" not in (await gateway.ask("/v1/status", headers=bearer("bob"))).json
        assert (await gateway.ask("/v1/reload", headers=bearer("bob"), method="POST")).status == 403
        gateway.given.problem = "/etc/secret"
        with pytest.raises(InvalidConfig):
            await gateway.runtime.reload("a test")
        told = (await gateway.ask("/v1/status", headers=bearer("bob"))).json["reload"]
        assert (told["result"], told["error"], told["needs_restart"]) == ("refused", "", [])


@pytest.mark.parametrize(
    "sections",
    [
        {"logging": {"access_log": "/nowhere/at/all.log"}},
        {"server": {"host": "0.0.0.0"}, "keys": []},
        {"backends": [{"name": "b0", "url": "https://b", "ca_file": "/nowhere/ca.pem"}]},
        {"backends": [{"name": "b0", "url": "http://b", "kind": "custom", "plugin": "nowhere:Nothing"}]},
    ],
    ids=str,
)
@scenario
async def test_what_is_found_out_only_when_it_is_tried_changes_nothing_either(sections: dict[str, Any]) -> None:
    started = {"server": sections["server"], "keys": [key("ann")]} if "server" in sections else {}
    async with ollama() as backend, hermes(backend, **started) as gateway:
        fleet, config = gateway.runtime.fleet.backends["b0"], gateway.runtime.config
        with pytest.raises(InvalidConfig):
            await gateway.reload(backend, limits={"queue_total": 7}, **sections)
        assert gateway.runtime.fleet.backends["b0"] is fleet and gateway.runtime.config is config
        assert gateway.runtime.scheduler.whole.queue_tickets == 4096


@scenario
async def test_what_needs_a_restart_is_told_and_the_rest_is_taken() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        port = gateway.runtime.config.server.port
        logging = {"access_log": "off", "format": "human"}
        server = {"port": 1, "drain_timeout_s": 7}
        done = await gateway.reload(backend, server=server, limits={"queue_total": 9}, logging=logging)
        assert done.needs_restart == ("server.port", "logging.format")
        taken = gateway.runtime.config
        assert (taken.server.port, taken.server.drain_timeout_s, taken.logging.format) == (port, 7, "auto")
        assert (await gateway.ask("/v1/status")).json["requests"]["queue_total"] == 9
        assert (await gateway.reload(backend)).needs_restart == ()


@scenario
async def test_while_it_drains_nothing_is_reloaded() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        gateway.runtime.api.draining = True
        with pytest.raises(Draining):
            await gateway.reload(backend, limits={"queue_total": 9})
        assert reloads(gateway) == {("refused",): 1.0}
        assert gateway.runtime.scheduler.whole.queue_tickets == 4096


@scenario
async def test_two_at_once_are_one_after_the_other() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        taking, most = 0, 0
        take = gateway.runtime.reload._take

        async def counted(snapshot: Any) -> tuple[str, ...]:
            nonlocal taking, most
            taking += 1
            most = max(most, taking)
            await asyncio.sleep(0)
            try:
                return await take(snapshot)
            finally:
                taking -= 1

        gateway.runtime.reload._take = counted
        await asyncio.gather(*(gateway.reload(backend, limits={"queue_total": 1 + n}) for n in range(5)))
        assert most == 1
        assert gateway.runtime.scheduler.whole.queue_tickets == 5


# --- models -----------------------------------------------------------------------------------------------------------


@scenario
async def test_below_a_lower_cap_nothing_new_starts_and_what_runs_goes_on() -> None:
    """I1."""
    backends = {"models": {"gemma": {"max_concurrency": 2}}}
    async with ollama() as backend, hermes(backend, **backends) as gateway:
        free = asyncio.Event(), asyncio.Event()
        first, second = await hold_slot(gateway, backend, free[0]), await hold_slot(gateway, backend, free[1])
        await gateway.reload(backend, models={"gemma": {"max_concurrency": 1}})
        third = await gateway.open(PROMPT, prompt())
        await gateway.until_waiting(1)
        free[0].set()
        assert (await first.reply()).status == 200
        assert (gateway.running, gateway.waiting) == (1, 1)
        free[1].set()
        assert (await second.reply()).status == 200
        assert (await third.reply()).status == 200


@scenario
async def test_who_waits_for_a_model_that_is_not_served_any_more_is_told_so() -> None:
    async with ollama() as backend, hermes(backend, models={"gemma": {}}, serve_unlisted=False) as gateway:
        free = asyncio.Event()
        runs = await hold_slot(gateway, backend, free)
        waits = await gateway.open(PROMPT, prompt())
        await gateway.until_waiting(1)
        await gateway.reload(backend, models={"qwen": {}}, serve_unlisted=False)
        refused = await waits.reply()
        assert (refused.status, refused.error["code"]) == (404, "model_not_found")
        assert "gemma" in (await gateway.ask("/v1/status")).json["models"], "it still runs"
        free.set()
        assert (await runs.reply()).status == 200
        assert (await gateway.ask("/v1/status")).json["models"].keys() == {"qwen"}


@scenario
async def test_a_model_is_asked_with_other_options_from_the_next_request_on() -> None:
    async with ollama() as backend, hermes(backend, models={"gemma": {"options": {"num_ctx": 1024}}}) as gateway:
        for length in (1024, 2048, 4096):
            await gateway.reload(backend, models={"gemma": {"options": {"num_ctx": length}}})
            assert (await gateway.ask(PROMPT, prompt())).status == 200
            assert backend.asked[-1].body["options"]["num_ctx"] == length


@scenario
async def test_a_silence_is_watched_for_also_where_it_was_not_before() -> None:
    async with ollama() as backend, hermes(backend, health={"silence_s": 0}) as gateway:
        looked = asyncio.Event()
        gateway.runtime.serving.watchdog.look = lambda now: looked.set()  # type: ignore[method-assign]
        await asyncio.sleep(0)
        await gateway.reload(backend, health={"silence_s": 0.05})
        async with asyncio.timeout(2.0):
            await looked.wait()
        assert gateway.runtime.fleet.health["b0"].patience.silence_s == 0.05
        await gateway.reload(backend, health={"silence_s": 0})
        looked.clear()
        await asyncio.sleep(0.05)
        assert not looked.is_set()


@scenario
async def test_the_level_of_the_log_is_what_it_is_to_be() -> None:
    root = logging.getLogger()
    before = root.level
    try:
        async with ollama() as backend, hermes(backend) as gateway:
            await gateway.reload(backend, logging={"access_log": "off", "level": "debug"})
            assert root.level == logging.DEBUG
            await gateway.reload(backend)
            assert root.level == logging.INFO
    finally:
        root.setLevel(before)


@scenario
async def test_a_log_that_turns_from_a_terminal_to_a_file_is_json_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hermes.access_log.os.isatty", lambda fd: fd == 2)
    file = tmp_path / "access.log"
    async with ollama() as backend, hermes(backend, logging={"access_log": "stderr"}) as gateway:
        await gateway.reload(backend, logging={"access_log": str(file)})
        assert (await gateway.ask(CHAT, chat())).status == 200
        await until(lambda: file.read_text().endswith("\n"), "nothing was written")
    assert json.loads(file.read_text())["route"] == CHAT


@scenario
async def test_who_connects_after_a_certificate_was_renewed_is_shown_the_new_one(
    tmp_path: Path, two_authorities: tuple[Authority, Authority]
) -> None:
    cert, private = tmp_path / "cert.pem", tmp_path / "key.pem"

    def issue(authority: Authority) -> None:
        cert.write_bytes(authority.cert_file.read_bytes())
        private.write_bytes(authority.key_file.read_bytes())

    async def is_trusted(authority: Authority, port: int) -> bool:
        try:
            context = ssl.create_default_context(cafile=authority.ca_file)
            _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        except ssl.SSLCertVerificationError:
            return False
        writer.close()
        return True

    first, second = two_authorities
    issue(first)
    tls = {"server": {"tls": {"cert_file": str(cert), "key_file": str(private)}}}
    async with ollama() as backend, hermes(backend, **tls) as gateway:
        assert await is_trusted(first, gateway.port)
        issue(second)
        assert {str(cert), str(private)} <= {path for path, _ in gateway.runtime.reload._look()}
        await gateway.reload(backend, **tls)
        assert await is_trusted(second, gateway.port) and not await is_trusted(first, gateway.port)
        private.write_bytes(first.key_file.read_bytes())
        with pytest.raises(InvalidConfig, match=r"cert\.pem"):
            await gateway.reload(backend, **tls)
        assert await is_trusted(second, gateway.port)


@pytest.fixture(scope="module")
def two_authorities(tmp_path_factory: pytest.TempPathFactory) -> tuple[Authority, Authority]:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    return Authority(folder, "one"), Authority(folder, "two")


# --- backends ---------------------------------------------------------------------------------------------------------


async def moves(gateway: Hermes, before: FakeOllama, after: FakeOllama, name: str) -> None:
    """One runs on the backend `before`, three wait; then everything is to be had of `after`, which has this name."""
    free = asyncio.Event()
    runs = await hold_slot(gateway, before, free)
    waits = [await gateway.open(CHAT, chat()) for _ in range(3)]
    await gateway.until_waiting(3)
    old = gateway.runtime.fleet.backends["b0"].server
    assert old is not None
    await gateway.reload(backends=[{"name": name, "url": after.url, "slots": 3}])
    for call in waits:
        assert (await call.reply()).status == 200
    assert (await gateway.ask(PROMPT, prompt())).status == 200
    assert len(after.asked) == 4 and len(before.asked) == 1
    assert old.pool.open_connections == 1, "of what runs"
    free.set()
    assert (await runs.reply()).status == 200
    await until(lambda: not old.pool.open_connections, "the old connections stay open")


@scenario
async def test_what_waits_for_a_backend_that_is_gone_goes_where_its_model_is_now() -> None:
    async with ollama() as before, ollama() as after, hermes(before) as gateway:
        await moves(gateway, before, after, "other")
        assert [*gateway.runtime.scheduler._residency.sites] == ["other"]


@scenario
async def test_of_a_backend_that_is_elsewhere_under_the_same_name_what_runs_ends_where_it_began() -> None:
    async with ollama() as before, ollama() as after, hermes(before) as gateway:
        await moves(gateway, before, after, "b0")


@scenario
async def test_where_nothing_has_changed_no_backend_is_touched() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        await gateway.ask(PROMPT, prompt())
        fleet = gateway.runtime.fleet
        before, pool = fleet.backends["b0"], connections(gateway)
        await gateway.reload(backend, limits={"queue_total": 9})
        assert fleet.backends["b0"] is before and connections(gateway) == pool


@scenario
async def test_who_waits_for_what_nobody_has_any_more_is_told_so() -> None:
    async with ollama() as backend, ollama("other:latest") as other, hermes(backend) as gateway:
        free = asyncio.Event()
        runs = await hold_slot(gateway, backend, free)
        waits = await gateway.open(PROMPT, prompt())
        await gateway.until_waiting(1)
        await gateway.reload(other)
        refused = await waits.reply()
        assert (refused.status, refused.error["code"]) == (404, "model_not_found")
        free.set()
        assert (await runs.reply()).status == 200


@scenario
async def test_what_is_said_of_a_backend_holds_at_once() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        fleet = gateway.runtime.fleet
        before = fleet.backends["b0"]
        said = {"slots": 3, "weight": 2, "memory": 9 << 30, "max_loaded": 2, "probe_interval_s": 7, "simulated": True}
        await gateway.reload(backends=[{"name": "b0", "url": backend.url, **said}])
        assert fleet.backends["b0"] is before, "its connections and all that was seen of it stay"
        facts = gateway.runtime.scheduler._residency.sites["b0"].facts
        assert (facts.slots, facts.weight, facts.memory_bytes, facts.max_loaded) == (3, 2, 9 << 30, 2)
        assert (before.interval_s, before.simulated) == (7, True)
        await gateway.reload(backend)
        facts = gateway.runtime.scheduler._residency.sites["b0"].facts
        assert (facts.slots, facts.weight, facts.max_loaded) == (None, 1, None)
        assert facts.memory_bytes != 9 << 30
