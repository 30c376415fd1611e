"""OpenAI chat completions, the messages of a request: roles, parts, images, tool calls and their results."""

from typing import Any

from msgspec import Struct

from hermes.chat import Message, Part, RichMessage, Text, ToolCall
from hermes.dialects import fields
from hermes.dialects.fields import MISSING, UNSUPPORTED
from hermes.errors import BadRequest


class _ImageUrl(Struct):
    url: str


class _Part(Struct):
    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: _ImageUrl | str | None = None


class _CalledFunction(Struct):
    name: str
    arguments: str | None = None


class _ToolCall(Struct):
    function: _CalledFunction | None = None
    id: str | None = None


class AskedMessage(Struct):
    role: str
    content: str | list[_Part] | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_ToolCall] | None = None
    tool_call_id: str | None = None
    name: str | None = None
    function_call: Any = None


def messages(asked: list[AskedMessage] | None) -> tuple[Message | RichMessage, ...]:
    if not asked:
        words = "`messages` is missing" if asked is None else "`messages` must hold at least one message"
        raise BadRequest(words, code=MISSING, param="messages")
    names: dict[str, str] = {}  # call id -> function, for the tool messages that follow
    return tuple([_message(message, index, names) for index, message in enumerate(asked)])


def _message(asked: AskedMessage, index: int, names: dict[str, str]) -> Message | RichMessage:
    role = fields.ROLES.get(asked.role)
    if type(asked.content) is str and (role == "user" or role == "system"):
        return Message(role, asked.content)
    at = f"messages[{index}]"
    if role is None:
        raise _unknown_role(asked.role, at)
    if asked.content is None and role != "assistant":
        raise BadRequest(f"`{at}.content` must be a string or an array of parts", code=MISSING, param=f"{at}.content")
    parts = _parts(asked.content, at)
    if role == "assistant":
        return _assistant(asked, parts, at, names)
    if role == "tool":
        return _tool(asked, parts, at, names)
    return RichMessage(role, parts)


def _tool(asked: AskedMessage, parts: tuple[Part, ...], at: str, names: dict[str, str]) -> RichMessage:
    if not asked.tool_call_id:
        raise BadRequest(f"`{at}.tool_call_id` is missing", code=MISSING, param=f"{at}.tool_call_id")
    name = names.get(asked.tool_call_id) or asked.name or ""
    return RichMessage("tool", parts, tool_call_id=asked.tool_call_id, tool_name=name)


def _unknown_role(role: str, at: str) -> BadRequest:
    known = ", ".join(fields.ROLES)
    hint = "; use `tool` messages" if role == "function" else ""
    return BadRequest(f"`{at}.role` must be one of {known}, not `{role[:40]}`{hint}", param=f"{at}.role")


def _assistant(asked: AskedMessage, parts: tuple[Part, ...], at: str, names: dict[str, str]) -> Message | RichMessage:
    if asked.function_call is not None:
        param = f"{at}.function_call"
        raise BadRequest(f"`{param}` is deprecated: use `tool_calls`", code=UNSUPPORTED, param=param)
    calls = tuple(_tool_call(call, f"{at}.tool_calls[{index}]") for index, call in enumerate(asked.tool_calls or ()))
    for call in calls:
        names[call.id] = call.name
    reasoning = asked.reasoning_content or asked.reasoning or ""
    if type(asked.content) is str and not reasoning and not calls:
        return Message("assistant", asked.content)
    return RichMessage("assistant", parts, reasoning, calls)


def _tool_call(asked: _ToolCall, at: str) -> ToolCall:
    if asked.function is None:
        raise BadRequest(f"`{at}` must be the call of a function", code=UNSUPPORTED, param=f"{at}.function")
    return ToolCall(asked.id or "", asked.function.name, asked.function.arguments or "")


def _parts(content: str | list[_Part] | None, at: str) -> tuple[Part, ...]:
    if isinstance(content, str):
        return (Text(content),)
    return tuple(_part(part, f"{at}.content[{index}]") for index, part in enumerate(content or ()))


def _part(asked: _Part, at: str) -> Part:
    match asked:
        case _Part(type="text", text=str(text)) | _Part(type="refusal", refusal=str(text)):
            return Text(text)
        case _Part(type="image_url", image_url=_ImageUrl(url=url)) | _Part(type="image_url", image_url=str(url)):
            return fields.image(url, f"{at}.image_url.url")
        case _Part(type="text" | "refusal" | "image_url"):
            raise BadRequest(f"`{at}.{asked.type}` is missing", code=MISSING, param=f"{at}.{asked.type}")
    words = f"`{at}.type` must be text or image_url, not `{asked.type[:40]}`"
    raise BadRequest(words, code=UNSUPPORTED, param=f"{at}.type")
