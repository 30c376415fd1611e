"""I26, I27: neither values nor errors nor the log tell a secret, or in what words something failed."""

import asyncio
import gc
import json
import logging
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest

from hermes import drivers, errors
from hermes.cli.log import _JsonLines
from hermes.config import Backend, Secret
from hermes.config.build import build
from hermes.config.commands import filled
from hermes.errors import BackendError, ConfigError, never_tell
from hermes.http.client import PoolLimits
from hermes.http.origin import Origin
from hermes.http.pool import Pool
from hermes.http.wire import Deadlines
from hermes.oidc.token import Token
from hermes.runtime import Runtime
from tests.fakes import issuer
from tests.fakes.gateway import scenario

SECRET = "canary-5f0e9b7c21d84a63"


@pytest.fixture(autouse=True)
def nothing_untold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "_untold", set())


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (f"wrong key {SECRET}, {SECRET}!", "wrong key ***, ***!"),
        (f"wrong key {SECRET[:12]}", "wrong key ***"),
        (f"wrong key {SECRET[:7]}", f"wrong key {SECRET[:7]}"),
        ("wrong key", "wrong key"),
        ("", ""),
    ],
)
def test_no_error_tells_a_key_that_a_backend_repeats(said: str, told: str) -> None:
    never_tell(SECRET)
    error = BackendError(said)
    assert (error.message, str(error)) == (told, told)


def test_what_is_too_short_for_a_secret_is_told() -> None:
    never_tell("ollama")
    assert BackendError("ollama failed").message == "ollama failed"


# --- values -----------------------------------------------------------------------------------------------------------


def reachable(start: object) -> Iterator[object]:
    """Everything that it holds on to, but for code."""
    seen, waiting = set[int](), [start]
    while waiting:
        value = waiting.pop()
        if id(value) not in seen and not isinstance(value, (ModuleType, type, FunctionType)):
            seen.add(id(value))
            yield value
            waiting += gc.get_referents(value)


@scenario
async def test_no_value_of_ours_shows_a_secret_when_it_is_printed(tmp_path: Path) -> None:
    (tmp_path / "jwks.json").write_bytes(issuer.key_set())
    tree: dict[str, Any] = {
        "backends": [
            {"name": "o", "url": "http://a", "api_key": SECRET},
            {"name": "v", "kind": "vllm", "url": "http://b", "api_key": SECRET},
            {"command": f"{sys.executable} --port ${{PORT}}", "model": "own", "env": {"TOKEN": SECRET}},
        ],
        "jwt": [issuer.config(jwks_file=str(tmp_path / "jwks.json"))],
    }
    runtime = Runtime(build(filled(tree)), asyncio.get_running_loop())
    issuers = runtime.people.issuers
    assert issuers is not None
    await next(iter(issuers._issuers.values())).keys._look()
    written = issuer.token()
    runtime.api.authenticator.authenticate({b"authorization": f"Bearer {written}".encode()}, 0.0)
    secrets = (SECRET, written.rpartition(".")[2])
    ours = [value for value in reachable(runtime) if type(value).__module__.startswith("hermes.")]
    held = [value for value in reachable(runtime) if isinstance(value, str) and SECRET in value]
    assert len(ours) > 100 and held  # it is there to be found
    assert [type(value) for value in ours if any(secret in repr(value) for secret in secrets)] == []
    await runtime.stop()


@scenario
async def test_what_is_sent_and_what_came_show_nothing_when_printed() -> None:
    loop = asyncio.get_running_loop()
    pool = Pool(Origin.parse("http://a"), PoolLimits(), Deadlines(loop), loop, f"authorization: {SECRET}\r\n".encode())
    exchange = pool.exchange("POST", "/", SECRET.encode(), deadline=1.0)
    assert exchange.request.count(SECRET.encode()) == 2
    written = issuer.token()
    for value in (exchange, pool, Token(written.encode())):
        assert not any(part in repr(value) for part in (SECRET, "alice", *written.split(".")))


@scenario
async def test_no_traceback_with_its_locals_shows_a_backends_key() -> None:
    loop = asyncio.get_running_loop()
    backend = Backend("b", "https://b", "vllm", ca_file="/nowhere.pem", api_key=Secret(SECRET))
    with pytest.raises(ConfigError) as caught:
        drivers.driver(backend, Deadlines(loop), loop)
    told = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert "***" in told and SECRET not in told


# --- the log ----------------------------------------------------------------------------------------------------------


def logged(logger: str, message: str, error: BaseException | None = None) -> dict[str, Any]:
    info = (type(error), error, error.__traceback__) if error is not None else None
    record = logging.LogRecord(logger, logging.ERROR, __file__, 1, message, (), info)
    told: dict[str, Any] = json.loads(_JsonLines().format(record))
    return told


def test_a_bug_is_logged_by_kind_and_place_not_in_its_words() -> None:
    def fail() -> None:
        try:
            raise KeyError(SECRET)
        except KeyError as error:
            raise ValueError(f"not {SECRET}") from error

    with pytest.raises(ValueError, match="not") as caught:
        fail()
    told = logged("hermes", "a bug", caught.value)["exception"]
    assert SECRET not in told
    assert "builtins.ValueError" in told and "builtins.KeyError" in told and told.count("in fail") == 2


def test_what_the_loop_logs_is_its_first_line() -> None:
    told = logged("asyncio", f"Task exception was never retrieved\nfuture: <Task exception=KeyError('{SECRET}')>")
    assert told["message"] == "Task exception was never retrieved"
    assert logged("hermes", "one\ntwo")["message"] == "one\ntwo"
