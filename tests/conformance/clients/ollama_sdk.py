"""ollama-python."""

import json

import contract
from ollama import Client


def client(ask):
    return Client(host=ask.url, headers={"authorization": f"Bearer {ask.key}"}, timeout=ask.patience_s)


def said(ask, **more):
    messages = [{"role": "user", "content": ask.prompt}]
    return client(ask).chat(**{"model": ask.model, "messages": messages, "options": ask.extra, **more})


def chat(ask):
    answer = said(ask)
    return {"text": answer.message.content, "tokens": answer.eval_count}


def pieces(ask):
    for part in said(ask, stream=True):
        yield part.message.content


def tool(ask):
    tools = [{"type": "function", "function": ask.tool}]
    message = said(ask, tools=tools).message
    (call,) = message.tool_calls
    result = {"role": "tool", "tool_name": call.function.name, "content": ask.result}
    after = said(ask, tools=tools, messages=[{"role": "user", "content": ask.prompt}, message, result])
    return {**called(call), "text": after.message.content}


def tool_streamed(ask):
    tools = [{"type": "function", "function": ask.tool}]
    (call,) = (call for part in said(ask, tools=tools, stream=True) for call in part.message.tool_calls or ())
    return called(call)


def called(call):
    return {"name": call.function.name, "arguments": dict(call.function.arguments)}


def schema(ask):
    return {"value": json.loads(said(ask, format=ask.schema).message.content)}


def image(ask):
    return {
        "text": said(ask, messages=[{"role": "user", "content": ask.prompt, "images": [ask.image]}]).message.content
    }


def embeddings(ask):
    return {"vectors": [list(vector) for vector in client(ask).embed(model=ask.model, input=ask.texts).embeddings]}


def thoughts(ask):
    message = said(ask, think=True).message
    return {"thoughts": message.thinking, "text": message.content}


if __name__ == "__main__":
    contract.serve(globals())
