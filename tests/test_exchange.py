"""Exchange and journal: one record and one outcome for every request (I3), and no word of what was said (I27)."""

from hashlib import sha256

import pytest
from msgspec import json

from hermes.chat import Usage
from hermes.counts import MOST_NOTED
from hermes.errors import Outcome
from hermes.exchange import Exchange
from hermes.journal import Journal
from hermes.metrics import MAX_TENANTS, Metrics
from hermes.policy.ticket import Ticket
from hermes.record import Record

ROUTE = "/v1/llm/{model}"


class Books:
    """A journal, its metrics, and the records that came out."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.journal = Journal(self.metrics)
        self.records: list[Record] = []
        self.journal.sinks.append(self.records.append)

    def begin(self, request_id: str = "r1", arrived_at: float = 100.0) -> Exchange:
        return self.journal.begin("POST", request_id, arrived_at)

    def balance(self) -> tuple[float, float]:
        """What was accepted; what has ended or is in flight."""
        ended = sum(self.metrics.finished.read().values())
        return self.metrics.accepted.read()[()], ended + self.journal.open


def run(books: Books, outcome: Outcome = Outcome.OK, model: str = "m", tenant: str = "ann") -> Exchange:
    """One that got its answer."""
    exchange = books.begin()
    exchange.route, exchange.model, exchange.backend, exchange.key_id = ROUTE, model, "gpu0", "k1"
    exchange.stream, exchange.attempts, exchange.status, exchange.outcome = True, 2, 200, outcome
    exchange.queue_s, exchange.ttft_s = 0.25, 1.5
    exchange.usage = Usage(prompt_tokens=7, completion_tokens=11)
    exchange.ticket = Ticket(model, model, tenant, ("gpu0",), 1, 100.0, 200.0)
    return exchange


def test_closing_emits_the_one_record() -> None:
    books = Books()
    exchange = run(books)
    books.journal.close(exchange, 103.0)
    [record] = books.records
    assert record == Record(
        created_at=int(exchange.created_at * 1000) / 1000,
        request_id="r1",
        route=ROUTE,
        method="POST",
        outcome=Outcome.OK,
        status=200,
        duration_ms=3000,
        key_id="k1",
        model="m",
        backend="gpu0",
        stream=True,
        attempts=2,
        queue_ms=250,
        ttft_ms=1500,
        tokens_in=7,
        tokens_out=11,
        user="ann",
        urgency="normal",
        loaded="hit",
    )


def test_a_sink_that_fails_keeps_the_record_from_no_other(caplog: pytest.LogCaptureFixture) -> None:
    books = Books()

    def fail(record: Record) -> None:
        raise OverflowError

    books.journal.sinks.insert(0, fail)
    books.journal.close(run(books), 103.0)
    assert len(books.records) == 1 and any(books.journal.past.of("r1", "ann"))
    assert "r1 was not recorded everywhere" in caplog.text


def test_closing_twice_is_counted_and_changes_nothing() -> None:
    """I3."""
    books = Books()
    exchange = run(books)
    books.journal.close(exchange, 103.0)
    exchange.outcome = Outcome.CLIENT_GONE
    books.journal.close(exchange, 104.0)
    assert len(books.records) == 1
    assert books.metrics.double_close.read() == {(): 1.0}
    assert books.metrics.finished.read() == {(ROUTE, "m", "ok"): 1.0}
    assert books.journal.open == 0


@pytest.mark.parametrize("outcome", Outcome)
@pytest.mark.parametrize("model", ["m", ""])
def test_the_accepted_are_the_ended_and_those_in_flight(outcome: Outcome, model: str) -> None:
    """I3, at every moment and for every outcome, whether or not it came to know its model."""
    books = Books()
    open_ones = []
    for _ in range(3):
        open_ones.append(run(books, outcome, model))
        assert len(set(books.balance())) == 1
    for exchange in open_ones:
        books.journal.close(exchange, 103.0)
        assert len(set(books.balance())) == 1
    assert books.metrics.finished.read() == {(ROUTE, model, outcome.value): 3.0}
    assert books.journal.open == 0


def test_what_a_run_took_is_measured_per_model() -> None:
    books = Books()
    books.journal.close(run(books), 103.0)
    metrics = books.metrics
    assert metrics.queue_wait.series["m", "normal"].total == pytest.approx(0.25)
    assert metrics.ttft.series[ROUTE, "m"].total == pytest.approx(1.5)
    assert metrics.token_time.series[ROUTE, "m"].total == pytest.approx(0.15)
    assert metrics.duration.series[ROUTE, "m", "ok"].total == pytest.approx(3.0)
    list(metrics.take())
    assert metrics.tokens.read() == {("m", "prompt"): 7.0, ("m", "completion"): 11.0}
    assert metrics.request_tokens.series[ROUTE, "m", "completion"].total == 11.0


def test_tokens_wait_in_no_great_number_to_be_added_up() -> None:
    """I4. Nobody need scrape for that."""
    books = Books()
    for _ in range(3 * MOST_NOTED - 1):
        books.journal.close(run(books), 103.0)
        assert len(books.metrics.uses(ROUTE, "m").noted) < MOST_NOTED
    assert books.metrics.tokens.read()["m", "prompt"] == 7.0 * 2 * MOST_NOTED
    list(books.metrics.take())
    assert books.metrics.tokens.read()["m", "prompt"] == 7.0 * (3 * MOST_NOTED - 1)
    assert sum(books.metrics.request_tokens.series[ROUTE, "m", "prompt"].counts) == 3 * MOST_NOTED - 1


def test_tenants_are_told_up_to_a_number_and_those_of_tokens_by_a_hash() -> None:
    """I27."""
    books = Books()
    for number in range(MAX_TENANTS + 5):
        books.journal.close(run(books, tenant=f"user{number}"), 103.0)
    told = books.metrics.tenant_tokens.read()
    assert len(told) == 2 * MAX_TENANTS + 1
    assert told["other", "other"] == 5 * (7 + 11)
    books = Books()
    exchange = run(books, tenant="corp:ann@example.com")
    who = sha256(b"ann@example.com").hexdigest()[:12]  # as the id has it, where her subject is her tenant
    exchange.key_id = f"jwt:corp:{who}"
    books.journal.close(exchange, 103.0)
    assert {tenant for tenant, _ in books.metrics.tenant_tokens.read()} == {f"jwt:corp:{who}"}


def test_what_never_ran_has_no_times_of_a_run() -> None:
    books = Books()
    exchange = books.begin()
    exchange.model, exchange.outcome, exchange.code, exchange.status = "m", Outcome.QUEUE_FULL, "queue_full", 429
    books.journal.close(exchange, 100.5)
    [record] = books.records
    assert (record.queue_ms, record.ttft_ms, record.attempts, record.code) == (None, None, 0, "queue_full")
    assert not any(sum(buckets.counts) for buckets in books.metrics.queue_wait.series.values())
    assert books.metrics.duration.series["", "m", "queue_full"].total == pytest.approx(0.5)


@pytest.mark.parametrize(("attempts", "counted"), [(0, 1), (1, 0)])
def test_refused_is_what_no_backend_was_asked_for(attempts: int, counted: int) -> None:
    books = Books()
    exchange = run(books, Outcome.NO_BACKEND)
    exchange.attempts, exchange.code = attempts, "no_backend"
    books.journal.close(exchange, 103.0)
    assert sum(books.metrics.refused.read().values()) == counted


def test_quiet_requests_are_counted_and_not_recorded() -> None:
    books = Books()
    exchange = books.begin()
    exchange.quiet = True
    books.journal.close(exchange, 101.0)
    assert books.records == []
    assert books.balance() == (1.0, 1.0)


def test_every_sink_gets_every_record() -> None:
    books, second = Books(), list[Record]()
    books.journal.sinks.append(second.append)
    books.journal.close(run(books), 103.0)
    assert books.records == second != []


def test_ids_are_the_clients_or_made_and_never_twice() -> None:
    books = Books()
    assert books.begin("given").request_id == "given"
    made = {books.begin("").request_id for _ in range(1000)}
    assert len(made) == 1000
    assert not made & {Books().begin("").request_id for _ in range(10)}
    assert all(len(each) == 28 and each.isalnum() for each in made)


def test_the_answer_is_told_its_id_and_its_times() -> None:
    exchange = run(Books())
    assert exchange.id_line() == b"x-request-id: r1\r\n"
    assert exchange.timings()["queue_ms"] == 250.0


def test_a_record_leaves_out_what_is_not_known() -> None:
    books = Books()
    books.journal.close(books.begin(), 100.0)
    assert json.decode(json.encode(books.records[0])).keys() == {
        "created_at", "request_id", "route", "method", "outcome", "status", "duration_ms"
    }  # fmt: skip


def test_a_record_has_no_place_for_what_was_said() -> None:
    """I27. That nothing gets into the places there are is shown on the whole line: tests/simulation."""
    assert Record.__struct_fields__ == (
        "created_at", "request_id", "route", "method", "outcome", "status", "duration_ms", "code", "key_id", "model",
        "backend", "stream", "attempts", "queue_ms", "ttft_ms", "tokens_in", "tokens_out",
        "user", "urgency", "loaded", "asked", "cache", "load_ms", "trace_id",
    )  # fmt: skip
