"""What stands behind the path of a request, as a type."""

from __future__ import annotations

from typing import Any, TypeVar
from urllib.parse import parse_qsl

import msgspec
from msgspec.structs import fields

from asyncllm.dialect.served import convert_texts
from asyncllm.errors import InvalidRequestError
from asyncllm.server.incoming import Incoming

__all__ = ["read_query"]

T = TypeVar("T", bound=msgspec.Struct)

_MAX_FIELDS = 32
_SHOWN = 40


def read_query(incoming: Incoming, kind: type[T]) -> T:
    """The query as a `kind`; what that has no place for is refused where it forbids unknown fields, and else ignored.

    Raises `InvalidRequestError` naming the field.
    """
    query: bytes = incoming.scope["query_string"]
    try:
        pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=_MAX_FIELDS)
    except ValueError:
        raise InvalidRequestError(f"the query has more than {_MAX_FIELDS} fields", field="query") from None
    known = {field.encode_name for field in fields(kind)}
    told: dict[str, Any] = {}
    for name, value in pairs:
        if name in told:
            raise InvalidRequestError(f"{name} is given more than once", field=name)
        if name in known:
            told[name] = value
        elif kind.__struct_config__.forbid_unknown_fields:
            there = ", ".join(field.encode_name for field in fields(kind))
            raise InvalidRequestError(
                f"there is no {name[:_SHOWN]!r} to ask for; there is {there}", field=name[:_SHOWN] or "query"
            )
    return convert_texts(told, kind)
