"""OpenAI's responses, the request: what is asked for, or a 400 that names the field.

Nothing is kept from one request to the next, so all that means something kept is refused. So is what else changes the
meaning of the request and cannot be honoured. Anything that we do not know is left out; null means absent, everywhere.
"""

from typing import Annotated, Any

from msgspec import Meta as Limits
from msgspec import Struct

from hermes.chat import ChatRequest, JsonFormat, Sampling
from hermes.dialects import fields, openai_request, responses_input, responses_tools, strict
from hermes.dialects.fields import UNSUPPORTED
from hermes.errors import BadRequest


class _Format(Struct):
    type: str
    schema: dict[str, Any] | None = None


class _Text(Struct):
    format: _Format | None = None


class _Reasoning(Struct):
    effort: str | None = None


class _Body(Struct, kw_only=True):
    model: str | None = None
    input: str | responses_input.Items | None = None
    instructions: str | None = None
    stream: bool | None = None
    tools: list[responses_tools.AskedTool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    max_output_tokens: fields.Count | None = None
    temperature: fields.Temperature | None = None
    top_p: fields.Share | None = None
    text: _Text | None = None
    reasoning: _Reasoning | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    include: list[str] | None = None
    top_logprobs: Annotated[int, Limits(ge=0, le=20)] | None = None
    priority: fields.Priority | None = None
    service_tier: str | None = None
    store: bool | None = None
    background: bool | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    prompt: Any = None
    options: fields.Loading | None = None
    keep_alive: fields.KeepAlive | None = None


KNOWN = frozenset(_Body.__struct_fields__)

_KEPT = {
    "previous_response_id": "no response is kept here: send the whole conversation in `input`",
    "conversation": "no conversation is kept here: send all of it in `input`",
    "prompt": "no prompt is kept here: send its text in `instructions` and `input`",
    "background": "nothing runs here for which nobody waits",
    "store": "no response is kept here",
}


def parse_request(body: bytes, model: str | None = None) -> ChatRequest:
    tree = strict.parse_object(body, KNOWN)
    asked = strict.convert(tree, _Body)
    for name, why in _KEPT.items():
        if getattr(asked, name) not in (None, False):
            raise BadRequest(f"`{name}` is not supported: {why}", code=UNSUPPORTED, param=name)
    tools = responses_tools.tools(asked.tools or ())
    return ChatRequest(
        fields.one_model(asked.model, model),
        responses_input.messages(asked.instructions, asked.input),
        asked.stream is True,
        tools=tools,
        tool_choice=responses_tools.choice(asked.tool_choice, tools),
        sampling=Sampling(temperature=asked.temperature, top_p=asked.top_p, max_tokens=asked.max_output_tokens),
        json_format=_json_format(asked.text),
        thinking=fields.effort(asked.reasoning.effort, "reasoning.effort") if asked.reasoning else None,
        logprobs="message.output_text.logprobs" in (asked.include or ()) or bool(asked.top_logprobs),
        top_logprobs=asked.top_logprobs or 0,
        priority=asked.priority or 0,
        service_tier=asked.service_tier or "",
        load_options=fields.load_options(asked.options, asked.keep_alive),
        extra=openai_request.besides(tree, KNOWN, asked.chat_template_kwargs),
    )


def _json_format(asked: _Text | None) -> JsonFormat | None:
    if asked is None or asked.format is None:
        return None
    return openai_request.json_format(asked.format.type, asked.format.schema, "text.format", "text.format.schema")
