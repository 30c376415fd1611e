"""What is told of the last requests of a process."""

from pathlib import Path

from tests.e2e.test_handover import line
from tests.fakes.backend import ollama
from tests.fakes.collector import collector
from tests.fakes.gateway import CHAT, chat, scenario


@scenario
async def test_a_process_that_another_goes_on_for_has_told_all_when_it_is_gone(tmp_path: Path) -> None:
    async with collector() as told, ollama() as backend:
        async with line(tmp_path, backend, OTEL_EXPORTER_OTLP_ENDPOINT=told.url) as hermes:
            for _ in range(2):
                assert (await hermes.ask(CHAT, chat())).status == 200
                await hermes.replace()
                await hermes.alone()
            assert (await hermes.ask(CHAT, chat())).status == 200
            await hermes.finish()
        asked = [span for span in told.of("server") if "chat" in span.name]
        assert len(asked) == 3 == len({span.resource["service.instance.id"] for span in asked})
        assert len(told.of("client")) == 3
