"""Files that change are noticed, in whatever way, and read when they are whole."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hermes.config import Config
from hermes.config.load import Source
from hermes.errors import ConfigError, InvalidConfig
from hermes.metrics import Metrics
from hermes.reload import Reload
from tests.fakes.gateway import scenario
from tests.support import until

EVERY_S = 0.01


class Taken:
    """What was put in force, in turn."""

    def __init__(self, folder: Path, beside: Callable[[], list[str]] = list, **environ: str) -> None:
        self.queues: list[int] = []
        self.asked = asyncio.Event()
        source = Source(None, environ, {}, folder)
        source.read()
        self.reload = Reload(source, lambda config: config, self._take, beside, Metrics())

    async def _take(self, config: Config) -> tuple[str, ...]:
        self.queues.append(config.limits.queue_total)
        return ()

    async def until(self, *queues: int) -> None:
        await until(lambda: self.queues == list(queues), f"not {queues} but {self.queues}")


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hermes.reload.WATCH_EVERY_S", EVERY_S)
    monkeypatch.setattr("hermes.reload.AGREE_S", EVERY_S)


def queue(total: int) -> str:
    return f"limits: {{queue_total: {total}}}\n"


def by_writing(file: Path, text: str) -> None:
    file.write_text(text)


def by_renaming(file: Path, text: str) -> None:
    """As editors do."""
    other = file.with_name(".hermes.yaml.swp")
    other.write_text(text)
    other.rename(file)


def by_relinking(file: Path, text: str) -> None:
    """As Kubernetes does: `..data` is a link to a folder that has all of a ConfigMap, and is replaced at once."""
    folder = file.parent / f"..{len(list(file.parent.iterdir()))}"
    folder.mkdir()
    (folder / file.name).write_text(text)
    link = file.parent / "..new"
    link.symlink_to(folder.name)
    link.rename(file.parent / "..data")
    if not file.is_symlink():
        file.unlink()
        file.symlink_to(f"..data/{file.name}")


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("change", [by_writing, by_renaming, by_relinking])
@scenario
async def test_a_file_that_changes_is_read_once(change: Callable[[Path, str], None], tmp_path: Path) -> None:
    file = tmp_path / "hermes.yaml"
    by_relinking(file, queue(1)) if change is by_relinking and not file.write_text("") else file.write_text(queue(1))
    taken = Taken(tmp_path)
    watching = asyncio.get_running_loop().create_task(taken.reload.watch(taken.asked, lambda: True))
    await asyncio.sleep(3 * EVERY_S)
    change(file, queue(22))
    await taken.until(22)
    change(file, queue(333))
    await taken.until(22, 333)
    await asyncio.sleep(5 * EVERY_S)
    assert taken.queues == [22, 333], "nothing has changed since"
    watching.cancel()


@pytest.mark.usefixtures("often")
@scenario
async def test_a_file_that_is_being_written_is_read_when_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "hermes.yaml"
    file.write_text(queue(1))
    taken = Taken(tmp_path)
    grown = 0

    async def writes_on(_: float) -> None:
        nonlocal grown
        await asyncio.sleep(0)
        if grown < 5:
            grown += 1
            with file.open("a") as more:
                more.write(f"# {grown}\n" if grown < 5 else "serve_unlisted: false\n")

    monkeypatch.setattr("hermes.reload.Reload._look_later", lambda self: _then(writes_on(0), self._look))
    file.write_text(queue(2))
    assert await taken.reload._has_changed()
    assert grown == 5 and "serve_unlisted" in file.read_text()


async def _then(first: object, look: Callable[[], object]) -> object:
    await first  # type: ignore[misc]
    return look()


@pytest.mark.usefixtures("often")
@scenario
async def test_the_env_beside_it_and_what_is_named_besides_count_too(tmp_path: Path) -> None:
    (tmp_path / "hermes.yaml").write_text(queue(1))
    certificate = tmp_path / "cert.pem"
    taken = Taken(tmp_path, lambda: [str(certificate)])
    watching = asyncio.get_running_loop().create_task(taken.reload.watch(taken.asked, lambda: True))
    (tmp_path / ".env").write_text("HERMES_LIMITS__QUEUE_TOTAL=2\n")
    await taken.until(2)
    certificate.write_text("renewed")
    await taken.until(2, 2)
    watching.cancel()


@pytest.mark.usefixtures("often")
@scenario
async def test_where_that_is_turned_off_it_is_read_only_when_it_is_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "hermes.yaml"
    file.write_text(queue(1))
    taken = Taken(tmp_path)
    watching = asyncio.get_running_loop().create_task(taken.reload.watch(taken.asked, lambda: False))
    file.write_text(queue(22))
    await asyncio.sleep(5 * EVERY_S)
    assert taken.queues == []
    taken.asked.set()
    await taken.until(22)
    watching.cancel()


@pytest.mark.usefixtures("often")
@scenario
async def test_what_was_refused_is_not_read_again_before_it_has_changed(tmp_path: Path) -> None:
    file = tmp_path / "hermes.yaml"
    file.write_text(queue(1))
    taken = Taken(tmp_path)
    watching = asyncio.get_running_loop().create_task(taken.reload.watch(taken.asked, lambda: True))
    file.write_text("limits: {queue_total: nothing}\n")
    await until(lambda: taken.reload.last is not None)
    first = taken.reload.last
    assert first is not None and first.result == "refused" and "limits.queue_total" in first.error
    await asyncio.sleep(5 * EVERY_S)
    assert taken.reload.last is first
    file.write_text(queue(22))
    await taken.until(22)
    watching.cancel()


@scenario
async def test_a_file_that_is_gone_is_not_done_without(tmp_path: Path) -> None:
    """Its keys would be gone with it, and the door open."""
    file = tmp_path / "hermes.yaml"
    file.write_text(queue(1))
    taken = Taken(tmp_path)
    file.unlink()
    with pytest.raises(InvalidConfig, match=r"hermes\.yaml"):
        await taken.reload("a test")
    file.write_text(queue(22))
    await taken.reload("a test")
    assert taken.queues == [22]


@scenario
async def test_flags_and_variables_of_the_start_go_on_winning(tmp_path: Path) -> None:
    (tmp_path / "hermes.yaml").write_text("server: {port: 1, host: localhost}\n" + queue(1))
    environ = {"HERMES_LIMITS__QUEUE_TOTAL": "7"}
    source = Source(None, environ, {"server.port": 99}, tmp_path)
    before = source.read()
    (tmp_path / "hermes.yaml").write_text("server: {port: 2, host: 127.0.0.1}\n" + queue(2))
    after = source.read()
    assert (before.server.port, before.limits.queue_total) == (after.server.port, after.limits.queue_total) == (99, 7)
    assert (before.server.host, after.server.host) == ("localhost", "127.0.0.1")


@scenario
async def test_a_bug_in_a_reload_does_not_end_the_watching(tmp_path: Path) -> None:
    taken = Taken(tmp_path)

    async def fails(_: Config) -> tuple[str, ...]:
        raise ConfigError("not today")

    take, taken.reload._take = taken.reload._take, fails
    watching = asyncio.get_running_loop().create_task(taken.reload.watch(taken.asked, lambda: True))
    taken.asked.set()
    await until(lambda: taken.reload.last is not None)
    taken.reload._take = take
    taken.asked.set()
    await taken.until(4096)
    watching.cancel()


def test_a_change_that_keeps_size_and_time_is_seen_by_the_file_being_another(tmp_path: Path) -> None:
    from hermes.config.files import signature

    file, other = tmp_path / "a", tmp_path / "b"
    file.write_text("one")
    other.write_text("two")
    stat = file.stat()
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    before = signature(file)
    other.rename(file)
    assert signature(file) != before
