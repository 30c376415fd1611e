"""Measures Hermes beside nginx (`make bench`), or beside LiteLLM and Portkey (`make bench-peers`): docs/benchmarks.md.

The measured program runs alone on one core, everything else on another. Programs take turns within each round, so what
else happens on the machine meets them alike.
"""

import argparse
import contextlib
import datetime
import os
import resource
import tempfile
from collections.abc import Sequence
from pathlib import Path

import machine
import peers
import programs
import report
from measure import Bench, Samples
from programs import Running, Subject, Workshop

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    options = _options()
    if (os.cpu_count() or 1) < 2:
        raise SystemExit("the benchmark needs two cores: one for what is measured, one for what measures")
    # Held streams need two files each in the program measured.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if 0 < hard < 65536 else 65536, hard))
    machine.pin(machine.HELPERS_CORE)
    with tempfile.TemporaryDirectory(prefix="hermes-bench-") as directory:
        workshop = Workshop.set_up(Path(directory))
        subjects = [programs.hermes(workshop), programs.nginx(workshop)]
        if options.peers:
            subjects += [peers.litellm(workshop), peers.portkey(workshop)]
        samples = Samples()
        others = [machine.busy_share()]
        with workshop.mock() as mock_pid:
            bench = Bench(workshop, mock_pid, samples)
            for number in range(options.rounds):
                print(f"round {number + 1} of {options.rounds} ...", flush=True)
                turn = subjects if number % 2 == 0 else subjects[::-1]
                (_round_with_peers if options.peers else _round)(bench, turn, options.quick)
                others.append(machine.busy_share())
    _publish(samples, subjects, options.rounds, others)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, help="interleaved rounds (3)")
    parser.add_argument("--quick", action="store_true", help="one round, shorter: a first look, not a result")
    parser.add_argument("--peers", action="store_true", help="beside LiteLLM and Portkey, installed outside this tree")
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 3)
    return options


def _round(bench: Bench, subjects: Sequence[Subject], quick: bool) -> None:
    with contextlib.ExitStack() as stack:
        all_running = [stack.enter_context(bench.workshop.running(subject)) for subject in subjects]
        metered = stack.enter_context(bench.workshop.running(programs.hermes(bench.workshop, metered=True)))
        for running in all_running:
            if running.subject.name == "hermes":
                bench.metering(running, metered, requests=5_000 if quick else 20_000)
            else:
                bench.whole_answers(running, requests=5_000 if quick else 20_000)
        ours = next(each for each in all_running if each.subject.name == "hermes")
        bench.looked_at(ours, requests=5_000 if quick else 20_000)
        bench.cache_hits(ours, requests=5_000 if quick else 20_000)
        for streams in (250, 1000):
            for running in all_running:
                bench.paced_chunks(running, streams, window_ms=2000 if quick else 4000)
        bench.chunks_of_other_dialects(ours, 250, window_ms=2000 if quick else 4000)
        bench.first_events([programs.directly(bench.workshop), *all_running], requests=400 if quick else 1000)
        for running in all_running:
            bench.saturation(running, seconds=1 if quick else 3)
    hermes = subjects[0] if subjects[0].name == "hermes" else subjects[1]
    bench.scheduler(hermes)
    with bench.workshop.running(hermes) as alone:
        bench.refusals(alone, requests=500 if quick else 2000)
    for subject in subjects:
        _memory_and_start(bench, subject)


def _memory_and_start(bench: Bench, subject: Subject) -> None:
    """On fresh processes: memory that was used once is not given back."""
    with bench.workshop.running(subject) as running:
        bench.idle_memory(running, "fresh")
        bench.start(running)
        bench.a_few_requests(running)
        bench.idle_memory(running, "used")
        bench.memory_per_stream(running)
    if subject.name == "hermes":
        with bench.workshop.running(subject) as running:
            bench.a_few_requests(running)
            bench.idle_memory_looked_at(running)
    with bench.workshop.running(subject) as running:
        bench.start(running)
        bench.a_few_requests(running)
        bench.memory_per_waiting_request(running)


def _round_with_peers(bench: Bench, subjects: Sequence[Subject], quick: bool) -> None:
    """Equal numbers of streams only: what a chunk costs falls as they grow."""
    with contextlib.ExitStack() as stack:
        all_running: list[Running] = []
        for subject in subjects:
            all_running.append(stack.enter_context(bench.workshop.running(subject)))
            bench.start(all_running[-1])
            bench.a_few_requests(all_running[-1])
            bench.idle_memory(all_running[-1], "used")
        for running in all_running:
            bench.whole_answers(running, requests=2_000 if quick else 10_000, seconds=5 if quick else 10)
        for streams, left_out in ((20, "portkey"), (100, "litellm")):
            for running in all_running:
                if running.subject.name != left_out:
                    bench.paced_chunks(running, streams, window_ms=2000 if quick else 4000)


def _publish(samples: Samples, subjects: Sequence[Subject], rounds: int, others: Sequence[float]) -> None:
    at = datetime.datetime.now(datetime.UTC)
    about = {
        "at": at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "machine": machine.description(),
        "versions": {subject.name: subject.version for subject in subjects},
        "rounds": rounds,
        "others_percent": round(100 * sum(others) / len(others)),
    }
    RESULTS.mkdir(exist_ok=True)
    text = report.as_text(samples, about)
    name = at.strftime("%Y%m%dT%H%M%SZ") + ("-peers" if len(subjects) > 2 else "")
    (RESULTS / f"{name}.txt").write_text(text)
    (RESULTS / f"{name}.json").write_text(report.as_json(samples, about))
    print(f"\n{text}\nwritten to {RESULTS / name}.txt and .json")


if __name__ == "__main__":
    main()
