"""The units that `hermes service install` writes: what systemd itself says to them, and that their words arrive."""

import os
import plistlib
import shutil
import stat
import subprocess
import sys
from errno import EACCES, ENOSPC
from pathlib import Path

import pytest
from click.testing import CliRunner

from hermes.cli import service
from hermes.config import files

ROOT = Path(__file__).parents[2]
PROGRAM = ["/usr/bin/env", "serve"]
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")


def analyze(folder: Path, text: str, *asked: str) -> subprocess.CompletedProcess[str]:
    unit = folder / "hermes.service"
    unit.write_text(text)
    env = {**os.environ, "XDG_RUNTIME_DIR": str(folder)}
    return subprocess.run(["systemd-analyze", *asked, str(unit)], env=env, capture_output=True, text=True)


@needs_systemd
@pytest.mark.parametrize("kind", ["system", "user"])
def test_systemd_finds_nothing_wrong_with_a_unit(tmp_path: Path, kind: str) -> None:
    text = service.unit(PROGRAM) if kind == "system" else service.user_unit(PROGRAM)
    found = analyze(tmp_path, text, "verify", *(["--user"] if kind == "user" else []))
    assert (found.returncode, [line for line in found.stderr.splitlines() if "hermes.service" in line]) == (0, [])


@needs_systemd
def test_the_socket_unit_fits_the_service(tmp_path: Path) -> None:
    (tmp_path / "hermes.service").write_text(service.unit(PROGRAM))
    socket = tmp_path / "hermes.socket"
    socket.write_text((ROOT / "deploy/hermes.socket").read_text())
    found = subprocess.run(["systemd-analyze", "verify", str(socket)], capture_output=True, text=True)
    assert (found.returncode, [line for line in found.stderr.splitlines() if "hermes." in line]) == (0, [])


@needs_systemd
def test_what_a_break_in_could_reach_is_little(tmp_path: Path) -> None:
    """Of 10 an ordinary service has 9.6; below 2 all is shut that a server of this kind can shut."""
    found = analyze(tmp_path, service.unit(PROGRAM), "security", "--offline=true", "--threshold=20")
    assert found.returncode == 0, found.stdout
    assert "UNSAFE" not in found.stdout


@needs_systemd
def test_a_path_is_one_word_whatever_is_in_it(tmp_path: Path) -> None:
    program = ["/usr/bin/env", "serve", "--config", "/srv/a $b %h \"c'\\/x.yaml"]
    assert analyze(tmp_path, service.unit(program), "verify").returncode == 0
    line = next(line for line in service.unit(program).splitlines() if line.startswith("ExecStart="))
    assert line == r'ExecStart=/usr/bin/env serve --config "/srv/a $$b %%h \"c' + "'" + r'\\/x.yaml"'


def test_launchd_reads_what_it_is_given() -> None:
    said = plistlib.loads(service.plist(PROGRAM, Path("/Users/ann")).encode())
    assert said["ProgramArguments"] == PROGRAM
    assert said["KeepAlive"] == {"SuccessfulExit": False}
    assert said["StandardErrorPath"] == "/Users/ann/Library/Logs/hermes.log"


def test_it_is_written_where_the_users_systemd_looks_and_names_this_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "hermes"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "argv", [str(program)])
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    done = CliRunner().invoke(service.command, ["install", "--user", "--config", "/etc/hermes.yaml"])
    assert done.exit_code == 0 and "systemctl --user enable --now hermes.service" in done.output
    text = (tmp_path / "config/systemd/user/hermes.service").read_text()
    assert f"\nExecStart={program} serve --config /etc/hermes.yaml\n" in text
    printed = CliRunner().invoke(service.command, ["install", "--user", "--print", "--config", "/etc/hermes.yaml"])
    assert printed.output == text


@pytest.mark.parametrize(
    ("error", "user", "hinted"), [(EACCES, False, True), (EACCES, True, False), (ENOSPC, False, False)]
)
def test_only_who_may_not_write_is_told_to_become_somebody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, user: bool, hinted: bool
) -> None:
    def write_text(path: Path, text: str) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(Path, "write_text", write_text)
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: None)
    monkeypatch.setattr(service, "HIDDEN", ())
    monkeypatch.setattr(service, "_check_for_all", lambda program: None)
    monkeypatch.setattr(sys, "argv", ["/usr/bin/env"])
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(service.command, ["install", *(["--user"] if user else [])])
    assert done.exit_code == 1 and ("As root, or with --user" in done.stderr) == hinted
    assert os.strerror(error) in done.stderr


@pytest.mark.parametrize("kind", [[], ["--user"]])
def test_the_service_reads_the_file_that_serve_would_find_in_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: list[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/env"])
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(files, "SYSTEM_DIR", tmp_path / "etc")
    monkeypatch.delenv("HERMES_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)

    def printed() -> str:
        return CliRunner().invoke(service.command, ["install", "--print", *kind]).output

    assert "\nExecStart=/usr/bin/env serve\n" in printed()
    for folder in (tmp_path / "config/hermes", tmp_path):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "hermes.yaml").write_text("")
        assert f"\nExecStart=/usr/bin/env serve --config {folder}/hermes.yaml\n" in printed()
    done = CliRunner().invoke(service.command, ["install", "--user"])
    assert f"hermes.service, which reads {tmp_path}/hermes.yaml; to start it:" in done.output


@pytest.mark.parametrize(
    ("file", "mode", "folder"),
    [("/home/ann/hermes.yaml", 0o644, 0o755), ("secret/hermes.toml", 0o600, 0o755), ("mine/hermes.yaml", 0o644, 0o700)],
)
def test_a_file_that_the_services_user_could_not_read_is_told_where_to_go(
    system: Path, file: str, mode: int, folder: int
) -> None:
    path = system / file
    if not file.startswith("/"):
        path.parent.mkdir()
        path.touch()
        path.chmod(mode)
        path.parent.chmod(folder)
    done = CliRunner().invoke(service.command, ["install", "--config", str(path)])
    there = f"/etc/hermes/hermes{path.suffix}"
    assert done.exit_code == 1 and f"{path} {there} && hermes service install --config {there}" in done.output


@pytest.mark.parametrize("hidden", ["program", "python"])
def test_a_program_that_the_services_user_could_not_run_is_not_installed(
    system: Path, monkeypatch: pytest.MonkeyPatch, hidden: str
) -> None:
    """ProtectHome hides even a home that all may look into; a venv may be everybody's, and its Python be in there."""
    home = system / "home"
    monkeypatch.setattr(service, "HIDDEN", (str(home),))
    home.mkdir()
    for name in ("python3", "hermes"):
        (home / name).touch()
        (home / name).chmod(0o755)
    program = home / "hermes" if hidden == "program" else Path("/usr/bin/env")
    (system / "python").symlink_to(home / "python3")
    monkeypatch.setattr(sys, "argv", [str(program)])
    monkeypatch.setattr(sys, "executable", str(system / "python" if hidden == "python" else "/usr/bin/env"))
    done = CliRunner().invoke(service.command, ["install"])
    assert done.exit_code == 1 and f"may not look into {home}, so cannot run {program}" in done.output
    assert ("which needs" in done.output) == (hidden == "python")
    assert "/usr/bin/python3 -m venv /opt/hermes" in done.output and "--user" in done.output


def test_a_program_that_is_its_owners_alone_is_not_installed(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = system / "hermes"
    program.touch()
    program.chmod(stat.S_IRWXU)
    monkeypatch.setattr(sys, "argv", [str(program)])
    done = CliRunner().invoke(service.command, ["install"])
    assert done.exit_code == 1 and "may not look into" in done.output


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on a Linux where nothing is written."""
    monkeypatch.setattr(service, "HIDDEN", ("/home",))
    monkeypatch.setattr(Path, "write_text", lambda *_: pytest.fail("it was written"))
    monkeypatch.setattr(files, "SYSTEM_DIR", tmp_path / "etc")
    monkeypatch.delenv("HERMES_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["/usr/bin/env"])
    monkeypatch.setattr(sys, "platform", "linux")
    return tmp_path
