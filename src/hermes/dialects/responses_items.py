"""OpenAI's responses, the items of an answer's `output`: thoughts, text and calls, whole and piece by piece."""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from hermes.chat import Tool
from hermes.dialects.responses_tools import free_text, known_as

# Not to be empty: the AI SDK sends thoughts back only if they have one. Nobody reads it here.
_ENCRYPTED = "hermes"

# Names without their `response.`, and what they tell besides of where it is.
Events = Iterable[tuple[str, dict[str, Any]]]


class Item:
    """One item, as far as it has been said.

    `delta` is the event that says more of it ("": it is told at its end), `within` what all its events tell, `filling`
    what only its deltas do.
    """

    kind: ClassVar[str]
    delta: ClassVar[str] = ""
    within: ClassVar[Mapping[str, Any]] = {}
    filling: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, unique: str, said: str = "") -> None:
        """`unique`: among all items of all answers."""
        self.id = f"{self.kind}_{unique}"
        self.said = [said]

    @property
    def text(self) -> str:
        return "".join(self.said)

    def told(self, status: str) -> dict[str, Any]:
        """The item itself. `status`: in_progress, completed or incomplete."""
        raise NotImplementedError

    def opening(self) -> Events:
        return ()

    def closing(self) -> Events:
        return ()


class Text(Item):
    kind = "msg"
    delta = "output_text.delta"
    within: ClassVar = {"content_index": 0}
    filling: ClassVar = {"logprobs": ()}

    def __init__(self, unique: str, said: str = "", logprobs: Iterable[dict[str, Any]] = ()) -> None:
        super().__init__(unique, said)
        self.logprobs = list(logprobs)

    def told(self, status: str) -> dict[str, Any]:
        content = [] if status == "in_progress" else [self._part()]
        return {"id": self.id, "type": "message", "status": status, "role": "assistant", "content": content}

    def opening(self) -> Events:
        return (("content_part.added", {"part": self._part()}),)

    def closing(self) -> Events:
        done = {"text": self.text, "logprobs": self.logprobs}
        return (("output_text.done", done), ("content_part.done", {"part": self._part()}))

    def _part(self) -> dict[str, Any]:
        return {"type": "output_text", "text": self.text, "annotations": (), "logprobs": self.logprobs}


class Thoughts(Item):
    """They are told as their own summary: that is what clients show, and what Codex sends back."""

    kind = "rs"
    delta = "reasoning_summary_text.delta"
    within: ClassVar = {"summary_index": 0}

    def told(self, status: str) -> dict[str, Any]:
        summary = [] if status == "in_progress" else [self._part()]
        return {"id": self.id, "type": "reasoning", "summary": summary, "encrypted_content": _ENCRYPTED}

    def opening(self) -> Events:
        return (("reasoning_summary_part.added", {"part": self._part()}),)

    def closing(self) -> Events:
        done = {"text": self.text}
        return (("reasoning_summary_text.done", done), ("reasoning_summary_part.done", {"part": self._part()}))

    def _part(self) -> dict[str, Any]:
        return {"type": "summary_text", "text": self.text}


class Call(Item):
    """The call of a function."""

    kind = "fc"
    delta = "function_call_arguments.delta"

    def __init__(self, unique: str, id: str, name: str, tool: Tool | None, said: str = "") -> None:
        super().__init__(unique, said)
        self.known_as = {"call_id": id, **known_as(name, tool)}

    def told(self, status: str) -> dict[str, Any]:
        own = {"id": self.id, "type": "function_call", "status": status}
        return {**own, **self.known_as, "arguments": self.text}

    def closing(self) -> Events:
        return (("function_call_arguments.done", {"name": self.known_as["name"], "arguments": self.text}),)


class CustomCall(Call):
    """Of a custom tool, whose text stands inside of JSON until the call is over."""

    kind = "ctc"
    delta = ""

    def told(self, status: str) -> dict[str, Any]:
        text = "" if status == "in_progress" else free_text(self.text)
        own = {"id": self.id, "type": "custom_tool_call", "status": status}
        return {**own, **self.known_as, "input": text}

    def closing(self) -> Events:
        text = free_text(self.text)
        return (("custom_tool_call_input.delta", {"delta": text}), ("custom_tool_call_input.done", {"input": text}))


def call(unique: str, id: str, name: str, tools: Mapping[str, Tool], said: str = "") -> Call:
    tool = tools.get(name)
    kind = CustomCall if tool is not None and tool.freeform else Call
    return kind(unique, id, name, tool, said)
