"""What changes in a prompt with every request, as the configuration names it: lines of system texts, by how they begin.

No backend could use again what it has read of a prompt from such a line on. Beginnings are texts and no patterns: what
looking for them takes is linear in the prompt, whatever is in it.
"""

from msgspec.structs import replace

from hermes.chat import ChatRequest, Message, RichMessage, Text


def without(request: ChatRequest, beginnings: tuple[str, ...]) -> ChatRequest:
    """A system text that was nothing else goes altogether, unless nothing would be left."""
    said = tuple([kept for message in request.messages if (kept := _without(message, beginnings)) is not None])
    return replace(request, messages=said) if said and said != request.messages else request


def _without(message: Message | RichMessage, beginnings: tuple[str, ...]) -> Message | RichMessage | None:
    if message.role != "system":
        return message
    if isinstance(message, Message):
        text = _cut(message.content, beginnings)
        return replace(message, content=text) if text else None
    parts = [Text(_cut(part.text, beginnings)) if isinstance(part, Text) else part for part in message.parts]
    kept = tuple([part for part in parts if part != Text("")])
    return replace(message, parts=kept) if kept else None


def _cut(text: str, beginnings: tuple[str, ...]) -> str:
    for beginning in beginnings:
        kept, at = [], 0
        while (found := text.find(beginning, at)) >= 0:
            line_ends = text.find("\n", found) + 1 or len(text)
            begins_line = found == 0 or text[found - 1] == "\n"
            kept.append(text[at : found if begins_line else line_ends])
            at = line_ends
        text = "".join([*kept, text[at:]])
    return text
