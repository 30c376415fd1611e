"""instructor, which wants every answer in the shape of a class."""

import contract
import instructor
from openai import OpenAI
from pydantic import create_model

_SAID = create_model("Said", text=(str, ...))


def client(ask, mode=instructor.Mode.JSON_SCHEMA):
    sdk = OpenAI(base_url=f"{ask.url}/v1", api_key=ask.key, **contract.knobs(ask))
    return instructor.from_openai(sdk, mode=mode).chat.completions


def asked(ask):
    return {"model": ask.model, "messages": [{"role": "user", "content": ask.prompt}], "max_retries": 0, **ask.extra}


def chat(ask):
    if ask.long:
        return {"text": client(ask).create(**asked(ask), response_model=None).choices[0].message.content}
    answer, completion = client(ask).create_with_completion(**asked(ask), response_model=_SAID)
    return {"text": answer.text, "tokens": completion.usage.completion_tokens}


def pieces(ask):
    """Of a partial object that grows, what is new. A class ends an answer: a long one is had without."""
    if ask.long:
        with client(ask).create(**asked(ask), response_model=None, stream=True) as stream:
            for chunk in stream:
                yield chunk.choices[0].delta.content
        return
    known = ""
    for partial in client(ask).create_partial(**asked(ask), response_model=_SAID):
        text = partial.text or ""
        yield text[len(known) :]
        known = text


def tool(ask):
    """Its tools are classes, whose call is demanded; what a tool found is not told to the model."""
    called = client(ask, instructor.Mode.TOOLS).create(**asked(ask), response_model=contract.weather())
    return {"name": ask.tool["name"], "arguments": called.model_dump(), "text": None}


def tool_streamed(ask):
    *_, called = client(ask, instructor.Mode.TOOLS).create_partial(**asked(ask), response_model=contract.weather())
    return {"name": ask.tool["name"], "arguments": called.model_dump()}


def schema(ask):
    return {"value": client(ask).create(**asked(ask), response_model=contract.city()).model_dump()}


def image(ask):
    url = {"url": f"data:image/png;base64,{ask.image}"}
    content = [{"type": "text", "text": ask.prompt}, {"type": "image_url", "image_url": url}]
    messages = [{"role": "user", "content": content}]
    return {"text": client(ask).create(**{**asked(ask), "messages": messages}, response_model=_SAID).text}


if __name__ == "__main__":
    contract.serve(globals())
