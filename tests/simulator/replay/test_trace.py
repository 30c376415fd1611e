"""Traces are read as they are, and what cannot be read is told with its place."""

from pathlib import Path

import msgspec
import pytest

from hermes.errors import Outcome
from hermes.record import Record
from hermes.simulator.replay.trace import Arrival, read_trace

HEADING = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "trace"


def record(created_at: float, **told: object) -> str:
    common = {"request_id": "x", "route": "chat", "method": "POST", "outcome": Outcome.OK, "status": 200}
    fields = {"created_at": created_at, "duration_ms": 5, **common, **told}
    return msgspec.json.encode(msgspec.convert(fields, Record)).decode() + "\n"


def test_the_columns_of_azure_s_traces_are_read_wherever_they_stand(file: Path) -> None:
    file.write_text(
        "Zone,GeneratedTokens,TIMESTAMP,ContextTokens\n"
        "7,44,2023-11-16 18:15:46.6805900,374\n"
        "\n"
        "7,109,2023-11-16 18:15:50.1805900,396\n"
    )
    first, second = read_trace(file)
    assert (first.tokens_in, first.tokens_out, first.model) == (374, 44, "")
    assert second.at_s - first.at_s == pytest.approx(3.5)


def test_our_own_access_log_tells_models_and_tenants(file: Path) -> None:
    file.write_text(
        record(20.5, model="gemma", key_id="team", tokens_in=7, tokens_out=3)
        + record(10.25, model="mistral", key_id="other", tokens_in=1, tokens_out=2)
    )
    assert read_trace(file) == [Arrival(10.25, 1, 2, "mistral", "other"), Arrival(20.5, 7, 3, "gemma", "team")]


def test_what_never_ran_is_left_out_of_a_log(file: Path) -> None:
    refused = record(2.0, model="gemma", key_id="team")
    asked_for_nothing = record(3.0, route="models")
    event = '{"time": "2026-01-01T00:00:00.000Z", "level": "info", "message": "ready"}\n'
    given_again = record(3.5, model="gemma", tokens_in=7, tokens_out=3, cache="hit")
    file.write_text(event + refused + asked_for_nothing + given_again + record(4.0, model="gemma", tokens_out=1))
    assert read_trace(file) == [Arrival(4.0, 0, 1, "gemma")]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "no column TIMESTAMP, ContextTokens, GeneratedTokens"),
        ("TIMESTAMP,ContextTokens\n", "no column GeneratedTokens"),
        (HEADING, "no request in it"),
        (f"{HEADING}2023-11-16 18:15:46,1,2\nyesterday,1,2\n", "line 3: Invalid isoformat string"),
        (f"{HEADING}2023-11-16 18:15:46,many,2\n", "line 2: invalid literal"),
        (f"{HEADING}2023-11-16 18:15:46,1\n", "line 2: 2 of 3 columns"),
        (f"{HEADING}2023-11-16 18:15:46,1,-2\n", "line 2: a negative number of tokens"),
        (record(1.0, model="m", tokens_in=1) + '{"created_at": "now"}\n', "line 2: Expected `float | null`"),
        (record(1.0, model="m", tokens_in=1) + '{"created_at', "line 2: Input data was truncated"),
        (record(1.0, model="m", tokens_in=-1), "line 1: Expected `int` >= 0"),
        (record(1.0), "no request in it"),
    ],
)
def test_what_is_wrong_with_a_trace_is_told_with_its_place(file: Path, content: str, told: str) -> None:
    file.write_text(content)
    with pytest.raises(ValueError) as raised:
        read_trace(file)
    assert str(raised.value).startswith(f"{file}: {told}")


def test_bytes_that_are_no_text_are_told_so(file: Path) -> None:
    file.write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(ValueError, match="is not text"):
        read_trace(file)
