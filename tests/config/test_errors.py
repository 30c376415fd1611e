"""What is wrong is refused: with its path, its value, what was expected, and all of it at once."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml as pyyaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hermes.config.build import build
from hermes.config.load import Loaded, load
from hermes.config.rules import check, check_bind, is_loopback
from hermes.errors import ConfigError

Settle = Callable[..., Loaded]


def jwt(**more: Any) -> str:
    """A good issuer, but for the keys in which it differs."""
    section = {"name": "sso", "issuer": "https://sso", "audience": ["hermes"], "jwks_file": "/k", **more}
    return json.dumps({"jwt": [section]})


@pytest.mark.parametrize(
    ("yaml", "said"),
    [
        ("server: {prot: 1}", "server.prot: unknown key, did you mean port?"),
        ("port: 1", "port: unknown key, did you mean server.port or admin.port?"),
        ("modles: {}", "modles: unknown key, did you mean models?"),
        ("? ", "None: unknown key; known: server"),
        ("3: 1", "[3]: unknown key; known: server"),
        ("zebra: 1", "zebra: unknown key; known: server, backends"),
        ("server: {port: 70000}", "server.port: 70000 is not a port from 0 to 65535"),
        ("server: {port: -1}", "server.port: -1 is not a port"),
        ("server: {port: true}", "server.port: True is not a port"),
        ("server: {port: 1.5}", "server.port: 1.5 is not a port"),
        ("server: {port: '80'}", "server.port: '80' is not a port"),
        ("server: {port: }", "server.port: nothing is not a port"),
        ("server: {port: [1]}", "server.port: a list is not a port"),
        ("server: [1]", "server: a list is not a mapping"),
        ("server: {insecure: 1}", "server.insecure: 1 is not true or false"),
        ("server: {insecure: yes}", "server.insecure: 'yes' is not true or false"),
        ("server: {host: ''}", "server.host: '' is not an address"),
        ("server: {host: 'localhost:80'}", "server.host: 'localhost:80' is not an address or a host name, a port goes"),
        ("server: {header_timeout_s: 0}", "server.header_timeout_s: 0 is not a time above 0"),
        ("server: {header_timeout_s: -5}", "server.header_timeout_s: -5 is not a time above 0"),
        ("server: {header_timeout_s: .nan}", "server.header_timeout_s: nan is not a time above 0"),
        ("server: {header_timeout_s: .inf}", "server.header_timeout_s: inf is not a time above 0"),
        ("server: {header_timeout_s: 5 minutes}", "server.header_timeout_s: '5 minutes' is not a time above 0"),
        ("server: {max_body_bytes: 0}", "server.max_body_bytes: 0 is not a size such as"),
        ("server: {max_body_bytes: 24G}", "server.max_body_bytes: '24G' is not a size such as 24GiB"),
        ("server: {max_body_bytes: 99999999TiB}", "server.max_body_bytes: '99999999TiB' is not a size"),
        ("server: {allowed_hosts: gpu}", "server.allowed_hosts: 'gpu' is not a list"),
        ("server: {allowed_hosts: ['gpu:80']}", "server.allowed_hosts[0]: 'gpu:80' is not a host name without a port"),
        ("server: {cors: {origins: ['null']}}", "server.cors.origins[0]: 'null' is not an origin"),
        ("server: {cors: {origins: ['https://a/b']}}", "server.cors.origins[0]: 'https://a/b' is not an origin"),
        ("server: {cors: {origins: ['*'], credentials: true}}", "server.cors: with credentials no page at all may ask"),
        ("server: {cors: {origins: ['https://a', '*'], credentials: true}}", "server.cors: with credentials"),
        (
            "server: {ollama_management: true}\nbackends: [{name: a, url: 'http://a'}, {name: b, url: 'http://b'}]",
            "server.ollama_management: it is passed on to the one backend of kind ollama, here are 2",
        ),
        ("server: {cors: {headers: ['a b']}}", "server.cors.headers[0]: 'a b' is not the name of a header"),
        ("server: {tls: {}}", "server.tls.cert_file: missing, expected a path"),
        (
            "server: {unix_socket: /run/h.sock, tls: {cert_file: c.pem}}",
            "server.tls: no https is spoken over server.unix_socket",
        ),
        ("server: {drain_grace_s: 31}", "server.drain_grace_s: 31 s do not fit into server.drain_timeout_s: 30 s"),
        ("server: {drain_grace_s: -1}", "server.drain_grace_s: -1 is not a time, 0 or more"),
        ("models: {gemma: {timeout: 3}}", "models.gemma.timeout: unknown key, did you mean timeout_s?"),
        ("models: {gemma: {num_ctx: 8192}}", "gemma.num_ctx: unknown key, did you mean options.num_ctx?"),
        ("models: {gemma: {timeout_s: -3}}", "models.gemma.timeout_s: -3 is not a time"),
        ("models: {'qwen2.5:7b': {queue_limit: -1}}", 'models."qwen2.5:7b".queue_limit: -1 is not a whole number'),
        ("models: {gemma: {memory_cost: hgh}}", "models.gemma.memory_cost: 'hgh' is not low, medium, high or a size"),
        ("models: {gemma: {memory_cost: hgh}}", "did you mean high?"),
        ("models: {gemma: {memory_cost: 0}}", "models.gemma.memory_cost: 0 is not low"),
        (
            "models: {gemma: {params: {temprature: 1}}}",
            "models.gemma.params.temprature: unknown key, did you mean temp",
        ),
        (
            "models: {gemma: {params: {temperature: 2.1}}}",
            "models.gemma.params.temperature: 2.1 is not a number from 0",
        ),
        ("models: {gemma: {params: {top_k: 0}}}", "models.gemma.params.top_k: 0 is not a whole number above 0"),
        ("models: {gemma: {params: {stop: x}}}", "models.gemma.params.stop: 'x' is not a list"),
        (
            "models: {gemma: {backends: [gpu0]}}",
            "models.gemma.backends: 'gpu0' is not the name of a backend, there are",
        ),
        ("models: {gemma: {fallback: [gemma]}}", "models.gemma.fallback: 'gemma' is not another model"),
        (
            "models: {gemma: {fallback: [phi]}}\nserve_unlisted: false",
            "models.gemma.fallback: 'phi' is not another model that is served",
        ),
        (
            "models: {gemma: {backends: [olama]}}",
            "models.gemma.backends: 'olama' is not the name of a backend, did you",
        ),
        (
            "models: {a: {backend_model: m, options: {num_ctx: 1}}, b: {backend_model: 'm:latest'}}",
            "models.b: the same model as 'a', which is loaded in one way",
        ),
        ("models: {m: {keep_alive: 1}, b: {backend_model: m, keep_alive: 2}}", "models.b: the same model as 'm'"),
        (
            "models: {m: {options_policy: max}, b: {backend_model: m, max_num_ctx: 9}}",
            "give both the same options, options_policy, max_num_ctx and keep_alive",
        ),
        (
            "{defaults: {max_num_ctx: 8}, models: {m: {options: {num_ctx: 9}}}}",
            "models.m.options.num_ctx: 9 is more than its max_num_ctx: 8",
        ),
        ("models: {m: {options_policy: raise}}", "models.m.options_policy: 'raise' is not pin or max or passthrough"),
        ("models: {a: {options: {num_ctx: 0}}}", "models.a.options.num_ctx: 0 is not a whole number above 0"),
        ("models: {a: {options: {temperature: 1}}}", "models.a.options.temperature: unknown key; known: num_ctx"),
        ("models: {a: {keep_alive: -2}}", "models.a.keep_alive: -2 is not a time such as 10m, 0 to let go at once, or"),
        ("models: {a b: }", "models: 'a b' is not a model name"),
        ("models: {a/../b: }", "models: 'a/../b' is not a model name"),
        ("models: {3: }", "models: 3 is not a model name"),
        ("models: [gemma]", "models: a list is not a mapping"),
        ("jwt: [{name: a, issuer: b}]", "jwt[0].audience: missing, expected a list"),
        (jwt(algorithms=["HS256"]), "jwt[0].algorithms[0]: 'HS256' is not RS256 or RS384"),
        (jwt(algorithms=["none"]), "jwt[0].algorithms[0]: 'none' is not RS256 or RS384"),
        (jwt(algorithms=[]), "jwt[0].algorithms: empty, no token would do"),
        (jwt(leeway_s=61), "jwt[0].leeway_s: 61 is not a time up to 60s"),
        (jwt(jwks_url="https://a/k"), "jwt[0].jwks_url: where are the issuer's keys? Set one of"),
        (jwt(jwks_file=None), "jwt[0].jwks_url: where are the issuer's keys? Set one of"),
        (jwt(jwks_file=None, jwks_url="http://a/k"), "jwt[0].jwks_url: over http anybody on the way"),
        (jwt(jwks_file=None, jwks_url="http://127.0.0.1:8080/k?a=1"), None),
        (jwt(jwks_file=None, jwks_url="http://[::1]/k"), None),
        (jwt(jwks_file=None, jwks_url="file:///k"), "jwt[0].jwks_url: 'file:///k' is not https://host/path"),
        (jwt(jwks_url="https://u:secret@a/k"), "jwt[0].jwks_url: *** is not https://host/path"),
        (jwt(ca_file="/ca"), "jwt[0].ca_file: no keys are fetched over https"),
        (jwt(name="a:b"), "jwt[0].name: 'a:b' is not a name of letters"),
        (jwt(roles={"ops": {}}), "jwt[0].roles: in which claim do tokens list their roles? Set claims.roles"),
        (jwt(roles={"*": {"rpm": 0}}), 'jwt[0].roles."*".rpm: 0 is not a whole number above 0'),
        (jwt(claims={"sub": "a"}), "jwt[0].claims.sub: unknown key"),
        (f"{jwt()[:-2]}, {jwt()[9:]}", "jwt: 2 have the name 'sso', by which they are told apart"),
        (f"{jwt()[:-2]}, {jwt(name='b')[9:]}", "jwt: 2 have the issuer 'https://sso', by which they are told apart"),
        ("backends: {}", None),
        ("backends: 5", "backends: 5 is not a list"),
        ("backends: [gpu]", "backends[0]: 'gpu' is not a mapping"),
        ("backends: [{name: a}]", "backends[0].url: missing, expected http://host:port"),
        ("backends: [{name: a, url: gpu}]", "backends[0].url: 'gpu' is not http://host:port"),
        (
            "backends: [{name: a, url: 'https://a', ca_file: ca.pem}, {name: b, url: 'http://b', ca_file: ca.pem}]",
            "backends.b.ca_file: http://b is not https",
        ),
        ("backends: [{name: a, url: 'unix:///a', ca_file: ca.pem}]", "backends.a.ca_file: unix:///a is not https"),
        ("backends: [{name: a, url: 'http://a', kind: mlx}]", "backends[0].kind: 'mlx' is not ollama or vllm or"),
        (
            "backends: [{name: a, url: 'http://a', kind: vllm, memory: 24GiB}]",
            "backends.a.memory: a backend of kind vllm loads its models itself",
        ),
        (
            "backends: [{name: a, url: 'http://a', kind: openai, max_loaded: 2}]",
            "backends.a.max_loaded: a backend of kind openai loads its models itself",
        ),
        (
            "{backends: [{name: a, url: 'http://a', kind: vllm}], models: {m: {pull: on_demand}}}",
            "models.m.pull: none of its backends can pull, only those of kind ollama do",
        ),
        ("backends: [{name: a, url: 'http://a'}, {name: a, url: 'http://b'}]", "backends: 2 are named 'a'"),
        (
            "logging: {level: inof}",
            "logging.level: 'inof' is not debug or info or warning or error, did you mean info?",
        ),
        ("logging: {access_log: sdterr}", "logging.access_log: 'sdterr' is not stderr, off or a path with a '/'"),
        ("limits: {max_concurrent: 0}", "limits.max_concurrent: 0 is not a whole number above 0"),
        ("limits: {retry_ratio: 1.1}", "limits.retry_ratio: 1.1 is not a number from 0 to 1"),
        ("keys: [{user: editor}]", "keys[0].sha256: missing, expected a SHA-256"),
        (f"keys: [{{user: a, sha256: '{'0' * 64}'}}, {{user: b, sha256: '{'0' * 64}'}}]", "keys: the same key stands"),
        ("server: {port: 1, port: 2}", "line 1, column 19: this key stands here for the second time"),
        ("server: {port: !!int ''}", "line 1, column 16: the value does not fit its tag"),
        ("server: {port: 1", "hermes.yaml: line"),
        ("- a", "expected keys such as 'server:' at the top"),
        ("server:\n  port:4000", "server: 'port:4000' is not a mapping; behind a key's colon stands a space"),
        ("[" * 5000, "hermes.yaml: "),
    ],
)
def test_a_mistake_is_told_with_path_value_and_expectation(settle: Settle, yaml: str, said: str | None) -> None:
    if said is None:
        settle(yaml)
        return
    with pytest.raises(ConfigError) as refused:
        settle(yaml)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"PORT": "abc"}, "server.port: 'abc' is not a port from 0 to 65535 (PORT)"),
        ({"MAX_CONCURRENT": "0"}, "limits.max_concurrent: 0 is not a whole number above 0 (MAX_CONCURRENT)"),
        ({"HERMES_SERVER__PROT": "1"}, "HERMES_SERVER__PROT: unknown variable, did you mean HERMES_SERVER__PORT?"),
        (
            {"HERMES_SERVER__INSECURE": "maybe"},
            "server.insecure: 'maybe' is not true or false (HERMES_SERVER__INSECURE)",
        ),
        ({"HERMES_MODELS": "{"}, "HERMES_MODELS: not valid JSON (line 1, column 2)"),
        ({"HERMES_MODELS": "models.json"}, "it takes the JSON itself, not the name of a file"),
        ({"HERMES_MODELS": '{"a": {}, "a": {}}'}, "HERMES_MODELS: expected JSON without repeated names"),
        ({"HERMES_MODELS": '{"a": {"timeout_s": NaN}}'}, "HERMES_MODELS: expected JSON"),
        ({"HERMES_MODELS": "[" * 100_000}, "HERMES_MODELS: expected JSON"),
        ({"HERMES_BACKENDS": "[]", "OLLAMA_URL": "gpu"}, None),
        ({"OLLAMA_URL": "gpu"}, "backends[0].url: 'gpu' is not http://host:port"),
        ({"OLLAMA_HOST": "a:b:c"}, "OLLAMA_HOST: expected host:port or http://host:port"),
        ({"LLM_BACKEND": "olama"}, "LLM_BACKEND: 'olama' is unknown; supported: ollama"),
        ({"LLM_BACKEND": "vllm"}, "LLM_BACKEND: where is it? Set LLM_BACKEND_URL"),
        (
            {"API_KEYS_JSON": "sk-1"},
            "API_KEYS_JSON: not valid JSON (line 1, column 1); the right",
        ),
        ({"API_KEYS_JSON": "/run/secrets/keys"}, "it takes the JSON itself, not the name of a file; the right form"),
        (
            {"API_KEYS_JSON": "[]"},
            'API_KEYS_JSON: expected a JSON object; the right form is {"sk-...": {"user": "editor"',
        ),
        (
            {"API_KEYS_JSON": '{"sk-1": "editor"}'},
            "API_KEYS_JSON: entry 1 is not an object with a user; the right form",
        ),
        ({"API_KEYS_JSON": '{"": {"user": "a"}}'}, "API_KEYS_JSON: key 1 has a character that no header may carry"),
        ({"API_KEYS_JSON": '{"sk-1": {"user": "a", "rate": 1}}'}, "keys[0]: unknown key"),
        (
            {"API_KEYS_JSON": '{"sk-1": {"user": "a", "rate_limit": 0}}'},
            "keys[0].rpm: *** is not a whole number",
        ),
    ],
)
def test_a_mistake_in_a_variable_names_the_variable(settle: Settle, environ: dict[str, str], said: str | None) -> None:
    if said is None:
        settle(None, environ)
        return
    with pytest.raises(ConfigError) as refused:
        settle(None, environ)
    assert said in str(refused.value)
    assert next(iter(environ)) in str(refused.value)


def test_a_flag_is_checked_like_everything_else(settle: Settle) -> None:
    with pytest.raises(ConfigError) as refused:
        settle(overrides={"server.prot": 1, "server.port": "x", "models": "{", "server.host": None})
    assert "server.prot: unknown key, did you mean server.port? (flag)" in str(refused.value)
    assert "server.port: 'x' is not a port from 0 to 65535 (flag)" in str(refused.value)
    assert "models: not valid JSON" in str(refused.value)


def test_all_mistakes_are_told_at_once_one_per_line(settle: Settle) -> None:
    with pytest.raises(ConfigError) as refused:
        settle("server: {port: x, prot: 1}\nmodels: {a: {timeout_s: 0}}", {"HERMES_NO": "1", "MAX_CONCURRENT": "x"})
    lines = str(refused.value).splitlines()
    assert len(lines) == 5
    assert [line.split(":")[0] for line in lines] == [
        "HERMES_NO", "server.prot", "server.port", "models.a.timeout_s", "limits.max_concurrent",
    ]  # fmt: skip


# --- nothing but ConfigError ----------------------------------------------------------------------------------------

words = st.sampled_from(
    [
        "server",
        "port",
        "models",
        "backends",
        "keys",
        "tls",
        "gemma",
        "url",
        "name",
        "http://a",
        "24GiB",
        "params",
        "stop",
    ]
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | words
    | st.text(st.sampled_from("a1.:/\n\0\u00e9\ud800"), max_size=8)
)
names = words | scalars.filter(lambda key: key == key)  # NaN is never twice the same
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(words, trees))
def test_any_tree_is_a_configuration_or_a_config_error(tree: dict[str, Any]) -> None:
    try:
        config = build(tree)
        check(config)
    except ConfigError as error:
        assert str(error).isprintable() or "\n" in str(error)


PIECES = [
    "a",
    "server",
    ": ",
    "{",
    "}",
    "[",
    "]",
    ", ",
    "\n",
    "  ",
    "- ",
    "&x ",
    "*x",
    "<<",
    "'",
    '"',
    "\\U",
    "ffffffff",
]
PIECES += ["!!int ", "!!bool ", "!!float ", "!!timestamp ", "!!set ", "!!omap ", "!!binary ", "!!python/name:os "]
PIECES += ["%YAML 1.1", "---", "|", "? ", "1", "0x", "0b", ".nan", "2020-13-99", "\t", "#"]
yamlish = st.lists(st.sampled_from(PIECES)).map("".join)


@settings(max_examples=300)
@given(st.one_of(yamlish.map(str.encode), st.binary(max_size=60)))
def test_any_file_is_a_configuration_or_a_config_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.getbasetemp()
    for name in ("garbage.yaml", "garbage.toml"):
        (folder / name).write_bytes(data)
        try:
            load(name, {}, {}, folder)
        except ConfigError as error:
            assert name in str(error)


@given(st.dictionaries(words, trees))
def test_strict_yaml_agrees_with_safe_yaml_on_what_that_writes(tree: dict[str, Any]) -> None:
    from hermes.config.strictyaml import parse

    text = pyyaml.safe_dump(tree)
    assert repr(parse(text)) == repr(pyyaml.safe_load(text))


def test_yaml_words_are_not_booleans_and_merge_keys_work(settle: Settle) -> None:
    config = settle(
        "models:\n  a: &base {timeout_s: 5, queue_limit: 1}\n  b: {<<: *base, queue_limit: 2}\n  c: {<<: *base}\n"
        "logging: {access_log: off}\n"
    ).config
    assert [(model.timeout_s, model.queue_limit) for model in config.models.values()] == [(5, 1), (5, 2), (5, 1)]
    assert config.logging.access_log == "off"


# --- the open door (I24) --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("localhost", True), ("LOCALHOST", True),
        ("0.0.0.0", False), ("::", False), ("192.168.0.1", False), ("gpu.example.org", False),
        ("127.example.org", False),
    ],
)  # fmt: skip
def test_only_loopback_is_served_without_keys(settle: Settle, host: str, loopback: bool) -> None:
    """I24"""
    assert is_loopback(host) is loopback
    config = settle(None, {"HERMES_SERVER__HOST": host}).config
    if loopback:
        check_bind(config)
    else:
        with pytest.raises(ConfigError, match=r"no keys are configured.*API_KEYS_JSON.*--insecure"):
            check_bind(config)


@pytest.mark.parametrize(
    "extra",
    [
        {"jwt": json.loads(jwt())["jwt"]},
        {"server.insecure": True},
        {"server.unix_socket": "/run/h.sock"},
        {"keys": [{"user": "a", "sha256": "0" * 64}]},
    ],
)
def test_other_machines_are_served_with_keys_or_when_it_is_spelled_out(settle: Settle, extra: dict[str, Any]) -> None:
    """I24"""
    check_bind(settle(overrides={"server.host": "0.0.0.0", **extra}).config)


@pytest.mark.parametrize("extra", [{}, {"server.unix_socket": "/run/h.sock"}, {"server.host": "0.0.0.0"}])
def test_no_page_of_anybodys_is_let_in_where_everybody_is_the_operator(settle: Settle, extra: dict[str, Any]) -> None:
    """I22, I24"""
    any_page = {**extra, "server.cors.origins": ["*"]}
    with pytest.raises(ConfigError, match=r"server\.cors\.origins: '\*' and no keys are configured"):
        check_bind(settle(overrides=any_page).config)
    check_bind(settle(overrides={**any_page, "keys": [{"user": "a", "sha256": "0" * 64}]}).config)


def test_a_file_that_cannot_be_read_is_an_error_of_configuration(tmp_path: Path) -> None:
    (tmp_path / "big.yaml").write_bytes(b"#" * (2**20 + 1))
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9")
    for name, said in (
        ("big.yaml", "larger than 1 MiB"),
        ("latin.yaml", "not UTF-8 at byte 3"),
        (".", "Is a directory"),
        ("a\0b", "cannot be"),
    ):
        with pytest.raises(ConfigError, match=said):
            load(name, {}, {}, tmp_path)
