"""Which Python the measured Python programs run on. Builds of one version differ by half: it is the fastest found."""

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hermes-bench"
LOCK = Path(__file__).parent.parent / "requirements.lock"

# Calls, attributes, dictionaries and bytes, as in the programs that are measured: the best of some runs, in ms.
_TRIAL = """
import platform, sys, time
class Counter:
    __slots__ = ("count", "seen")
    def __init__(self):
        self.count, self.seen = 0, {}
    def take(self, key, size):
        self.count += 1
        self.seen[key] = self.seen.get(key, 0) + size
        return b"%d: %b" % (size, key)
def run():
    began, counter = time.perf_counter(), Counter()
    for number in range(20000):
        counter.take((b"one", b"two", b"three")[number % 3], number)
    return (time.perf_counter() - began) * 1000
if sys.version_info >= (3, 11):
    print(platform.python_version(), sys.base_prefix, min(run() for _ in range(15)))
"""


@dataclass(frozen=True)
class Interpreter:
    """One Python on this machine. `trial_ms`: how long it takes for a certain piece of work."""

    path: str
    version: str
    prefix: str
    trial_ms: float

    @property
    def name(self) -> str:
        return f"CPython {self.version} of {self.prefix}"

    def environment(self, name: str, *packages: str) -> Path:
        """Its own virtual environment with these packages, made on the first call. Returns where their programs are."""
        wanted = hashlib.sha256("\n".join((LOCK.read_text(), *packages)).encode()).hexdigest()[:12]
        home = CACHE / f"{name}-{self.version}{self.prefix.replace('/', '-')}-{wanted}"
        if not (home / "ready").exists():
            print(f"installing in {home} ...", flush=True)
            # Debian's Python has no ensurepip of its own: the pip of this one installs for it.
            subprocess.run([self.path, "-m", "venv", "--clear", "--without-pip", str(home)], check=True)
            pip = [sys.executable, "-m", "pip", "--python", str(home / "bin" / "python"), "install", "-q"]
            subprocess.run([*pip, *packages], check=True)
            (home / "ready").touch()
        return home / "bin"


def best() -> Interpreter:
    """The one that `BENCH_PYTHON` names, else the fastest of this one, those on the path and those in /usr."""
    asked = os.environ.get("BENCH_PYTHON")
    names = ("python3", *(f"python3.{minor}" for minor in range(11, 16)))
    paths = [shutil.which(name, path=path) for name in names for path in (None, "/usr/local/bin", "/usr/bin")]
    found = [_tried(path) for path in ([asked] if asked else dict.fromkeys([sys.executable, *filter(None, paths)]))]
    fit = [each for each in found if each is not None]
    if not fit:
        raise SystemExit(f"BENCH_PYTHON={asked} is no Python 3.11 or later")
    return min(fit, key=lambda each: each.trial_ms)


def _tried(path: str) -> Interpreter | None:
    """None for what is too old, or no Python."""
    try:
        told = subprocess.run([path, "-c", _TRIAL], capture_output=True, text=True, check=False).stdout.split()
    except OSError:
        return None
    return Interpreter(path, told[0], told[1], float(told[2])) if len(told) == 3 else None
