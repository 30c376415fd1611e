"""The kinds of value a key can hold: bounds, how to read one from text, and how to say what was expected."""

from typing import Annotated, Any, Literal

from msgspec import Meta

from hermes.config.notation import (
    COST,
    HEX64,
    MAX_MOMENT,
    MAX_SECONDS,
    MOMENT,
    SIZE,
    TIME,
    URL,
    parse_command,
    parse_cost,
    parse_moment,
    parse_seconds,
    parse_size,
    parse_url,
)

MASK = "***"


class Secret:
    """A text that is only ever seen by asking for it (I26): `reveal()`. Everything else shows ***."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return MASK

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> Any:
        raise TypeError("a secret is not written anywhere")


Count = Annotated[int, Meta(ge=1, le=1_000_000_000, title="number", description="a whole number above 0")]
CountOrZero = Annotated[int, Meta(ge=0, le=1_000_000_000, title="number", description="a whole number, 0 or more")]
Bytes = Annotated[
    int,
    Meta(
        ge=1,
        le=2**60,
        title="size",
        description="a size such as 24GiB or 512MB",
        extra={"parse": parse_size, "text": SIZE},
    ),
]
Seconds = Annotated[
    float,
    Meta(
        gt=0,
        le=MAX_SECONDS,
        title="time",
        description="a time above 0: seconds, or a text such as 500ms, 30s, 5m, 2h",
        extra={"parse": parse_seconds, "text": TIME},
    ),
]
SecondsOrZero = Annotated[
    float,
    Meta(
        ge=0,
        le=MAX_SECONDS,
        title="time or 0",
        description="a time, 0 or more",
        extra={"parse": parse_seconds, "text": TIME},
    ),
]
KeepAlive = Annotated[
    float,
    Meta(
        ge=-1,
        le=MAX_SECONDS,
        title="time or -1",
        description="a time such as 10m, 0 to let go at once, or -1 for ever",
        extra={"parse": parse_seconds, "text": TIME},
    ),
]
Cost = Annotated[
    Literal["low", "medium", "high"] | Bytes,
    Meta(
        title="`low`, `medium`, `high` or a size",
        description="low, medium, high or a size such as 14GiB",
        extra={"parse": parse_cost, "text": COST},
    ),
]
OptionsPolicy = Literal["pin", "max", "passthrough"]
ClassName = Literal["interactive", "normal", "batch"]
PullRule = Literal["never", "on_demand"]
CacheRule = Annotated[
    bool | Literal["off", "forced"], Meta(title="`true`, `false`, `forced`", description="true, false or forced")
]
CacheScope = Literal["key", "tenant", "all"]
Weight = Annotated[float, Meta(gt=0, le=1000, title="number", description="a weight above 0, at most 1000")]
BackendKind = Literal["ollama", "vllm", "llamacpp", "tgi", "openai", "custom"]
Plugin = Annotated[
    str,
    Meta(
        pattern=r"\A([A-Za-z0-9_.]+:[A-Za-z0-9_]+|[A-Za-z0-9_.-]+)\Z",
        title="`module:Class` or a name",
        description="module:Class, or the name of an entry point",
    ),
]
Port = Annotated[int, Meta(ge=0, le=65535, title="0 to 65535", description="a port from 0 to 65535")]
Path = Annotated[str, Meta(pattern=r"\A[^\0\ud800-\udfff]+\Z", title="path", description="a path")]
Host = Annotated[
    str,
    Meta(
        pattern=r"\A[A-Za-z0-9._:%-]{1,255}\Z",
        title="address or name",
        description="an address or a host name, without a port",
    ),
]
AccessLog = Annotated[
    str,
    Meta(
        pattern=r"\A(stderr|off|[^\0\ud800-\udfff]*/[^\0\ud800-\udfff]*)\Z",
        title="`stderr`, `off` or a path",
        description="stderr, off or a path with a '/'",
    ),
]
StateDir = Annotated[
    str,
    Meta(
        pattern=r"\A(off|[^\0\ud800-\udfff]*/[^\0\ud800-\udfff]*)\Z",
        title="`off` or a path",
        description="off or a path with a '/'",
    ),
]
HostName = Annotated[
    str,
    Meta(
        pattern=r"\A([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]+\])\Z",
        title="name",
        description="a host name without a port",
    ),
]
Origin = Annotated[
    str,
    Meta(
        pattern=r"\A(\*|[a-z][a-z0-9+.-]*://[A-Za-z0-9._:\[\]-]+)\Z",
        title="origin",
        description="an origin such as https://chat.example.org, without a path, or *",
    ),
]
HeaderName = Annotated[
    str, Meta(pattern=r"\A[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}\Z", title="name", description="the name of a header")
]
Url = Annotated[
    str,
    Meta(
        pattern=r"\A(https?|unix)://",
        title="URL",
        description="http://host:port, https://host:port or unix:///path, without credentials",
        extra={"parse": parse_url, "text": URL},
    ),
]
Command = Annotated[
    str,
    Meta(
        pattern=r"\A[^\0\ud800-\udfff]+\Z",
        title="text",
        description="a command and its arguments, quoted as in a shell",
        extra={"parse": parse_command},
    ),
]
EnvName = Annotated[
    str, Meta(pattern=r"\A[A-Za-z_][A-Za-z0-9_]*\Z", title="name", description="the name of a variable")
]
UrlPath = Annotated[str, Meta(pattern=r"\A/[\x21-\x7e]*\Z", title="path", description="a path such as /health")]
BackendName = Annotated[
    str,
    Meta(
        pattern=r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z",
        title="name",
        description="a name of letters, digits, '.', '_' and '-'",
    ),
]
# I25
ModelName = Annotated[
    str,
    Meta(
        pattern=r"\A(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._:/@-]{0,199}\Z",
        title="model name",
        description="a model name of letters, digits and . _ : / @ -, without '..'",
    ),
]
# asymmetric ones alone: with any other, who can check a token can make one (RFC 8725 3.2)
Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
KeySetUrl = Annotated[
    str,
    Meta(
        pattern=r"\Ahttps?://[^\s/@?#]+(/[\x21\x22\x24-\x7e]*)?\Z",
        title="URL",
        description="https://host/path, without credentials; http:// only to this machine",
    ),
]
CollectorUrl = Annotated[
    str,
    Meta(
        pattern=r"\Ahttps?://[^\s/@?#]+(/[\x21\x22\x24-\x3e\x40-\x7e]*)?\Z",
        title="URL",
        description="http://host:port or https://host:port, without credentials",
    ),
]
Leeway = Annotated[
    float,
    Meta(
        ge=0,
        le=60,
        title="time up to 60s",
        description="a time up to 60s",
        extra={"parse": parse_seconds, "text": TIME},
    ),
]
Label = Annotated[
    str, Meta(pattern=r"\A[\x20-\x7e]{1,255}\Z", title="text", description="a text of 1 to 255 ASCII characters")
]
ModelGlob = Annotated[
    str,
    Meta(
        pattern=r"\A[A-Za-z0-9._:/@*?-]{1,200}\Z",
        title="pattern",
        description="a model name, in which * stands for any characters and ? for one",
    ),
]
Moment = Annotated[
    float,
    Meta(
        ge=0,
        le=MAX_MOMENT,
        title="date or time",
        description="a date such as 2027-01-31, which begins at midnight UTC, or a time such as 2027-01-31T18:00:00Z",
        extra={"parse": parse_moment, "text": MOMENT},
    ),
]
User = Annotated[
    str,
    Meta(
        pattern=r"\A[^\x00-\x1f\x7f\ud800-\udfff]{1,100}\Z", title="name", description="a name of 1 to 100 characters"
    ),
]
Sha256 = Annotated[
    str,
    Meta(
        pattern=r"\A[0-9a-f]{64}\Z",
        title="64 hex digits",
        description="a SHA-256 in 64 hex digits",
        extra={"parse": str.lower, "text": HEX64},
    ),
]
StopText = Annotated[str, Meta(pattern=r"\A[^\ud800-\udfff]+\Z", title="text", description="a text that is not empty")]
LineStart = Annotated[
    str,
    Meta(
        pattern=r"\A[^\n\ud800-\udfff]{1,200}\Z", title="text", description="how a line begins, in 1 to 200 characters"
    ),
]
Number0To1 = Annotated[float, Meta(ge=0, le=1, title="0 to 1", description="a number from 0 to 1")]
Number0To2 = Annotated[float, Meta(ge=0, le=2, title="0 to 2", description="a number from 0 to 2")]
Penalty = Annotated[float, Meta(ge=-2, le=2, title="-2 to 2", description="a number from -2 to 2")]
# backends keep counts of tokens in 32 bits
Tokens = Annotated[int, Meta(ge=1, le=2**31 - 1, title="number", description="a whole number above 0")]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1, title="number", description="a whole number")]
Quota = Annotated[int, Meta(ge=1, le=10**15, title="number", description="a whole number above 0")]
# `*` stands for anything, `?` for one character
LimitMode = Literal["enforce", "shadow", "off"]
ConcurrencyMode = Literal["queue", "reject", "shadow", "off"]
Rate = Annotated[float, Meta(gt=0, le=1_000_000, title="number", description="tokens per second, above 0")]
Attempts = Annotated[int, Meta(ge=1, le=10, title="1 to 10", description="a whole number from 1 to 10")]
