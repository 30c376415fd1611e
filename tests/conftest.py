"""Settings of every test: a slow machine is no failure, and what it is made of makes no difference."""

import pytest
from hypothesis import settings

from hermes import machine
from hermes.fleet import memory

settings.register_profile("hermes", deadline=None)
settings.load_profile("hermes")


@pytest.fixture(autouse=True)
def this_machine_tells_nothing_of_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    async def find(loaded_bytes: int = 0) -> memory.Room:
        return memory.UNKNOWN

    monkeypatch.setattr(memory, "find", find)
    monkeypatch.setattr(machine, "pressure", str)
