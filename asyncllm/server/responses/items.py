"""The items of a conversation in OpenAI's Responses API, put together as turns.

Source: https://platform.openai.com/docs/api-reference/responses/create#responses-create-input.
"""

from __future__ import annotations

from typing import Any, cast, get_args

from msgspec import UNSET, Struct

from asyncllm.dialect.messages import read_data_url
from asyncllm.errors import InvalidRequestError, UnsupportedError
from asyncllm.server.generation import check_part
from asyncllm.server.responses.answers import MADE
from asyncllm.server.settings import ServerSettings
from asyncllm.types import (
    AudioPart,
    ContentPart,
    FilePart,
    ImagePart,
    Message,
    ReasoningBlock,
    Role,
    TextPart,
    ToolCall,
)

__all__ = ["read_items"]

_Item = dict[str, Any]

_ROLES = tuple(role for role in get_args(Role) if role != "tool")


def read_items(items: list[_Item], settings: ServerSettings, *, dialect: str) -> list[Message]:
    """The turns of a conversation. Blocks of thinking are of `dialect`.

    Raises `InvalidRequestError` and `UnsupportedError` naming the place.
    """
    if len(items) > settings.max_messages:
        raise InvalidRequestError(f"input has at most {settings.max_messages} items", field="input")
    reader = _Reader(settings, dialect)
    for at, item in enumerate(items):
        reader.add(item, f"input[{at}]")
    return reader.end()


class _Turn(Struct):
    """What an assistant has said, thought and called since anybody else had the word."""

    parts: list[ContentPart] = []
    calls: list[ToolCall] = []
    blocks: list[ReasoningBlock] = []
    thoughts: list[str] = []
    refusals: list[str] = []
    sealed: str | None = None
    """The id of thinking that the next call follows from, where that has to be said."""

    def message(self) -> Message:
        """All of it as one turn."""
        return Message(
            "assistant",
            _joined(self.parts),
            tuple(self.calls),
            reasoning="\n\n".join(self.thoughts) or None,
            refusal="".join(self.refusals) or None,
            reasoning_blocks=tuple(self.blocks),
        )


class _Reader:
    def __init__(self, settings: ServerSettings, dialect: str) -> None:
        self._settings = settings
        self._dialect = dialect
        self._messages: list[Message] = []
        self._turn: _Turn | None = None

    def add(self, item: _Item, place: str) -> None:
        """The next item."""
        kind = "message" if item.get("type") is None else item["type"]
        if kind == "message":
            self._message(item, place)
        elif kind == "reasoning":
            self._reasoning(item, place)
        elif kind == "function_call":
            self._call(item, place)
        elif kind == "function_call_output":
            self._close()
            content = self._content(item.get("output"), f"{place}.output")
            self._messages.append(Message("tool", content, tool_call_id=_text(item, "call_id", place)))
        elif kind == "item_reference":
            raise UnsupportedError(f"{place}: no items are kept here to refer to: send the item itself", field=place)
        else:
            raise UnsupportedError(
                f"{place}: items of the type {str(kind)[:40]!r} are not known here; there are message, function_call, "
                "function_call_output and reasoning",
                field=f"{place}.type",
            )

    def end(self) -> list[Message]:
        """All turns."""
        self._close()
        return self._messages

    def _message(self, item: _Item, place: str) -> None:
        role = item.get("role")
        if role not in _ROLES:
            raise InvalidRequestError(f"{place}.role is one of {', '.join(_ROLES)}", field=f"{place}.role")
        field = f"{place}.content"
        if role != "assistant":
            self._close()
            self._messages.append(Message(cast("Role", role), self._content(item.get("content"), field)))
            return
        if self._turn is not None and not self._turn.calls and (self._turn.parts or self._turn.refusals):
            self._close()
        turn = self._open()
        content = item.get("content")
        if isinstance(content, list):
            for at, part in enumerate(cast("list[object]", content)):
                self._said(turn, part, f"{field}[{at}]")
        else:
            turn.parts.append(TextPart(_text(item, "content", place)))

    def _said(self, turn: _Turn, part: object, place: str) -> None:
        item = _object(part, place)
        if item.get("type") == "refusal":
            turn.refusals.append(_text(item, "refusal", place))
        else:
            turn.parts.append(self._part(item, place))

    def _reasoning(self, item: _Item, place: str) -> None:
        content: Any = [] if item.get("content") is None else item["content"]
        if not isinstance(content, list):
            raise InvalidRequestError(f"{place}.content is a list of parts", field=f"{place}.content")
        turn = self._open()
        for at, part in enumerate(cast("list[object]", content)):
            here = f"{place}.content[{at}]"
            turn.thoughts.append(_text(_object(part, here), "text", here))
        id_, is_sealed = str(item.get("id") or ""), bool(item.get("encrypted_content"))
        if is_sealed or (content and not id_.startswith(MADE)):
            turn.sealed = id_ if turn.blocks and is_sealed and id_ else turn.sealed
            turn.blocks.append(ReasoningBlock(self._dialect, item))

    def _call(self, item: _Item, place: str) -> None:
        turn = self._open()
        id_, name, arguments = (_text(item, field, place) for field in ("call_id", "name", "arguments"))
        turn.calls.append(ToolCall(id_, name, arguments, turn.sealed))
        turn.sealed = None

    def _content(self, content: object, place: str) -> str | tuple[ContentPart, ...]:
        if isinstance(content, str):
            return content
        if not isinstance(content, list):
            raise InvalidRequestError(f"{place} is a text or a list of parts", field=place)
        parts = cast("list[object]", content)
        return _joined([self._part(part, f"{place}[{at}]") for at, part in enumerate(parts)])

    def _part(self, part: object, place: str) -> ContentPart:
        read = _read_part(_object(part, place), place)
        check_part(read, place, self._settings)
        return read

    def _open(self) -> _Turn:
        if self._turn is None:
            self._turn = _Turn()
        return self._turn

    def _close(self) -> None:
        turn, self._turn = self._turn, None
        if turn is not None and (turn.parts or turn.calls or turn.refusals):  # thinking that led to nothing is left out
            self._messages.append(turn.message())


def _read_part(part: _Item, place: str) -> ContentPart:
    match part.get("type"):
        case "input_text" | "output_text":
            return TextPart(_text(part, "text", place))
        case "input_image" if part.get("file_id") is None:
            detail = part.get("detail")
            return ImagePart(url=_text(part, "image_url", place), detail=detail if isinstance(detail, str) else UNSET)
        case "input_file" | "input_image" if part.get("file_id") is not None:
            return FilePart(file_id=_text(part, "file_id", place))
        case "input_file":
            return _file(part, place)
        case "input_audio":
            return _audio(part, place)
        case _:
            raise InvalidRequestError(
                f"{place}: a part is input_text, input_image, input_file or input_audio, or output_text or refusal of "
                "an assistant",
                field=place,
            )


def _file(part: _Item, place: str) -> FilePart:
    if part.get("file_url") is not None:
        raise UnsupportedError(
            f"{place}.file_url: addresses are not fetched here: send file_data", field=f"{place}.file_url"
        )
    try:
        media_type, data = read_data_url(_text(part, "file_data", place))
    except InvalidRequestError as error:
        field = f"{place}.file_data"
        raise InvalidRequestError(f"{field}: {error.message}", field=field) from None
    name = part.get("filename")
    return FilePart(data=data, filename=name if isinstance(name, str) else UNSET, media_type=media_type)


def _audio(part: _Item, place: str) -> AudioPart:
    field = f"{place}.input_audio"
    audio = part.get("input_audio")
    if not isinstance(audio, dict):
        raise InvalidRequestError(f"{field} has data and format", field=field)
    audio = cast("_Item", audio)
    url = f"data:audio/any;base64,{_text(audio, 'data', field)}"
    try:
        _, data = read_data_url(url)
    except InvalidRequestError:
        raise InvalidRequestError(f"{field}.data is not valid base64", field=f"{field}.data") from None
    return AudioPart(data, _text(audio, "format", field))


def _object(part: object, place: str) -> _Item:
    if not isinstance(part, dict):
        raise InvalidRequestError(f"{place}: a part is an object with a type", field=place)
    return cast("_Item", part)


def _text(item: _Item, name: str, place: str) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise InvalidRequestError(f"{place}.{name} is a text", field=f"{place}.{name}")
    return value


def _joined(parts: list[ContentPart]) -> str | tuple[ContentPart, ...]:
    """A text alone as one, and nothing as an empty one."""
    if len(parts) == 1 and isinstance(parts[0], TextPart):
        return parts[0].text
    return tuple(parts) if parts else ""
