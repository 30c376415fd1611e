"""OpenAI's responses, the answer as one object: whole, or as a stream tells of it when it begins and ends.

It says what it is itself. What the request said stands in the request: the fields that would repeat it (`tools`,
`instructions` ...) have the API's own defaults.
"""

from collections.abc import Sequence
from typing import Any

from hermes.chat import Answer, ChatRequest, StopReason, Usage
from hermes.dialects import Meta
from hermes.dialects.responses_items import Item, Text, Thoughts, call


def response(meta: Meta, status: str, output: Sequence[dict[str, Any]] = (), **more: Any) -> dict[str, Any]:
    """All that the API's schema requires."""
    told = {
        "id": f"resp_{meta.request_id}",
        "object": "response",
        "created_at": meta.created,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "metadata": {},
        "model": meta.model,
        "output": output,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "store": False,
        "temperature": None,
        "tool_choice": "auto",
        "tools": (),
        "top_p": None,
        "usage": None,
    }
    return told | more


def ended(meta: Meta, reason: StopReason, output: Sequence[dict[str, Any]], usage: Usage) -> dict[str, Any]:
    """One that has its answer, all of it or cut short."""
    status, counts = how_it_ended(reason), _counts(usage)
    if status == "completed":
        return response(meta, status, output, usage=counts)
    why = "max_output_tokens" if reason == "length" else reason
    return response(meta, status, output, incomplete_details={"reason": why}, usage=counts)


def how_it_ended(reason: StopReason) -> str:
    return "incomplete" if reason in ("length", "content_filter") else "completed"


def whole(answer: Answer, request: ChatRequest, meta: Meta) -> dict[str, Any]:
    tools = {tool.name: tool for tool in request.tools}
    items: list[Item] = []
    if answer.reasoning:
        items.append(Thoughts(unique(meta, 0), answer.reasoning))
    if answer.text or not (answer.reasoning or answer.tool_calls):
        items.append(Text(unique(meta, len(items)), answer.text, answer.logprobs))
    for made in answer.tool_calls:
        items.append(call(unique(meta, len(items)), made.id, made.name, tools, made.arguments))
    output = [item.told("completed") for item in items[:-1]]
    output.append(items[-1].told(how_it_ended(answer.reason)))
    return ended(meta, answer.reason, output, answer.usage)


def unique(meta: Meta, index: int) -> str:
    return f"{meta.request_id}_{index}"


def _counts(usage: Usage) -> dict[str, Any]:
    told, made = usage.prompt_tokens, usage.completion_tokens
    return {
        "input_tokens": told,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": told + made,
    }
