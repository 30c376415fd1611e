"""Compares `hermes bench` with wrk, with what is known of a stall, and with 2,000 streams (`make bench-wrk`).

nginx passes on to a server that answers everything after 50 ms (`late.c`); these two share core 0, the generator has
core 1. wrk and hermes take turns. What is known: of a server that answers after d and stalls for s seconds
while r requests are due in each, (2 d + s - w) r take longer than w; for d < w < s.
"""

import argparse
import contextlib
import datetime
import json
import os
import resource
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import machine
import programs
from interpreter import LOCK, best
from programs import ENVIRONMENT, SOURCE, Workshop

RESULTS = Path(__file__).parent / "results"

DELAY_S, STALL_S = 0.05, 1.0
CONNECTIONS = (64, 128)
STALL_RATE, STALL_TEST_S = 200, 10.0
STREAMS, CHUNKS, CHUNK_INTERVAL_MS = 2000, 200, 50
# Of wrk's figures; the first two in a hundred, the last in fifteen.
TOLERANCES = {"answers_per_s": 0.05, "p50": 0.05, "p99": 0.15}

NGINX = """
daemon off; master_process off; worker_processes 1; pid {directory}/nginx.pid;
worker_rlimit_nofile 65536;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  client_body_temp_path {directory}/nginx.body; proxy_temp_path {directory}/nginx.proxy;
  fastcgi_temp_path {directory}/nginx.f; uwsgi_temp_path {directory}/nginx.u; scgi_temp_path {directory}/nginx.s;
  keepalive_requests 100000000;
  upstream late {{ server 127.0.0.1:{late}; keepalive 8192; keepalive_requests 100000000; }}
  upstream prompt {{ server 127.0.0.1:{prompt}; keepalive 8192; keepalive_requests 100000000; }}
  proxy_http_version 1.1;
  proxy_set_header Connection "";
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{ proxy_pass http://late; }}
    location = /prompt {{ proxy_pass http://prompt; }}
  }}
}}
"""

# Microseconds, as wrk has them.
LUA = """
done = function(summary, latency, requests)
  print(string.format('{"answers": %d, "seconds": %.6f, "p50": %.6f, "p99": %.6f, "errors": %d}', summary.requests,
    summary.duration / 1e6, latency:percentile(50) / 1e6, latency:percentile(99) / 1e6, summary.errors.connect
    + summary.errors.read + summary.errors.write + summary.errors.status + summary.errors.timeout))
end
"""

Figures = dict[str, float]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--seconds", type=int, default=10, help="of each run")
    options.add_argument("--connections", type=int, nargs="+", default=CONNECTIONS)
    asked = options.parse_args()
    for needed in ("wrk", "nginx", "gcc"):
        if shutil.which(needed, path=f"{os.environ['PATH']}:/usr/sbin") is None:
            raise SystemExit(f"{needed} is not installed (Debian: apt install gcc nginx-light wrk)")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    machine.pin(machine.HELPERS_CORE)
    others = machine.busy_share(3.0)
    with tempfile.TemporaryDirectory(prefix="hermes-bench-") as directory:
        stand = Stand(Workshop.set_up(Path(directory)))
        with stand.servers():
            found = {
                "wrk": [stand.beside_wrk(number, asked.rounds, asked.seconds) for number in asked.connections],
                "stall": stand.stall(),
                "streams": stand.streams(),
            }
    _publish(found, asked.rounds, others)


class Stand:
    """Where the generators run: the servers, and how each generator is started."""

    def __init__(self, workshop: Workshop) -> None:
        self.workshop = workshop
        self.late, self.prompt, self.nginx = (programs.free_port() for _ in range(3))
        self._python = str(best().environment("hermes", "--require-hashes", "-r", str(LOCK)) / "python")
        command = ["gcc", "-O2", "-Wall", "-o", workshop.path("late"), str(SOURCE / "late.c")]
        subprocess.run(command, check=True)

    @contextlib.contextmanager
    def servers(self) -> Iterator[None]:
        ports = {"late": self.late, "prompt": self.prompt, "port": self.nginx}
        config = NGINX.format(directory=self.workshop.directory, **ports)
        program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") or "nginx"
        errors = self.workshop.path("nginx.error.log")
        with (
            self._running(self.late, self.workshop.path("late"), str(self.late), f"{DELAY_S * 1e6:.0f}"),
            self._running(self.prompt, self.workshop.path("late"), str(self.prompt), "0"),
            self._running(self.nginx, program, "-c", self.workshop.write("nginx.conf", config), "-e", errors),
        ):
            yield

    @contextlib.contextmanager
    def _running(self, port: int, *command: str) -> Iterator[None]:
        with subprocess.Popen(command, preexec_fn=lambda: machine.pin(machine.MEASURED_CORE)) as process:
            try:
                programs.wait_for(process, port, "/", time.perf_counter(), timeout_s=5)
                yield
            finally:
                process.kill()

    def wrk(self, path: str, connections: int, seconds: int) -> Figures:
        script = self.workshop.write("done.lua", LUA)
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", script]
        answer = subprocess.run([*command, self._url(path)], capture_output=True, text=True, check=True)
        told: Figures = json.loads(answer.stdout.strip().splitlines()[-1])
        if told["errors"]:
            raise RuntimeError(f"wrk: {answer.stdout}")
        return told | {"answers_per_s": told["answers"] / told["seconds"]}

    def hermes(self, *arguments: str) -> dict[str, Any]:
        command = [self._python, "-m", "hermes", "bench", "--json", *arguments]
        environment = ENVIRONMENT | {"PYTHONPATH": str(SOURCE.parent / "src")}
        answer = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        told: dict[str, Any] = json.loads(answer.stdout)
        if told["all"]["errors"]:
            raise RuntimeError(f"hermes bench: {told['all']['errors']}")
        return told

    def _url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.nginx}{path}"

    # --- what is compared -------------------------------------------------------------------------------------------

    def beside_wrk(self, connections: int, rounds: int, seconds: int) -> dict[str, Any]:
        """Medians, and how far ours are from wrk's."""
        peak = self.wrk("/prompt", connections, 2)["answers_per_s"]
        runs: dict[str, list[Figures]] = {"wrk": [], "hermes": []}
        turns: list[tuple[str, Callable[..., Figures]]] = [("wrk", self.wrk), ("hermes", self._as_wrk)]
        for number in range(rounds):
            for name, run in turns if number % 2 == 0 else turns[::-1]:
                runs[name].append(run("/", connections, seconds))
                print(f"{connections} connections, {name}: {_line(runs[name][-1])}", flush=True)
        medians = {
            name: {measure: statistics.median(run[measure] for run in each) for measure in TOLERANCES}
            for name, each in runs.items()
        }
        off = {measure: medians["hermes"][measure] / medians["wrk"][measure] - 1 for measure in TOLERANCES}
        is_met = all(abs(off[measure]) <= most for measure, most in TOLERANCES.items())
        told = {"runs": runs, "medians": medians, "off": off, "is_met": is_met}
        return {"connections": connections, "nginx_peak": peak, **told}

    def _as_wrk(self, path: str, connections: int, seconds: int) -> Figures:
        """What wrk is asked for, by ourselves. wrk does not count the time to connect, so that is warm-up here."""
        url = self._url(path)
        told = self.hermes(
            "--api", "plain", "--url", url, "-c", str(connections), "-d", f"{seconds}s", "--warmup", "1s"
        )
        times = told["all"]["times"]["e2e"]
        return {
            "answers_per_s": told["all"]["answers_per_s"],
            "p50": times["p50"],
            "p99": times["p99"],
            "cpu": told["generator"]["cpu"],
        }

    def stall(self) -> dict[str, Any]:
        """One second's stall, as wrk and we tell of it, beside what it was."""
        true = {f"p{p}": 2 * DELAY_S + STALL_S - (1 - p / 100) * STALL_TEST_S for p in (95, 99)}
        plain = ("--api", "plain", "--url", self._url("/"), "-d", f"{STALL_TEST_S:.0f}s")
        connections = round(STALL_RATE * DELAY_S)
        rate = ("-r", str(STALL_RATE), "--arrivals", "constant")
        with self._stalling():
            by_wrk = self.wrk("/", connections, round(STALL_TEST_S))
        told = {}
        for name, arguments in {
            "open loop": rate,
            "open loop, 100 connections": (*rate, "-c", "100"),
            "closed loop": ("-c", str(connections)),
        }.items():
            with self._stalling():
                told[name] = self.hermes(*plain, *arguments)["all"]
        ours = {name: {p: each["times"]["e2e"][p] for p in true} for name, each in told.items()}
        ours["closed loop, corrected"] = {p: told["closed loop"]["corrected"][p] for p in true}
        return {"true": true, "wrk": {"p99": by_wrk["p99"]}, "hermes": ours}

    @contextlib.contextmanager
    def _stalling(self) -> Iterator[None]:
        """Some seconds into the block the server behind nginx stalls, once."""
        timer = threading.Timer(4.0, programs.get, (self.late, f"/stall?ms={STALL_S * 1000:.0f}"))
        timer.start()
        yield
        timer.join()

    def streams(self) -> dict[str, Any]:
        """2,000 at once, 20 pieces a second each, from a server that costs next to nothing."""
        with self.workshop.mock() as pid:
            os.sched_setaffinity(pid, {machine.MEASURED_CORE})
            self.workshop.pace(chunks=CHUNKS, interval_ms=CHUNK_INTERVAL_MS)
            url = f"http://127.0.0.1:{self.workshop.mock_port}/api/chat"
            load = ("-r", str(STREAMS / 5), "-n", str(STREAMS), "--arrivals", "constant")
            told = self.hermes("bench", "--url", url, *load)
        whole = told["all"]
        return {
            "at_once": max(each["in_flight"] for each in told["moments"]),
            "answered": whole["answered"],
            "pieces_per_s": max(each["pieces"] for each in told["moments"]) / told["moment_s"],
            "itl_p50": whole["times"]["itl"]["p50"],
            "itl_p99": whole["times"]["itl"]["p99"],
            **told["generator"],
            "warnings": told["warnings"],
        }


def _line(figures: Figures) -> str:
    return f"{figures['answers_per_s']:,.0f}/s, p50 {figures['p50'] * 1e3:.1f} ms, p99 {figures['p99'] * 1e3:.1f} ms"


def _as_text(found: dict[str, Any], rounds: int, others: float) -> str:
    stall, streams = found["stall"], found["streams"]
    stalled = {"as it was": stall["true"], **stall["hermes"], "wrk (closed, corrected)": stall["wrk"]}
    lag = f"late by {1000 * streams['loop_lag_p99']:.1f} ms (p99)"
    lines = [
        f"nginx before a server that takes {1000 * DELAY_S:.0f} ms; medians of {rounds} runs",
        *(line for beside in found["wrk"] for line in _beside(beside)),
        f"a stall of {STALL_S:.0f} s in {STALL_TEST_S:.0f}, {STALL_RATE} requests due in each",
        *(f"  {name:28} {_ranks(ranks)}" for name, ranks in stalled.items()),
        f"{streams['at_once']:,} streams at once, {streams['pieces_per_s']:,.0f} pieces/s",
        f"  gaps p50 {1000 * streams['itl_p50']:.1f} ms, p99 {1000 * streams['itl_p99']:.1f} ms",
        f"  the generator: {100 * streams['cpu']:.0f} % of a core, {100 * streams['cpu_most']:.0f} % at most, {lag}",
        *(f"  WARNING: {warning}" for warning in streams["warnings"]),
    ]
    busy = f"others used {100 * others:.0f} % of the two cores before" + (": NOT QUIET" if others > 0.05 else "")
    return "\n".join([*lines, busy, ""])


def _beside(found: dict[str, Any]) -> list[str]:
    off = ", ".join(f"{name} {100 * value:+.1f} %" for name, value in found["off"].items())
    return [
        f"{found['connections']} connections; nginx's peak with as many, but no wait: {found['nginx_peak']:,.0f}/s",
        *(f"  {name:7} {_line(figures)}" for name, figures in found["medians"].items()),
        f"  off     {off}: {'met' if found['is_met'] else 'MISSED'}",
    ]


def _ranks(ranks: Figures) -> str:
    return ", ".join(f"{name} {1000 * time_s:.0f} ms" for name, time_s in ranks.items())


def _publish(found: dict[str, Any], rounds: int, others: float) -> None:
    at = datetime.datetime.now(datetime.UTC)
    RESULTS.mkdir(exist_ok=True)
    text = _as_text(found, rounds, others)
    path = RESULTS / f"{at:%Y%m%dT%H%M%SZ}-generators"
    about = {"at": f"{at:%Y-%m-%dT%H:%M:%SZ}", "machine": machine.description(), "others": others}
    path.with_suffix(".txt").write_text(text)
    path.with_suffix(".json").write_text(json.dumps(about | found, indent=1))
    print(f"\n{text}\nwritten to {path}.txt and .json")


if __name__ == "__main__":
    main()
