"""What llama.cpp makes of a JSON schema, checked before it drops part of it.

It turns a schema into a grammar, and leaves out in silence what a grammar cannot say; for a pattern that it cannot
read it prints a warning on stderr and accepts any string. An answer that was to be constrained and is not would pass
for one that is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from asyncllm.errors import UnsupportedError

__all__ = ["check_schema"]

# Each was tried and seen to have no effect on the answer.
_IGNORED = frozenset(
    {
        "contains", "dependentRequired", "dependentSchemas", "else", "if", "maxProperties", "minProperties",
        "multipleOf", "not", "patternProperties", "propertyNames", "then", "unevaluatedItems",
        "unevaluatedProperties", "uniqueItems",
    }
)  # fmt: skip
_BOUNDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
_ONE = ("additionalProperties", "items")
_LISTS = ("allOf", "anyOf", "items", "oneOf", "prefixItems")
_NAMED = ("$defs", "definitions", "properties")
_MIN_COUNT = 1999

# Escapes and groups that llama.cpp does not read; a backslash before any other letter or sign is taken literally.
_BAD_PATTERN = re.compile(r"(?:[^\\]|\\.)*?(?:\\[a-tv-zA-Z/]|\(\?(?!:))", re.DOTALL)


def check_schema(schema: Mapping[str, Any]) -> None:
    """Raise `UnsupportedError` naming the first keyword of `schema` that would have no effect."""
    _check(schema, "schema")


def _check(schema: object, place: str) -> None:
    if not isinstance(schema, Mapping):
        return
    document = cast("Mapping[str, Any]", schema)
    for word, value in document.items():
        if word in _IGNORED and value is not False:
            raise _ignored(place, word)
        if word in _BOUNDS and document.get("type") != "integer":
            raise _ignored(place, word)
        if word in ("minItems", "minLength") and isinstance(value, int) and value > _MIN_COUNT:
            raise _ignored(place, f"{word} above {_MIN_COUNT}")
    pattern = document.get("pattern")
    if isinstance(pattern, str) and not (
        pattern.startswith("^") and pattern.endswith("$") and not _BAD_PATTERN.match(pattern)
    ):
        raise UnsupportedError(
            f"{place}.pattern: llama.cpp takes a pattern from ^ to $ without classes such as \\d, and would accept "
            "any string here; write [0-9] for \\d",
            field="constraint",
        )
    for name, inner in _inner(document):
        _check(inner, f"{place}.{name}")


def _inner(document: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    for word in _ONE:
        yield word, document.get(word)
    for word in _LISTS:
        members = document.get(word)
        if isinstance(members, Sequence) and not isinstance(members, str):
            yield from ((f"{word}[{position}]", one) for position, one in enumerate(cast("Sequence[object]", members)))
    for word in _NAMED:
        members = document.get(word)
        if isinstance(members, Mapping):
            named = cast("Mapping[str, object]", members)
            yield from ((f"{word}.{name}", one) for name, one in named.items())


def _ignored(place: str, word: str) -> UnsupportedError:
    return UnsupportedError(
        f"{place}: llama.cpp would ignore {word}; leave it out of the constraint and check the answer yourself",
        field="constraint",
    )
