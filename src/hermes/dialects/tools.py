"""Tools as OpenAI's and Ollama's APIs declare them, and the arguments of a call as the object that some APIs want."""

from typing import Any

import msgspec

from hermes.chat import Tool
from hermes.dialects import strict


def function(tool: Tool) -> dict[str, Any]:
    """Some templates read what others may leave out."""
    parameters = tool.parameters or {"type": "object", "properties": {}}
    told = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": told}


def as_object(text: str) -> dict[str, Any]:
    """Arguments, which `chat` keeps as the text the model wrote; broken ones are kept for it to see, wrapped."""
    if not text.strip():
        return {}
    try:
        value = msgspec.json.decode(text)
    except strict.MALFORMED:
        return {"value": text}
    if not strict.is_shallow(value):
        return {"value": text}
    return value if isinstance(value, dict) else {"value": value}
