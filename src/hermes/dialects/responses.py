"""OpenAI's responses, the client dialect: stateless; requests, answers and streams have files of their own."""

import msgspec

from hermes.chat import Answer, ChatRequest, Sampling
from hermes.dialects import Meta, quota, responses_answer, responses_request, responses_stream, sse
from hermes.dialects.error_object import error_object
from hermes.errors import GatewayError


class Responses:
    stream_content_type = sse.CONTENT_TYPE
    quota_lines = staticmethod(quota.openai_lines)
    # What the API documents, and what its clients expect: servers' own defaults differ.
    sampling_defaults = Sampling(temperature=1.0, top_p=1.0)

    parse_request = staticmethod(responses_request.parse_request)

    def render_answer(self, answer: Answer, request: ChatRequest, meta: Meta) -> bytes:
        return msgspec.json.encode(responses_answer.whole(answer, request, meta))

    def encoder(self, request: ChatRequest, meta: Meta) -> responses_stream.EventEncoder:
        return responses_stream.EventEncoder(request, meta)

    def queued(self, position: int, eta_ms: int, meta: Meta) -> bytes:
        # The comment is for people, the event for clients: to Codex only events are a sign of life.
        return sse.comment(f"queued position={position} eta_ms={eta_ms}") + responses_stream.queued(meta)

    def render_error(self, error: GatewayError, request_id: str) -> bytes:
        return error_object(error)
