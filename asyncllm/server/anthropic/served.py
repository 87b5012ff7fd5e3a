"""Bodies of Anthropic's Messages API to nouns.

A turn of the user may hold results of tools beside what is said: each result becomes a turn of its tool, before what is
said. Thinking goes back as it came, in blocks. Kinds of blocks that no noun has a place for are refused by name, and
fields of a body that none has a place for go into `extra`.

Source: https://platform.claude.com/docs/en/api/messages/create.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any, Literal, cast

import msgspec
from msgspec import UNSET, Struct, UnsetType

from asyncllm.dialect.served import convert_document, read_document
from asyncllm.errors import InvalidRequestError
from asyncllm.types import (
    Constraint,
    ContentPart,
    FilePart,
    ImagePart,
    JsonSchema,
    Message,
    ReasoningBlock,
    Request,
    Sampling,
    TextPart,
    Tool,
    ToolCall,
    ToolChoice,
)

__all__ = ["MessagesWire", "read_messages_request"]

_DIALECT = "anthropic"
_CHOICES: dict[str, ToolChoice] = {"auto": "auto", "any": "required", "none": "none"}
_THINKING = ("thinking", "redacted_thinking")

_Block = dict[str, Any]


class _Turn(Struct):
    role: Literal["user", "assistant", "system"]
    content: str | list[_Block]


class _Tool(Struct):
    name: str
    input_schema: dict[str, Any]
    description: str | UnsetType = UNSET


class _Choice(Struct):
    type: Literal["auto", "any", "none", "tool"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class _Format(Struct):
    type: str
    schema: dict[str, Any] | None = None


class _Output(Struct):
    effort: str | None = None
    format: _Format | None = None


class MessagesWire(Struct):
    """The body of a request for a message."""

    messages: list[_Turn]
    model: str = ""
    max_tokens: int | UnsetType = UNSET
    system: str | list[_Block] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    tools: list[_Tool] | None = None
    tool_choice: _Choice | None = None
    output_config: _Output | None = None
    thinking: dict[str, Any] | None = None


_READ = frozenset(MessagesWire.__struct_fields__) - {"thinking"}


def read_messages_request(body: bytes, *, is_counted: bool = False) -> Request:
    """The request of a `POST /v1/messages`, or with `is_counted` of one that counts its tokens.

    Raises `InvalidRequestError` whose `field` names what is wrong, as in `messages[2].content`.
    """
    document = read_document(body)
    wire = convert_document(document, MessagesWire)
    if not wire.messages:
        raise InvalidRequestError("at least one message is needed", field="messages")
    if wire.max_tokens is UNSET and not is_counted:
        raise InvalidRequestError("max_tokens is missing: the most tokens that the answer may have", field="max_tokens")
    _check_thinking(wire)
    choice = wire.tool_choice
    parallel = None if choice is None else choice.disable_parallel_tool_use
    return Request(
        model=wire.model,
        messages=(*_system(wire.system), *_conversation(wire.messages)),
        sampling=_sampling(wire),
        tools=tuple(Tool(one.name, one.description, one.input_schema) for one in wire.tools or ()),
        tool_choice=_tool_choice(choice),
        parallel_tool_calls=UNSET if parallel is None else not parallel,
        constraint=_constraint(wire.output_config),
        stream=bool(wire.stream),
        extra={name: value for name, value in document.items() if name not in _READ and value is not None},
    )


def _system(system: str | list[_Block] | None) -> list[Message]:
    if not system:
        return []
    if isinstance(system, str):
        return [Message("system", system)]
    parts = [_part(block, f"system[{at}]") for at, block in enumerate(system)]
    if not all(isinstance(part, TextPart) for part in parts):
        raise InvalidRequestError("system is text alone", field="system")
    return [Message("system", "\n".join(cast("TextPart", part).text for part in parts))]


def _conversation(turns: list[_Turn]) -> list[Message]:
    messages: list[Message] = []
    for number, turn in enumerate(turns):
        place = f"messages[{number}].content"
        if isinstance(turn.content, str):
            messages.append(Message(turn.role, turn.content))
        elif turn.role == "assistant":
            messages.append(_assistant(turn.content, place))
        else:
            messages += _user(turn.role, turn.content, place)
    return messages


def _assistant(blocks: list[_Block], place: str) -> Message:
    parts: list[ContentPart] = []
    calls: list[ToolCall] = []
    thinking: list[ReasoningBlock] = []
    for at, block in enumerate(blocks):
        kind, here = block.get("type"), f"{place}[{at}]"
        if kind == "tool_use":
            arguments = msgspec.json.encode(block.get("input", {})).decode()
            calls.append(ToolCall(_text(block, "id", here), _text(block, "name", here), arguments))
        elif kind in _THINKING:
            thinking.append(ReasoningBlock(_DIALECT, block))
        else:
            parts.append(_part(block, here))
    return Message("assistant", _joined(parts), tool_calls=tuple(calls), reasoning_blocks=tuple(thinking))


def _user(role: Literal["user", "system"], blocks: list[_Block], place: str) -> list[Message]:
    results: list[Message] = []
    parts: list[ContentPart] = []
    for at, block in enumerate(blocks):
        here = f"{place}[{at}]"
        if block.get("type") == "tool_result":
            results.append(_result(block, here))
        else:
            parts.append(_part(block, here))
    return [*results, *([Message(role, _joined(parts))] if parts or not results else [])]


def _result(block: _Block, place: str) -> Message:
    content = block.get("content", "")
    if isinstance(content, list):
        found = [_part(one, f"{place}.content[{at}]") for at, one in enumerate(cast("list[_Block]", content))]
        content = _joined(found)
    elif content is None:
        content = ""
    elif not isinstance(content, str):
        raise InvalidRequestError("content is a text or a list of blocks", field=f"{place}.content")
    failed = block.get("is_error")
    if failed is not None and not isinstance(failed, bool):
        raise InvalidRequestError("is_error is true or false", field=f"{place}.is_error")
    return Message("tool", content, tool_call_id=_text(block, "tool_use_id", place), is_error=bool(failed))


def _part(block: object, place: str) -> ContentPart:
    if not isinstance(block, dict):
        raise InvalidRequestError("a block is an object with a type", field=place)
    block = cast("_Block", block)
    match block.get("type"):
        case "text":
            return TextPart(_text(block, "text", place))
        case "image":
            return _image(block, place)
        case "document":
            return _document(block, place)
        case _:
            raise InvalidRequestError(
                "a block is text, image, document, tool_use, tool_result, thinking or redacted_thinking", field=place
            )


def _image(block: _Block, place: str) -> ImagePart:
    source = _source(block, place)
    if source.get("type") == "url":
        return ImagePart(url=_text(source, "url", f"{place}.source"))
    return ImagePart(data=_data(source, place), media_type=_text(source, "media_type", f"{place}.source"))


def _document(block: _Block, place: str) -> ContentPart:
    source = _source(block, place)
    if source.get("type") == "text":
        return TextPart(_text(source, "data", f"{place}.source"))
    title = block.get("title")
    return FilePart(
        data=_data(source, place),
        filename=title if isinstance(title, str) else UNSET,
        media_type=_text(source, "media_type", f"{place}.source"),
    )


def _source(block: _Block, place: str) -> _Block:
    source = block.get("source")
    if not isinstance(source, dict):
        raise InvalidRequestError("source is an object", field=f"{place}.source")
    return cast("_Block", source)


def _data(source: _Block, place: str) -> bytes:
    if source.get("type") != "base64":
        raise InvalidRequestError("a source here is base64, text or url", field=f"{place}.source.type")
    try:
        return base64.b64decode(_text(source, "data", f"{place}.source"), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequestError("data is no base64", field=f"{place}.source.data") from None


def _text(block: _Block, name: str, place: str) -> str:
    value = block.get(name)
    if not isinstance(value, str):
        raise InvalidRequestError(f"{name} is a text", field=f"{place}.{name}")
    return value


def _joined(parts: list[ContentPart]) -> str | tuple[ContentPart, ...]:
    """A text alone as one, and nothing as an empty one."""
    if len(parts) == 1 and isinstance(parts[0], TextPart):
        return parts[0].text
    return tuple(parts) if parts else ""


def _sampling(wire: MessagesWire) -> Sampling:
    named: dict[str, Any] = {"temperature": wire.temperature, "top_p": wire.top_p, "top_k": wire.top_k}
    if wire.stop_sequences:
        named["stop"] = tuple(wire.stop_sequences)
    if wire.max_tokens is not UNSET:
        named["max_tokens"] = wire.max_tokens
    if wire.output_config is not None:
        named["reasoning_effort"] = wire.output_config.effort
    return convert_document({name: value for name, value in named.items() if value is not None}, Sampling)


def _check_thinking(wire: MessagesWire) -> None:
    """What is asked of a model's thinking goes to the backend as it is, as no noun has a place for it."""
    asked = wire.thinking
    if asked is None:
        return
    if asked.get("type") not in ("enabled", "adaptive", "disabled"):
        raise InvalidRequestError("thinking is enabled, adaptive or disabled", field="thinking.type")
    if asked["type"] == "enabled":
        budget, room = asked.get("budget_tokens"), wire.max_tokens
        if type(budget) is not int or budget < 1:
            raise InvalidRequestError("budget_tokens is a number of tokens", field="thinking.budget_tokens")
        if isinstance(room, int) and budget >= room:
            raise InvalidRequestError(
                "budget_tokens is below max_tokens, which has room for the answer too", field="thinking.budget_tokens"
            )


def _tool_choice(choice: _Choice | None) -> ToolChoice | UnsetType:
    if choice is None:
        return UNSET
    if choice.type != "tool":
        return _CHOICES[choice.type]
    if not choice.name:
        raise InvalidRequestError("a tool_choice of type tool has the tool's name", field="tool_choice.name")
    return choice.name


def _constraint(output: _Output | None) -> Constraint | None:
    if output is None or output.format is None:
        return None
    if output.format.type != "json_schema" or output.format.schema is None:
        raise InvalidRequestError("a format is a json_schema with its schema", field="output_config.format")
    return JsonSchema(output.format.schema)
