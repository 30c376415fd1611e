"""Pydantic AI's agents, by OpenAI's and Anthropic's dialects."""

import base64
import sys

import contract
from pydantic_ai import Agent, BinaryContent, NativeOutput
from pydantic_ai.messages import ToolReturnPart

_KIND = sys.argv[1]


def model(ask):
    if _KIND == "anthropic":
        from anthropic import AsyncAnthropic
        from pydantic_ai.models.anthropic import AnthropicModel
        from pydantic_ai.providers.anthropic import AnthropicProvider

        sdk = AsyncAnthropic(base_url=ask.url, api_key=ask.key, **contract.knobs(ask))
        return AnthropicModel(ask.model, provider=AnthropicProvider(anthropic_client=sdk), profile=_ABLE)
    from openai import AsyncOpenAI
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    sdk = AsyncOpenAI(base_url=f"{ask.url}/v1", api_key=ask.key, **contract.knobs(ask))
    return OpenAIChatModel(ask.model, provider=OpenAIProvider(openai_client=sdk), profile=_ABLE)


# Of a model that it does not know it thinks that it cannot.
_ABLE = {"supports_json_schema_output": True, "supports_thinking": True}


def agent(ask, **more):
    return Agent(model(ask), model_settings={"max_tokens": ask.max_tokens, **ask.extra}, **more)


def run(ask, *more, **settings):
    return contract.LOOP.run_until_complete(agent(ask, **settings).run([ask.prompt, *more]))


def chat(ask):
    result = run(ask)
    return {"text": result.output, "tokens": usage(result).output_tokens}


def usage(result):
    return result.usage() if callable(result.usage) else result.usage


async def pieces(ask):
    async with agent(ask).run_stream(ask.prompt) as result:
        async for piece in result.stream_text(delta=True, debounce_by=None):
            yield piece


def able(ask, seen):
    def get_weather(city: str) -> str:
        """The weather in a city."""
        seen.append(city)
        return ask.result

    return [get_weather]


def tool(ask):
    seen = []
    result = run(ask, tools=able(ask, seen))
    (returned,) = (
        part for message in result.all_messages() for part in message.parts if isinstance(part, ToolReturnPart)
    )
    return {"name": returned.tool_name, "arguments": {"city": seen[0]}, "text": result.output}


def tool_streamed(ask):
    seen = []

    async def streamed():
        async with agent(ask, tools=able(ask, seen)).run_stream(ask.prompt) as result:
            await result.get_output()

    contract.LOOP.run_until_complete(streamed())
    return {"name": ask.tool["name"], "arguments": {"city": seen[0]}}


def schema(ask):
    return {"value": run(ask, output_type=NativeOutput(contract.city())).output.model_dump()}


def image(ask):
    return {"text": run(ask, BinaryContent(data=base64.b64decode(ask.image), media_type="image/png")).output}


def embeddings(ask):
    from openai import AsyncOpenAI
    from pydantic_ai import Embedder
    from pydantic_ai.embeddings.openai import OpenAIEmbeddingModel
    from pydantic_ai.providers.openai import OpenAIProvider

    provider = OpenAIProvider(openai_client=AsyncOpenAI(base_url=f"{ask.url}/v1", api_key=ask.key))
    made = Embedder(OpenAIEmbeddingModel(ask.model, provider=provider))
    return {"vectors": [list(v) for v in contract.LOOP.run_until_complete(made.embed_documents(ask.texts)).embeddings]}


def thoughts(ask):
    ask.max_tokens = 2048
    if _KIND == "anthropic":
        ask.extra = {"anthropic_thinking": {"type": "enabled", "budget_tokens": 1024}}
    result = run(ask)
    return {"thoughts": result.response.thinking, "text": result.output}


if __name__ == "__main__":
    contract.serve(globals())
