"""A request is in one trace from its client to the backend, and in the log."""

from hermes.record import Record
from tests.fakes.backend import ollama
from tests.fakes.gateway import CHAT, PROMPT, chat, hermes, prompt, scenario
from tests.support import until

ID = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACE = {"traceparent": f"00-{ID}-00f067aa0ba902b7-01", "tracestate": "vendor=1"}


@scenario
async def test_the_backend_is_in_the_trace_of_who_asked_and_so_is_the_log() -> None:
    async with ollama() as backend, hermes(backend) as gateway:
        told: list[Record] = []
        gateway.runtime.journal.sinks.append(told.append)
        for path, body, headers in (
            (CHAT, chat(), TRACE),
            (PROMPT, prompt(), {}),
            (CHAT, chat(), {"traceparent": "x"}),
        ):
            assert (await gateway.ask(path, body, headers)).status == 200
        await until(lambda: len(told) == 3)
        sent = [{name: asked.headers.get(name) for name in TRACE} for asked in backend.asked]
        assert sent == [TRACE, dict.fromkeys(TRACE), dict.fromkeys(TRACE)]
        assert [record.trace_id for record in told] == [ID, "", ""]
