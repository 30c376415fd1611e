"""The access log: one record, one line; a reader that does not read stalls nothing and costs a bounded memory."""

import asyncio
import errno
import json
import os
from collections.abc import Iterator

import msgspec
import pytest

from hermes.access_log import GROUP_S, MAX_WAITING_LINES, AccessLog
from hermes.errors import Outcome
from hermes.lines import as_text
from hermes.metrics import Metrics
from hermes.record import Record
from tests.simulation.loop import VirtualLoop


def record(request_id: str = "r1", model: str = "m") -> Record:
    return Record(1.5, request_id, "/v1/llm/{model}", "POST", Outcome.OK, 200, 12, model=model)


class Pipe:
    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()

    def fill(self) -> int:
        """Fill it to the brim, as a stalled reader would let it. Returns the bytes in it."""
        os.set_blocking(self.writer, False)
        filled = 0
        try:
            while True:
                filled += os.write(self.writer, b"\n" * 4096)
        except BlockingIOError:
            os.set_blocking(self.writer, True)
            return filled

    def read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            data += os.read(self.reader, size - len(data))
        return data

    def rest(self) -> bytes:
        """What is left in it, once the writer is closed."""
        os.close(self.writer)
        self.writer = -1
        with os.fdopen(self.reader, "rb", closefd=False) as file:
            return file.read()

    def close(self) -> None:
        for fd in (self.reader, self.writer):
            if fd >= 0:
                os.close(fd)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    made = VirtualLoop()
    yield made
    made.close()


@pytest.fixture
def log(pipe: Pipe, loop: VirtualLoop) -> Iterator[AccessLog]:
    made = AccessLog(pipe.writer, loop, Metrics())
    yield made
    made.close()


def write(log: AccessLog, *records: Record) -> None:
    """Log them, and close the log."""
    for each in records:
        log(each)
    log.close()
    assert not log._thread.is_alive()


def size(*records: Record) -> int:
    return sum(len(msgspec.json.encode(each)) + 1 for each in records)


def dropped(log: AccessLog) -> float:
    return log._metrics.log_dropped.read()[()]


def ids(data: bytes) -> list[str]:
    return [json.loads(line)["request_id"] for line in data.splitlines()]


def test_records_are_lines_of_json_in_their_order(log: AccessLog, pipe: Pipe) -> None:
    write(log, *(record(f"r{number}") for number in range(100)))
    data = pipe.rest()
    assert data.endswith(b"}\n")
    assert ids(data) == [f"r{number}" for number in range(100)]
    assert json.loads(data.splitlines()[0]) == {
        "created_at": 1.5,
        "request_id": "r0",
        "route": "/v1/llm/{model}",
        "method": "POST",
        "outcome": "ok",
        "status": 200,
        "duration_ms": 12,
        "model": "m",
    }
    assert dropped(log) == 0


def test_control_characters_are_escaped(log: AccessLog, pipe: Pipe) -> None:
    """I28."""
    nasty = "".join(map(chr, range(32))) + '"\\\u2028\x1b[31m'
    write(log, record(nasty))
    data = pipe.rest()
    assert data.count(b"\n") == 1 and not [byte for byte in data[:-1] if byte < 32]
    assert ids(data[:-1]) == [nasty]


def test_what_comes_together_is_written_once_its_time_has_passed(log: AccessLog, pipe: Pipe, loop: VirtualLoop) -> None:
    async def main() -> None:
        log(record("a"))
        await asyncio.sleep(GROUP_S / 2)
        log(record("b"))
        assert not log._groups
        await asyncio.sleep(GROUP_S)
        assert ids(pipe.read(size(record("a"), record("b")))) == ["a", "b"]

    loop.run(main())


def test_closing_writes_what_is_left(log: AccessLog, pipe: Pipe) -> None:
    write(log, record("last"))
    assert ids(pipe.rest()) == ["last"]


def test_a_stalled_pipe_stalls_nobody_and_what_waits_is_bounded(pipe: Pipe, loop: VirtualLoop) -> None:
    """I4: past the bound lines are dropped and counted, and what was kept arrives when the reader reads again."""
    kept = [record(f"r{number}") for number in range(MAX_WAITING_LINES)]
    filled = pipe.fill()
    log = AccessLog(pipe.writer, loop, Metrics())

    async def main() -> None:
        for each in (*kept, *[record("lost")] * 500):
            log(each)
            if each.request_id.endswith("000"):
                await asyncio.sleep(GROUP_S * 2)

    loop.run(main())
    assert dropped(log) == 500
    log.close(timeout_s=0.01)  # closing does not wait for the reader either
    assert log._thread.is_alive()
    pipe.read(filled)
    assert ids(pipe.read(size(*kept))) == [each.request_id for each in kept]
    log._thread.join()


def test_what_was_written_makes_room_for_more(log: AccessLog, pipe: Pipe, loop: VirtualLoop) -> None:
    async def main() -> None:
        # When the one line has come, the thread has told of the many before it.
        for lines in ([record("many")] * (MAX_WAITING_LINES - 1), [record("one")]) * 3:
            for each in lines:
                log(each)
            await asyncio.sleep(GROUP_S * 2)
            pipe.read(size(*lines))

    loop.run(main())
    assert dropped(log) == 0


def test_a_pipe_without_a_reader_costs_the_lines_and_nothing_else(log: AccessLog, pipe: Pipe) -> None:
    os.close(pipe.reader)
    pipe.reader = -1
    write(log, *[record()] * 3)
    assert dropped(log) == 3


def test_a_non_blocking_pipe_gets_every_line_and_is_not_asked_in_a_hurry(
    pipe: Pipe, loop: VirtualLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever shares our standard error may have made it so."""
    filled = pipe.fill()
    tries: list[bytes] = []
    write_now = os.write

    def counted(fd: int, data: bytes) -> int:
        tries.append(data)
        return write_now(fd, data)

    monkeypatch.setattr("hermes.access_log.os.write", counted)
    os.set_blocking(pipe.writer, False)
    log = AccessLog(pipe.writer, loop, Metrics())
    log(record("a"))
    log.close(timeout_s=0.01)
    pipe.read(filled)
    log._thread.join()
    assert ids(pipe.rest()) == ["a"]
    assert dropped(log) == 0
    assert len(tries) <= 3


def test_another_file_may_be_written_otherwise(log: AccessLog, pipe: Pipe) -> None:
    other = Pipe()
    log(record("r1"))
    log.turn_to(other.writer, as_text)
    write(log, record("r2"))
    pipe.writer = -1  # the log has closed it
    assert ids(pipe.read(size(record("r1")))) == ["r1"]
    assert other.rest().endswith(b"  r2\n")
    other.close()


def test_a_file_that_could_not_be_written_is_closed_when_it_is_left(loop: VirtualLoop, pipe: Pipe) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    log = AccessLog(full, loop, Metrics())
    log(record("r1"))
    log.turn_to(pipe.writer, as_text)
    write(log, record("r2"))
    assert dropped(log) == 1 and pipe.rest().endswith(b"  r2\n")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(full)


def test_a_line_that_was_cut_off_does_not_take_the_next_with_it(
    log: AccessLog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A full disk: one line and a half are written, the rest is not, and later there is room again."""
    written: list[bytes] = []
    rooms = iter([size(record("whole")) + 70, 0, 0, 10**6, 10**6])

    def disk(fd: int, data: bytes) -> int:
        room = next(rooms)
        if not room:
            raise OSError(errno.ENOSPC, "no space left")
        written.append(data[:room])
        return len(written[-1])

    monkeypatch.setattr("hermes.access_log.os.write", disk)
    for names in (("whole", "cut"), ("lost",), ("good",)):
        for name in names:
            log(record(name))
        log._hand_over()
    write(log)
    whole, torn, good = b"".join(written).splitlines()
    assert ids(whole + b"\n" + good) == ["whole", "good"] and torn.startswith(b'{"created_at"')
    assert dropped(log) == 2
    assert [each.getMessage() for each in caplog.records] == [
        "the access log cannot be written: no space left; its lines are dropped"
    ], "once, until it can be again"
