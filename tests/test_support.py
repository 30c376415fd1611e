"""The runner itself: a test that leaves something behind must fail."""

import asyncio
import logging

import pytest

from tests.support import run


def test_an_error_in_a_forgotten_task_fails_the_test() -> None:
    async def fail() -> None:
        raise ValueError("lost")

    async def scenario() -> None:
        task = asyncio.get_running_loop().create_task(fail())
        await asyncio.wait([task])

    with pytest.raises(AssertionError, match="lost"):
        run(scenario())


def test_an_error_in_a_callback_fails_the_test() -> None:
    async def scenario() -> None:
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)
        await asyncio.sleep(0)

    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        run(scenario())


def test_an_error_in_the_log_fails_the_test_unless_expected() -> None:
    async def scenario() -> int:
        logging.getLogger("hermes.any").error("a bug")
        return 1

    with pytest.raises(AssertionError, match="a bug"):
        run(scenario())
    assert run(scenario(), may_log_errors=True) == 1


def test_a_task_left_over_fails_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        asyncio.get_running_loop().create_task(asyncio.Event().wait())  # left over on purpose
        await asyncio.sleep(0)

    monkeypatch.setattr("tests.support._SETTLE_S", 0.01)
    with pytest.raises(AssertionError, match="left over"):
        run(scenario())
