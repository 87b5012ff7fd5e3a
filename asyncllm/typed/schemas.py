"""JSON schemas of Python types: as msgspec makes them, and in the subset that OpenAI calls strict.

Source of the subset: https://platform.openai.com/docs/guides/structured-outputs
"""

from __future__ import annotations

from typing import Any, cast

import msgspec

from asyncllm.errors import InvalidRequestError

__all__ = ["schema_of", "strict_form"]

_SAME = frozenset({"type", "title", "description", "const"})
_DROPPED = frozenset({"default", "discriminator"})
"""What tells a reader something and binds no value."""
_TYPES: dict[type, str] = {str: "string", int: "integer", type(None): "null"}


def schema_of(kind: Any, *, field: str) -> dict[str, Any]:
    """The schema of a type, without a reference at its root.

    Raises `InvalidRequestError` naming `field` for a type that has none.
    """
    try:
        schema = msgspec.json.schema(kind)
    except TypeError as error:
        raise InvalidRequestError(f"{field} has no JSON schema: {error}", field=field) from None
    reference = schema.get("$ref", "")
    if reference.startswith("#/$defs/"):
        # Servers want an object at the root, not a reference to one.
        name = reference.removeprefix("#/$defs/")
        definitions = schema["$defs"]
        schema = dict(definitions[name])
        others = {other: one for other, one in definitions.items() if other != name}
        if f"'{reference}'" in str((schema, others)):  # a type that holds itself
            others = definitions
        if others:
            schema["$defs"] = others
    return schema


def strict_form(schema: dict[str, Any]) -> dict[str, Any] | None:
    """`schema` for OpenAI's strict mode, or `None` where that would change what may be answered.

    Strict mode wants every property required, no others allowed, and a few keywords alone. Closing an object is safe:
    msgspec passes over what it does not know. Requiring a property is safe where leaving it out and `null` mean the
    same, so where its default is `None`. A property with another default, a `dict` of free keys, a tuple, `Any` or a
    bound such as `ge` has no strict form.
    """
    try:
        return _strict(schema)
    except _NoStrictFormError:
        return None


class _NoStrictFormError(Exception):
    pass


def _strict(node: Any) -> dict[str, Any]:
    if not isinstance(node, dict) or not node:
        raise _NoStrictFormError
    kept = {name: value for name, value in cast("dict[str, Any]", node).items() if name not in _DROPPED}
    if "$ref" in kept:
        if len(kept) > 1 and kept.keys() != {"$ref", "$defs"}:
            raise _NoStrictFormError  # a reference stands alone there
        return kept
    made: dict[str, Any] = {}
    for name, value in kept.items():
        if name in _SAME:
            made[name] = value
        elif name == "anyOf":
            made[name] = [_strict(one) for one in value]
        elif name == "items":
            made[name] = _strict(value)
        elif name == "enum":
            made |= _enum(value)
        elif name == "$defs":
            made[name] = {key: _strict(one) for key, one in value.items()}
        elif name not in ("properties", "required", "additionalProperties"):
            raise _NoStrictFormError
    if kept.get("type") == "object":
        made |= _object(kept)
    if kept.get("type") == "array" and "items" not in kept:
        raise _NoStrictFormError
    return made


def _object(node: dict[str, Any]) -> dict[str, Any]:
    if "properties" not in node or node.get("additionalProperties", False) is not False:
        raise _NoStrictFormError
    properties: dict[str, Any] = node["properties"]
    required = node.get("required", ())
    for name, value in properties.items():
        if name not in required and value.get("default", ...) is not None:
            raise _NoStrictFormError
    return {
        "properties": {name: _strict(value) for name, value in properties.items()},
        "required": list(properties),
        "additionalProperties": False,
    }


def _enum(values: list[Any]) -> dict[str, Any]:
    """Strict mode wants the type said, too."""
    kinds = {_TYPES.get(type(value)) for value in cast("list[object]", values)}
    names = sorted(str(kind) for kind in kinds if kind != "null")
    if None in kinds or len(names) != 1:
        raise _NoStrictFormError
    return {"type": [names[0], "null"] if "null" in kinds else names[0], "enum": values}
