"""`hermes sim`: it starts, stops when told, and refuses what it cannot play."""

import signal
import socket
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from hermes.cli import cli
from tests.fakes.process import COMMAND, SOURCES


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_it_is_told_to_stop(number: signal.Signals, tmp_path: Path) -> None:
    arguments = [*COMMAND, "sim", "--port", "0", "--model", "gemma"]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, env=SOURCES, cwd=tmp_path, text=True) as process:
        try:
            assert process.stderr is not None
            greeting = process.stderr.readline()
            assert greeting.startswith("A simulated Ollama listens on http://127.0.0.1:") and "gemma" in greeting
            process.send_signal(number)
            assert process.wait(10) == 0
        finally:
            process.kill()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--model", "gemma=lots"],
        ["--memory", "24G-ish"],
        ["--memory", "1"],
        ["--model", "gemma=8G"],
        ["--fault", "stall"],
        ["--fault", "stall=often"],
        ["--fault", "nonsense=0.5"],
        ["--host", "nowhere.invalid"],
        ["--port", "many"],
    ],
)
def test_what_it_cannot_play_is_refused_with_2(arguments: list[str]) -> None:
    result = CliRunner().invoke(cli, ["sim", "--port", "0", *arguments])
    assert result.exit_code == 2
    assert result.stderr


def test_a_port_in_use_is_refused_with_2_and_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = CliRunner().invoke(cli, ["sim", "--port", str(port)])
    assert result.exit_code == 2
    told = f"hermes: cannot listen on 127.0.0.1:{port}: the port is taken; use --port, or stop what listens there\n"
    assert result.stderr == told
