"""What the client dialects' bodies have in common: ranges of values, images, the model named, the tokens counted."""

import re
from typing import Annotated, Any

from msgspec import Meta, Struct

from hermes.chat import Image, JsonFormat, LoadOptions, Role, Thinking, Usage
from hermes.errors import BadRequest

# Codes of OpenAI's that stand for a kind of fault.
MISSING = "missing_required_parameter"
UNSUPPORTED = "unsupported_parameter"

ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}

Temperature = Annotated[float, Meta(ge=0, le=2)]
Share = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
# Backends keep these in machine integers: 64 bits for a seed, 32 for counts.
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]
# As vLLM has it: any integer, the lowest goes first.
Priority = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]

CountOrZero = Annotated[int, Meta(ge=0, le=2**31 - 1)]
KeepAlive = Annotated[float, Meta(ge=-(2**31), le=2**31 - 1)] | str


class Loading(Struct):
    """Load-time options by Ollama's names. -1 layers on the GPU are as many as fit."""

    num_ctx: Count | None = None
    num_batch: Count | None = None
    num_gpu: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    main_gpu: CountOrZero | None = None
    num_thread: CountOrZero | None = None
    use_mmap: bool | None = None
    draft_num_predict: CountOrZero | None = None


def load_options(asked: Loading | None, keep_alive: float | str | None) -> LoadOptions | None:
    """None where nothing is asked for, as by nearly every request."""
    if asked is None and keep_alive is None:
        return None
    said = {} if asked is None else {name: getattr(asked, name) for name in _LOADING}
    options = LoadOptions(**said, keep_alive_s=_seconds(keep_alive) if isinstance(keep_alive, str) else keep_alive)
    return options if options != _NOTHING_ASKED else None


_LOADING = Loading.__struct_fields__
_NOTHING_ASKED = LoadOptions()
_SECONDS = {"ns": 1e-9, "us": 1e-6, "\u00b5s": 1e-6, "\u03bcs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_STEP = r"(\d{1,12}(?:\.\d{0,12})?)(" + "|".join(_SECONDS) + ")"
_is_duration = re.compile(f"[+-]?(?:0|(?:{_STEP}){{1,8}})", re.ASCII).fullmatch
_steps = re.compile(_STEP, re.ASCII).findall


def _seconds(duration: str) -> float:
    """Go's notation, such as `1h30m` or `-1s`."""
    if not _is_duration(duration):
        words = "`keep_alive` must be a number of seconds or a time such as 30s, 5m, 1h30m, or -1 for ever"
        raise BadRequest(words, param="keep_alive")
    total_s = sum(float(count) * _SECONDS[unit] for count, unit in _steps(duration))
    return -total_s if duration.startswith("-") else total_s


# Of the standard alphabet, padded, on one line.
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}", re.ASCII)


def is_base64(text: str, start: int = 0) -> bool:
    """Whether `text` is from `start` on. In place: an image is long."""
    return not (len(text) - start) % 4 and _BASE64.fullmatch(text, start) is not None


_DATA_URL = re.compile(r"data:(image/[\w.+-]+)(?:;[\w.+=-]+)*;base64,", re.IGNORECASE)


def image(url: str, param: str) -> Image:
    """What a `data:` URL holds. `param`: its path in the body."""
    if url[:8].lower().startswith(("http://", "https://")):
        words = f"`{param}` must be a data: URL: images are not fetched; send them in the request, base64"
        raise BadRequest(words, code="invalid_image_url", param=param)
    head = _DATA_URL.match(url)
    if head is None:
        raise BadRequest(
            f"`{param}` must start with `data:image/<type>;base64,`", code="invalid_image_url", param=param
        )
    if not is_base64(url, head.end()):  # its only check before a backend decodes it
        raise BadRequest(f"`{param}` is not valid base64", code="invalid_base64", param=param)
    return Image(head[1].lower(), url[head.end() :])


_LEVELS: dict[bool | str, Thinking] = {
    True: "on",
    False: "off",
    "on": "on",
    "off": "off",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "max": "max",
}


def thinking(think: bool | str | None, at: str) -> Thinking | None:
    """Ollama's `think`. `at`: its path in the body."""
    if think is None:
        return None
    if think not in _LEVELS:
        words = f"`{at}` must be true, false, low, medium, high or max, not `{str(think)[:40]}`"
        raise BadRequest(words, param=at)
    return _LEVELS[think]


_EFFORTS: dict[str, Thinking] = {
    "none": "off",
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "max",
    "max": "max",
}


def effort(asked: str | None, at: str) -> Thinking | None:
    """OpenAI's word for how much is to be thought. `at`: its path in the body."""
    if asked is None:
        return None
    if asked not in _EFFORTS:
        raise BadRequest(f"`{at}` must be one of {', '.join(_EFFORTS)}, not `{asked[:40]}`", param=at)
    return _EFFORTS[asked]


def json_format(asked: str | dict[str, Any] | None, at: str) -> JsonFormat | None:
    """Ollama's `format`. `at`: its path in the body."""
    if asked is None or isinstance(asked, dict):
        return None if asked is None else JsonFormat(asked)
    if asked != "json":
        raise BadRequest(f"`{at}` must be json or a JSON Schema, not `{asked[:40]}`", param=at)
    return JsonFormat()


def stop_texts(stop: str | list[str] | None) -> tuple[str, ...]:
    """An empty stop text would stop before the first token, or never: it is left out."""
    if not stop:
        return ()
    return (stop,) if isinstance(stop, str) else tuple(text for text in stop if text)


def one_model(in_body: str | None, named: str | None) -> str:
    """The model that body and route agree on. `named`: by path, query or header."""
    if in_body and named and in_body != named:
        raise BadRequest(f"the body says model `{in_body[:200]}`, the request says `{named[:200]}`", param="model")
    if model := in_body or named:
        return model
    raise BadRequest("`model` is missing: name the model to use", code=MISSING, param="model")


def token_counts(usage: Usage) -> bytes:
    """As JSON, for splicing."""
    told, made = usage.prompt_tokens, usage.completion_tokens
    counts = b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d' % (told, made, told + made)
    if usage.cached_tokens:
        counts += b',"prompt_tokens_details":{"cached_tokens":%d}' % usage.cached_tokens
    return counts + b"}"
