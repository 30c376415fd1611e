"""How logs are written for people: one request, one line, with nothing in it that a terminal would obey."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes.errors import Outcome
from hermes.lines import are_read, as_text, line
from hermes.record import Record

FIRST = Record(1795318238.5, "r1", "/v1/chat/completions", "POST", Outcome.OK, 200, 1234)
WHOLE = Record(
    1795318238.5, "r1", "/v1/chat/completions", "POST", Outcome.OK, 200, 1234,
    key_id="k1", model="gemma", backend="gpu", stream=True, attempts=1, queue_ms=400, ttft_ms=800,
    tokens_in=7, tokens_out=211, user="ann", urgency="normal", loaded="swap", cache="miss", load_ms=300,
)  # fmt: skip
REFUSED = Record(
    1795318238.5, "r1", "/v1/llm/{model}", "POST", Outcome.QUEUE_FULL, 429, 0, code="queue_full", model="gemma"
)


@pytest.mark.parametrize(
    ("record", "told"),
    [
        (FIRST, "39.734Z  ok  200  POST  /v1/chat/completions  1234 ms  r1"),
        (
            WHOLE,
            "39.734Z  ok  200  POST  /v1/chat/completions  gemma@gpu  1234 ms  queued 400 ms  swap 300 ms"
            "  first token 800 ms  7+211 tokens  cache miss  ann  r1",
        ),
        (REFUSED, "38.500Z  queue_full  429  POST  /v1/llm/{model}  gemma  0 ms  r1"),
        (
            Record(
                1795318238.5, "r1", "/api/chat", "POST", Outcome.CANCELLED, 200, 1000, code="cancelled", stream=True
            ),
            "39.500Z  cancelled  200  POST  /api/chat  1000 ms  r1",
        ),
        (Record(1795318238.5, "r1", "", "GET", Outcome.CLIENT_GONE, 0, 5), "38.505Z  client_gone  -  GET  -  5 ms  r1"),
    ],
)
def test_a_line_tells_when_a_request_ended_what_came_of_it_and_only_what_applies(record: Record, told: str) -> None:
    assert line(record) == f"2026-11-22T03:30:{told}"


@given(st.text(), st.text(), st.text())
def test_one_request_is_one_line_that_no_terminal_obeys(request_id: str, user: str, model: str) -> None:
    """I28."""
    record = Record(1.5, request_id, "", "GET", Outcome.OK, 200, 5, user=user, model=model)
    told = as_text([record, record]).decode()
    assert told.endswith("\n") and told.count("\n") == 2
    assert told.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    ("format", "is_terminal", "read"),
    [("auto", True, True), ("auto", False, False), ("json", True, False), ("human", False, True)],
)
def test_who_reads_them_is_said_or_seen(format: str, is_terminal: bool, read: bool) -> None:
    assert are_read(format, is_terminal) is read
