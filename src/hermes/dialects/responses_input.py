"""OpenAI's responses, the conversation of a request: `instructions` and the items of `input`.

1. What the assistant said until somebody else speaks is one message, of however many items: thoughts, text, calls.
2. What the model is told before anybody speaks is one system message: many templates take no second one.
3. Kinds of items that only OpenAI's own servers make, or that we do not know, are left out: clients send new ones with
   every release. An `item_reference` is refused: there is nothing kept that it could mean.
"""

from collections.abc import Iterable
from typing import Any

from msgspec import Struct

from hermes.chat import Message, Part, RichMessage, Speaker, Text, ToolCall
from hermes.dialects import fields, strict
from hermes.dialects.fields import MISSING, UNSUPPORTED
from hermes.dialects.responses_tools import as_arguments, full_name
from hermes.errors import BadRequest

Items = list[dict[str, Any]]


class _Part(Struct):
    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: str | None = None


class _Message(Struct):
    role: str
    content: str | list[_Part] | None = None


class _Call(Struct):
    """Of a function, with `arguments`, or of a custom tool, with `input`."""

    call_id: str
    name: str
    namespace: str | None = None
    arguments: str | None = None
    input: str | None = None


class _Output(Struct):
    output: str | list[_Part]
    call_id: str | None = None
    name: str | None = None


class _Thought(Struct):
    text: str = ""


class _Reasoning(Struct):
    summary: list[_Thought] | None = None
    content: list[_Thought] | None = None


_ROLES: dict[str, Speaker] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


def messages(instructions: str | None, asked: str | Items | None) -> tuple[Message | RichMessage, ...]:
    items = [{"role": "user", "content": asked}] if isinstance(asked, str) and asked else asked or []
    said = _said(items)
    if not said:
        words = "`input` is missing" if asked is None else "`input` must say something"
        raise BadRequest(words, code=MISSING, param="input")
    first = _told_first(said)
    told = "\n\n".join([instructions, *first] if instructions else first)
    return (*([Message("system", told)] if told else ()), *said[len(first) :])


def _told_first(said: list[Message | RichMessage]) -> list[str]:
    texts: list[str] = []
    for message in said:
        if type(message) is not Message or message.role != "system":
            break
        texts.append(message.content)
    return texts


def _said(items: Iterable[dict[str, Any]]) -> list[Message | RichMessage]:
    conversation = _Conversation()
    for index, item in enumerate(items):
        conversation.add(item, f"input[{index}]")
    conversation.end_turn()
    return conversation.said


class _Conversation:
    """Items on their way to messages; what the assistant's turn has had so far."""

    def __init__(self) -> None:
        self.said: list[Message | RichMessage] = []
        self._names: dict[str, str] = {}  # call id -> tool, for the outputs that follow
        self._thoughts: list[str] = []
        self._parts: list[Part] = []
        self._calls: list[ToolCall] = []

    def add(self, item: dict[str, Any], at: str) -> None:
        kind = item.get("type") or "message"
        if not isinstance(kind, str):
            raise BadRequest(f"`{at}.type` must name the kind of the item", code="invalid_type", param=f"{at}.type")
        match kind:
            case "message":
                self._message(strict.convert(item, _Message, at), at)
            case "function_call":
                call = strict.convert(item, _Call, at)
                self._call(call, call.arguments or "")
            case "custom_tool_call":
                call = strict.convert(item, _Call, at)
                self._call(call, as_arguments(call.input or ""))
            case "function_call_output" | "custom_tool_call_output":
                self._output(strict.convert(item, _Output, at), at)
            case "reasoning":
                thought = strict.convert(item, _Reasoning, at)
                if self._parts or self._calls:
                    self.end_turn()
                self._thoughts += [part.text for part in thought.content or thought.summary or ()]
            case "item_reference":
                words = f"`{at}` refers to an item, but nothing is kept here: send the item itself (`store: false`)"
                raise BadRequest(words, code=UNSUPPORTED, param=f"{at}.type")

    def end_turn(self) -> None:
        """Make one message of what the assistant has said."""
        reasoning = "\n\n".join(filter(None, self._thoughts))
        if reasoning or self._calls:
            self.said.append(RichMessage("assistant", tuple(self._parts), reasoning, tuple(self._calls)))
        elif self._parts:
            self.said.append(_spoken("assistant", self._parts))
        self._thoughts, self._parts, self._calls = [], [], []

    def _message(self, asked: _Message, at: str) -> None:
        role = _ROLES.get(asked.role)
        if role is None:
            words = f"`{at}.role` must be one of {', '.join(_ROLES)}, not `{asked.role[:40]}`"
            raise BadRequest(words, param=f"{at}.role")
        if asked.content is None:
            words = f"`{at}.content` must be a string or an array of parts"
            raise BadRequest(words, code=MISSING, param=f"{at}.content")
        parts = _parts(asked.content, f"{at}.content")
        if role != "assistant":
            self.end_turn()
            self.said.append(_spoken(role, parts))
            return
        if self._calls:
            self.end_turn()
        self._parts += parts

    def _call(self, asked: _Call, arguments: str) -> None:
        name = self._names[asked.call_id] = full_name(asked.name, asked.namespace)
        self._calls.append(ToolCall(asked.call_id, name, arguments))

    def _output(self, asked: _Output, at: str) -> None:
        self.end_turn()
        call_id = asked.call_id or ""
        name = self._names.get(call_id) or asked.name or ""
        parts = tuple(_parts(asked.output, f"{at}.output"))
        self.said.append(RichMessage("tool", parts, tool_call_id=call_id, tool_name=name))


def _spoken(role: Speaker, parts: list[Part]) -> Message | RichMessage:
    texts = [part.text for part in parts if type(part) is Text]
    if len(texts) == len(parts) and (role == "system" or len(parts) == 1):
        return Message(role, "\n\n".join(texts))
    return RichMessage(role, tuple(parts))


def _parts(content: str | list[_Part], at: str) -> list[Part]:
    if isinstance(content, str):
        return [Text(content)]
    return [_part(part, f"{at}[{index}]") for index, part in enumerate(content)]


def _part(asked: _Part, at: str) -> Part:
    match asked:
        case _Part(type="input_text" | "output_text" | "text", text=str(text)):
            return Text(text)
        case _Part(type="refusal", refusal=str(text)):
            return Text(text)
        case _Part(type="input_image", image_url=str(url)):
            return fields.image(url, f"{at}.image_url")
        case _Part(type="input_image"):
            words = f"`{at}.image_url` is missing: no files are kept that `file_id` could mean"
            raise BadRequest(words, code=MISSING, param=f"{at}.image_url")
        case _Part(type="input_text" | "output_text" | "text" | "refusal"):
            raise BadRequest(f"`{at}.text` is missing", code=MISSING, param=f"{at}.text")
    words = f"`{at}.type` must be input_text, output_text or input_image, not `{asked.type[:40]}`"
    raise BadRequest(words, code=UNSUPPORTED, param=f"{at}.type")
