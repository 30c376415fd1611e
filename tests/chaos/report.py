"""What the evidence of a run adds up to: who left in which phase, how soon the backend saw it, and a table of all."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from tests.chaos.client import Seen
from tests.chaos.run import Evidence
from tests.chaos.witness import Visit

PHASES = (
    "while sending",
    "at the door",
    "queued",
    "before the head of a stream",
    "in mid-stream",
    "while a whole answer was pending",
    "between two attempts",
)

Record = dict[str, Any]


def leavers(evidence: Evidence) -> list[Seen]:
    return [seen for seen in evidence.seen if seen.left_at is not None]


def stayers(evidence: Evidence) -> list[Seen]:
    return [seen for seen in evidence.seen if seen.left_at is None]


def records(evidence: Evidence) -> dict[str, Record]:
    """By the id that the client gave its request, or Hermes."""
    return {record["request_id"]: record for record in evidence.records if record["method"] == "POST"}


def phase(seen: Seen, visits: Sequence[Visit], record: Record | None) -> str:
    """Where a request was when its client left."""
    left_at = seen.left_at or 0.0
    if not seen.sent:
        return "while sending"
    if seen.status:
        return "in mid-stream"
    if any(visit.began_at <= left_at < (visit.ended_at or left_at + 1) for visit in visits):
        return "before the head of a stream" if seen.ask.stream else "while a whole answer was pending"
    if visits and visits[0].began_at <= left_at:
        return "between two attempts"
    return "at the door" if record is None or record["outcome"] != "client_gone" or visits else "queued"


def late(evidence: Evidence, limit_s: float) -> Iterator[str]:
    """Requests that were at the backend longer than that after their clients had left, with all that is known."""
    told = records(evidence)
    for seen in leavers(evidence):
        left_at = seen.left_at or 0.0
        for visit in evidence.visits.get(seen.ask.id, ()):
            ended_at = visit.ended_at or float("inf")
            if ended_at - left_at > limit_s:
                stay = f"from {visit.began_at - left_at:+.3f} to {ended_at - left_at:+.3f} s, aborted: {visit.aborted}"
                yield f"{seen.ask.id} at {visit.model} {stay}; {seen.ask.leave} {seen.ask.way}; {told.get(seen.id)}"


def abort_latencies(evidence: Evidence) -> list[float]:
    """Seconds from a client's leaving to the backend's seeing it, of what it was working on then; sorted."""
    return sorted(
        visit.ended_at - (seen.left_at or 0.0)
        for seen in leavers(evidence)
        for visit in evidence.visits.get(seen.ask.id, ())
        if visit.aborted and visit.ended_at is not None and visit.ended_at > (seen.left_at or 0.0)
    )


def most_at_once(evidence: Evidence) -> dict[str, int]:
    """For each model, on each backend and on all, and all together (`*`): how many certainly held a slot at once."""
    moves = []
    for visit, ended_at in _runs(evidence):
        moves += [(visit.began_at, 1, visit.model, visit.backend), (ended_at, -1, visit.model, visit.backend)]
    now: Counter[str] = Counter()
    most: Counter[str] = Counter()
    for _, change, model, backend in sorted(moves):
        for name in (model, f"{model} on {backend}", "*"):
            now[name] += change
            most[name] = max(most[name], now[name])
    return dict(most)


def _runs(evidence: Evidence) -> Iterator[tuple[Visit, float]]:
    """What held a slot, and until when: at the backend, to the success or to the client's leaving."""
    told = records(evidence)
    for seen in evidence.seen:
        outcome = told.get(seen.id, {}).get("outcome")
        if outcome not in ("ok", "client_gone") or not (visits := evidence.visits.get(seen.ask.id)):
            continue
        last = visits[-1]
        ended_at = min(last.ended_at or float("inf"), seen.left_at or float("inf"))
        if last.began_at < ended_at:
            yield last, ended_at


# --- told to the operator of the test -------------------------------------------------------------------------------


def table(evidence: Evidence) -> str:
    told = records(evidence)
    outcomes = Counter(record["outcome"] for record in told.values())
    phases = Counter(phase(seen, evidence.visits.get(seen.ask.id, ()), told.get(seen.id)) for seen in leavers(evidence))
    waits = abort_latencies(evidence)
    attempts = evidence.scrapes[-1].by("hermes_backend_attempts_total", "result")
    rows = [
        ("requests", f"{len(evidence.seen)} in {evidence.took_s:.0f} s, {len(evidence.visits)} seen by the backend"),
        ("outcomes", _counts(outcomes)),
        ("no request", f"{len(evidence.seen) - len(told)} never sent whole, or left at the door"),
        ("clients left", f"{len(leavers(evidence))} ({len(leavers(evidence)) / len(evidence.seen):.1%})"),
        *((f"  {name}", str(phases[name])) for name in PHASES),
        ("attempts", _counts(Counter({result: count for (result,), count in attempts.items()}))),
        ("faults that struck", _counts(evidence.faults)),
        (
            "aborts at the backend",
            f"{len(waits)}; after p50 {_ms(waits, 0.5)}, p99 {_ms(waits, 0.99)}, max {_ms(waits, 1)}",
        ),
        ("longest stall of the test itself", f"{1000 * evidence.stall_s:.0f} ms"),
        ("slots in use at once", _counts(Counter(most_at_once(evidence)))),
        (
            "slots and queue",
            str({key: evidence.after["requests"][key] for key in ("active", "queued", "queued_bytes")}),
        ),
        ("connections", f"{evidence.before['requests']['connections']} -> {evidence.after['requests']['connections']}"),
        ("open files", f"{_process(evidence.before, 'open_files')} -> {_process(evidence.after, 'open_files')}"),
        (
            "resident memory",
            f"{_mib(_process(evidence.before, 'rss_bytes'))} -> {_mib(_process(evidence.after, 'rss_bytes'))}"
            f" (at most {_mib(max(evidence.rss_bytes))})",
        ),
        ("processor", f"{_process(evidence.after, 'cpu_s') - _process(evidence.before, 'cpu_s'):.1f} s"),
    ]
    return "\n".join(f"{name:<36}{value}" for name, value in rows)


def _process(status: Record, key: str) -> Any:
    return status["process"].get(key, 0)


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.most_common())


def _ms(latencies: Sequence[float], share: float) -> str:
    return f"{1000 * latencies[min(len(latencies) - 1, int(share * len(latencies)))]:.1f} ms" if latencies else "-"


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.1f} MiB"
