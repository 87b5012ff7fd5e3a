"""Constraints as vLLM's server takes them, in the spelling of its release.

Sources: https://docs.vllm.ai/en/stable/features/structured_outputs.html, and `guided_*` of the releases before it. A
server of either kind ignores the fields of the other, with nothing but a line in its own log.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, cast

import msgspec

from asyncllm.errors import InvalidRequestError
from asyncllm.types import Choice, Constraint, Grammar, JsonSchema, Regex, Request

__all__ = ["Spelling", "constrained"]

Spelling: TypeAlias = Literal["structured_outputs", "guided"]

_KINDS = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")
_GUIDED = tuple(f"guided_{kind}" for kind in (*_KINDS[:5], "whitespace_pattern", "decoding_backend"))
_FORMATS = frozenset({"json_object", "json_schema", "structural_tag"})


def constrained(request: Request, spelling: Spelling) -> Request:
    """`request` with its constraint as fields of the body.

    Raises `InvalidRequestError` for two constraints, and for one in `extra` that a server of the other spelling would
    ignore.
    """
    extra = request.extra
    foreign = _GUIDED if spelling == "structured_outputs" else ("structured_outputs",)
    for name in foreign:
        if name in extra:
            other = "guided" if spelling == "structured_outputs" else "structured_outputs"
            raise InvalidRequestError(
                f"extra holds {name!r}, which this server ignores: use constraint=, or set the option "
                f"structured_outputs={other!r} if it is a server of that release",
                field=f"extra.{name}",
            )
    found = _constraints(extra) + ([f"constraint={type(request.constraint).__name__}"] if request.constraint else [])
    if len(found) > 1:
        raise InvalidRequestError(
            f"an answer takes one constraint, and {' and '.join(found)} are given", field="constraint"
        )
    # A schema has a field of OpenAI's own in every release of the newer spelling.
    if request.constraint is None or (spelling != "guided" and isinstance(request.constraint, JsonSchema)):
        return request
    kind, value = _written(request.constraint)
    if spelling == "guided":
        field: dict[str, Any] = {f"guided_{kind}": value}
    else:
        field = {"structured_outputs": {**_object(extra.get("structured_outputs")), kind: value}}
    return msgspec.structs.replace(request, constraint=None, extra={**extra, **field})


def _written(constraint: Constraint) -> tuple[str, Any]:
    match constraint:
        case JsonSchema(schema=schema):
            return "json", schema
        case Regex(pattern=pattern):
            return "regex", pattern
        case Choice(options=options):
            return "choice", list(options)
        case Grammar(grammar=grammar):
            return "grammar", grammar


def _constraints(extra: Mapping[str, Any]) -> list[str]:
    """Names of the constraints that `extra` holds."""
    found = [name for name in _GUIDED[:5] if extra.get(name) is not None]
    given = _object(extra.get("structured_outputs"))
    found += [f"structured_outputs.{kind}" for kind in _KINDS if given.get(kind) is not None]
    if _object(extra.get("response_format")).get("type") in _FORMATS:
        found.append("response_format")
    return found


def _object(value: object) -> Mapping[str, Any]:
    """`value` if it is an object, else an empty one."""
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}
