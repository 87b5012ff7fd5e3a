"""The server's own description: OpenAPI made of its routes, and of the types of what they take and answer.

A route says what these are beside its class, as `Endpoint.described`; what is here puts them together. Nothing is in
the description that is not enforced: a body that breaks its schema is refused.

Source: https://spec.openapis.org/oas/v3.1.0.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

import asyncllm
from asyncllm.server.settings import ServerSettings

if TYPE_CHECKING:
    from asyncllm.server.endpoint import Endpoint

__all__ = ["Described", "ErrorReply", "describe"]
_REF = "#/components/schemas/{name}"
_PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")
_KEYS = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}


class _Fault(Struct):
    message: str
    type: str
    param: str | None
    """The field that is wrong."""
    code: str | None


class ErrorReply(Struct):
    """What went wrong."""

    error: _Fault


class Described(Struct, frozen=True, kw_only=True):
    """What a route takes and answers, as types that msgspec makes schemas of."""

    body: Any = None
    """Of the request; `None` for a route that takes none."""
    is_form: bool = False
    """Whether that is a form with files."""
    reply: Any = None
    """Of a good answer; `None` for one that has no schema."""
    reply_type: str = "application/json"
    streams: bool = False
    """Whether the answer may come as server-sent events too."""
    also: tuple[str, ...] = ()
    """Other types that the answer may be of, as it is asked for; they have no schema."""
    query: type[Struct] | None = None
    """The parameters behind the path, a field each."""
    limits: Mapping[str, tuple[str, str]] = {}
    """Fields of the body whose bounds are settings: the word of JSON schema, and the name of the setting."""
    max_bytes: str = "max_body_bytes"
    """The name of the setting that bounds the body, or the files of a form."""
    absent: str | None = None
    """What a 404 says is not there."""
    fault: Any = ErrorReply
    """Of any other answer."""


def describe(routes: Iterable[tuple[str, str, type[Endpoint]]], settings: ServerSettings) -> dict[str, Any]:
    """The document that describes `routes`, each with its method and its path."""
    found = list(routes)
    kinds: dict[Any, None] = {}
    for _, _, endpoint in found:
        told = endpoint.described
        kinds |= dict.fromkeys(kind for kind in (told.body, told.reply, told.fault, told.query) if kind is not None)
    schemas, parts = _schemas(list(kinds))
    schema_of = dict(zip(kinds, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for method, path, endpoint in found:
        told = endpoint.described
        _bound(told, schema_of, parts, settings)
        paths.setdefault(_PARAMETER.sub(r"{\1}", path), {})[method.lower()] = _operation(
            path, endpoint, schema_of, parts, settings
        )
    return {
        "openapi": "3.1.0",
        "info": {"title": "asyncllm", "version": asyncllm.__version__},
        "paths": paths,
        "components": {"schemas": parts, "securitySchemes": _KEYS},
    }


def _schemas(kinds: list[Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The schemas of types, and the parts that they refer to, by names that say nothing of where the types stand."""
    made = msgspec.json.encode(msgspec.json.schema_components(kinds, ref_template=_REF))
    names: dict[str, str] = {}
    for name in msgspec.json.decode(made)[1]:
        *_, module, kind = f".{name.replace('.shapes.', '.')}".split(".")
        names[name] = f"{module.capitalize()}{kind.lstrip('_')}"
        made = made.replace(f'"{_REF.format(name=name)}"'.encode(), f'"{_REF.format(name=names[name])}"'.encode())
    assert len({*names.values()}) == len(names), sorted(names)  # two types of one name: give one of them another
    schemas, parts = msgspec.json.decode(made)
    return schemas, {names[name]: part for name, part in parts.items()}


def _operation(
    path: str, endpoint: type[Endpoint], schema_of: dict[Any, Any], parts: dict[str, Any], settings: ServerSettings
) -> dict[str, Any]:
    told = endpoint.described
    summary, _, more = inspect.cleandoc(endpoint.__doc__ or endpoint.__name__).partition("\n\n")
    good: dict[str, Any] = {told.reply_type: {} if told.reply is None else {"schema": schema_of[told.reply]}}
    good |= {kind: {} for kind in (*told.also, *(["text/event-stream"] if told.streams else []))}
    fault = {"application/json": {"schema": schema_of[told.fault]}}
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _PARAMETER.findall(path)
    ]
    operation: dict[str, Any] = {
        "summary": summary.replace("\n", " "),
        "parameters": [*parameters, *_query(told, schema_of, parts)],
        "responses": {
            "200": {"description": "It is done.", "content": good},
            "default": {"description": "It is not, and why.", "content": fault},
        },
        "security": [],
    }
    if told.absent is not None:
        operation["responses"]["404"] = {"description": f"There is no such {told.absent}.", "content": fault}
    if more:
        operation["description"] = more
    if endpoint.needs is not None:
        optional: list[dict[str, Any]] = [] if settings.needs_key else [{}]
        operation["security"] = [*optional, *({name: []} for name in _KEYS)]
    if told.body is not None:
        limit = getattr(settings, told.max_bytes)
        depth = f"At most {limit} bytes, nested at most {settings.max_depth} deep."
        operation["requestBody"] = {
            "required": True,
            "description": f"A form with files of at most {limit} bytes." if told.is_form else depth,
            "content": {
                "multipart/form-data" if told.is_form else "application/json": {"schema": schema_of[told.body]}
            },
        }
    return operation


def _query(told: Described, schema_of: dict[Any, Any], parts: dict[str, Any]) -> list[dict[str, Any]]:
    if told.query is None:
        return []
    schema = _target(schema_of[told.query], parts)
    required = schema.get("required", ())
    return [
        {"name": name, "in": "query", "required": name in required, "schema": _as_text(one)}
        for name, one in schema["properties"].items()
    ]


def _bound(told: Described, schema_of: dict[Any, Any], parts: dict[str, Any], settings: ServerSettings) -> None:
    for field, (word, setting) in told.limits.items():
        _target(schema_of[told.body], parts)["properties"][field][word] = getattr(settings, setting)
    if told.is_form:
        properties = _target(schema_of[told.body], parts)["properties"]
        properties.update({name: _as_text(schema) for name, schema in properties.items()})


def _as_text(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a field of a form or a query, where nothing is null: what is not given is left out."""
    told = {word: value for word, value in schema.items() if (word, value) != ("default", None)}
    kinds = [kind for kind in told.pop("anyOf", ()) if kind != {"type": "null"}]
    return {**told, **kinds[0]} if len(kinds) == 1 else {**told, "anyOf": kinds} if kinds else told


def _target(schema: dict[str, Any], parts: dict[str, Any]) -> dict[str, Any]:
    """The schema itself, where `schema` refers to one."""
    ref = schema.get("$ref")
    return schema if ref is None else parts[ref.rpartition("/")[2]]
