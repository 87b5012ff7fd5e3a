"""OpenAI-shaped messages and tools to nouns."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeAlias, TypeVar, get_args

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from asyncllm.errors import InvalidRequestError
from asyncllm.types import (
    AudioPart,
    ContentPart,
    FilePart,
    ImagePart,
    Message,
    Role,
    TextPart,
    Tool,
    ToolCall,
)

__all__ = [
    "MessageWire",
    "ToolWire",
    "message_from_dict",
    "message_from_wire",
    "read_data_url",
    "tool_from_dict",
    "tool_from_wire",
]

T = TypeVar("T")


class _Url(Struct):
    url: str
    detail: str | None = None


class _Audio(Struct):
    data: bytes  # msgspec reads base64
    format: str = "wav"


class _File(Struct):
    file_id: str | None = None
    file_data: str | None = None
    filename: str | None = None


class _TextWire(Struct, tag_field="type", tag="text"):
    text: str


class _RefusalWire(Struct, tag_field="type", tag="refusal"):
    refusal: str


class _ImageWire(Struct, tag_field="type", tag="image_url"):
    image_url: _Url


class _AudioWire(Struct, tag_field="type", tag="input_audio"):
    input_audio: _Audio


class _FileWire(Struct, tag_field="type", tag="file"):
    file: _File


class _Function(Struct):
    name: str
    arguments: str = ""


class _CallWire(Struct):
    id: str
    function: _Function


_PartWire: TypeAlias = _TextWire | _RefusalWire | _ImageWire | _AudioWire | _FileWire


class MessageWire(Struct, forbid_unknown_fields=True):
    """One message as it stands in a body."""

    role: Annotated[str, Meta(extra_json_schema={"enum": list(get_args(Role))})]
    content: str | list[_PartWire] | None = None
    tool_calls: list[_CallWire] | None = None
    tool_call_id: str | None = None
    name: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    annotations: Any = None  # what OpenAI's replies carry beside the answer and its requests ignore
    audio: Any = None
    parsed: Any = None  # what OpenAI's SDK makes of the text
    function_call: None = None


def message_from_dict(wire: Mapping[str, Any], field: str = "message") -> Message:
    """Read one OpenAI-shaped message, `{"role": ..., "content": ...}`.

    Raises `InvalidRequestError` naming the place below `field`; the value itself is never repeated.
    """
    try:
        message = msgspec.convert(wire, MessageWire)
    except msgspec.ValidationError as error:
        raise InvalidRequestError(f"{field} is not a chat message: {error}", field=field) from None
    return message_from_wire(message, field)


def message_from_wire(message: MessageWire, field: str = "message") -> Message:
    """The same for a message that is decoded already."""
    calls = tuple(ToolCall(call.id, call.function.name, call.function.arguments) for call in message.tool_calls or ())
    content, refusal = message.content, message.refusal
    if isinstance(content, list):
        refused = "".join(part.refusal for part in content if isinstance(part, _RefusalWire))
        refusal = refused or refusal
    try:
        return Message(
            message.role,  # type: ignore[arg-type]  # checked by Message itself, with a better text
            content if isinstance(content, str) else _parts_from_wire(content or ()) or "",
            calls,
            message.tool_call_id,
            message.name,
            message.reasoning if message.reasoning_content is None else message.reasoning_content,
            refusal,
        )
    except InvalidRequestError as error:
        raise InvalidRequestError(f"{field}: {error.message}", field=f"{field}.{error.field}") from None


class _FunctionTool(Struct, forbid_unknown_fields=True):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolWire(Struct, tag_field="type", tag="function", forbid_unknown_fields=True):
    """One tool as it stands in a body."""

    function: _FunctionTool


def tool_from_dict(wire: Mapping[str, Any], field: str = "tool") -> Tool:
    """Read one OpenAI-shaped tool, `{"type": "function", "function": {...}}`. Raises `InvalidRequestError`."""
    try:
        return tool_from_wire(msgspec.convert(wire, ToolWire))
    except msgspec.ValidationError as error:
        raise InvalidRequestError(f"{field} is not a function tool: {error}", field=field) from None


def tool_from_wire(wire: ToolWire) -> Tool:
    """The same for a tool that is decoded already."""
    tool = wire.function
    return Tool(tool.name, _set(tool.description), _set(tool.parameters), _set(tool.strict))


def _parts_from_wire(parts: Sequence[_PartWire]) -> tuple[ContentPart, ...]:
    return tuple(_part_from_wire(part) for part in parts if not isinstance(part, _RefusalWire))


def _part_from_wire(part: _TextWire | _ImageWire | _AudioWire | _FileWire) -> ContentPart:
    match part:
        case _TextWire(text=text):
            return TextPart(text)
        case _ImageWire(image_url=_Url(url=url, detail=detail)):
            return ImagePart(url=url, detail=_set(detail))
        case _AudioWire(input_audio=_Audio(data=data, format=format_)):
            return AudioPart(data, format_)
        case _FileWire(file=_File(file_id=str(file_id), filename=filename)):
            return FilePart(file_id=file_id, filename=_set(filename))
        case _FileWire(file=_File(file_data=file_data, filename=filename)):
            media_type, data = read_data_url(file_data)
            return FilePart(data=data, filename=_set(filename), media_type=media_type)


def _set(value: T | None) -> T | UnsetType:
    """`value`; a null says no more than leaving it out."""
    return UNSET if value is None else value


def read_data_url(url: str | None) -> tuple[str, bytes]:
    """The MIME type and the bytes of a `data:` URL in base64. Raises `InvalidRequestError`."""
    head, comma, payload = (url or "").partition(",")
    if not (comma and head.startswith("data:") and head.endswith(";base64")):
        raise InvalidRequestError("file_data is a data: URL in base64, or give file_id", field="file_data")
    try:
        return head[5:-7], base64.b64decode(payload, validate=True)
    except ValueError:
        raise InvalidRequestError("file_data is not valid base64", field="file_data") from None
