import asyncio

import pytest

from hermes.simulator import SimulatedModel
from tests.simulator.harness import CHAT, config, run, simulating

GIB = 1024**3
WANTED = SimulatedModel("wanted:7b", memory_bytes=10 * 10**9, load_s=1.0)
SETTINGS = config(registry=(WANTED,), pull_bytes_per_s=1e9)  # nine seconds for its nine gigabytes


def test_a_pull_tells_its_progress_and_the_model_can_be_used() -> None:
    async def main() -> None:
        async with simulating(SETTINGS) as client:
            began = client.now()
            lines = (await client.post("/api/pull", {"model": "wanted:7b"})).lines
            assert client.now() - began == pytest.approx(9.0, abs=0.1)
            assert [line["status"] for line in (lines[0], *lines[-3:])] == [
                "pulling manifest",
                "verifying sha256 digest",
                "writing manifest",
                "success",
            ]
            blob = [line for line in lines if line.get("total") == WANTED.file_bytes]
            assert list(blob[0]) == ["status", "digest", "total"]  # nothing completed: left out, as Go does
            assert blob[0]["status"] == f"pulling {blob[0]['digest'].removeprefix('sha256:')[:12]}"
            done = [line.get("completed", 0) for line in blob]
            assert done == sorted(done)
            assert done[-1] == WANTED.file_bytes
            assert 100 < len(blob) < 200  # a line every 60 ms
            assert (await client.chat(model="wanted:7b")).status == 200
            assert (await client.get("/api/tags")).json["models"][0]["name"] == "wanted:7b"

    run(main)


def test_a_pull_without_a_stream_tells_only_its_end() -> None:
    async def main() -> None:
        async with simulating(SETTINGS) as client:
            answer = await client.post("/api/pull", {"name": "wanted:7b", "stream": False})
            assert answer.json == {"status": "success"}

    run(main)


def test_what_is_not_in_the_registry_is_told_in_the_stream() -> None:
    async def main() -> None:
        async with simulating(SETTINGS) as client:
            answer = await client.post("/api/pull", {"model": "wanted"})  # that is wanted:latest
            assert answer.status == 200
            error = {"error": "pull model manifest: file does not exist"}
            assert answer.lines == [{"status": "pulling manifest"}, error]

    run(main)


def test_a_pull_that_was_left_goes_on_where_it_was() -> None:
    async def main() -> None:
        async with simulating(SETTINGS) as client:
            task = client.spawn(client.post("/api/pull", {"model": "wanted:7b"}))
            await asyncio.sleep(6.0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert (await client.chat(model="wanted:7b")).status == 404
            began = client.now()
            lines = (await client.post("/api/pull", {"model": "wanted:7b"})).lines
            assert client.now() - began == pytest.approx(3.0, abs=0.2)
            assert lines[1]["completed"] > 5 * 10**9

    run(main)


def test_a_model_that_is_there_is_pulled_in_no_time() -> None:
    async def main() -> None:
        async with simulating(SETTINGS) as client:
            began = client.now()
            lines = (await client.post("/api/pull", {"model": "chat"})).lines
            assert lines[1]["completed"] == lines[1]["total"] == CHAT.file_bytes
            assert client.now() - began < 0.1

    run(main)


def test_deleted_models_are_gone_and_copies_are_models() -> None:
    async def main() -> None:
        async with simulating() as client:
            copied = await client.post("/api/copy", {"source": "chat", "destination": "me/twin"})
            assert (copied.status, copied.body, b"content-type" in copied.headers) == (200, b"", False)
            assert (await client.chat(model="me/twin")).json["model"] == "me/twin"
            deleted = await client.ask("DELETE", "/api/delete", {"model": "chat"})
            assert (deleted.status, deleted.body) == (200, b"")
            assert (await client.chat()).status == 404
            assert (await client.chat(model="me/twin")).status == 200
            assert (await client.post("/api/pull", {"model": "chat", "stream": False})).status == 200
            assert (await client.chat()).status == 200

    run(main)
