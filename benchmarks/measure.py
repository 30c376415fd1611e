"""What is measured, one function each: a program is asked in one way, and what it took is noted."""

import contextlib
import json
import statistics
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import machine
from programs import CROWD, ENVIRONMENT, Running, Subject, Workshop

# One chunk in 50 ms: 20 tokens a second, what a model on one's own GPU gives.
CHUNK_INTERVAL_MS = 50
RAMP_MS, SETTLE_MS = 1000, 500
QUEUES = (10, 1000, 100_000)  # requests that wait while the scheduler decides
SCRAPE_S = 5
TURNS = 5
HELD_STEP, HELD_STEPS = 500, 5  # the slope is taken over the last 2,000 of these


def chat(stream: bool, model: str = "bench", temperature: float = 0.7) -> str:
    """A request as an OpenAI SDK sends it, below 1 KiB."""
    system = "You are a patient teacher. You answer in plain words, with one example from daily life, and no formulas."
    question = "Explain the theory of relativity to a curious twelve-year-old: what is relative, what is not, and why?"
    messages = [{"role": "system", "content": system}, {"role": "user", "content": question * 3}]
    sampling = {"temperature": temperature, "top_p": 0.9, "max_tokens": 512}
    return json.dumps({"model": model, "messages": messages, "stream": stream, **sampling}, separators=(",", ":"))


@dataclass
class Samples:
    """Every value measured, by measure and program, and every answer that was not as it should be."""

    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    def add(self, measure: str, program: str, value: float) -> None:
        self.values.setdefault(measure, {}).setdefault(program, []).append(value)

    def median(self, measure: str, program: str) -> float | None:
        found = self.values.get(measure, {}).get(program)
        return statistics.median(found) if found else None


@dataclass(frozen=True)
class Bench:
    workshop: Workshop
    mock_pid: int
    samples: Samples

    def load(
        self, mode: str, what: str, running: Running | Subject, body: str, end: str = "", **arguments: int
    ) -> dict[str, Any]:
        """One run of the load generator. Notes its errors, and what it and the mock took of their core."""
        subject = running if isinstance(running, Subject) else running.subject
        pids = [] if isinstance(running, Subject) else running.pids
        end = end or (subject.stream_end if json.loads(body)["stream"] else subject.whole_end)
        command = self._command(mode, subject, body, end)
        command += [f"watch={pid}" for pid in [self.mock_pid, *pids]]
        command += [f"{name}={value}" for name, value in arguments.items()]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        if answer.returncode:
            raise RuntimeError(f"{subject.name}, {what}: {answer.stderr}")
        result: dict[str, Any] = json.loads(answer.stdout)
        if result["errors"]:
            self.samples.errors.append(f"{subject.name}, {what}: {result['errors']} bad, e.g. {result['first_error']}")
        mock_ns, *own_ns = result["cpu_ns"]
        result["cpu_us"] = sum(own_ns) / 1000
        self.samples.add(f"mock_percent {what}", subject.name, mock_ns / result["seconds"] / 1e7)
        self.samples.add(f"load_percent {what}", subject.name, result["own_cpu_ns"] / result["seconds"] / 1e7)
        return result

    def _command(self, mode: str, subject: Subject, body: str, end: str) -> list[str]:
        command = [self.workshop.path("load"), mode, f"port={subject.port}", f"path={subject.path}", f"end={end}"]
        return [*command, f"body={self._body_file(body)}", *(f"header={header}" for header in subject.headers)]

    def _body_file(self, body: str) -> Path:
        path = self.workshop.directory / "body.json"
        path.write_text(body)
        return path

    # --- time -------------------------------------------------------------------------------------------------------

    def whole_answers(
        self, running: Running, requests: int, seconds: int = 60, measure: str = "request_cpu_us"
    ) -> float:
        """CPU time per whole answer: 32 connections, each asks again as soon as it is answered."""
        self.workshop.pace()
        sizes = {"connections": 32, "requests": requests, "warmup": requests // 10, "seconds": seconds}
        result = self.load("closed", "whole answers", running, chat(False), **sizes)
        cpu_us: float = result["cpu_us"] / max(1, result["answers"])
        self.samples.add(measure, running.subject.name, cpu_us)
        return cpu_us

    def metering(self, plain: Running, metered: Running, requests: int) -> None:
        """What keys, limits and the ledger add to that. By short turns: it is a small part of what is measured, of
        which the machine's moods are as much.
        """
        both, added = [(plain, "request_cpu_us"), (metered, "metered_cpu_us")], []
        for _ in range(TURNS):
            took = {
                measure: self.whole_answers(running, requests // TURNS, measure=measure) for running, measure in both
            }
            added.append(took["metered_cpu_us"] - took["request_cpu_us"])
            both.reverse()
        self.samples.add("metering_cpu_us", plain.subject.name, statistics.median(added))

    def cache_hits(self, running: Running, requests: int) -> None:
        """CPU time per whole answer that was given before: the same request, to a model with a cache."""
        self.workshop.pace()
        sizes = {"connections": 32, "requests": requests, "warmup": requests // 10, "seconds": 60}
        result = self.load("closed", "cache hits", running, chat(False, "cached", temperature=0), **sizes)
        self.samples.add("hit_cpu_us", running.subject.name, result["cpu_us"] / max(1, result["answers"]))

    def looked_at(self, running: Running, requests: int) -> None:
        """CPU time per whole answer while somebody looks on."""
        with _looking_at(running.subject):
            self.whole_answers(running, requests, measure="looked_cpu_us")

    def saturation(self, running: Running, seconds: int) -> None:
        """Whole answers a second with 128 connections that never pause."""
        self.workshop.pace()
        sizes = {"connections": 128, "requests": 1_000_000, "warmup": 500, "seconds": seconds}
        result = self.load("closed", "saturation", running, chat(False), **sizes)
        name = running.subject.name
        self.samples.add("saturation_rps", name, result["answers"] / result["seconds"])
        self.samples.add("saturation_core_percent", name, result["cpu_us"] / result["seconds"] / 1e4)

    def paced_chunks(self, running: Running, streams: int, window_ms: int, measure: str = "chunk_cpu_us") -> None:
        """CPU time per chunk that reaches a client, while all streams are open."""
        chunks = (RAMP_MS + SETTLE_MS + window_ms) // CHUNK_INTERVAL_MS + 10
        self.workshop.pace(chunks=chunks, interval_ms=CHUNK_INTERVAL_MS)
        sizes = {"connections": streams, "requests": streams, "events": chunks + 1, "seconds": 60}
        times = {"ramp_ms": RAMP_MS, "settle_ms": SETTLE_MS, "window_ms": window_ms}
        result = self.load("streams", f"{streams} streams", running, chat(True), **sizes, **times)
        expected = streams * window_ms / CHUNK_INTERVAL_MS
        if abs(result["events"] / expected - 1) > 0.05:
            late = f"{result['events']} chunks arrived in the window, {expected:.0f} were due"
            self.samples.errors.append(f"{running.subject.name}, {streams} streams: {late}")
        self.samples.add(f"{measure}_{streams}", running.subject.name, result["cpu_us"] / max(1, result["events"]))

    def chunks_of_other_dialects(self, running: Running, streams: int, window_ms: int) -> None:
        """The same where a client speaks what the backend speaks, and where it speaks Anthropic's API."""
        for name, path, end in (
            ("passed_chunk", "/api/chat", '"done":true'),
            ("anthropic_chunk", "/v1/messages", "message_stop"),
        ):
            asked = replace(running, subject=replace(running.subject, path=path, stream_end=end))
            self.paced_chunks(asked, streams, window_ms, f"{name}_cpu_us")

    def first_events(self, programs: list[Running | Subject], requests: int) -> None:
        """Time to the first event of a stream, 200 streams begun a second; the first program is the backend itself."""
        self.workshop.pace(chunks=1, interval_ms=1)
        direct = {}
        for program in programs:
            sizes = {"connections": 256, "requests": requests, "warmup": 50, "rate": 200, "events": 2, "seconds": 60}
            times = self.load("rate", "first events", program, chat(True), **sizes)["first_event_us"]
            name = program.name if isinstance(program, Subject) else program.subject.name
            for percentile in ("p50", "p99"):
                self.samples.add(f"first_event_us_{percentile}", name, times[percentile])
                if program is programs[0]:
                    direct[percentile] = times[percentile]
                else:
                    added = times[percentile] - direct[percentile]
                    self.samples.add(f"added_first_event_us_{percentile}", name, added)

    def refusals(self, running: Running, requests: int) -> None:
        """Time to the refusal while a crowd waits: of what would come too late, then of what is one too many."""
        name, body = running.subject.name, chat(False, "crowded")
        self.workshop.pace(chunks=4, interval_ms=CHUNK_INTERVAL_MS)
        self.load("closed", "a few", running, chat(True, "crowded"), connections=1, requests=10)  # how long it takes
        self.workshop.pace(hold=True)
        # Those that wait have all day, so who is in a hurry would go first, if it were not of a lower class.
        headers = ("x-hermes-class: batch", "x-hermes-deadline-ms: 100")
        hurried = replace(running, subject=replace(running.subject, headers=headers))
        sizes = {"connections": 256, "requests": requests, "warmup": 50, "rate": 500}
        with self._holding(running, body, CROWD + 1, first_event=False) as hold:
            for more, code, status in ((CROWD, "deadline_unreachable", 503), (1, "queue_full", 429)):
                hold(more)
                _wait_until_calm(running.pids)
                times = self.load("rate", code, hurried, body, code, status=status, **sizes)["whole_us"]
                for percentile in ("p50", "p99"):
                    self.samples.add(f"{code}_ms_{percentile}", name, times[percentile] / 1000)

    def scheduler(self, subject: Subject) -> None:
        """What a decision costs, with the same Python, alone on the core of what is measured."""
        answer = subprocess.run(
            [subject.command[0], str(Path(__file__).with_name("core.py")), *map(str, QUEUES)],
            stdout=subprocess.PIPE,
            env=ENVIRONMENT | subject.environment,
            preexec_fn=lambda: machine.pin(machine.MEASURED_CORE),
            check=True,
        )
        for waiting, cost_us in json.loads(answer.stdout).items():
            self.samples.add(f"scheduler_us_{waiting}", subject.name, cost_us)

    # --- memory and start -------------------------------------------------------------------------------------------

    def start(self, running: Running) -> None:
        """What was seen while it started, and the first answer."""
        name = running.subject.name
        started = time.perf_counter()
        self.a_few_requests(running, answers=1)
        first_answer_ms = running.ready_ms + (time.perf_counter() - started) * 1000
        self.samples.add("start_health_ms", name, running.health_ms)
        self.samples.add("start_ready_ms", name, running.ready_ms)
        self.samples.add("start_first_answer_ms", name, first_answer_ms)

    def a_few_requests(self, running: Running, answers: int = 50) -> None:
        self.workshop.pace(chunks=5, interval_ms=1)
        for stream in (False, True):
            self.load("closed", "a few", running, chat(stream), connections=min(5, answers), requests=answers)

    def idle_memory(self, running: Running, when: str) -> None:
        time.sleep(0.3)
        for name, kib in machine.memory_kib(running.pids).items():
            self.samples.add(f"idle_{name}_mib_{when}", running.subject.name, kib / 1024)

    def idle_memory_looked_at(self, running: Running) -> None:
        with _looking_at(running.subject):
            time.sleep(2.0)
            self.idle_memory(running, "looked")

    def memory_per_stream(self, running: Running) -> None:
        """The slope of resident memory over open streams that trickle."""
        self.workshop.pace(chunks=100_000, interval_ms=2000)
        self.samples.add("stream_kib", running.subject.name, self._slope_kib(running, chat(True), first_event=True))

    def memory_per_waiting_request(self, running: Running) -> None:
        """The slope over requests that wait: in Hermes's queue behind the one that runs; in nginx for the backend."""
        self.workshop.pace(hold=True)
        body = chat(False, model="single")
        self.samples.add("queued_kib", running.subject.name, self._slope_kib(running, body, first_event=False))

    def _slope_kib(self, running: Running, body: str, *, first_event: bool) -> float:
        counts, sizes_kib = [], []
        with self._holding(running, body, HELD_STEP * HELD_STEPS, first_event=first_event) as hold:
            for step in range(HELD_STEPS):
                hold(HELD_STEP)
                _wait_until_calm(running.pids)
                counts.append(HELD_STEP * (step + 1))
                sizes_kib.append(machine.memory_kib(running.pids)["rss"])
        return statistics.linear_regression(counts, sizes_kib).slope

    @contextlib.contextmanager
    def _holding(self, running: Running, body: str, most: int, *, first_event: bool) -> Iterator[Callable[[int], None]]:
        """What is yielded opens so many more requests, that stay open until the block is left."""
        command = self._command("hold", running.subject, body, end="")
        command += [f"connections={most}", f"events={int(first_event)}", "seconds=60"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
            assert holder.stdin is not None and holder.stdout is not None
            orders, results = holder.stdin, holder.stdout

            def hold(count: int) -> None:
                orders.write(f"{count}\n")
                orders.flush()
                json.loads(results.readline())

            yield hold
            orders.close()
            result = json.loads(results.readline())
        if result["errors"]:
            self.samples.errors.append(f"{running.subject.name}, held: {result['first_error']}")


def _wait_until_calm(pids: list[int]) -> None:
    """Until the program has dealt with what it was sent: less than 10 % of a core, or two seconds."""
    for _ in range(10):
        before = sum(map(machine.cpu_ns, pids))
        time.sleep(0.2)
        if sum(map(machine.cpu_ns, pids)) - before < 20_000_000:
            return


@contextlib.contextmanager
def _looking_at(subject: Subject) -> Iterator[None]:
    """What the dashboard asks for while it is open, and Prometheus; from the core of the helpers."""
    over, address = threading.Event(), f"http://127.0.0.1:{subject.port}"

    def follow() -> None:
        with urllib.request.urlopen(f"{address}/v1/events") as events:
            while not over.is_set() and events.readline():
                pass

    def scrape() -> None:
        while not over.wait(0):
            for path in ("/metrics", "/v1/history", "/v1/requests"):
                with urllib.request.urlopen(address + path) as answer:
                    answer.read()
            over.wait(SCRAPE_S)

    lookers = [threading.Thread(target=each, daemon=True) for each in (follow, scrape)]
    for looker in lookers:
        looker.start()
    try:
        yield
    finally:
        over.set()
        for looker in lookers:
            looker.join()
