"""What the imitation of TGI says: tokens, drawn from what it was asked."""

import json
import re
from typing import Any

SAYS = ("Hello", " there", ",", " you", "!")
EOS = "</s>"

Tokens = list[tuple[str, bool]]  # text; whether it is a special one


def tool_of(body: dict[str, Any]) -> dict[str, Any] | None:
    """The tool that is called: by a user, the named one or the first."""
    choice, tools = body.get("tool_choice"), body.get("tools") or []
    if choice == "none" or not tools or (choice in (None, "auto") and body["messages"][-1]["role"] != "user"):
        return None
    name = choice["function"]["name"] if isinstance(choice, dict) else tools[0]["function"]["name"]
    return next(dict(tool["function"]) for tool in tools if tool["function"]["name"] == name)


def schema_of(given: dict[str, Any]) -> dict[str, Any] | None:
    grammar = given.get("grammar")
    if not grammar or grammar["type"] == "regex":
        return None
    value: dict[str, Any] = grammar["value"]
    return value["schema"] if grammar["type"] == "json_schema" else value


def answer(given: dict[str, Any], tool: dict[str, Any] | None) -> tuple[Tokens, str]:
    """The tokens that it comes to, and why it ends."""
    says: tuple[str, ...] = SAYS
    if tool is not None:
        told = {"function": {"_name": tool["name"], **_made(tool.get("parameters") or tool["arguments"])}}
        says = _cut(told)
    elif schema := schema_of(given):
        says = _cut(_made(schema))
    text, tokens = "", Tokens()
    for piece, special in [*((piece, False) for piece in says), (EOS, True)]:
        tokens.append((piece, special))
        text += piece
        if len(tokens) == given.get("max_new_tokens"):
            return tokens, "length"
        if not special and any(text.endswith(stop) for stop in given.get("stop", ())):
            return tokens, "stop_sequence"
    return tokens, "eos_token"


def _cut(value: dict[str, Any]) -> tuple[str, ...]:
    return tuple(re.findall(r'\w+|",|\W', json.dumps(value)))


def _made(schema: dict[str, Any]) -> dict[str, Any]:
    samples = {"boolean": True, "integer": 1, "number": 0.5, "array": [], "object": {}}
    properties = schema.get("properties", {}).items()
    return {name: one.get("enum", [samples.get(one.get("type"), "x")])[0] for name, one in properties}


def text_of(tokens: Tokens) -> str:
    return "".join(text for text, special in tokens if not special)


def pieces(tokens: Tokens) -> list[tuple[str | None, str] | None]:
    """What TGI makes of a call, token by token: the name when that is read, then arguments; nothing after their end."""
    told: list[tuple[str | None, str] | None] = []
    said, name, over = "", "", False
    for text, _ in tokens:
        said += text
        if not name:
            name = _name(said.rstrip(" ,}") + "}}")
            told.append((name, "{") if name else None)
        elif over:
            told.append(None)
        else:
            over = bool(_name(said))
            told.append((None, text.rstrip().removesuffix("}") if over else text))
    return told


def _name(said: str) -> str:
    try:
        return str(json.loads(said)["function"]["_name"])
    except (ValueError, LookupError):
        return ""
