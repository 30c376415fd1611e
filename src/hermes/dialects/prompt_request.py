"""The prompt dialect, the request: `{"prompt": ..., "system"?, "model"?, "stream"?, "options"?}`.

Unlike the dialects that others define, this one refuses every key it does not know: here a typo is a typo.
"""

from typing import Any

from msgspec import Struct

from hermes.chat import ChatRequest, Message, Sampling
from hermes.dialects import fields, strict
from hermes.errors import BadRequest


class _Options(fields.Loading):
    temperature: fields.Temperature | None = None
    top_p: fields.Share | None = None
    top_k: fields.Count | None = None
    min_p: fields.Share | None = None
    seed: fields.Seed | None = None
    stop: str | list[str] | None = None
    max_tokens: fields.Count | None = None
    num_predict: int | None = None
    presence_penalty: fields.Penalty | None = None
    frequency_penalty: fields.Penalty | None = None
    repeat_penalty: fields.Temperature | None = None
    repeat_last_n: fields.Count | None = None
    typical_p: fields.Share | None = None
    think: bool | str | None = None
    format: str | dict[str, Any] | None = None


class _Body(Struct):
    prompt: str | None = None
    system: str | None = None
    model: str | None = None
    stream: bool | None = None
    options: dict[str, Any] | None = None
    priority: fields.Priority | None = None
    keep_alive: fields.KeepAlive | None = None


KNOWN = frozenset(_Body.__struct_fields__)
OPTIONS = frozenset(_Options.__struct_fields__)
_LOADING = frozenset(fields.Loading.__struct_fields__)
_PATHS = {name: name for name in KNOWN} | {name: f"options.{name}" for name in OPTIONS}


def parse_request(body: bytes, model: str | None = None) -> ChatRequest:
    tree = strict.parse_object(body, KNOWN)
    _refuse_unknown(tree, KNOWN, "")
    asked = strict.convert(tree, _Body)
    options = _options(asked.options) if asked.options else _Options()
    loading = options if asked.options and not _LOADING.isdisjoint(asked.options) else None
    return ChatRequest(
        fields.one_model(asked.model, model),
        _messages(asked),
        stream=asked.stream is True,
        completion=True,
        sampling=_sampling(options),
        json_format=fields.json_format(options.format, "options.format"),
        thinking=fields.thinking(options.think, "options.think"),
        priority=asked.priority or 0,
        load_options=fields.load_options(loading, asked.keep_alive),
    )


def _refuse_unknown(tree: dict[str, Any], known: frozenset[str], at: str) -> None:
    for key in tree:
        if key not in known:
            param = at + key[:200]
            raise BadRequest(f"`{param}` is not known; {_hint(key, known)}", code="unknown_parameter", param=param)


def _hint(key: str, known: frozenset[str]) -> str:
    from difflib import get_close_matches  # 0.2 MiB, and only for a typo

    name = key[:200].lower()
    near = get_close_matches(name, known, 1) or get_close_matches(name, _PATHS, 1)
    return f"did you mean `{_PATHS[near[0]]}`?" if near else f"known are {', '.join(sorted(known))}"


def _options(asked: dict[str, Any]) -> _Options:
    _refuse_unknown(asked, OPTIONS, "options.")
    options = strict.convert(asked, _Options, "options")
    if options.max_tokens is not None and options.num_predict is not None:
        raise BadRequest(
            "`options.num_predict` and `options.max_tokens` are the same: give one", param="options.num_predict"
        )
    return options


def _messages(asked: _Body) -> tuple[Message, ...]:
    if asked.prompt is None:
        raise BadRequest("`prompt` is missing", code=fields.MISSING, param="prompt")
    if not asked.prompt.strip():
        # Ollama would take it for an order to load the model.
        raise BadRequest("`prompt` must not be empty", param="prompt")
    prompt = Message("user", asked.prompt)
    return (Message("system", asked.system), prompt) if asked.system else (prompt,)


def _sampling(options: _Options) -> Sampling:
    return Sampling(
        temperature=options.temperature,
        top_p=options.top_p,
        top_k=options.top_k,
        min_p=options.min_p,
        seed=options.seed,
        max_tokens=options.max_tokens or _num_predict(options.num_predict),
        stop=fields.stop_texts(options.stop),
        presence_penalty=options.presence_penalty,
        frequency_penalty=options.frequency_penalty,
        repeat_penalty=options.repeat_penalty,
        repeat_last_n=options.repeat_last_n,
        typical_p=options.typical_p,
    )


def _num_predict(count: int | None) -> int | None:
    """Ollama's name; its -1 is "until the model stops", which here is saying nothing."""
    if count is None or count == -1:
        return None
    return strict.convert(count, fields.Count, "options.num_predict")
