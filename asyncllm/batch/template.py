"""Prompts made of a row's columns: `{name}` stands for a column, and nothing is ever evaluated.

A template is text, or the messages of a conversation. What a column holds goes in as it is and is not looked at again,
so a brace inside a cell is a brace in the prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, TypeAlias, cast
from uuid import UUID

import msgspec
from msgspec import Struct

from asyncllm.calls import Prompt
from asyncllm.errors import InvalidRequestError
from asyncllm.types import ImagePart, Message, TextPart

__all__ = ["Template", "check_columns"]

_Piece: TypeAlias = tuple[str, str | None]
"""A text as it is, and the column that follows it, if one does."""

_NOT_IN_NAMES = frozenset(".[]!:\n\r")
_JSON = frozenset({bool, int, float, dict, list, tuple})
_SHOWN = 20  # columns that an error lists, and characters of a name that it repeats


class Template:
    """A prompt with `{column}` where a row's own values go; `{{` and `}}` stand for braces.

    `template` is text, or a list of messages: `Message`, or dicts in OpenAI's form. In a message, the texts and the
    addresses of pictures below `content` are filled in. A name in braces is a column's name, spaces and all, and
    nothing else: attributes, indexes, conversions and format specs are refused, and so are names with any of `.[]!:`.

    Text goes in as it is, numbers, booleans, lists and objects as compact JSON, dates in ISO 8601.

    Raises `InvalidRequestError` for a template that cannot be read, with the place and without the text.
    """

    __slots__ = ("_whole", "columns")

    def __init__(self, template: Prompt) -> None:
        names: dict[str, None] = {}
        self._whole = _parsed(template, names)
        self.columns: tuple[str, ...] = tuple(names)
        """The columns that a row needs, in the order of their first use."""

    def fill(self, columns: Mapping[str, Any]) -> Prompt:
        """The prompt of one row. Raises `InvalidRequestError` naming a column that is not there, or that is null."""
        return cast("Prompt", _filled(self._whole, columns))

    def __repr__(self) -> str:
        return f"<Template of {len(self.columns)} columns>"


def check_columns(wanted: Iterable[str], there: Iterable[str]) -> None:
    """Raise `InvalidRequestError` for the first of `wanted` that is not `there`."""
    known = tuple(there)
    for name in wanted:
        if name not in known:
            raise InvalidRequestError(
                f"the template takes the column {name[:_SHOWN]!r}, which is not there; {_listed(known)}",
                field="template",
            )


class _Text(tuple[_Piece, ...]):
    """A text with columns in it."""

    __slots__ = ()


class _Within(Struct, frozen=True):
    """A struct with a text, or texts, in one of its fields."""

    struct: Message | TextPart | ImagePart
    field: str
    text: object

    def filled(self, text: object) -> object:
        value = tuple(cast("list[Any]", text)) if isinstance(text, list) else text
        return msgspec.structs.replace(self.struct, **{self.field: value})


def _parsed(template: object, names: dict[str, None]) -> object:
    if isinstance(template, str):
        if not template:
            raise InvalidRequestError("the template is empty", field="template")
        return _text(template, "the template", names)
    if isinstance(template, Sequence) and template:
        return [_message(message, f"template[{at}]", names) for at, message in enumerate(cast("list[Any]", template))]
    raise InvalidRequestError("a template is a text or a list of messages that is not empty", field="template")


def _message(message: object, place: str, names: dict[str, None]) -> object:
    if isinstance(message, Message):
        return _Within(message, "content", _content(message.content, f"{place}.content", names))
    if isinstance(message, Mapping):
        wire = cast("Mapping[str, Any]", message)
        content = {"content": _content(wire["content"], f"{place}.content", names)} if "content" in wire else {}
        return {**wire, **content}
    raise InvalidRequestError(f"{place} is a {type(message).__name__}, not a Message or a dict", field="template")


def _content(value: object, place: str, names: dict[str, None]) -> object:
    """`value` with each text in it taken apart."""
    if isinstance(value, str):
        return _text(value, place, names)
    if isinstance(value, TextPart):
        return _Within(value, "text", _text(value.text, f"{place}.text", names))
    if isinstance(value, ImagePart) and isinstance(value.url, str):
        return _Within(value, "url", _text(value.url, f"{place}.url", names))
    if isinstance(value, Mapping):
        parts = cast("Mapping[str, Any]", value)
        return {name: _content(part, f"{place}.{name}", names) for name, part in parts.items()}
    if isinstance(value, list | tuple):
        items = cast("Sequence[Any]", value)
        return [_content(part, f"{place}[{at}]", names) for at, part in enumerate(items)]
    return value


def _text(text: str, place: str, names: dict[str, None]) -> _Text:
    pieces = _Text(_pieces(text, place))
    names.update((name, None) for _, name in pieces if name is not None)
    return pieces


def _pieces(text: str, place: str) -> Iterator[_Piece]:
    literal, position = "", 0
    while position < len(text):
        brace = min((at for mark in "{}" if (at := text.find(mark, position)) >= 0), default=len(text))
        literal += text[position:brace]
        if brace == len(text):
            break
        if text[brace] == text[brace + 1 : brace + 2]:
            literal += text[brace]
            position = brace + 2
            continue
        end = text.find("}", brace)
        name = text[brace + 1 : end]
        if text[brace] == "}" or end < 0 or "{" in name:
            raise InvalidRequestError(
                f"{place}, character {brace + 1}: a brace on its own; a column is written {{name}}, and a brace is "
                "written twice",
                field="template",
            )
        _check_name(name, f"{place}, character {brace + 1}")
        yield literal, name
        literal, position = "", end + 1
    if literal:
        yield literal, None


def _check_name(name: str, place: str) -> None:
    if not name or name != name.strip() or _NOT_IN_NAMES & set(name):
        raise InvalidRequestError(
            f"{place}: between braces stands a column's name alone, as in {{question}}, without any of . [ ] ! : and "
            "without spaces around it; a brace that is meant as one is written twice",
            field="template",
        )


def _filled(value: object, columns: Mapping[str, Any]) -> object:
    if isinstance(value, _Text):
        return "".join(text if name is None else text + _value(name, columns) for text, name in value)
    if isinstance(value, _Within):
        return value.filled(_filled(value.text, columns))
    if isinstance(value, dict):
        return {name: _filled(part, columns) for name, part in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_filled(part, columns) for part in cast("list[Any]", value)]
    return value


def _value(name: str, columns: Mapping[str, Any]) -> str:
    """What stands in the prompt for a column."""
    value: Any = columns.get(name)
    if isinstance(value, str):
        return value
    if value is None:
        check_columns((name,), columns)
        raise InvalidRequestError(
            f"the template takes the column {name[:_SHOWN]!r}, which is null here; give it a value, or leave the row "
            "out",
            field="template",
        )
    if isinstance(value, date | datetime | time | timedelta | Decimal | UUID):
        return str(msgspec.to_builtins(value))
    if type(value) in _JSON:
        # JSON has no word for what is no finite number, and null would be a silent stand-in.
        try:
            text = msgspec.json.encode(value).decode()
        except (TypeError, ValueError, OverflowError, RecursionError):
            text = "null"
        if text != "null":
            return text
    raise InvalidRequestError(
        f"the column {name[:_SHOWN]!r} holds a {type(value).__name__} that cannot be written as JSON", field="template"
    )


def _listed(names: tuple[str, ...]) -> str:
    if not names:
        return "there are no columns"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"there are: {', '.join(repr(name[:_SHOWN]) for name in names[:_SHOWN])}{more}"
