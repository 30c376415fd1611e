"""I26: a secret is seen only by asking for it; I17: a key in no message and no dump."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from hermes.config import Secret
from hermes.config.dump import dump
from hermes.config.load import Loaded, load
from hermes.errors import ConfigError

Settle = Callable[..., Loaded]
CANARY = "sk-canary-81f5"


def test_a_secret_shows_stars_however_it_is_printed() -> None:
    """I26"""
    secret = Secret(CANARY)
    shown = [str(secret), repr(secret), f"{secret}", f"{secret!r}", "%s" % secret, str([secret]), str({"a": secret})]  # noqa: UP031
    assert all("***" in text and CANARY not in text for text in shown)
    assert secret.reveal() == CANARY


def test_a_secret_is_written_by_no_encoder() -> None:
    """I26"""
    with pytest.raises(TypeError):
        pickle.dumps(Secret(CANARY))
    with pytest.raises(TypeError):
        msgspec.json.encode(Secret(CANARY))
    with pytest.raises(TypeError):
        copy.deepcopy(Secret(CANARY))


def test_secrets_are_equal_by_what_they_hide() -> None:
    assert Secret("a") == Secret("a") != Secret("b")
    assert len({Secret("a"), Secret("a")}) == 1


BACKENDS = f'backends: [{{name: a, url: "http://a", api_key: {CANARY}}}]'


def test_neither_config_nor_dump_shows_a_secret(settle: Settle) -> None:
    """I17, I26"""
    loaded = settle(BACKENDS, {"API_KEYS_JSON": f'{{"{CANARY}": {{"user": "editor"}}}}'})
    plain = dump(loaded.config)
    assert all(CANARY not in shown for shown in (repr(loaded), str(plain), repr(loaded.layers)))
    assert loaded.config.keys[0].sha256 not in repr(loaded) + str(plain)
    secret = loaded.config.backends[0].api_key
    assert secret is not None and secret.reveal() == CANARY
    assert plain["keys"][0]["sha256"] == loaded.config.keys[0].key_id + "***"


def test_a_mask_is_not_taken_for_a_secret(settle: Settle) -> None:
    with pytest.raises(ConfigError, match=r"api_key: \*\*\* is how a secret is shown"):
        settle(BACKENDS.replace(CANARY, "'***'"))


C = CANARY


@pytest.mark.parametrize(
    "yaml",
    [
        f"keys: {C}", f"keys: [{C}]", f"keys: {{{C}: {{user: a}}}}", f"keys: [{{user: a, key: {C}}}]",
        f"keys: [{{user: a, {C}: 1}}]", f"keys: [{{user: a, sha256: {C}}}]", f"keys: [{{user: [{C}], sha256: 1}}]",
        f"backends: [{{name: a, url: 'http://user:{C}@a'}}]", f"backends: [{{name: a, api_key: [{C}]}}]",
        f"backends: {{api_key: {C}}}", f"backends: [{{name: a, url: 'http://a', api_key: 'a\\n{C}'}}]",
        f"backends: [{{name: a, url: 'http://a', api_key: \"a\\n{C}\"}}]", f"backends: [[{C}]]",
        f"keys: *{C}", f"keys: !{C} a", f"keys: [{C}", f"keys: &{C} a {C}: : '", f'keys: "{C}',
    ],
)  # fmt: skip
def test_no_mistake_in_a_file_brings_a_secret_to_light(settle: Settle, yaml: str) -> None:
    """I26"""
    try:
        settle(yaml)
    except ConfigError as error:
        assert CANARY not in str(error)
        assert error.__suppress_context__ or error.__context__ is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("API_KEYS_JSON", C), ("API_KEYS_JSON", f'{{"{C}": 1}}'), ("API_KEYS_JSON", f'{{"{C}": {{"usr": "a"}}}}'),
        ("API_KEYS_JSON", f'{{"{C}": {{"user": "a", "rate_limit": "{C}"}}}}'), ("API_KEYS_JSON", f'["{C}"]'),
        ("API_KEYS_JSON", f'{{"{C}": {{"user": "a"}}, "{C}": {{"user": "b"}}}}'), ("API_KEYS_JSON", f'"{C}"'),
        ("API_KEYS_JSON", f'{{"{C} ": {{"user": "a"}}}}'), ("API_KEYS_JSON", f'{{"{C}": {{"user": "a", "{C}": 1}}}}'),
        ("HERMES_KEYS", f'[{{"key": "{C}"}}]'), ("HERMES_KEYS", f'[{{"{C}": 1}}]'), ("HERMES_KEYS", C),
        ("HERMES_BACKENDS", f'[{{"api_key": "{C}"'), ("HERMES_BACKENDS", f'{{"api_key": "{C}"}}'),
        ("HERMES_API_KEYS", C), ("OLLAMA_URL", f"http://a:{C}@gpu"), ("OLLAMA_HOST", f"http://a:{C}@gpu"),
    ],
)  # fmt: skip
def test_no_mistake_in_a_variable_brings_a_secret_to_light(settle: Settle, name: str, text: str) -> None:
    """I17, I26"""
    for arguments in (
        {"environ": {name: text}},
        {"dotenv": f"{name}='{text}'"},
        {"dotenv": f"{name}={text}' \"\n{text}"},
    ):
        with pytest.raises(ConfigError) as refused:
            settle(None, **arguments)
        assert CANARY not in str(refused.value)


def test_toml_brings_no_secret_to_light(tmp_path: Path) -> None:
    """I26"""
    for text in (
        f"keys = {C}",
        f"keys = '{C}",
        f"[[keys]]\nuser = '{C}\n'",
        f"keys = ['{C}']\nkeys = 1",
        f'a = "\\{C}"',
    ):
        (tmp_path / "a.toml").write_text(text)
        with pytest.raises(ConfigError) as refused:
            load("a.toml", {}, {}, tmp_path)
        assert CANARY not in str(refused.value)
