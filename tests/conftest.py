"""Settings of every test: a slow machine is no failure, and what it is made of makes no difference."""

import os

import pytest
from hypothesis import settings
from msgspec.structs import replace

from hermes import composition, machine
from hermes.config import Limits
from hermes.fleet import memory
from hermes.policy.retry import RetryPolicy

# The gate draws the same each time, `make nightly` what it likes.
settings.register_profile("hermes", deadline=None, derandomize="HERMES_SEEDS" not in os.environ)
settings.load_profile("hermes")


@pytest.fixture(autouse=True)
def this_machine_tells_nothing_of_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    async def find(loaded_bytes: int = 0) -> memory.Room:
        return memory.UNKNOWN

    monkeypatch.setattr(memory, "find", find)
    monkeypatch.setattr(machine, "pressure", str)


@pytest.fixture(autouse=True)
def a_retry_does_not_wait_long(monkeypatch: pytest.MonkeyPatch) -> None:
    said = composition.retries

    def retries(limits: Limits) -> RetryPolicy:
        return replace(said(limits), backoff_s=0.005)

    monkeypatch.setattr(composition, "retries", retries)
