"""What an answer must be, in every spelling that bodies have for it.

OpenAI has `response_format`. vLLM has `structured_outputs`, and `guided_*` before 0.12; llama.cpp has `grammar`.
Sources: https://platform.openai.com/docs/guides/structured-outputs,
https://docs.vllm.ai/en/stable/features/structured_outputs.html.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import msgspec

from asyncllm.errors import InvalidRequestError
from asyncllm.types import Choice, Constraint, Grammar, JsonSchema, Regex

__all__ = ["CONSTRAINT_FIELDS", "read_constraint"]

_KINDS = ("json", "regex", "choice", "grammar")
_GUIDED = {f"guided_{kind}": kind for kind in _KINDS}
_SCHEMA_FIELDS = {"name", "schema", "strict"}

CONSTRAINT_FIELDS = frozenset({"response_format", "structured_outputs", "grammar", *_GUIDED})
"""Fields of a body that may hold one."""


def read_constraint(body: Mapping[str, Any]) -> tuple[Constraint | None, list[str]]:
    """The one constraint of `body`, and the fields that say no more than that.

    A field in a form that no constraint has, such as `{"type": "json_object"}`, is not among them.

    Raises `InvalidRequestError` naming the field: for two constraints, and for a value of the wrong type.
    """
    found: dict[str, Constraint] = {}
    said: list[str] = []
    for name, value in body.items():
        if name not in CONSTRAINT_FIELDS:
            continue
        constraint = None if value is None else _read(name, value)
        if constraint is not None:
            found[name] = constraint
        if constraint is not None or value is None or value == {"type": "text"}:
            said.append(name)
    if len(found) > 1:
        raise InvalidRequestError(
            f"only one of {', '.join(sorted(CONSTRAINT_FIELDS))} can be set; got {' and '.join(found)}",
            field=list(found)[1],
        )
    return next(iter(found.values()), None), said


def _read(name: str, value: Any) -> Constraint | None:
    if name == "response_format":
        return _response_format(_object(value, name))
    if name == "structured_outputs":
        return _structured(_object(value, name))
    if name == "grammar":
        return Grammar(value) if isinstance(value, str) else None
    return _of_kind(_GUIDED[name], value, name)


def _response_format(form: dict[str, Any]) -> JsonSchema | None:
    if form.get("type") != "json_schema" or form.keys() > {"type", "json_schema"}:
        return None
    field = "response_format.json_schema"
    inner = {name: value for name, value in _object(form.get("json_schema"), field).items() if value is not None}
    if inner.keys() - _SCHEMA_FIELDS:
        return None
    name, strict = inner.get("name", "answer"), inner.get("strict", msgspec.UNSET)
    if not isinstance(name, str):
        raise InvalidRequestError("a text is expected", field=f"{field}.name")
    if strict is not msgspec.UNSET and not isinstance(strict, bool):
        raise InvalidRequestError("a boolean is expected", field=f"{field}.strict")
    return JsonSchema(_object(inner.get("schema"), f"{field}.schema"), name, strict)


def _structured(value: dict[str, Any]) -> Constraint | None:
    given = {kind: inner for kind, inner in value.items() if inner is not None}
    kinds = [kind for kind in _KINDS if kind in given]
    if len(kinds) > 1:
        raise InvalidRequestError(
            f"only one of {', '.join(_KINDS)} can be set; got {' and '.join(kinds)}", field="structured_outputs"
        )
    if not kinds or len(given) > 1:
        return None
    return _of_kind(kinds[0], given[kinds[0]], f"structured_outputs.{kinds[0]}")


def _of_kind(kind: str, value: Any, field: str) -> Constraint:
    if kind == "json":
        return JsonSchema(_schema(value, field))
    if kind == "choice":
        options = cast("list[object]", value) if isinstance(value, list) else []
        if not options or not all(isinstance(option, str) for option in options):
            raise InvalidRequestError("a list of at least one text is expected", field=field)
        return Choice(tuple(cast("list[str]", options)))
    if not isinstance(value, str):
        raise InvalidRequestError("a text is expected", field=field)
    return Regex(value) if kind == "regex" else Grammar(value)


def _schema(value: object, field: str) -> dict[str, Any]:
    """A schema, which vLLM takes as its JSON text too."""
    if isinstance(value, str):
        try:
            value = msgspec.json.decode(value)
        except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
            raise InvalidRequestError("a JSON schema is expected, and this text is not JSON", field=field) from None
    return _object(value, field)


def _object(value: object, field: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidRequestError("an object is expected", field=field)
    return cast("dict[str, Any]", value)
