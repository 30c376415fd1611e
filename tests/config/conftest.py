"""A configuration from text and variables alone: nothing of the machine's own is seen."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from hermes.config import files
from hermes.config.load import Loaded, resolve

Resolve = Callable[..., Loaded]


@pytest.fixture
def settle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Resolve:
    monkeypatch.setattr(files, "SYSTEM_DIR", tmp_path / "etc")

    def settle(
        yaml: str | None = None,
        environ: Mapping[str, str] | None = None,
        dotenv: str | None = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> Loaded:
        if yaml is not None:
            (tmp_path / "hermes.yaml").write_text(yaml)
        if dotenv is not None:
            (tmp_path / ".env").write_text(dotenv)
        return resolve(None, environ or {}, overrides or {}, tmp_path)

    return settle
