"""LiteLLM as a library, by each of the three dialects."""

import json
import sys

import contract
import litellm

_KIND = sys.argv[1]
_PREFIX = {"openai": "openai", "ollama": "ollama_chat", "anthropic": "anthropic"}[_KIND]
litellm.suppress_debug_info = True


def where(ask):
    base = f"{ask.url}/v1" if _KIND == "openai" else ask.url
    return {"api_base": base, "api_key": ask.key, **contract.knobs(ask)}


def asked(ask, **more):
    messages = [{"role": "user", "content": ask.prompt}]
    about = {"model": f"{_PREFIX}/{ask.model}", "messages": messages, "max_tokens": ask.max_tokens}
    return {**about, **where(ask), **ask.extra, **more}


def said(ask, **more):
    return litellm.completion(**asked(ask, **more))


def chat(ask):
    answer = said(ask)
    return {"text": answer.choices[0].message.content, "tokens": answer.usage.completion_tokens}


async def pieces(ask):
    """Asynchronously, as it can be closed only then: what is read without is freed when it is found to be garbage."""
    stream = await litellm.acompletion(**asked(ask, stream=True))
    try:
        async for chunk in stream:
            yield chunk.choices[0].delta.content
    finally:
        await stream.aclose()


def tool(ask):
    tools = [{"type": "function", "function": ask.tool}]
    message = said(ask, tools=tools).choices[0].message
    (call,) = message.tool_calls
    result = {"role": "tool", "tool_call_id": call.id, "name": call.function.name, "content": ask.result}
    after = said(ask, tools=tools, messages=[{"role": "user", "content": ask.prompt}, message, result])
    return {**called(call), "text": after.choices[0].message.content}


def tool_streamed(ask):
    chunks = list(said(ask, tools=[{"type": "function", "function": ask.tool}], stream=True))
    (call,) = litellm.stream_chunk_builder(chunks).choices[0].message.tool_calls
    return called(call)


def called(call):
    return {"name": call.function.name, "arguments": json.loads(call.function.arguments)}


def schema(ask):
    form = {"type": "json_schema", "json_schema": {"name": "city", "schema": ask.schema, "strict": True}}
    return {"value": json.loads(said(ask, response_format=form).choices[0].message.content)}


def image(ask):
    url = {"url": f"data:image/png;base64,{ask.image}"}
    content = [{"type": "text", "text": ask.prompt}, {"type": "image_url", "image_url": url}]
    return {"text": said(ask, messages=[{"role": "user", "content": content}]).choices[0].message.content}


def embeddings(ask):
    model = f"{'ollama' if _KIND == 'ollama' else _PREFIX}/{ask.model}"
    made = litellm.embedding(model=model, input=ask.texts, **where(ask))
    return {"vectors": [item["embedding"] for item in made.data]}


def thoughts(ask):
    ask.max_tokens = 2048
    how = (
        {"thinking": {"type": "enabled", "budget_tokens": 1024}}
        if _KIND == "anthropic"
        else {"reasoning_effort": "low"}
    )
    message = said(ask, **how, allowed_openai_params=list(how)).choices[0].message
    return {"thoughts": message.reasoning_content, "text": message.content}


if __name__ == "__main__":
    contract.serve(globals())
