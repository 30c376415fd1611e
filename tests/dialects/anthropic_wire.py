"""Anthropic's messages from the client's side: what it writes for a request, and how strictly it reads an answer.

No backend speaks this dialect, so the other half of it is here.
"""

import json
from typing import Any

from hermes.chat import (
    Answer,
    ChatRequest,
    Image,
    JsonFormat,
    Message,
    MustCall,
    Part,
    RichMessage,
    StopReason,
    Text,
    ToolCall,
    Usage,
)

# --- requests -------------------------------------------------------------------------------------------------------


def written(request: ChatRequest) -> bytes:
    sampling, choice = request.sampling, request.tool_choice
    body: dict[str, Any] = {
        "model": request.model,
        "messages": _messages(request.messages),
        "stream": request.stream,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "max_tokens": sampling.max_tokens,
        "stop_sequences": list(sampling.stop),
        "tools": [
            {"name": tool.name, "description": tool.description, "input_schema": tool.parameters}
            for tool in request.tools
        ],
        "thinking": {"type": {None: "adaptive", "off": "disabled"}.get(request.thinking, "enabled")},
        "output_config": {"effort": None, "format": _format(request.json_format)},
    }
    if request.thinking in ("low", "medium", "high", "max"):
        body["output_config"]["effort"] = request.thinking
    if isinstance(choice, MustCall):
        body["tool_choice"] = {"type": "tool", "name": choice.name} if choice.name else {"type": "any"}
    else:
        body["tool_choice"] = {"type": choice}
    return json.dumps(body, ensure_ascii=False).encode()


def _format(asked: JsonFormat | None) -> dict[str, Any] | None:
    return None if asked is None else {"type": "json_schema", "schema": asked.schema}


def _messages(said: tuple[Message | RichMessage, ...]) -> list[dict[str, Any]]:
    """The results that follow each other are of one message, and what the user says then is too."""
    told: list[dict[str, Any]] = []
    open_results: list[dict[str, Any]] = []
    for message in said:
        blocks = [_part(Text(message.content))] if isinstance(message, Message) else _blocks(message)
        if message.role in ("tool", "user") and open_results:
            open_results += blocks
        else:
            told.append({"role": "user" if message.role == "tool" else message.role, "content": blocks})
        open_results = (open_results or told[-1]["content"]) if message.role == "tool" else []
    return told


def _blocks(message: RichMessage) -> list[dict[str, Any]]:
    parts = [_part(part) for part in message.parts]
    if message.role == "tool":
        return [{"type": "tool_result", "tool_use_id": message.tool_call_id, "content": parts}]
    thought = [{"type": "thinking", "thinking": message.reasoning, "signature": "s"}] if message.reasoning else []
    calls = [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": json.loads(call.arguments)}
        for call in message.tool_calls
    ]
    return [*thought, *parts, *calls]


def _part(part: Part) -> dict[str, Any]:
    if isinstance(part, Image):
        return {"type": "image", "source": {"type": "base64", "media_type": part.media_type, "data": part.data}}
    return {"type": "text", "text": part.text}


# --- answers --------------------------------------------------------------------------------------------------------


def payloads(stream: bytes) -> list[Any]:
    """What a strict reader sees: each event its name and one line of data, whose type is that name."""
    assert stream.endswith(b"\n\n")
    told = []
    for event in stream[:-2].split(b"\n\n"):
        name, data = event.split(b"\n")
        assert name.startswith(b"event: ") and data.startswith(b"data: ")
        told.append(json.loads(data[6:]))
        assert told[-1]["type"] == name[7:].decode()
    return told


DELTAS = {
    "text": ("text_delta", "text"),
    "thinking": ("thinking_delta", "thinking"),
    "tool_use": ("input_json_delta", "partial_json"),
}


def read(stream: bytes) -> dict[str, Any]:
    """The message that a stream makes, each event looked at: in its place, and with nothing that does not belong."""
    start, *blocks, delta, stop = payloads(stream)
    assert (start.keys(), stop) == ({"type", "message"}, {"type": "message_stop"})
    message: dict[str, Any] = start["message"]
    assert (message["content"], message["stop_reason"], message["stop_sequence"]) == ([], None, None)
    open_block: dict[str, Any] | None = None
    for event in blocks:
        if event["type"] == "content_block_start":
            assert open_block is None and event["index"] == len(message["content"])
            open_block, said = event["content_block"], ""
            message["content"].append(open_block)
            continue
        assert open_block is not None and event["index"] == len(message["content"]) - 1
        kind, field = DELTAS[open_block["type"]]
        if event["type"] == "content_block_delta" and event["delta"]["type"] == "signature_delta":
            assert open_block["type"] == "thinking" and not open_block["signature"]
            open_block["signature"] = event["delta"]["signature"]
        elif event["type"] == "content_block_delta":
            assert event["delta"].keys() == {"type", field} and event["delta"]["type"] == kind
            assert not open_block.get("signature"), "nothing follows a signature"
            said += event["delta"][field]
        else:
            assert event.keys() == {"type", "index"} and event["type"] == "content_block_stop"
            if open_block["type"] == "tool_use":
                assert open_block["input"] == {}
                open_block["input"] = json.loads(said or "{}")
            else:
                assert open_block[field] == ""
                open_block[field] = said
            open_block = None
    assert open_block is None
    assert (delta.keys(), delta["type"]) == ({"type", "delta", "usage"}, "message_delta")
    return message | delta["delta"] | {"usage": message["usage"] | delta["usage"]}


_REASONS: dict[str, StopReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


def answered(message: dict[str, Any]) -> Answer:
    """What a message says."""
    kinds: dict[str, list[Any]] = {"text": [], "thinking": [], "tool_use": []}
    for block in message["content"]:
        kinds[block["type"]].append(block)
        assert block["type"] != "thinking" or block["signature"]
    counted = message["usage"]
    cached = counted["cache_read_input_tokens"]
    assert (message["stop_reason"] == "stop_sequence") == (message["stop_sequence"] is not None)
    return Answer(
        "".join([block["text"] for block in kinds["text"]]),
        "".join([block["thinking"] for block in kinds["thinking"]]),
        tuple([ToolCall(block["id"], block["name"], json.dumps(block["input"])) for block in kinds["tool_use"]]),
        Usage(counted["input_tokens"] + cached, counted["output_tokens"], cached_tokens=cached),
        _REASONS[message["stop_reason"]],
        stop_text=message["stop_sequence"] or "",
    )
