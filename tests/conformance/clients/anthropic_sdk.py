"""anthropic-python, current and old."""

import contract
from anthropic import Anthropic


def client(ask):
    return Anthropic(base_url=ask.url, api_key=ask.key, **contract.knobs(ask))


def asked(ask):
    messages = [{"role": "user", "content": ask.prompt}]
    return {"model": ask.model, "max_tokens": ask.max_tokens, "messages": messages, "extra_body": ask.extra}


def said(ask, **more):
    return client(ask).messages.create(**{**asked(ask), **more})


def text(message):
    return "".join(block.text for block in message.content if block.type == "text")


def chat(ask):
    message = said(ask)
    return {"text": text(message), "tokens": message.usage.output_tokens}


def pieces(ask):
    with client(ask).messages.stream(**asked(ask)) as stream:
        yield from stream.text_stream


def tools(ask):
    return [{"name": ask.tool["name"], "description": ask.tool["description"], "input_schema": ask.tool["parameters"]}]


def called(message):
    (call,) = (block for block in message.content if block.type == "tool_use")
    return call, {"name": call.name, "arguments": call.input}


def tool(ask):
    message = said(ask, tools=tools(ask))
    call, facts = called(message)
    result = {"type": "tool_result", "tool_use_id": call.id, "content": ask.result}
    messages = [
        *asked(ask)["messages"],
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": [result]},
    ]
    return {**facts, "text": text(said(ask, tools=tools(ask), messages=messages))}


def tool_streamed(ask):
    """By the SDK's own accumulator."""
    with client(ask).messages.stream(**asked(ask), tools=tools(ask)) as stream:
        return called(stream.get_final_message())[1]


def schema(ask):
    parsed = client(ask).messages.parse(**asked(ask), output_format=contract.city())
    return {"value": parsed.parsed_output.model_dump()}


def image(ask):
    source = {"type": "base64", "media_type": "image/png", "data": ask.image}
    content = [{"type": "image", "source": source}, {"type": "text", "text": ask.prompt}]
    return {"text": text(said(ask, messages=[{"role": "user", "content": content}]))}


def thoughts(ask):
    message = said(ask, thinking={"type": "enabled", "budget_tokens": 1024}, max_tokens=2048)
    thought = "".join(block.thinking for block in message.content if block.type == "thinking")
    return {"thoughts": thought, "text": text(message)}


if __name__ == "__main__":
    contract.serve(globals())
