"""What the body of a backend's error says: one short printable line, or nothing where it is no such body.

What is none (a proxy's HTML, a stack trace) never reaches the client.
"""

import re
from typing import Any

import msgspec

from hermes.dialects import strict

MAX_TEXT = 500


def text_of(body: bytes) -> str | None:
    """`{"error": "..."}`, `{"error": {"message": "..."}}`, `{"message": "..."}`; JSON inside of a text is read too."""
    told = _decoded(body)
    while isinstance(told, dict):
        told = told.get("error") or told.get("message")
        if isinstance(told, str) and isinstance(inner := _decoded(told.encode()), dict):
            told = inner
    return one_line(told) or None if isinstance(told, str) else None


def _decoded(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except strict.MALFORMED:
        return None


_MARKUP = re.compile(r"<(!doctype|html|head|body)\b", re.IGNORECASE)


def one_line(text: str) -> str:
    if _MARKUP.search(text):
        return "the backend answered with a web page"
    printable = "".join(char if char.isprintable() else " " for char in text[: 4 * MAX_TEXT])
    return " ".join(printable.split())[:MAX_TEXT]
