"""Anthropic's messages, the conversation of a request: system text, content blocks, tool calls and their results.

1. The results of tools are messages of their own, before the rest of the user's message that brings them.
2. Thinking comes back as it was sent; its signature is ours and says nothing.
3. Blocks that only Anthropic's own servers make (their tools' calls and results, redacted thinking) are left out, and
   so are kinds that we do not know: clients send new ones with every release.
4. The line that Claude Code puts in front of its system text is taken out: its hash changes with every request, and no
   backend could use again what it has read of the prompt.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from hermes.chat import Image, Message, Part, RichMessage, Speaker, Text, ToolCall
from hermes.dialects import fields, strict
from hermes.dialects.fields import MISSING, UNSUPPORTED
from hermes.errors import BadRequest

_json = msgspec.json.Encoder().encode

Blocks = list[dict[str, Any]]


class AskedMessage(Struct):
    role: str
    content: str | Blocks | None = None


class _Text(Struct):
    text: str


class _Thinking(Struct):
    thinking: str


class _ToolUse(Struct):
    id: str
    name: str
    input: dict[str, Any] | None = None


class _ToolResult(Struct):
    tool_use_id: str
    content: str | Blocks | None = None


class _Source(Struct):
    type: str
    media_type: str | None = None
    data: str | None = None
    content: str | Blocks | None = None


class _Sourced(Struct):
    source: _Source


class _SearchResult(Struct):
    content: Blocks


_SPEAKERS: dict[str, Speaker] = {"system": "system", "user": "user", "assistant": "assistant"}
_BILLING = re.compile(r"^x-anthropic-billing-header:[^\n]*\n*", re.MULTILINE)


def system(asked: str | Blocks | None, at: str = "system") -> tuple[Message, ...]:
    text = _BILLING.sub("", _joined(asked, at)) if asked else ""
    return (Message("system", text),) if text else ()


def messages(asked: list[AskedMessage] | None) -> tuple[Message | RichMessage, ...]:
    names: dict[str, str] = {}  # call id -> tool, for the results that follow
    said: list[Message | RichMessage] = []
    for index, message in enumerate(asked or ()):
        said += _said(message, f"messages[{index}]", names)
    if not said:
        words = "`messages` is missing" if asked is None else "`messages` must hold at least one message"
        raise BadRequest(words, code=MISSING, param="messages")
    return tuple(said)


def _said(asked: AskedMessage, at: str, names: dict[str, str]) -> Sequence[Message | RichMessage]:
    role = _SPEAKERS.get(asked.role)
    if role is None:
        words = f"`{at}.role` must be one of {', '.join(_SPEAKERS)}, not `{asked.role[:40]}`"
        raise BadRequest(words, param=f"{at}.role")
    if asked.content is None:
        words = f"`{at}.content` must be a string or an array of blocks"
        raise BadRequest(words, code=MISSING, param=f"{at}.content")
    if role == "system":
        return system(asked.content, f"{at}.content")
    if isinstance(asked.content, str):
        return [Message(role, asked.content)]
    if role == "user":
        return _user(asked.content, f"{at}.content", names)
    return _assistant(asked.content, f"{at}.content", names)


def _joined(asked: str | Blocks, at: str) -> str:
    if isinstance(asked, str):
        return asked
    return "\n\n".join([part.text for part in _parts(asked, at) if type(part) is Text and part.text])


def _user(blocks: Blocks, at: str, names: dict[str, str]) -> list[Message | RichMessage]:
    said: list[Message | RichMessage] = []
    parts: list[Part] = []
    for index, block in enumerate(blocks):
        here = f"{at}[{index}]"
        if _kind(block, here) == "tool_result":
            said.append(_result(strict.convert(block, _ToolResult, here), here, names))
        else:
            parts += _part(block, here)
    return [*said, _message("user", parts)] if parts else said


def _assistant(blocks: Blocks, at: str, names: dict[str, str]) -> list[Message | RichMessage]:
    parts: list[Part] = []
    thoughts: list[str] = []
    calls: list[ToolCall] = []
    for index, block in enumerate(blocks):
        here = f"{at}[{index}]"
        match _kind(block, here):
            case "thinking":
                thoughts.append(strict.convert(block, _Thinking, here).thinking)
            case "tool_use":
                call = strict.convert(block, _ToolUse, here)
                names[call.id] = call.name
                calls.append(ToolCall(call.id, call.name, _json(call.input or {}).decode()))
            case _:
                parts += _part(block, here)
    reasoning = "\n\n".join(filter(None, thoughts))
    if reasoning or calls:
        return [RichMessage("assistant", tuple(parts), reasoning, tuple(calls))]
    return [_message("assistant", parts)] if parts else []


def _message(role: Speaker, parts: list[Part]) -> Message | RichMessage:
    if len(parts) == 1 and isinstance(parts[0], Text):
        return Message(role, parts[0].text)
    return RichMessage(role, tuple(parts))


def _result(asked: _ToolResult, at: str, names: dict[str, str]) -> RichMessage:
    parts = _content(asked.content, f"{at}.content")
    return RichMessage("tool", parts, tool_call_id=asked.tool_use_id, tool_name=names.get(asked.tool_use_id, ""))


def _content(content: str | Blocks | None, at: str) -> tuple[Part, ...]:
    if isinstance(content, str):
        return (Text(content),) if content else ()
    return tuple(_parts(content or (), at))


def _parts(blocks: Iterable[dict[str, Any]], at: str) -> Iterable[Part]:
    for index, block in enumerate(blocks):
        yield from _part(block, f"{at}[{index}]")


def _part(block: dict[str, Any], at: str) -> Iterable[Part]:
    """What a model can read of a block."""
    match _kind(block, at):
        case "text":
            return (Text(strict.convert(block, _Text, at).text),)
        case "image":
            return (_image(strict.convert(block, _Sourced, at).source, f"{at}.source"),)
        case "document":
            return _document(strict.convert(block, _Sourced, at).source, f"{at}.source")
        case "search_result":
            return _parts(strict.convert(block, _SearchResult, at).content, f"{at}.content")
        case "tool_use" | "tool_result" as misplaced:
            words = f"`{at}.type` must not be {misplaced} in this place"
            raise BadRequest(words, param=f"{at}.type")
    return ()


def _kind(block: dict[str, Any], at: str) -> str:
    kind = block.get("type")
    if not isinstance(kind, str):
        raise BadRequest(f"`{at}.type` must name the kind of the block", code=MISSING, param=f"{at}.type")
    return kind


def _image(source: _Source, at: str) -> Image:
    if source.type != "base64":
        words = (
            f"`{at}.type` must be base64, not `{source.type[:40]}`: images are not fetched; send them in the request"
        )
        raise BadRequest(words, code="invalid_image_url", param=f"{at}.type")
    if not source.media_type or not source.media_type.startswith("image/"):
        words = f"`{at}.media_type` must be that of an image, such as image/png"
        raise BadRequest(words, param=f"{at}.media_type")
    if source.data is None or not fields.is_base64(source.data):
        raise BadRequest(f"`{at}.data` is not valid base64", code="invalid_base64", param=f"{at}.data")
    return Image(source.media_type, source.data)


def _document(source: _Source, at: str) -> tuple[Part, ...]:
    match source:
        case _Source(type="text", data=str(text)):
            return (Text(text),)
        case _Source(type="content"):
            return _content(source.content, f"{at}.content")
    words = f"`{at}.type` must be text or content, not `{source.type[:40]}`: only texts and images can be read here"
    raise BadRequest(words, code=UNSUPPORTED, param=f"{at}.type")
