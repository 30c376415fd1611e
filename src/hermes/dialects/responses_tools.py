"""Tools of OpenAI's responses: functions, custom tools, which take a free text, and namespaces of either.

1. To a backend all are functions: one in a namespace goes by both names, a custom tool has one argument, its `input`.
   A call goes back as one of what the client has.
2. What OpenAI's own servers would carry out is refused. `web_search` and `tool_search` are left out: Codex offers them
   whatever the model, and makes do without.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from hermes.chat import MustCall, Tool, ToolChoice
from hermes.dialects.fields import MISSING, UNSUPPORTED
from hermes.dialects.tools import as_object
from hermes.errors import BadRequest

_LEFT_OUT = ("web_search", "tool_search")
_FREE_TEXT = {
    "type": "object",
    "properties": {"input": {"type": "string", "description": "The whole text."}},
    "required": ["input"],
}


class _Format(Struct):
    syntax: str | None = None
    definition: str | None = None


class AskedTool(Struct):
    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    format: _Format | None = None
    tools: list["AskedTool"] | None = None


def tools(asked: Sequence[AskedTool]) -> tuple[Tool, ...]:
    return tuple(_tools(asked, "tools", ""))


def _tools(asked: Sequence[AskedTool], at: str, namespace: str) -> Iterator[Tool]:
    for index, tool in enumerate(asked):
        here = f"{at}[{index}]"
        if tool.type in _LEFT_OUT:
            continue
        if tool.type not in ("function", "custom", "namespace"):
            words = f"`{here}.type` must be function, custom or namespace, not `{tool.type[:40]}`"
            raise BadRequest(f"{words}: OpenAI's own tools cannot be had here", code=UNSUPPORTED, param=f"{here}.type")
        if not tool.name:
            raise BadRequest(f"`{here}.name` is missing", code=MISSING, param=f"{here}.name")
        if tool.type == "namespace":
            yield from _tools(tool.tools or (), f"{here}.tools", full_name(tool.name, namespace))
        else:
            yield _tool(tool, full_name(tool.name, namespace), namespace)


def _tool(asked: AskedTool, name: str, namespace: str) -> Tool:
    description = asked.description or ""
    if asked.type == "function":
        return Tool(name, description, asked.parameters, namespace)
    if asked.format is not None and asked.format.definition:
        # Nobody enforces it here, so the model has to know.
        description += f"\n\nThe input follows this grammar ({asked.format.syntax}):\n{asked.format.definition}"
    return Tool(name, description, _FREE_TEXT, namespace, freeform=True)


def full_name(name: str, namespace: str | None) -> str:
    return f"{namespace}__{name}" if namespace else name


def choice(asked: str | dict[str, Any] | None, tools: Sequence[Tool]) -> ToolChoice:
    match asked:
        case None | "auto":
            return "auto"
        case "none":
            return "none"
        case "required" if tools:
            return MustCall()
        case "required":
            raise BadRequest("`tool_choice` is required, but there are no `tools`", param="tool_choice")
        case {"type": "function" | "custom", "name": str(name)}:
            if not any(tool.name == name for tool in tools):
                raise BadRequest(f"`tool_choice` names `{name[:80]}`, which is not in `tools`", param="tool_choice")
            return MustCall(name)
    words = "`tool_choice` must be auto, none, required, or name a function"
    raise BadRequest(words, code=UNSUPPORTED, param="tool_choice")


# --- calls, as the client knows its tools -------------------------------------------------------------------------


def known_as(name: str, tool: Tool | None) -> dict[str, str]:
    """What a call says of which tool it is for."""
    if tool is None or not tool.namespace:
        return {"name": name}
    return {"name": name.removeprefix(full_name("", tool.namespace)), "namespace": tool.namespace}


def free_text(arguments_text: str) -> str:
    """What a custom tool is to get. A model that wrote no such object meant all of it."""
    text = as_object(arguments_text).get("input")
    return text if isinstance(text, str) else arguments_text


def as_arguments(text: str) -> str:
    """The other way around."""
    return msgspec.json.encode({"input": text}).decode()
