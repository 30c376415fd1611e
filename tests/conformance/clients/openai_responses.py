"""openai-python, by its newer API."""

import json

import contract
from openai import APIError, OpenAI


def api(ask):
    return OpenAI(base_url=f"{ask.url}/v1", api_key=ask.key, **contract.knobs(ask)).responses


def asked(ask):
    return {"model": ask.model, "input": [{"role": "user", "content": ask.prompt}], **ask.extra}


def said(ask, **more):
    return api(ask).create(**{**asked(ask), **more})


def chat(ask):
    answer = said(ask)
    return {"text": answer.output_text, "tokens": answer.usage.output_tokens}


def pieces(ask):
    with api(ask).stream(**asked(ask)) as stream:
        for event in stream:
            if event.type == "response.failed":  # an event as others: to raise is left to who reads them
                raise APIError(event.response.error.message, None, body=None)
            yield event.delta if event.type == "response.output_text.delta" else None


def tools(ask):
    return [{"type": "function", "strict": False, **ask.tool}]


def called(answer):
    (call,) = (item for item in answer.output if item.type == "function_call")
    return call, {"name": call.name, "arguments": json.loads(call.arguments)}


def tool(ask):
    answer = said(ask, tools=tools(ask))
    call, facts = called(answer)
    result = {"type": "function_call_output", "call_id": call.call_id, "output": ask.result}
    after = said(ask, tools=tools(ask), input=[*asked(ask)["input"], *answer.output, result])
    return {**facts, "text": after.output_text}


def tool_streamed(ask):
    """By the SDK's own accumulator."""
    with api(ask).stream(**asked(ask), tools=tools(ask)) as stream:
        return called(stream.get_final_response())[1]


def schema(ask):
    return {"value": api(ask).parse(**asked(ask), text_format=contract.city()).output_parsed.model_dump()}


def image(ask):
    seen = {"type": "input_image", "detail": "auto", "image_url": f"data:image/png;base64,{ask.image}"}
    content = [{"type": "input_text", "text": ask.prompt}, seen]
    return {"text": said(ask, input=[{"role": "user", "content": content}]).output_text}


def thoughts(ask):
    answer = said(ask, reasoning={"effort": "medium", "summary": "auto"})
    (reasoning,) = (item for item in answer.output if item.type == "reasoning")
    parts = [*(reasoning.content or ()), *reasoning.summary]
    return {"thoughts": "".join(part.text for part in parts), "text": answer.output_text}


if __name__ == "__main__":
    contract.serve(globals())
