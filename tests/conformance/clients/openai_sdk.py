"""openai-python, current and old."""

import json

import contract
from openai import OpenAI


def client(ask):
    return OpenAI(base_url=f"{ask.url}/v1", api_key=ask.key, **contract.knobs(ask))


def asked(ask):
    return {"model": ask.model, "messages": [{"role": "user", "content": ask.prompt}], **ask.extra}


def said(ask, **more):
    return client(ask).chat.completions.create(**{**asked(ask), **more})


def chat(ask):
    answer = said(ask)
    return {"text": answer.choices[0].message.content, "tokens": answer.usage.completion_tokens}


def pieces(ask):
    with said(ask, stream=True) as stream:
        for chunk in stream:
            yield chunk.choices[0].delta.content if chunk.choices else None


def tool(ask):
    tools = [{"type": "function", "function": ask.tool}]
    message = said(ask, tools=tools).choices[0].message
    (call,) = message.tool_calls
    result = {"role": "tool", "tool_call_id": call.id, "content": ask.result}
    messages = [*asked(ask)["messages"], message, result]
    after = said(ask, tools=tools, messages=messages)
    return {**called(call.function), "text": after.choices[0].message.content}


def tool_streamed(ask):
    """By the SDK's own accumulator."""
    tools = [{"type": "function", "function": ask.tool}]
    sdk = client(ask)
    completions = getattr(sdk.chat.completions, "stream", None) or sdk.beta.chat.completions.stream
    with completions(**asked(ask), tools=tools) as stream:
        (call,) = stream.get_final_completion().choices[0].message.tool_calls
    return called(call.function)


def called(function):
    return {"name": function.name, "arguments": json.loads(function.arguments)}


def schema(ask):
    completions = client(ask).chat.completions
    parse = getattr(completions, "parse", None) or client(ask).beta.chat.completions.parse
    return {"value": parse(**asked(ask), response_format=contract.city()).choices[0].message.parsed.model_dump()}


def image(ask):
    url = {"url": f"data:image/png;base64,{ask.image}"}
    content = [{"type": "text", "text": ask.prompt}, {"type": "image_url", "image_url": url}]
    return {"text": said(ask, messages=[{"role": "user", "content": content}]).choices[0].message.content}


def embeddings(ask):
    made = client(ask).embeddings.create(model=ask.model, input=ask.texts)
    return {"vectors": [item.embedding for item in made.data]}


def thoughts(ask):
    message = said(ask, reasoning_effort="medium").choices[0].message
    return {"thoughts": message.reasoning_content, "text": message.content}


if __name__ == "__main__":
    contract.serve(globals())
