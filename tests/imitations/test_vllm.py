"""The imitation of vLLM, read by the client that vLLM itself names: OpenAI's SDK, with its types checked strictly."""

import json

import pytest
from openai import AsyncOpenAI, BadRequestError
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessageParam

from tests.fakes.backend import answer, listening
from tests.fakes.gateway import scenario
from tests.fakes.openai_backend import FakeOpenAI

HI: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hi"}]
OVERLONG = {"message": "maximum context length is 4 tokens", "type": "BadRequestError", "param": None, "code": 400}


def client(fake: FakeOpenAI) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{fake.url}/v1", api_key="unused", max_retries=0, timeout=5.0)


@scenario
async def test_openais_sdk_reads_all_that_it_says() -> None:
    async with listening(FakeOpenAI("vllm", "gemma")) as fake, client(fake) as sdk:
        async for model in sdk.models.list():
            assert type(model).model_validate(model.model_dump()).id == "gemma"
        said = await sdk.chat.completions.create(model="gemma", messages=HI)
        said = ChatCompletion.model_validate(said.model_dump())
        assert (said.choices[0].message.content, said.choices[0].finish_reason) == ("Hello", "stop")
        assert said.usage is not None and said.usage.total_tokens == 10
        stream = await sdk.chat.completions.create(
            model="gemma", messages=HI, stream=True, stream_options={"include_usage": True}
        )
        chunks = [ChatCompletionChunk.model_validate(chunk.model_dump()) async for chunk in stream]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "Hello"
        assert [chunk.usage.total_tokens for chunk in chunks if chunk.usage] == [10]


@scenario
async def test_openais_sdk_raises_what_it_refuses() -> None:
    async with listening(FakeOpenAI("vllm", "gemma")) as fake, client(fake) as sdk:
        fake.default = answer(400, json.dumps({"error": OVERLONG}).encode())
        with pytest.raises(BadRequestError, match="maximum context length"):
            await sdk.chat.completions.create(model="gemma", messages=HI)
