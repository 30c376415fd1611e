"""What TGI's own clients make of a server: `python tgi_clients.py URL`, in an environment that has them.

`text-generation` was made beside the server, but its chat streams know no `[DONE]`: those are `huggingface_hub`'s here.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from text_generation import Client
from text_generation.errors import OverloadedError, ValidationError
from text_generation.types import Grammar, GrammarType, Message

SCHEMA = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
PLACE = {"type": "object", "properties": {"city": {"type": "string", "enum": ["Oslo"]}}, "required": ["city"]}
LOOK = {"type": "function", "function": {"name": "look", "description": "Look", "parameters": PLACE}}
USER = [{"role": "user", "content": "How are you?"}]


def refused(call: Callable[[], object]) -> str:
    try:
        call()
    except (OverloadedError, ValidationError, HfHubHTTPError) as error:
        return type(error).__name__
    return "nothing"


def asked(url: str) -> dict[str, Any]:
    own, hub = Client(url), InferenceClient(base_url=url)
    chat = hub.chat_completion
    made = own.generate("Hi you", stop_sequences=[" you"])
    *_, last = own.generate_stream("Hi you", max_new_tokens=3, top_n_tokens=2)
    *_, by_hub = hub.text_generation("Hi you", stream=True, details=True)
    chunks = list(chat(USER, stream=True, stream_options={"include_usage": True}, logprobs=True, top_logprobs=2))
    called = list(chat(USER, tools=[LOOK], tool_choice="required", stream=True))
    pieces = [call.function for chunk in called for call in chunk.choices[0].delta.tool_calls]
    grammar = Grammar(type=GrammarType.Json, value=SCHEMA)
    by_schema = chat(USER, response_format={"type": "json", "value": SCHEMA})
    (call,) = chat(USER, tools=[LOOK], tool_choice="auto").choices[0].message.tool_calls
    return {
        "generate": [made.generated_text, made.details.finish_reason.value, made.details.generated_tokens],
        "generate_stream": [last.generated_text, last.details.finish_reason.value, len(last.top_tokens)],
        "by_hub": [by_hub.generated_text, by_hub.details.finish_reason, by_hub.details.input_length],
        "grammar": own.generate("Hi", grammar=grammar).generated_text,
        "chat": own.chat([Message(**USER[0])]).choices[0].message.content,
        "chat_stream": "".join(chunk.choices[0].delta.content for chunk in chunks[:-1]),
        "chat_logprobs": len(chunks[0].choices[0].logprobs.content[0].top_logprobs),
        "chat_reason": chunks[-2].choices[0].finish_reason,
        "chat_usage": chunks[-1].usage.completion_tokens,
        "schema": by_schema.choices[0].message.content,
        "call": [call.function.name, call.function.arguments],
        "call_stream": ["".join(piece.name or "" for piece in pieces), "".join(piece.arguments for piece in pieces)],
        "call_reason": called[-1].choices[0].finish_reason,
        "info": InferenceClient(provider="hf-inference").get_endpoint_info(model=url)["max_concurrent_requests"],
        "healthy": InferenceClient(provider="hf-inference").health_check(model=url),
        "invalid": refused(lambda: own.generate("x " * 60)),
        "invalid_stream": refused(lambda: list(own.generate_stream("x " * 60))),
        "invalid_by_hub": refused(lambda: chat(USER, stop=list("abcde"))),
    }


def overloaded(url: str) -> dict[str, Any]:
    own = Client(url)
    return {
        "generate": refused(lambda: own.generate("Hi")),
        "generate_stream": refused(lambda: list(own.generate_stream("Hi"))),
        "chat": refused(lambda: own.chat([Message(**USER[0])])),
    }


if __name__ == "__main__":
    print(json.dumps({"asked": asked, "overloaded": overloaded}[sys.argv[1]](sys.argv[2])))
