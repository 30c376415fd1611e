"""The figures of one replay: how many were served in time, how long they waited, at what price, how evenly."""

from collections import Counter
from math import ceil
from statistics import median

from msgspec import Struct

from hermes.simulator.replay.box import Box
from hermes.simulator.replay.run import Run
from hermes.simulator.replay.workload import Workload

LONG_WAIT_S = 10.0  # predictions of longer waits are judged in relation to them, of shorter ones in seconds


class Figures(Struct, frozen=True, kw_only=True):
    """Shares are of 1. Waits are those of all that started, however late; None where nothing did.

    goodput: the share of all arrivals that started within the box's max_wait_s.
    swaps_per_100: loads for every 100 requests that started.
    fairness: Jain's index over tenants of tokens served in time in relation to tokens asked for.
    eta_*: of the predictions at arrival for requests that waited and started; None where nothing was predicted.
    The median error in relation to the wait, of waits over LONG_WAIT_S; in seconds, of the others; and the share
    that waited no longer than the upper estimate.
    """

    policy: str
    rate: float
    seed: int
    goodput: float
    wait_p50_s: float | None
    wait_p95_s: float | None
    wait_p99_s: float | None
    wait_max_s: float | None
    swaps_per_100: float
    goodput_by_model: dict[str, float]
    fairness: float
    eta_error_long: float | None
    eta_error_short_s: float | None
    eta_covered: float | None


def measure(policy: str, rate: float, seed: int, run: Run, box: Box, workload: Workload) -> Figures:
    waits = wait_by_number(run, workload)
    in_time = {number for number, wait_s in waits.items() if wait_s <= box.max_wait_s + 1e-6}
    requests = workload.requests
    asked = Counter(request.model for request in requests)
    served = Counter(requests[number].model for number in in_time)
    ordered = sorted(waits.values())
    eta_error_long, eta_error_short_s, eta_covered = _judge_predictions(run, waits)
    return Figures(
        policy=policy,
        rate=rate,
        seed=seed,
        goodput=round(len(in_time) / len(requests), 5),
        wait_p50_s=_percentile(ordered, 0.5),
        wait_p95_s=_percentile(ordered, 0.95),
        wait_p99_s=_percentile(ordered, 0.99),
        wait_max_s=_percentile(ordered, 1.0),
        swaps_per_100=round(100 * run.loads / max(1, len(waits)), 2),
        goodput_by_model={
            model.name: round(served[model.name] / asked[model.name], 5) for model in box.models if asked[model.name]
        },
        fairness=round(_jain(_served_shares(workload, in_time)), 5),
        eta_error_long=eta_error_long,
        eta_error_short_s=eta_error_short_s,
        eta_covered=eta_covered,
    )


def wait_by_number(run: Run, workload: Workload) -> dict[int, float]:
    """How long each request waited that started, by its number."""
    return {
        request.number: started_at - request.arrived_at
        for request, started_at in zip(workload.requests, run.started_at, strict=True)
        if started_at is not None
    }


def _percentile(ordered: list[float], share: float) -> float | None:
    """The nearest rank."""
    return round(ordered[ceil(share * len(ordered)) - 1], 3) if ordered else None


def _served_shares(workload: Workload, in_time: set[int]) -> list[float]:
    """By tenant."""
    asked: Counter[str] = Counter()
    served: Counter[str] = Counter()
    for request, tokens_out in zip(workload.requests, workload.tokens_out, strict=True):
        tokens = request.tokens_in + tokens_out
        asked[request.tenant] += tokens
        if request.number in in_time:
            served[request.tenant] += tokens
    return [served[tenant] / tokens for tenant, tokens in asked.items() if tokens]


def _jain(shares: list[float]) -> float:
    """1.0: all alike; 1/n: one has everything (Jain, Chiu, Hawe 1984). Where nobody has anything, all are alike."""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 1.0


def _judge_predictions(run: Run, waits: dict[int, float]) -> tuple[float | None, float | None, float | None]:
    judged = [(promise, waits[number]) for number, promise in run.promises.items() if waits.get(number, 0.0) > 0.0]
    errors = [(abs(promise.wait_s - wait_s), wait_s) for promise, wait_s in judged]
    long = [error_s / wait_s for error_s, wait_s in errors if wait_s > LONG_WAIT_S]
    short = [error_s for error_s, wait_s in errors if wait_s <= LONG_WAIT_S]
    covered = [wait_s <= promise.upper_s for promise, wait_s in judged]
    return (
        round(median(long), 4) if long else None,
        round(median(short), 3) if short else None,
        round(sum(covered) / len(covered), 4) if covered else None,
    )
