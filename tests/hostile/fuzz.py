"""The parsers that strangers reach, as functions of bytes that raise where something is wrong: what fuzzers call.

`python -m tests.hostile TARGET SECONDS FOLDER` lets Atheris at one of them, which sees what code an input reaches and
goes on from there; `make fuzz` at all. In `make test` hypothesis does, for a second (test_fuzz.py).
"""

import json
import re
import tempfile
from base64 import b64decode, b64encode
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from msgspec import Struct

from hermes.auth import Authenticator
from hermes.config import files
from hermes.config.dump import dump
from hermes.config.load import resolve
from hermes.config.notation import format_moment, parse_moment
from hermes.dialects import ClientDialect
from hermes.dialects.anthropic import Anthropic
from hermes.dialects.ollama import Ollama
from hermes.dialects.ollama_client import OllamaClient, OllamaGenerate
from hermes.dialects.ollama_request import parse_model
from hermes.dialects.openai import OpenAI
from hermes.dialects.openai_backend import VLLM, OpenAIBackend
from hermes.dialects.openai_completions import Completions
from hermes.dialects.prompt import Prompt
from hermes.dialects.responses import Responses
from hermes.errors import BadRequest, ConfigError, GatewayError, Unauthenticated
from hermes.http.arrival import Arrival
from hermes.http.heads import Heads
from hermes.http.limits import Limits
from hermes.http.request import Request
from hermes.policy.access import may_use
from hermes.principal import Principal
from tests.hostile import cases

# --- heads and framing ------------------------------------------------------------------------------------------------


class _Taken:
    """A connection without a socket: what came in, each as text."""

    def __init__(self, heads: Heads) -> None:
        self.limits = Limits(body_bytes=4096)
        self.heads = heads
        self.clock = lambda: 0.0
        self.arriving_bytes = 0
        self.got: list[str] = []
        self._over = False

    def receive(self, message: Request | GatewayError) -> None:
        if self._over:
            return
        if isinstance(message, GatewayError):
            self._over = True
            assert 400 <= message.status < 600 and message.status != 500, message
            self.got.append("refused")  # of two reasons either will do
            return
        head = message.head
        self._over = not head.keep_alive
        lines = [name + b": " + value for name, value in head.headers.items()]
        assert head.method.isupper() and not re.search(rb"[^\x21-\x7e]", head.path + head.query)
        assert not [line for line in lines if re.search(rb"[\r\n\0]", line)]
        values = [value.removesuffix(b", ") for value in head.headers.values()]  # of a list whose last item is empty
        assert not [value for value in values if value != value.strip(b" \t")]
        assert not [name for name in head.headers if name != name.lower()]
        assert b"host" in head.headers or head.http_1_0
        self.got.append(repr((head.method, head.path, head.query, sorted(lines), message.body)))

    def expect_body(self) -> None:
        """Nobody is there to be told."""


def _taken(pieces: list[bytes], heads: Heads) -> list[str]:
    taken = _Taken(heads)
    arrival = Arrival(taken, taken)
    for piece in pieces:
        if piece and not taken._over:
            arrival.feed(piece)
    arrival.end()
    assert taken.arriving_bytes == 0, "bodies that are gone are still counted"
    return taken.got


def heads(data: bytes) -> None:
    """What came means the same however it was cut, and whether or not it had come before."""
    whole = _taken([data], Heads())
    cut = len(data) // 2
    assert _taken([data[:cut], data[cut:]], Heads()) == whole, "cut in two"
    assert _taken([data[at : at + 1] for at in range(len(data))], Heads()) == whole, "byte by byte"
    known = Heads()
    for time in range(3):
        assert _taken([data], known) == whole, f"when it came before, {time} times"


# --- bodies -----------------------------------------------------------------------------------------------------------

DIALECTS: tuple[ClientDialect, ...] = (
    *(OpenAI(), Completions(), Responses(), Prompt(), Anthropic(), OllamaClient(), OllamaGenerate()),
)
BACKENDS = (Ollama(), OpenAIBackend(VLLM))


def bodies(data: bytes) -> None:
    """Understood or refused, in every dialect; and what is understood can be asked, of the same model (I14)."""
    for dialect in DIALECTS:
        with suppress(BadRequest):
            request = dialect.parse_request(data)
            for backend in BACKENDS:
                with suppress(BadRequest):
                    _, body = backend.render_request(request, "resident")
                    assert json.loads(body, object_pairs_hook=_once)["model"] == "resident"
    for parse in (OpenAI().parse_embed, OllamaClient().parse_embed, OllamaGenerate().parse_embed, parse_model):
        with suppress(BadRequest):
            parse(data)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len(pairs) == len(dict(pairs)), "a name twice"
    return dict(pairs)


# --- keys -------------------------------------------------------------------------------------------------------------

ANN = Principal("k", "ann", admin=False)
KEYS = Authenticator({sha256(b"sk-ann").digest(): ANN})
NAMES = (b"authorization", b"x-api-key", b"api-key")


def keys(data: bytes) -> None:
    """Nobody is let in but who says the key, the whole key and no other, in a way that is read."""
    headers = {name: value.strip(b" \t") for name, value in zip(NAMES, data.split(b"\n"), strict=False)}
    try:
        KEYS.authenticate(headers, 0.0)
        assert _says(headers), headers
    except (Unauthenticated, BadRequest) as refused:
        assert b"sk-" not in refused.message.encode(), refused.message
    text = data.decode("latin-1")
    pattern, _, name = text.partition("\n")
    plainly = re.escape(pattern).replace(r"\*", "(?s:.*)").replace(r"\?", "(?s:.)")
    if pattern.count("*") < 4:  # else what is plain takes its time
        twin = name.removesuffix(":latest") if name.endswith(":latest") else name + ":latest"
        assert may_use((pattern,), name) == any(re.fullmatch(plainly, each) for each in (name, twin)) or not pattern
    with suppress(ValueError):
        assert parse_moment(format_moment(parse_moment(text))) == parse_moment(text)


def _says(headers: dict[bytes, bytes]) -> bool:
    """Read once more, by other means."""
    said = {headers.get(name, b"") for name in NAMES[1:]}
    if bearer := re.fullmatch(rb"(?i:bearer) +(\S*)", headers.get(NAMES[0], b"")):
        said.add(bearer[1])
    elif basic := re.fullmatch(rb"(?i:basic) +([A-Za-z0-9+/]*={0,2})", headers.get(NAMES[0], b"")):
        user, _, password = b64decode(basic[1]).partition(b":")
        said.add(password or user)
    return said - {b""} == {b"sk-ann"}


# --- the configuration ------------------------------------------------------------------------------------------------

VARIABLES = ("API_KEYS_JSON", "HERMES_BACKENDS", "HERMES_MODELS", "HERMES_SERVER__CORS", "OLLAMA_HOST", "PORT")


@cache
def _place() -> tempfile.TemporaryDirectory[str]:
    """Gone with the process."""
    return tempfile.TemporaryDirectory(prefix="hermes-fuzz-")


def configuration(data: bytes) -> None:
    """Any file and any variable is a configuration, which reads back as the same, or a ConfigError."""
    folder = Path(_place().name)
    files.SYSTEM_DIR = folder / "none"
    for name in ("hermes.yaml", "hermes.toml", ".env"):
        (folder / name).write_bytes(data)
        with suppress(ConfigError):
            config = resolve(None if name == ".env" else name, {}, {}, folder).config
            plain = json.dumps(dump(config))
            (folder / "again.yaml").write_text(plain)
            assert "***" in plain or resolve("again.yaml", {}, {}, folder).config == config
        (folder / name).unlink()
    text = data.decode("latin-1").replace("\0", "")
    for variable in VARIABLES:
        with suppress(ConfigError):
            resolve(None, {variable: text}, {}, folder)


# --- who calls them ---------------------------------------------------------------------------------------------------


class Target(Struct, frozen=True):
    """`seeds`: what to begin with; `words`: what inputs are made of."""

    check: Callable[[bytes], None]
    seeds: tuple[bytes, ...]
    words: tuple[bytes, ...]


_FRAMING = (
    b"GET POST HTTP/1.1 HTTP/1.0 / : \r \n \r\n \r\n\r\n 0 3 Host: a Content-Length: Transfer-Encoding: chunked"
    b" , ; Connection: close Upgrade: h2c Expect: 100-continue Authorization: Bearer"
)
_BODY = (
    rb'{ } [ ] : , " \\ \u0000 \ud800 null true false 0 -1 1e9 1.5 NaN "model" "messages" "role" "content" "user"'
    rb' "stream" "tools" "prompt" "input" "images" "options" "keep_alive" "max_tokens" "type" "text" "gemma" "Model"'
)
_CREDENTIALS = b"Bearer Basic sk-ann : = , * ? c2stYW5uOg== OnNrLWFubg== :latest 2027-01-31 T24:00:00 Z +23:59"
_SETTINGS = (
    b"server: backends: models: keys: - { } [ ] ' \" & * ! | > # --- true off ~ 0 1e9 :8080 http://a gemma sha256:"
    b" user: <<: !!int !!timestamp 2027-01-31 expires: [[keys]] = PORT= export"
)
_BLANKS = (b" ", b"\t", b"\n", b"\r\n")
TARGETS = {
    "heads": Target(
        heads,
        (
            *(case.sent[:4096] for case in (*cases.SMUGGLED, *cases.HEADERS)),
            b"GET / HTTP/1.1\r\nHost: a \t\r\nX:\t a\r\n\r\n" * 2,
            b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\nX:\r\n\r\n",
        ),
        (*_FRAMING.split(b" "), *_BLANKS, b"\r"),
    ),
    "bodies": Target(
        bodies,
        tuple(case.sent.partition(b"\r\n\r\n")[2][:4096] for case in (*cases.BODIES, *cases.TWICE, *cases.VALUES)),
        (*_BODY.split(b" "), *_BLANKS, b"\xff"),
    ),
    "keys": Target(
        keys,
        (
            b"Bearer sk-ann",
            b"\nsk-ann",
            b"Basic c2stYW5uOg==\n\nsk-ann",
            *(b"Basic " + b64encode(said) for said in (b"sk-ann:", b":sk-ann", b"sk-ann:x", b"x:sk-ann", b"sk-ann")),
            b"a*b\nab:latest",
            b"2027-01-31T00:00:00+01:00",
        ),
        (*_CREDENTIALS.split(b" "), *_BLANKS),
    ),
    "configuration": Target(
        configuration,
        (
            b"server: {port: 1}\nkeys: [{user: a, sha256: %b}]" % (b"0" * 64),
            b'[server]\nport = 1\n[[keys]]\nuser = "a"',
            b'{"sk-1": {"user": "a"}}',
            b"PORT=80\nHERMES_SERVER__TLS='{}'",
            b"models: {a: &x {timeout_s: 5}, b: *x}",
            b"keys: [{user: a, sha256: %b, expires: 2027-02-30, models: [a*]}]" % (b"0" * 64),
            b"server: {max_body_bytes: 24G, cors: {origins: ['*']}, keep_alive_s: 5 m}",
            b'{"a": 1, "a": 2}',
            b'[{"name": "a", "url": "http://a:b@c", "memory": NaN}]',
            b'{"a":' * 3000,
        ),
        (*_SETTINGS.split(b" "), *_BLANKS),
    ),
}
