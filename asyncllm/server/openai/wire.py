"""What routes beside conversations have in common: bodies, and errors in the words of their API."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec

from asyncllm.dialect.served import convert_document
from asyncllm.errors import InvalidRequestError, UnsupportedError
from asyncllm.server.settings import ServerSettings

__all__ = ["check_count", "given", "passed", "read_fields", "said_as"]

T = TypeVar("T", bound=msgspec.Struct)

_CALLS = frozenset(
    {
        "detokenize", "edit_image", "generate_image", "moderate", "rerank", "speak", "tokenize", "transcribe",
        "check_prompt",
    }
)  # fmt: skip


@contextmanager
def said_as(model: str, names: Mapping[str, str] = {}) -> Generator[None]:
    """What is wrong with an argument is told by the field of the body that it came from; `names` has those that differ.

    What the backend lacks is told of `model`, by the name that the request used: who is behind it is not told.
    """
    try:
        yield
    except UnsupportedError as error:
        field = error.field or ""
        if field in _CALLS:
            told = f"the model {model!r} has no {field}"
            raise UnsupportedError(told, field="model", model=model) from None
        named = names.get(field, field)
        told = f"the model {model!r} does not take {named} here; leave it out"
        raise UnsupportedError(told, field=named, model=model) from None
    except InvalidRequestError as error:
        field = error.field or ""
        head, bracket, rest = field.partition("[")
        named = names.get(head, head) + bracket + rest
        told = error.message if named == field else f"{named}: {error.message}"
        raise InvalidRequestError(told, field=named) from None


def read_fields(document: Mapping[str, Any], kind: type[T]) -> T:
    """A body's known fields; a null says no more than leaving the field out. Raises `InvalidRequestError`."""
    return convert_document({name: value for name, value in document.items() if value is not None}, kind)


def passed(document: Mapping[str, Any], kind: type[msgspec.Struct], settings: ServerSettings) -> dict[str, Any]:
    """Fields that go to the backend as they are: those of `passed_fields` that `kind` has no place for."""
    return {name: document[name] for name in settings.passed_fields & document.keys() - set(kind.__struct_fields__)}


def given(**options: Any) -> Any:
    """The options that are set."""
    return {name: value for name, value in options.items() if value is not None and value != {}}


def check_count(values: Sequence[object], field: str, settings: ServerSettings) -> None:
    """Raise `InvalidRequestError` for more texts than a call may have."""
    if len(values) > settings.max_texts:
        raise InvalidRequestError(f"{field} has at most {settings.max_texts} texts", field=field)
