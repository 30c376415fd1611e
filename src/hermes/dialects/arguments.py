"""The arguments of a tool call as the object that some APIs want: `chat` keeps them as the text the model wrote."""

from typing import Any

import msgspec

from hermes.dialects import strict


def as_object(text: str) -> dict[str, Any]:
    """A model's broken arguments are kept for it to see, wrapped."""
    if not text.strip():
        return {}
    try:
        value = msgspec.json.decode(text)
    except strict.MALFORMED:
        return {"value": text}
    if not strict.is_shallow(value):
        return {"value": text}
    return value if isinstance(value, dict) else {"value": value}
