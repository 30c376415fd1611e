"""The engine plays by the rules of the box, and a policy that does not fails loudly."""

from collections.abc import Callable, Iterable, Iterator

import pytest

from hermes.simulator.replay.actions import Action, Drain, Load, Promise, Refuse, Start, Unload
from hermes.simulator.replay.box import Box, Model
from hermes.simulator.replay.engine import replay
from hermes.simulator.replay.policies import POLICIES
from hermes.simulator.replay.run import Run, Span
from hermes.simulator.replay.workload import Request, Workload, draw
from tests.simulator.replay.boxes import BOX, made_up_trace, workload

A, B, C = (0.0, "a", 10), (1.0, "b", 10), (2.0, "c", 10)


class Scripted:
    """Does what the script says at each arrival, by number, and when the alarm rings."""

    def __init__(self, script: Callable[[Request], Iterable[Action]], alarm: float | None = None) -> None:
        self._script = script
        self._alarm = alarm
        self._request: Request | None = None
        self.heard: list[tuple[str, float]] = []

    def arrived(self, request: Request, now: float) -> Iterable[Action]:
        self.heard.append((f"arrived {request.number}", now))
        self._request = request
        return self._script(request)

    def finished(self, request: Request, tokens_out: int, now: float) -> Iterable[Action]:
        self.heard.append((f"finished {request.number} with {tokens_out}", now))
        return ()

    def loaded(self, model: str, now: float) -> Iterable[Action]:
        self.heard.append((f"loaded {model}", now))
        return ()

    def wakes_at(self) -> float | None:
        return self._alarm

    def woken(self, now: float) -> Iterable[Action]:
        self.heard.append(("woken", now))
        self._alarm = None
        assert self._request is not None
        return [Refuse(self._request)]


def perform(*asked: tuple[float, str, int], script: Callable[[Request], Iterable[Action]]) -> Run:
    return replay(Scripted(script), BOX, workload(*asked))


def test_a_policy_hears_of_arrivals_loads_ends_and_its_alarm_in_their_order() -> None:
    def script(request: Request) -> Iterator[Action]:
        if request.model == "c":
            yield from (Unload("b"), Load("c"))
        else:
            yield Start(request)

    policy = Scripted(script, alarm=20.0)
    run = replay(policy, BOX, workload(A, C))
    assert policy.heard == [
        ("arrived 0", 0.0),
        ("arrived 1", 2.0),
        ("finished 0 with 10", 10.0),
        ("loaded c", 12.0),
        ("woken", 20.0),
    ]
    assert (run.started_at, run.refused_at) == ([0.0, None], [None, 20.0])
    assert (run.loads, run.ended_at) == (1, 20.0)
    assert sorted(run.spans, key=lambda span: (span.model, span.since)) == [
        Span("a", "loaded", 0.0, 20.0),
        Span("b", "loaded", 0.0, 2.0),
        Span("c", "loading", 2.0, 12.0),
        Span("c", "loaded", 12.0, 20.0),
    ]


def test_a_run_takes_as_long_as_its_context_and_its_answer() -> None:
    box = Box((Model("a", 1.0),), prefill=1000.0, decode=50.0)
    policy = Scripted(lambda request: [Start(request)])
    replay(policy, box, Workload([Request(0, "a", "", 3000, 1.0)], [100]))
    assert policy.heard[-1] == ("finished 0 with 100", 1.0 + 3.0 + 2.0)


@pytest.mark.parametrize(
    ("asked", "actions", "told"),
    [
        ([A], lambda request: [Start(request), Start(request)], "does not wait"),
        ([A], lambda request: [Start(request), Refuse(request)], "does not wait"),
        ([A], lambda request: [Refuse(request), Refuse(request)], "does not wait"),
        ([A, A], lambda request: [Start(request)], "a has no free slot"),
        ([C], lambda request: [Start(request)], "c is not loaded"),
        ([C], lambda request: [Unload("a"), Load("c"), Start(request)], "c is not loaded"),
        ([C], lambda request: [Load("c")], "no memory for c"),
        ([A], lambda request: [Load("a")], "a is loaded"),
        ([C], lambda request: [Unload("a"), Load("c"), Load("a")], "c is still loading"),
        ([A], lambda request: [Start(request), Unload("a")], "a is busy"),
        ([A], lambda request: [Unload("c")], "c is busy, or not loaded"),
        ([A], lambda request: [Drain("c")], "c is not loaded"),
        ([A], lambda request: [], "1 requests were forgotten"),
    ],
)
def test_a_policy_that_cheats_fails_loudly(
    asked: list[tuple[float, str, int]], actions: Callable[[Request], Iterable[Action]], told: str
) -> None:
    with pytest.raises(AssertionError, match=told):
        perform(*asked, script=actions)


def test_a_policy_that_predicts_when_it_knows_fails_loudly() -> None:
    earlier: list[Request] = []

    def script(request: Request) -> Iterator[Action]:
        earlier.append(request)
        yield Promise(earlier[0], 1.0, 2.0)
        yield Start(request)

    with pytest.raises(AssertionError, match="at arrival"):
        perform(A, B, script=script)


def test_an_alarm_that_rings_for_ever_fails_loudly() -> None:
    class Stuck(Scripted):
        def woken(self, now: float) -> Iterable[Action]:
            return ()

    with pytest.raises(AssertionError, match="moves its alarm on"):
        replay(Stuck(lambda request: (), alarm=1.0), BOX, workload(A))


def test_sizes_that_are_no_round_numbers_fill_the_memory_again_and_again() -> None:
    box = Box((Model("a", 1.0, 0.1), Model("b", 1.0, 0.2)), memory=0.3)
    asked = [(float(at_s), "a", 1) for at_s in range(0, 100, 2)]

    def script(request: Request) -> Iterator[Action]:
        yield from (Unload("a"), Load("a"), Refuse(request))

    assert replay(Scripted(script), box, workload(*asked)).loads == 50


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("seed", range(3))
def test_what_is_noted_of_a_run_obeys_the_rules_of_the_box(policy: str, seed: int) -> None:
    models = tuple(Model(str(n), 4.0 + n, 3.0 + 2 * n, share) for n, share in enumerate((5, 3, 2, 1)))
    box = Box(models, memory=13.0, slots=2)
    drawn = draw(made_up_trace(400, seed), models, seed, rate=0.4)
    run = replay(POLICIES[policy](box), box, drawn)
    sizes = {model.name: model.size for model in models}
    changes = [
        change
        for span in run.spans
        for change in ((span.since, 1, span.state, sizes[span.model]), (span.until, 0, span.state, -sizes[span.model]))
    ]
    held = loading = 0.0
    for _, begins, state, size in sorted(changes):
        held += size
        loading += (1 if begins else -1) * (state == "loading")
        assert held <= box.memory and loading <= 1
    served: dict[str, list[tuple[float, int]]] = {}
    for request, tokens_out, started_at, refused_at in zip(
        drawn.requests, drawn.tokens_out, run.started_at, run.refused_at, strict=True
    ):
        assert (started_at is None) != (refused_at is None)
        if started_at is None:
            continue
        assert started_at >= request.arrived_at
        ended_at = started_at + box.service_s(request.tokens_in, tokens_out)
        assert in_memory_throughout(run, request.model, started_at, ended_at)
        served.setdefault(request.model, []).extend(((started_at, 1), (ended_at, -1)))
    for moments in served.values():
        running = 0
        for _, change in sorted(moments):
            running += change
            assert running <= box.slots


def in_memory_throughout(run: Run, model: str, since: float, until: float) -> bool:
    spans = [span for span in run.spans if span.model == model and span.state != "loading"]
    covered = sum(max(0.0, min(span.until, until) - max(span.since, since)) for span in spans)
    return covered == pytest.approx(until - since)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_same_study_has_the_same_result(policy: str) -> None:
    box = Box(BOX.models)
    drawn = draw(made_up_trace(200), box.models, 1)
    assert replay(POLICIES[policy](box), box, drawn) == replay(POLICIES[policy](box), box, drawn)
