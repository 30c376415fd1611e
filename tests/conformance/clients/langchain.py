"""LangChain's three: what differs is how a model is made."""

import sys

import contract
from langchain_core.messages import HumanMessage, ToolMessage

_KIND = sys.argv[1]


def model(ask, **more):
    if _KIND in ("openai", "responses"):
        from langchain_openai import ChatOpenAI

        where = {"base_url": f"{ask.url}/v1", "api_key": ask.key, "use_responses_api": _KIND == "responses"}
        return ChatOpenAI(model=ask.model, **where, **ask.extra, **contract.knobs(ask), **more)
    if _KIND == "anthropic":
        from langchain_anthropic import ChatAnthropic

        settings = {"max_tokens": ask.max_tokens, **contract.knobs(ask), **more}
        return ChatAnthropic(model=ask.model, base_url=ask.url, api_key=ask.key, **ask.extra, **settings)
    from langchain_ollama import ChatOllama

    return ChatOllama(model=ask.model, base_url=ask.url, client_kwargs=headers(ask), **ask.extra, **more)


def headers(ask):
    return {"headers": {"authorization": f"Bearer {ask.key}"}, "timeout": ask.patience_s}


def chat(ask):
    message = model(ask).invoke(ask.prompt)
    return {"text": message.text, "tokens": message.usage_metadata["output_tokens"]}


def pieces(ask):
    for chunk in model(ask).stream(ask.prompt):
        yield chunk.text


def tools(ask):
    return model(ask).bind_tools([{"type": "function", "function": ask.tool}])


def tool(ask):
    able = tools(ask)
    asked = HumanMessage(ask.prompt)
    message = able.invoke([asked])
    (call,) = message.tool_calls
    after = able.invoke([asked, message, ToolMessage(ask.result, tool_call_id=call["id"], name=call["name"])])
    return {"name": call["name"], "arguments": call["args"], "text": after.text}


def tool_streamed(ask):
    whole = None
    for chunk in tools(ask).stream(ask.prompt):
        whole = chunk if whole is None else whole + chunk
    (call,) = whole.tool_calls
    return {"name": call["name"], "arguments": call["args"]}


def schema(ask):
    titled = {"title": "City", "description": "A city.", **ask.schema}
    return {"value": model(ask).with_structured_output(titled, method="json_schema").invoke(ask.prompt)}


def image(ask):
    seen = {"type": "image", "base64": ask.image, "mime_type": "image/png"}
    return {"text": model(ask).invoke([HumanMessage([{"type": "text", "text": ask.prompt}, seen])]).text}


def embeddings(ask):
    if _KIND == "openai":
        from langchain_openai import OpenAIEmbeddings

        made = OpenAIEmbeddings(
            model=ask.model, base_url=f"{ask.url}/v1", api_key=ask.key, check_embedding_ctx_length=False
        )
    else:
        from langchain_ollama import OllamaEmbeddings

        made = OllamaEmbeddings(model=ask.model, base_url=ask.url, client_kwargs=headers(ask))
    return {"vectors": made.embed_documents(ask.texts)}


def thoughts(ask):
    if _KIND == "responses":
        message = model(ask, reasoning={"effort": "medium", "summary": "auto"}).invoke(ask.prompt)
        blocks = [block for block in message.content_blocks if block["type"] == "reasoning"]
        return {"thoughts": "".join(block["reasoning"] for block in blocks), "text": message.text}
    if _KIND == "ollama":
        message = model(ask, reasoning=True).invoke(ask.prompt)
        return {"thoughts": message.additional_kwargs["reasoning_content"], "text": message.text}
    ask.max_tokens = 2048
    message = model(ask, thinking={"type": "enabled", "budget_tokens": 1024}).invoke(ask.prompt)
    thought = "".join(block["thinking"] for block in message.content if block["type"] == "thinking")
    return {"thoughts": thought, "text": message.text}


if __name__ == "__main__":
    contract.serve(globals())
