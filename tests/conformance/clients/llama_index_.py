"""LlamaIndex, by its classes for servers like OpenAI's and for Ollama."""

import gc
import sys

import contract
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, MessageRole, TextBlock
from llama_index.core.tools import FunctionTool

_KIND = sys.argv[1]


def model(ask, **more):
    if _KIND == "openai":
        from llama_index.llms.openai_like import OpenAILike

        return OpenAILike(
            model=ask.model,
            api_base=f"{ask.url}/v1",
            api_key=ask.key,
            is_chat_model=True,
            is_function_calling_model=True,
            should_use_structured_outputs=True,
            max_tokens=ask.max_tokens,
            additional_kwargs=ask.extra,
            **contract.knobs(ask),
            **more,
        )
    from llama_index.llms.ollama import Ollama
    from ollama import AsyncClient, Client

    clients = {"client": Client(**where(ask)), "async_client": AsyncClient(**where(ask))}
    return Ollama(
        model=ask.model, base_url=ask.url, context_window=4096, additional_kwargs=ask.extra, **clients, **more
    )


def where(ask):
    return {"host": ask.url, "headers": {"authorization": f"Bearer {ask.key}"}, "timeout": ask.patience_s}


def user(ask, *blocks):
    return ChatMessage(role=MessageRole.USER, blocks=[TextBlock(text=ask.prompt), *blocks])


def chat(ask):
    answer = model(ask).chat([user(ask)])
    raw = answer.raw
    tokens = raw.usage.completion_tokens if _KIND == "openai" else raw["eval_count"]
    return {"text": answer.message.content, "tokens": tokens}


def pieces(ask):
    parts = model(ask).stream_chat([user(ask)])
    try:
        for part in parts:
            yield part.delta
    finally:
        parts.close()
        del parts
        gc.collect()  # it holds the connection in a cycle


def tools(ask):
    def get_weather(city: str) -> str:
        return ask.result

    return [FunctionTool.from_defaults(get_weather, name=ask.tool["name"], description=ask.tool["description"])]


def called(llm, answer):
    (call,) = llm.get_tool_calls_from_response(answer)
    return call, {"name": call.tool_name, "arguments": call.tool_kwargs}


def tool(ask):
    llm = model(ask)
    answer = llm.chat_with_tools(tools(ask), chat_history=[user(ask)])
    call, facts = called(llm, answer)
    about = {"tool_call_id": call.tool_id, "name": call.tool_name}
    result = ChatMessage(role=MessageRole.TOOL, content=ask.result, additional_kwargs=about)
    after = llm.chat_with_tools(tools(ask), chat_history=[user(ask), answer.message, result])
    return {**facts, "text": after.message.content}


def tool_streamed(ask):
    llm = model(ask)
    *_, answer = llm.stream_chat_with_tools(tools(ask), chat_history=[user(ask)])
    return called(llm, answer)[1]


def schema(ask):
    return {"value": model(ask).as_structured_llm(contract.city()).chat([user(ask)]).raw.model_dump()}


def image(ask):
    seen = ImageBlock(image=ask.image.encode(), image_mimetype="image/png")
    return {"text": model(ask).chat([user(ask, seen)]).message.content}


def embeddings(ask):
    if _KIND == "openai":
        from llama_index.embeddings.openai_like import OpenAILikeEmbedding

        made = OpenAILikeEmbedding(model_name=ask.model, api_base=f"{ask.url}/v1", api_key=ask.key)
    else:
        from llama_index.embeddings.ollama import OllamaEmbedding

        made = OllamaEmbedding(model_name=ask.model, base_url=ask.url, client_kwargs={"headers": where(ask)["headers"]})
    return {"vectors": made.get_text_embedding_batch(ask.texts)}


def thoughts(ask):
    message = model(ask, thinking=True).chat([user(ask)]).message
    thought = "".join(block.content for block in message.blocks if block.block_type == "thinking")
    return {"thoughts": thought, "text": message.content}


if __name__ == "__main__":
    contract.serve(globals())
