"""Verbs, run in this process."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hermes.cli import cli
from hermes.config import files
from tests.cli.verbs import FOREIGN, Run


@pytest.fixture
def verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command line in an empty folder."""
    monkeypatch.setattr(files, "SYSTEM_DIR", tmp_path / "etc")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, stdin: str | bytes = "", **environ: str) -> Result:
        own = {**dict.fromkeys(FOREIGN), "XDG_CONFIG_HOME": str(tmp_path), **environ}
        return CliRunner().invoke(cli, arguments, input=stdin, env=own)

    return run
