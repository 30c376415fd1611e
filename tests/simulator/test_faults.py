"""Each fault does what docs/simulator.md says, to streams and to whole answers, and only once."""

import asyncio
import re
from collections import Counter
from typing import Any

import msgspec
import pytest
import uvloop

from hermes.errors import BackendError, ConfigError
from hermes.http.wire import NEVER
from hermes.simulator import Simulator, SimulatorConfig, parse_fault, parse_share
from hermes.simulator.faults import KINDS, Chance, Fault, asked_fault, tag
from tests.simulator.harness import CHAT, Answer, Client, chat_body, config, run, simulating

PATIENCE_S = 200
CRASH = "an error was encountered while running the model: unexpected EOF"


class Seen:
    """What a client saw of one answer, and whether the answer ended as HTTP wants it."""

    def __init__(self, status: int, body: bytes, complete: bool, seconds: float) -> None:
        self.status = status
        self.body = body
        self.complete = complete
        self.seconds = seconds

    @property
    def lines(self) -> list[Any]:
        return [msgspec.json.decode(line) for line in self.body.splitlines()]


async def watch(client: Client, fault: str, **fields: Any) -> Seen:
    began = client.now()
    status, body, complete = 0, b"", False
    asked = chat_body(f"[[fault:{fault}]] [[tokens:9]]", **fields)
    try:
        async with asyncio.timeout(PATIENCE_S), client.open("/api/chat", asked) as answer:
            status = answer.status
            while data := await answer.read(NEVER):
                body += data
            complete = True
    except (BackendError, TimeoutError):
        pass
    return Seen(status, body, complete, client.now() - began)


def strike(fault: str, *, stream: bool = True, **fields: Any) -> Seen:
    async def main() -> Seen:
        async with simulating() as client:
            await client.post("/api/generate", {"model": "chat", "keep_alive": -1})
            seen = await watch(client, fault, stream=stream, **fields)
            after = await client.chat("[[tokens:2]]")
            assert (after.status, after.json["done"]) == (200, True)  # the next request finds everything in order
            kind = fault.split()[0]
            expected = () if kind in ("slow-load", "load-fail", "drip") else (kind,)
            # A connection that dies before any byte is asked again on a new one: the client may do that once.
            assert set(client.simulator.stats.faults) == set(expected)
            return seen

    return run(main)


@pytest.mark.parametrize("after", [0, 1, 4])
def test_a_cut_closes_the_connection_after_so_many_chunks(after: int) -> None:
    seen = strike(f"cut after={after}")
    assert (len(seen.lines), seen.complete, seen.status) == (after, False, 200 if after else 0)


@pytest.mark.parametrize("after", [0, 4])
def test_a_stall_sends_nothing_more_for_ever(after: int) -> None:
    seen = strike(f"stall after={after}")
    assert (len(seen.lines), seen.complete) == (after, False)
    assert seen.seconds == pytest.approx(PATIENCE_S, abs=1)


def test_a_stall_may_end() -> None:
    seen = strike("stall after=2 for=60")
    assert (len(seen.lines), seen.complete, seen.lines[-1]["done"]) == (10, True, True)
    assert seen.seconds > 60


def test_an_error_line_ends_a_stream_that_has_begun() -> None:
    seen = strike("error-line after=2")
    assert (seen.status, seen.complete, len(seen.lines)) == (200, True, 3)
    assert seen.lines[-1] == {"error": CRASH}
    assert not any(line.get("done") for line in seen.lines)


def test_an_error_before_the_first_chunk_is_a_status() -> None:
    for seen in (strike("error-line after=0"), strike("error-line", stream=False)):
        assert (seen.status, seen.lines) == (500, [{"error": CRASH}])


def test_garbage_comes_in_between() -> None:
    seen = strike("garbage after=2")
    broken = [line for line in seen.body.splitlines() if not _is_json(line)]
    assert (len(broken), seen.complete) == (1, True)
    assert not _is_json(strike("garbage", stream=False).body)


def _is_json(line: bytes) -> bool:
    try:
        msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True


def test_a_long_line_is_as_long_as_asked() -> None:
    seen = strike("long-line after=1 bytes=300000")
    assert max(map(len, seen.body.splitlines())) >= 300_000
    assert seen.complete
    assert len(strike("long-line bytes=300000", stream=False).body) >= 300_000


def test_a_repeat_abort_ends_well_formed_but_never_done() -> None:
    seen = strike("repeat-abort after=3")
    assert seen.complete
    assert len({line["message"]["content"] for line in seen.lines[3:]}) == 1
    assert len(seen.lines) == 3 + 31
    assert not any(line["done"] for line in seen.lines)
    assert strike("repeat-abort", stream=False).lines[0]["done"] is False


def test_drip_changes_nothing_but_the_pieces() -> None:
    seen = strike("drip")
    assert (len(seen.lines), seen.lines[-1]["done"], seen.complete) == (10, True, True)


def test_endless_never_ends() -> None:
    seen = strike("endless")
    assert not seen.complete
    assert len(seen.lines) > 1900
    assert not strike("endless", stream=False).complete


def test_wrong_usage_ends_twice_with_numbers_that_cannot_be() -> None:
    seen = strike("wrong-usage")
    assert [line["done"] for line in seen.lines[-3:]] == [False, True, True]
    assert (seen.lines[-1]["prompt_eval_count"], seen.lines[-1]["eval_count"]) == (-5, 10**15)


@pytest.mark.parametrize("stream", [True, False])
def test_busy_and_html_leave_nothing_of_the_answer(stream: bool) -> None:
    busy = strike("busy", stream=stream)
    assert (busy.status, "maximum pending requests exceeded" in busy.lines[0]["error"]) == (503, True)
    page = strike("html", stream=stream)
    assert (page.status, page.body.startswith(b"<!doctype html>")) == (200, True)
    assert strike("html status=502").status == 502


@pytest.mark.parametrize("kind", ["cut", "reset", "stall"])
def test_a_whole_answer_breaks_off_in_its_middle_or_never_begins(kind: str) -> None:
    half = strike(f"{kind} after=1", stream=False)
    assert (half.complete, half.status, half.body[:9]) == (False, 200, b'{"model":')
    assert strike(f"{kind} after=0", stream=False).status == 0


def test_a_slow_load_takes_so_much_longer() -> None:
    async def main() -> None:
        async with simulating() as client:
            seen = await watch(client, "slow-load for=100")
            assert seen.seconds == pytest.approx(100 + 5 + 1, abs=0.1)
            assert (await watch(client, "slow-load for=100")).seconds < 2  # it is loaded by now

    run(main)


def test_a_load_may_fail_and_succeed_the_next_time() -> None:
    async def main() -> None:
        async with simulating() as client:
            seen = await watch(client, "load-fail")
            assert (seen.status, "simulated load failure" in seen.lines[0]["error"]) == (500, True)
            assert (await client.chat()).status == 200

    run(main)


def test_a_crash_takes_all_requests_of_the_model_down() -> None:
    async def main() -> None:
        async with simulating() as client:
            await client.post("/api/generate", {"model": "chat"})
            victim = client.spawn(client.chat("[[tokens:90]]", stream=True))
            whole = client.spawn(client.chat("[[tokens:90]]"))  # waits for a slot
            seen = await watch(client, "crash after=2", stream=True)
            assert seen.lines[-1] == {"error": CRASH}
            assert (await client.get("/api/ps")).json["models"] == []
            answer: Answer = await victim
            assert answer.lines[-1] == {"error": CRASH}
            last: Answer = await whole
            assert (last.status, last.error) == (500, CRASH)
            assert (await client.chat()).status == 200
            assert client.simulator.stats.loads == 2

    run(main)


def test_a_header_asks_for_a_fault_too() -> None:
    async def main() -> None:
        async with simulating() as client:
            answer = await client.post("/api/chat", chat_body(), b"x-simulate-fault: html;status=418\r\n")
            assert answer.status == 418
            answer = await client.post("/api/embed", {"model": "embedder", "input": "x"}, b"x-simulate-fault: busy\r\n")
            assert answer.status == 503
            answer = await client.post("/api/pull", {"model": "chat"}, b"x-simulate-fault: error-line;after=1\r\n")
            assert answer.lines == [{"status": "pulling manifest"}, {"error": CRASH}]

    run(main)


def test_a_reset_is_a_reset() -> None:
    async def main() -> None:
        simulator = Simulator(config(speed=1000.0))
        port = await simulator.start()
        for body in (chat_body("[[fault:reset after=2]]", stream=True), chat_body("[[fault:reset after=0]]")):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            data = msgspec.json.encode(body)
            writer.write(b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
            with pytest.raises(ConnectionResetError):
                await reader.read()
                await reader.read()
            writer.close()
        await simulator.stop()

    uvloop.run(main())


# --- how faults are asked for ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["cut;after=7", "cut after=7", "cut; after=7", "cut,after=7"])
def test_a_fault_is_written_with_any_separator(text: str) -> None:
    assert parse_fault(text) == Fault("cut", after=7)
    assert asked_fault("", f"well [[fault:{text}]] then") == Fault("cut", after=7)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("zap", "there are busy, html"),
        ("", "there is no fault ''"),
        ("cut;afer=3", "none of after=N"),
        ("cut after=1.5", "1.5"),
    ],
)
def test_a_misspelt_fault_is_refused(text: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(hint)):
        parse_fault(text)


def test_a_misspelt_fault_in_a_prompt_is_a_400() -> None:
    async def main() -> None:
        async with simulating() as client:
            answer = await client.chat("[[fault:zap]]")
            assert (answer.status, "there is no fault 'zap'" in answer.error) == (400, True)

    run(main)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_asked_for(kind: str) -> None:
    assert parse_fault(kind).kind == kind


def test_a_prompt_can_carry_a_tag() -> None:
    assert (tag("x [[tag:job 7]] y"), tag("x")) == ("job 7", "")


def test_chance_can_be_repeated_and_keeps_its_shares() -> None:
    shares = {"cut": 0.3, "stall;after=1": 0.2}
    first, second = Chance(shares, 5), Chance(shares, 5)
    drawn = [first.draw() for _ in range(4000)]
    assert drawn == [second.draw() for _ in range(4000)]
    counts = Counter(fault.kind if fault else None for fault in drawn)
    assert counts["cut"] / 4000 == pytest.approx(0.3, abs=0.03)
    assert counts["stall"] / 4000 == pytest.approx(0.2, abs=0.03)
    assert {fault.after for fault in drawn if fault and fault.kind == "stall"} == {1}
    assert {fault.after for fault in drawn if fault and fault.kind == "cut"} == set(range(11))


def test_shares_are_at_most_everything() -> None:
    for shares in ({"cut": 0.7, "stall": 0.7}, {"cut": -0.1}):
        with pytest.raises(ConfigError, match="1 together at most"):
            Chance(shares, 0)


def test_configured_faults_befall_inference_alone() -> None:
    async def main() -> None:
        async with simulating(config(faults={"busy": 1.0})) as client:
            assert (await client.chat()).status == 503
            assert (await client.get("/api/tags")).status == 200
            assert (await client.post("/api/pull", {"model": "chat", "stream": False})).status == 200

    run(main)


def test_a_config_with_a_misspelt_fault_does_not_start(tmp_path: Any) -> None:
    async def main() -> None:
        with pytest.raises(ConfigError, match="zap"):
            await Simulator(SimulatorConfig(models=(CHAT,), faults={"zap": 0.1})).start_unix(f"{tmp_path}/s")

    run(main)


@pytest.mark.parametrize(
    ("text", "share"),
    [("cut=0.05", ("cut", 0.05)), ("cut;after=3=5%", ("cut;after=3", 0.05)), ("busy=1", ("busy", 1.0))],
)
def test_a_share_is_written_behind_its_fault(text: str, share: tuple[str, float]) -> None:
    assert parse_share(text) == share


@pytest.mark.parametrize("text", ["cut", "cut=often", "zap=0.1", "cut;after=3"])
def test_a_share_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_share(text)


def test_an_outage_befalls_every_request_until_it_is_over() -> None:
    async def main() -> None:
        async with simulating() as client:
            machine = (await client.get("/api/tags")) and client.simulator.machine
            machine.outage = parse_fault("html;status=502")
            for path in ("/api/version", "/api/tags", "/api/ps"):
                assert (await client.get(path)).status == 502
            assert (await client.chat()).status == 502
            machine.outage = parse_fault("stall;after=0")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(50):
                    await client.get("/api/tags")
            machine.outage = parse_fault("crash")
            assert (await client.get("/api/ps")).error == CRASH
            machine.outage = None
            assert (await client.get("/api/tags")).status == 200

    run(main)
