"""OpenAI embeddings: what is asked for, and vectors as numbers or as bytes."""

import base64
import json
import struct
from typing import Any

import pytest

from hermes.chat import Embeddings, EmbedRequest, LoadOptions, Usage
from hermes.dialects import EmbedDialect, Meta
from hermes.dialects.openai import OpenAI
from hermes.errors import BackendError, BadRequest

DIALECT: EmbedDialect = OpenAI()
META = Meta("r1", "m", 0)


def parse(**fields: Any) -> EmbedRequest:
    return DIALECT.parse_embed(json.dumps({"model": "m", "input": "Hi"} | fields).encode())


@pytest.mark.parametrize(
    ("fields", "meant"),
    [
        ({}, EmbedRequest("m", ("Hi",))),
        ({"input": ["a", "b"], "dimensions": 8}, EmbedRequest("m", ("a", "b"), 8)),
        ({"encoding_format": "base64", "user": "u"}, EmbedRequest("m", ("Hi",), base64=True)),
        ({"encoding_format": "float", "dimensions": None}, EmbedRequest("m", ("Hi",))),
        (
            {"service_tier": "flex", "priority": 2, "options": {"num_ctx": 9}},
            EmbedRequest("m", ("Hi",), service_tier="flex", priority=2, load_options=LoadOptions(9)),
        ),
    ],
    ids=str,
)
def test_a_request_is_understood(fields: dict[str, Any], meant: EmbedRequest) -> None:
    assert parse(**fields) == meant


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"input": None}, "input", "missing_required_parameter"),
        ({"input": []}, "input", "missing_required_parameter"),
        ({"input": ""}, "input", "invalid_value"),
        ({"input": ["a", ""]}, "input[1]", "invalid_value"),
        ({"input": [1, 2]}, "input", "unsupported_parameter"),
        ({"input": [[1], [2]]}, "input", "unsupported_parameter"),
        ({"input": {"a": 1}}, "input", "invalid_type"),
        ({"model": ""}, "model", "missing_required_parameter"),
        ({"dimensions": 0}, "dimensions", "invalid_value"),
        ({"encoding_format": "hex"}, "encoding_format", "invalid_value"),
        ({"Input": "x"}, "Input", "ambiguous_key"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(fields: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse(**fields)
    assert (caught.value.param, caught.value.code) == (param, code)


def test_who_sends_tokens_is_told_what_to_do() -> None:
    with pytest.raises(BadRequest, match="check_embedding_ctx_length=False"):
        parse(input=[[1, 2, 3]])


MADE = Embeddings([[0.5, -1.0], [1e-3, 0.0]], Usage(7))


def test_vectors_are_numbers() -> None:
    assert json.loads(DIALECT.render_embeddings(MADE, parse(input=["a", "b"]), META)) == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [0.5, -1.0]},
            {"object": "embedding", "index": 1, "embedding": [0.001, 0.0]},
        ],
        "model": "m",
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }


def test_or_little_endian_floats_in_base64() -> None:
    told = json.loads(DIALECT.render_embeddings(MADE, parse(encoding_format="base64"), META))
    packed = [struct.unpack("<2f", base64.b64decode(item["embedding"])) for item in told["data"]]
    assert packed == [(0.5, -1.0), (pytest.approx(1e-3), 0.0)]


def test_a_number_that_is_no_float_of_32_bits_is_the_backends_fault() -> None:
    with pytest.raises(BackendError):
        DIALECT.render_embeddings(Embeddings([[1e39]], Usage()), parse(encoding_format="base64"), META)
