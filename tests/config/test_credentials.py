"""Variables whose values are in files, as containers and systemd pass secrets."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hermes.config.load import Loaded, Source
from hermes.errors import ConfigError

Settle = Callable[..., Loaded]
CANARY = "sk-canary-81f5"
KEYS = json.dumps({CANARY: {"user": "editor"}}) + "\n"


def written(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


@pytest.mark.parametrize("in_dotenv", [False, True])
def test_a_variable_may_be_in_a_file_that_another_names(settle: Settle, tmp_path: Path, in_dotenv: bool) -> None:
    file = written(tmp_path, "keys.json", KEYS)
    said = {"API_KEYS_JSON_FILE": str(file), "HERMES_SERVER__PORT_FILE": str(written(tmp_path, "port", "8080\n"))}
    dotenv = "\n".join(f"{name}={value}" for name, value in said.items())
    loaded = settle(None, None, dotenv) if in_dotenv else settle(None, said)
    assert [key.user for key in loaded.config.keys] == ["editor"]
    assert loaded.config.server.port == 8080


def test_a_credential_of_systemd_stands_in_for_the_variable_of_its_name(settle: Settle, tmp_path: Path) -> None:
    folder = written(tmp_path / "credentials", "API_KEYS_JSON", KEYS).parent
    written(folder, "PORT", "8080")
    written(folder, "tls-key", "of somebody else")
    config = settle(None, {"CREDENTIALS_DIRECTORY": str(folder), "PORT": "8081"}).config
    assert [key.user for key in config.keys] == ["editor"]
    assert config.server.port == 8081, "what is set itself wins"


def test_a_setting_whose_name_ends_so_is_no_file_of_another(settle: Settle) -> None:
    tls = settle(None, {"HERMES_SERVER__TLS__CERT_FILE": "/c.pem", "HERMES_SERVER__TLS__KEY_FILE": "/k.pem"}).config
    assert tls.server.tls is not None and tls.server.tls.key_file == "/k.pem"


def test_what_cannot_be_read_is_told_without_what_is_in_it(settle: Settle, tmp_path: Path) -> None:
    """I17: a key in no message."""
    broken = written(tmp_path, "keys.json", KEYS[:-3])
    said = {"API_KEYS_JSON_FILE": str(broken), "PORT_FILE": "/nowhere", "PORT": "1", "OLLAMA_URL_FILE": "/nowhere"}
    with pytest.raises(ConfigError) as caught:
        settle(None, said)
    told = str(caught.value)
    assert CANARY not in told
    assert "API_KEYS_JSON: not valid JSON" in told
    assert "PORT_FILE: PORT is set as well; keep one" in told
    assert "OLLAMA_URL_FILE: /nowhere: No such file" in told


def test_files_of_variables_are_watched_as_the_configuration_is(tmp_path: Path) -> None:
    """I34: a key that is renewed in its file holds without a restart."""
    file = written(tmp_path, "keys.json", KEYS)
    credential = written(tmp_path / "credentials", "OLLAMA_URL", "http://gpu:11434")
    environ = {"API_KEYS_JSON_FILE": str(file), "CREDENTIALS_DIRECTORY": str(credential.parent)}
    source = Source(None, environ, {}, tmp_path)
    assert {file, credential} <= set(source.files())
    assert source.read().backends[0].url == "http://gpu:11434"
    file.write_text(KEYS.replace("editor", "reader"))
    assert source.read().keys[0].user == "reader"
