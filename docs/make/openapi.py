"""docs/openapi.json: the routes and the bodies of requests as the code has them, and the rest from `openapi.yaml`."""

import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any, cast

import msgspec
from msgspec import Struct

from hermes import __version__
from hermes.api import admin, table
from hermes.api.management import Management
from hermes.api.routes import Route
from hermes.config import strictyaml
from hermes.dialects.anthropic import Anthropic
from hermes.dialects.openai import OpenAI
from hermes.dialects.prompt import Prompt

Schema = dict[str, Any]

TOLD = strictyaml.parse((Path(__file__).parent / "openapi.yaml").read_text())
_REF = "#/components/schemas/"
# What a request for tokens may say in its head; `docs/api.md` has all of them.
_HEADERS: dict[str, Schema] = {
    "x-hermes-class": {"enum": ["interactive", "normal", "batch"]},
    "x-hermes-deadline-ms": {"type": "integer", "minimum": 1, "maximum": 86_400_000},
    "x-hermes-session": {"type": "string", "pattern": "^[!-~]{1,100}$"},
    "idempotency-key": {"type": "string", "pattern": "^[!-~]{1,255}$"},
}
_OF_REQUESTS = ("401", "403", "404", "409", "422", "429", "499", "502", "503", "504", "508")
_OF_PARAMETERS = {
    "model": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._:@-]{0,199}$"},
    "request_id": {"type": "string", "minLength": 1},
    "backend": {"type": "string", "minLength": 1},
    "key": {"type": "string", "minLength": 1},
    "digest": {"type": "string", "pattern": "^sha256[:-][0-9a-f]{64}$"},
}


class _Anything:
    def __getattr__(self, name: str) -> Any:
        return self if name == "dialect" else name


def routes() -> Iterator[tuple[Route, bool]]:
    """Each route there is, and whether it is the admin listener's alone."""
    thing = cast(Any, _Anything())
    handlers = len(signature(table.routes).parameters) - 3  # the last are dialects
    shared = [*table.routes(*[thing] * handlers, OpenAI(), Prompt(), Anthropic()), *Management(*[thing] * 3).routes()]
    yield from ((route, False) for route in shared)
    known = {(route.method, route.path) for route in shared}
    for route in admin.routes(thing, thing, OpenAI(), metrics=True, restart=thing):
        if (route.method, route.path) not in known:
            yield route, True


def document(page: str) -> Schema:
    """`page`: docs/api.md, whose table of errors says which codes a status has."""
    paths: dict[str, Schema] = {}
    for route, alone in routes():
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, alone)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Hermes",
            "version": __version__,
            "description": "A small gateway in front of the LLM servers on your own hardware: docs/api.md tells more.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "http://127.0.0.1:4000"}],
        "security": [{}, {"bearer": []}, {"xApiKey": []}, {"apiKey": []}, {"basic": []}],
        "paths": paths,
        "components": {
            "schemas": {name: _shape(shape) for name, shape in TOLD["shapes"].items()} | _bodies(),
            "responses": _responses(_codes(page)),
            "parameters": {name: {"name": name, "in": "header", "schema": each} for name, each in _HEADERS.items()},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "basic": {"type": "http", "scheme": "basic"},
                "xApiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "api-key"},
            },
        },
    }


def _operation(route: Route, alone: bool) -> Schema:
    told = TOLD["routes"][f"{route.method} {route.path}"]
    where = " On the admin listener." if alone else ""
    operation: Schema = {"summary": f"{told['summary'].rstrip('.')}.{where}", "tags": [told["tag"]]}
    operation["operationId"] = _camel(f"{route.method} {route.path}")
    if route.access == "open":
        operation["security"] = [{}]
    if parameters := [*_parameters(route, told)]:
        operation["parameters"] = parameters
    if "request" in told:
        media: Schema = {"schema": _shape(told["request"])}
        if "example" in told:
            media["example"] = told["example"]
        operation["requestBody"] = {"required": "example" in told, "content": {"application/json": media}}
    operation["responses"] = _answers(route, told) | _errors(route, told)
    return operation


def _parameters(route: Route, told: Schema) -> Iterator[Schema]:
    for name in re.findall(r"\{(\w+)\}", route.path):
        yield {"name": name, "in": "path", "required": True, "schema": _OF_PARAMETERS[name]}
    for name, shape in told.get("query", {}).items():
        yield {"name": name, "in": "query", "schema": _shape(shape)}
    for name, shape in told.get("headers", {}).items():
        yield {"name": name, "in": "header", "schema": _shape(shape)}
    if route.queues:
        yield from ({"$ref": f"#/components/parameters/{name}"} for name in _HEADERS)


def _answers(route: Route, told: Schema) -> Schema:
    answer = told["answer"]
    if answer == "none":
        return {str(status): {"description": "Done."} for status in told.get("status", [])}
    kinds = answer if isinstance(answer, dict) and any("/" in name for name in answer) else {"application/json": answer}
    content = {kind: {"schema": _shape(shape)} for kind, shape in kinds.items()}
    return {str(status): {"description": "The answer.", "content": content} for status in told.get("status", [200])}


def _statuses(route: Route, told: Schema) -> set[str]:
    """Of the errors that a route of its kind can have."""
    statuses = {"400", "403", "415", "500", "508"}
    if route.access != "open":
        statuses |= {"401", "503"}
    if "{" in route.path or "request" in told:
        statuses.add("404")
    if route.queues:
        statuses |= {*_OF_REQUESTS}
    if route.access == "admin":
        statuses |= {"409", "422", "429", "502", "504"}
    if route.path == "/readyz":
        statuses.add("503")
    return statuses


def _errors(route: Route, told: Schema) -> Schema:
    """`default`: what never became a request has one form everywhere."""
    ollamas = route.path.startswith("/api/") or route.path == "/"
    form = "OllamaError" if ollamas else "AnthropicError" if isinstance(route.dialect, Anthropic) else "Error"
    found = {status: {"$ref": f"#/components/responses/{form}{status}"} for status in sorted(_statuses(route, told))}
    return found | {"default": {"$ref": "#/components/responses/Malformed"}}


def _responses(codes: dict[str, list[str]]) -> Schema:
    """Every error that there can be, in each of the three forms."""
    found = {
        f"{form}{status}": _error(form, ", ".join(f"`{code}`" for code in codes[status]))
        for form in ("Error", "AnthropicError", "OllamaError")
        for status in sorted(codes)
    }
    return found | {"Malformed": _error("Error", "What never became a request.")}


def _error(form: str, words: str) -> Schema:
    return {"description": words, "content": {"application/json": {"schema": {"$ref": _REF + form}}}}


def _codes(page: str) -> dict[str, list[str]]:
    """By status, as the table of errors has them."""
    section = page.split("\n## Errors\n", 1)[1].split("\n## ", 1)[0]
    found: dict[str, list[str]] = {}
    for statuses, codes in re.findall(r"^\| ([\d, ]+) \| ([^|]+) \|", section, re.MULTILINE):
        for status in statuses.split(", "):
            found.setdefault(status, []).extend(re.findall(r"`(\w+)`", codes))
    return found


# --- shapes -----------------------------------------------------------------------------------------------------------


def _shape(short: Any) -> Schema:
    if isinstance(short, list):
        return {"type": "array", "items": _shape(short[0])}
    if isinstance(short, dict):
        return _object(dict(short))
    if short.startswith("="):
        words = short[1:].split("|")
        return {"enum": [{"null": None, "1": 1}.get(word, word) for word in words]}
    parts = [_part(part) for part in short.split("|")]
    return parts[0] if len(parts) == 1 else {"anyOf": parts}


def _part(word: str) -> Schema:
    if word.startswith("["):
        return {"type": "array", "items": _part(word[1:-1])}
    if word == "any":
        return {}
    return {"$ref": _REF + word} if word[0].isupper() else {"type": word}


def _object(short: Schema) -> Schema:
    base = short.pop("all", None)
    rest = short.pop("*", None)
    shape: Schema = {"type": "object"}
    members = {name.strip("()"): _shape(each) for name, each in short.items()}
    required = [name for name in short if not name.startswith("(")]
    if base is not None:
        whole = _shape(TOLD["shapes"][base]) if base in TOLD["shapes"] else _bodies()[base]
        shape, members, required = whole, whole["properties"] | members, whole["required"] + required
    if members:
        shape = shape | {"properties": members, "required": required}
    if rest is not None:
        shape["additionalProperties"] = _shape(rest) or True
    return shape


# --- bodies -----------------------------------------------------------------------------------------------------------


@cache
def _bodies() -> Schema:
    asked = {name: _type(told["of"]) for name, told in TOLD["types"].items()}
    _, raw = msgspec.json.schema_components(list(asked.values()), ref_template=_REF + "{name}")
    names = {each.__name__: name for name, each in asked.items()} | {
        f"{each.__module__}.{each.__qualname__}": name for name, each in asked.items()
    }
    renamed = {name: names.get(name) or _camel(".".join(name.split(".")[-2:])) for name in raw}
    bodies = {renamed[name]: _tidy(schema, renamed) for name, schema in raw.items()}
    for name, told in TOLD["types"].items():
        body = bodies[renamed[_raw_name(asked[name], raw)]]
        body = body | {"properties": dict(body["properties"]), "required": told.get("required", body["required"])}
        if told.get("closed"):
            body["additionalProperties"] = False
        bodies[name] = body
    for path, shape in TOLD["narrower"].items():
        name, key = path.split(".")
        bodies[name]["properties"][key] = _shape(shape)
    return bodies


def _raw_name(kind: type[Struct], found: Schema) -> str:
    whole = f"{kind.__module__}.{kind.__qualname__}"
    return whole if whole in found else kind.__name__


def _type(path: str) -> type[Struct]:
    module, _, name = path.rpartition(".")
    return cast(type[Struct], getattr(import_module(f"hermes.{module}"), name))


def _tidy(schema: Any, renamed: dict[str, str]) -> Any:
    """Without the names of classes and what goes without saying."""
    if isinstance(schema, list):
        return [_tidy(each, renamed) for each in schema]
    if not isinstance(schema, dict):
        return schema
    told = {name: _tidy(each, renamed) for name, each in schema.items() if name != "title" or not isinstance(each, str)}
    if told.get("default", ...) is None:
        del told["default"]
    if "properties" in told:
        told.pop("description", None)
    match told.get("anyOf"):
        case [{"type": kind} as only, {"type": "null"}]:
            told = {name: each for name, each in told.items() if name != "anyOf"} | only | {"type": [kind, "null"]}
    if isinstance(ref := told.get("$ref"), str):
        told["$ref"] = _REF + renamed[ref.removeprefix(_REF)]
    if isinstance(pattern := told.get("pattern"), str):
        told["pattern"] = pattern.replace(r"\A", "^").replace(r"\Z", "$")
    return told


def _camel(text: str) -> str:
    return "".join(word[:1].upper() + word[1:] for word in re.findall(r"[A-Za-z0-9]+", text))
