"""Thousands of clients, a third of them leaving in any phase, a backend that fails in every way: nothing is left over.

One run makes the evidence for all of these tests. HERMES_CHAOS_REQUESTS and HERMES_CHAOS_SEED make it longer, or
another one; `make chaos` lets 10,000 clients loose and shows what came of them.
"""

import asyncio
import os
import re
from collections import Counter
from typing import Any

import pytest
import uvloop

from tests.chaos import plan
from tests.chaos.client import Seen
from tests.chaos.report import PHASES, late, leavers, most_at_once, phase, records, stayers, table
from tests.chaos.run import Evidence, run

REQUESTS = int(os.environ.get("HERMES_CHAOS_REQUESTS", "300"))
SEED = int(os.environ.get("HERMES_CHAOS_SEED", "1"))
LONG = REQUESTS >= 5000

# docs/api.md: which outcome an error that a client sees has.
OUTCOMES = {
    "invalid_json": "bad_request",
    "invalid_type": "bad_request",
    "context_length_exceeded": "bad_request",
    "model_not_found": "bad_request",
    "invalid_api_key": "denied",
    "queue_full": "queue_full",
    "queue_timeout": "queue_timeout",
    "deadline_unreachable": "deadline_refused",
    "load_failed": "no_backend",
    "no_backend": "no_backend",
    "backend_error": "upstream_error",
    "backend_unreachable": "upstream_error",
    "request_crashes_backends": "upstream_error",
    "backend_busy": "upstream_error",
    "backend_timeout": "upstream_timeout",
}

KINDS = ("requests", "prompt_tokens", "completion_tokens")

ALARM = re.compile(r'"level": "(warning|error|critical)"|Traceback|exception', re.IGNORECASE)
# One of the faults; who waited for the model is told.
MEANT = re.compile("could not load| is (open|stuck): ")

# The most the process may have grown since the middle of any run. Before that it grows by what peaks leave in pieces
# and by what it remembers, some 18 MiB: a leak goes on.
GROWTH_BYTES = 8 * 2**20


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(run(REQUESTS, SEED, tmp_path_factory.mktemp("chaos")))
    if LONG:
        print(f"\n{table(found)}")
    return found


def test_clients_left_in_every_phase_and_everything_went_wrong_once(evidence: Evidence) -> None:
    """The run is worth something."""
    told = records(evidence)
    phases = {phase(seen, evidence.visits.get(seen.ask.id, ()), told.get(seen.id)) for seen in leavers(evidence)}
    outcomes = {record["outcome"] for record in told.values()}
    # Who is answered before its time to leave does not leave: on a busy machine a short run has fewer of everything.
    assert len(leavers(evidence)) >= (0.3 if LONG else 0.2) * len(evidence.seen)
    assert len(phases) >= 3 and outcomes >= {"ok", "client_gone", "upstream_error", "denied"}
    if LONG:
        assert phases >= set(PHASES)
        rested = evidence.scrapes[-1].by("hermes_backend_ejections_total", "reason")
        assert rested.keys() >= {("open",), ("stuck",)}
        assert {visit.backend for visits in evidence.visits.values() for visit in visits} == set(plan.BACKENDS)
        assert outcomes >= {"bad_request", "queue_full", "queue_timeout", "upstream_timeout", "no_backend"}
        # The simulator counts those that befall an answer, not those of a load.
        asked = {fault.partition(";")[0] for fault in plan.backend(SEED).faults}
        assert evidence.faults.keys() >= asked - {"slow-load", "load-fail"}


# --- what was used --------------------------------------------------------------------------------------------------


def charged(evidence: Evidence) -> Counter[tuple[str, str, str]]:
    """By key, model and what: what the access log tells of those who were charged."""
    found: Counter[tuple[str, str, str]] = Counter()
    for record in evidence.records:
        tokens_in, tokens_out = record.get("tokens_in", 0), record.get("tokens_out", 0)
        if tokens_in or tokens_out:
            where = record["key_id"], record["model"]
            found += Counter(
                {
                    (*where, "requests"): 1,
                    (*where, "prompt_tokens"): tokens_in,
                    (*where, "completion_tokens"): tokens_out,
                }
            )
    return found


def test_every_counter_equals_the_ledger(evidence: Evidence) -> None:
    """I6, I31: the log, the metrics, what the running ledger told, and what is on the disk, budgets too."""
    told: Counter[tuple[str, str, str]] = Counter()
    for row in evidence.usage:
        told += Counter({(row["key"], row["model"], kind): row[kind] for kind in KINDS})
    assert told == charged(evidence)
    stored: Counter[tuple[str, str, str]] = Counter()
    for (_, key, model), numbers in evidence.books.rows.items():
        stored += Counter({(key, model, kind): number for kind, number in zip(KINDS, numbers[:3], strict=True)})
        assert numbers[3:] == (0,), "refused"
    assert stored == told
    counted = evidence.scrapes[-1].by("hermes_tokens_total", "model", "kind")
    by_model: Counter[tuple[str, ...]] = Counter()
    for (_, model, kind), number in told.items():
        by_model[model, kind.removesuffix("_tokens")] += number
    assert counted == Counter({each: number for each, number in by_model.items() if each[1] != "requests"})
    today = max(period for _, period in evidence.books.budgets)
    for (account, period), tokens in evidence.books.budgets.items():
        if today.startswith(period):
            rows = (row for row in evidence.usage if f"key {row['key']}" == account and row["day"].startswith(period))
            assert tokens == sum(row["total_tokens"] for row in rows)
    assert len(evidence.books.budgets) == 2 * len(plan.KEYS)


def test_who_leaves_is_charged_what_a_backend_was_at_work_for(evidence: Evidence) -> None:
    left = [record for record in evidence.records if record["outcome"] == "client_gone" and record.get("model")]
    worked = [record for record in left if record.get("attempts")]
    assert worked and all(record.get("tokens_in") and record.get("tokens_out") for record in worked)
    assert not [record for record in left if not record.get("attempts") and record.get("tokens_in")]


# --- what clients saw -----------------------------------------------------------------------------------------------


def test_no_client_waited_for_ever(evidence: Evidence) -> None:
    assert not [seen.ask for seen in evidence.seen if seen.lost]


def test_every_answer_is_an_honest_success_or_an_honest_failure(evidence: Evidence) -> None:
    """I5, I15: success is complete to the last letter; a failed stream has an error event and an unclean end."""
    wrong = [(seen.ask.id, why) for seen in stayers(evidence) if (why := dishonest(seen))]
    assert not wrong, wrong[:5]


def dishonest(seen: Seen) -> str:
    """What is wrong with an answer, if anything is."""
    if seen.error:
        return _false_failure(seen)
    if seen.status != 200 or not seen.whole:
        return f"status {seen.status} and neither error nor end"
    if len(seen.text) != seen.ask.content_chars:
        return f"{len(seen.text)} characters instead of {seen.ask.content_chars}"
    return _false_end(seen) if seen.ask.stream else ""


def _false_failure(seen: Seen) -> str:
    *before, _ = seen.events
    if any(_ends(event) or "error" in event for event in before):
        return "an end or an error before the error"
    return "" if seen.whole == (seen.status != 200) else "a failed stream that ends well, or a cut answer"


def _false_end(seen: Seen) -> str:
    *before, last = seen.events
    if any(_ends(event) or "error" in event for event in before) or not _ends(last):
        return "the end is missing or not at the end"
    reasons = [choice["finish_reason"] for event in before for choice in event.get("choices", ())]
    reasons += [event["delta"].get("stop_reason") for event in before if event.get("type") == "message_delta"]
    reasons = [reason for reason in reasons if reason]
    stops = {"/v1/chat/completions": ["stop"], "/v1/completions": ["stop"], "/v1/messages": ["end_turn"]}
    told = stops.get(seen.ask.path, [])
    return "" if reasons == told else "no reason to end"


def _ends(event: Any) -> bool:
    ends = ("message_stop", "response.completed")
    return event == "[DONE]" or event.get("done") is True or event.get("type") in ends


# --- what Hermes says -----------------------------------------------------------------------------------------------


def test_outcomes_are_what_clients_saw(evidence: Evidence) -> None:
    """I3: exactly one record for each request that arrived, and it says what its client can see."""
    told = records(evidence)
    assert len(told) == sum(record["method"] == "POST" for record in evidence.records)
    assert told.keys() <= {seen.id for seen in evidence.seen if seen.sent}
    wrong = [seen.ask.id for seen in stayers(evidence) if not _agree(seen, told[seen.id])]
    assert not wrong, wrong[:5]


def _agree(seen: Seen, record: dict[str, Any]) -> bool:
    code = seen.error.get("code", "")
    outcome = OUTCOMES[code] if code else "ok"
    return (record["outcome"], record["status"], record.get("code", "")) == (outcome, seen.status, code)


def test_accepted_is_the_sum_of_outcomes_and_what_is_in_flight(evidence: Evidence) -> None:
    """I3: at every scrape."""
    assert len(evidence.scrapes) > 3
    for scrape in evidence.scrapes:
        ended = scrape.total("hermes_requests_total")
        assert scrape.total("hermes_requests_accepted_total") == ended + scrape.total("hermes_requests_in_flight")


def test_metrics_count_what_the_access_log_tells(evidence: Evidence) -> None:
    asked = Counter((record["route"], record["outcome"]) for record in evidence.records if record["method"] == "POST")
    counted = evidence.scrapes[-1].by("hermes_requests_total", "route", "outcome")
    routes = ("/v1/llm", "/v1/chat", "/v1/completions", "/v1/responses", "/v1/messages", "/api/")
    assert {series: counted[series] for series in counted if series[0].startswith(routes)} == asked


def test_every_slot_and_every_place_in_the_queue_came_back(evidence: Evidence) -> None:
    """I2."""
    requests, last = evidence.after["requests"], evidence.scrapes[-1]
    assert (requests["active"], requests["queued"], requests["queued_bytes"]) == (0, 0, 0)
    assert not any(model["active"] or model["queued"] for model in evidence.after["models"].values())
    assert last.total("hermes_requests_active") == last.total("hermes_requests_queued") == 0
    assert last.total("hermes_requests_in_flight") == 1  # the scrape itself


def test_nothing_that_must_never_happen_has_happened(evidence: Evidence) -> None:
    last = evidence.scrapes[-1]
    assert last.total("hermes_double_closes_total") == last.total("hermes_log_lines_dropped_total") == 0
    assert not [line for line in evidence.log.splitlines() if ALARM.search(line) and not MEANT.search(line)]
    assert not [record for record in evidence.records if record["outcome"] == "internal_error"]
    assert evidence.exit_code == 0


def test_connections_files_and_memory_are_as_before(evidence: Evidence) -> None:
    """What is kept: one idle connection to each backend for each slot at most."""
    assert evidence.after["requests"]["connections"] == evidence.before["requests"]["connections"]
    before, after = evidence.before["process"], evidence.after["process"]
    assert after["open_files"] <= before["open_files"] + len(plan.BACKENDS) * plan.MOST_AT_ONCE["*"]
    assert after["rss_bytes"] <= evidence.rss_bytes[len(evidence.rss_bytes) // 2] + GROWTH_BYTES


# --- what the backend saw -------------------------------------------------------------------------------------------


def test_a_second_after_a_client_left_nothing_of_its_request_is_at_the_backend(evidence: Evidence) -> None:
    """I9: in whatever phase it was, the backend has seen it end by then, and nothing of it comes any more.

    The clients and the backend are in one process: what it was held up itself is not counted.
    """
    wrong = list(late(evidence, 1.0 + evidence.stall_s))
    assert not wrong, wrong


def test_no_more_ran_at_once_than_the_caps_allow(evidence: Evidence) -> None:
    """I1: of a name, in all, and of a model on one backend."""
    assert {model: most for model, most in most_at_once(evidence).items() if most > plan.MOST_AT_ONCE[model]} == {}


def test_retries_stayed_within_their_budget(evidence: Evidence) -> None:
    """I8."""
    attempts = evidence.scrapes[-1].total("hermes_backend_attempts_total")
    assert attempts <= 1.2 * len(records(evidence)) + 10
