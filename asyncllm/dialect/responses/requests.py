"""Nouns to the body of `POST /responses`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from msgspec import UNSET

from asyncllm.dialect.requests import encode, only_set
from asyncllm.errors import InvalidRequestError, UnsupportedError
from asyncllm.types import (
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
)

__all__ = ["DIALECT", "SUPPORTED", "write_response"]

DIALECT = "openai"
"""`ReasoningBlock.dialect` of the items that are sent back."""

SUPPORTED = frozenset(
    {
        "chat", "extra", "tools", "tool_choice", "parallel_tool_calls", "JsonSchema", "image parts", "file parts",
        "max_tokens", "temperature", "top_p", "logprobs", "top_logprobs", "reasoning_effort",
    }
)  # fmt: skip
"""What this API has a place for, by the names of `require_supported`."""

_LOGPROBS = "message.output_text.logprobs"
_SEALED = "reasoning.encrypted_content"


def write_response(request: Request) -> bytes:
    """The body of `POST /responses`.

    `extra` travels as it is, on top of everything else; its `reasoning`, `text` and `include` are put to what the
    options of the call have put there.

    Raises `InvalidRequestError` and `UnsupportedError` for a message that this API has no place for.
    """
    stored = request.extra.get("store", False) is not False
    body: dict[str, Any] = {
        "model": request.model,
        "input": [item for place, message in enumerate(request.messages) for item in _items(message, place, stored)],
        "store": False,
    }
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
    if isinstance(request.tool_choice, str):
        word = request.tool_choice
        body["tool_choice"] = word if word in ("auto", "none", "required") else {"type": "function", "name": word}
    if request.parallel_tool_calls is not UNSET:
        body["parallel_tool_calls"] = request.parallel_tool_calls
    if isinstance(request.constraint, JsonSchema):
        body["text"] = {"format": _format(request.constraint)}
    body |= _sampling(request.sampling)
    if request.stream:
        body["stream"] = True
    if request.extra:
        _add(body, request.extra)
    _ask_for_sealed_reasoning(body)
    return encode(body)


def _sampling(sampling: Sampling) -> dict[str, Any]:
    fields = only_set(
        max_output_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_logprobs=sampling.top_logprobs,
    )
    if sampling.logprobs is True or sampling.top_logprobs is not UNSET:
        fields["include"] = [_LOGPROBS]
    if sampling.reasoning_effort is not UNSET:
        fields["reasoning"] = {"effort": sampling.reasoning_effort}
    return fields


def _add(body: dict[str, Any], extra: dict[str, Any]) -> None:
    for name, value in extra.items():
        ours = body.get(name)
        if name in ("reasoning", "text") and isinstance(ours, dict) and isinstance(value, dict):
            body[name] = {**cast("dict[str, Any]", ours), **cast("dict[str, Any]", value)}
        elif name == "include" and isinstance(ours, list) and isinstance(value, list):
            theirs = cast("list[Any]", value)
            body[name] = [*(one for one in cast("list[Any]", ours) if one not in theirs), *theirs]
        else:
            body[name] = value


def _ask_for_sealed_reasoning(body: dict[str, Any]) -> None:
    """Where nothing is stored, thinking survives to the next turn only as sealed items.

    Asked for where the call is one to a model that thinks: others refuse to be asked.
    """
    if body.get("reasoning") and body.get("store") is False and isinstance(body.get("include", []), list):
        include: list[Any] = body.get("include", [])
        body["include"] = include if _SEALED in include else [*include, _SEALED]


def _items(message: Message, place: int, stored: bool) -> Iterator[dict[str, Any]]:
    """The items that one message is."""
    field = f"messages[{place}]"
    if message.name is not None:
        raise UnsupportedError(
            f"{field} has a name, and the Responses API has no place for it; put it into the text", field="name"
        )
    if message.role == "tool":
        if message.tool_call_id is None:
            raise InvalidRequestError(f"{field} answers no call: set tool_call_id", field=f"{field}.tool_call_id")
        yield {"type": "function_call_output", "call_id": message.tool_call_id, "output": _content(message)}
    elif message.role == "assistant":
        yield from _turn(message, field, stored)
    else:
        yield {"role": message.role, "content": _content(message)}


def _turn(message: Message, field: str, stored: bool) -> Iterator[dict[str, Any]]:
    """An assistant's turn: its thinking, its words, its calls; thinking that belongs to a call right before that."""
    blocks = [block for block in message.reasoning_blocks if block.dialect == DIALECT and (stored or _is_whole(block))]
    signed = {call.signature for call in message.tool_calls}
    yield from (block.data for block in blocks if _id(block) not in signed)
    content = _said(message, field)
    if content:
        yield {"role": "assistant", "content": content}
    for call in message.tool_calls:
        if call.signature is not None:
            yield from (block.data for block in blocks if _id(block) == call.signature)
        yield _call(call)


def _is_whole(block: ReasoningBlock) -> bool:
    """Whether an item says what was thought. One that does not, sealed or open, is an id that only a store knows."""
    return any(block.data.get(name) for name in ("encrypted_content", "content"))


def _id(block: ReasoningBlock) -> object:
    return block.data.get("id") or id(block)


def _said(message: Message, field: str) -> str | list[dict[str, Any]]:
    parts = () if isinstance(message.content, str) else message.content
    if not all(isinstance(part, TextPart) for part in parts):
        raise InvalidRequestError(
            f"{field} is an assistant's and holds more than text, which the Responses API takes from users alone",
            field=f"{field}.content",
        )
    if message.refusal is None and not parts:
        return message.text
    texts = [part.text for part in parts if isinstance(part, TextPart)] or [message.text]
    said: list[dict[str, Any]] = [{"type": "output_text", "text": text} for text in texts if text]
    if message.refusal is not None:
        said.append({"type": "refusal", "refusal": message.refusal})
    return said


def _call(call: ToolCall) -> dict[str, Any]:
    return {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": call.arguments}


def _content(message: Message) -> str | list[dict[str, Any]]:
    if isinstance(message.content, str):
        return message.content
    return [_part(part) for part in message.content]


def _part(part: ContentPart) -> dict[str, Any]:
    match part:
        case TextPart(text=text):
            return {"type": "input_text", "text": text}
        case ImagePart(detail=detail):
            # The one field of a part that must be said, though `auto` is what it is taken to be.
            detail = detail if isinstance(detail, str) else "auto"
            return {"type": "input_image", "image_url": part.as_url, "detail": detail}
        case FilePart(file_id=str(file_id)):
            return {"type": "input_file", "file_id": file_id}
        case FilePart(filename=filename):
            return only_set(type="input_file", file_data=part.as_url, filename=filename)
        case _:
            raise UnsupportedError("the Responses API takes no audio parts", field="audio parts")


def _tool(tool: Tool) -> dict[str, Any]:
    return only_set(
        type="function",
        name=tool.name,
        description=tool.description,
        parameters=tool.parameters,
        strict=tool.strict,
    )


def _format(constraint: JsonSchema) -> dict[str, Any]:
    return only_set(type="json_schema", name=constraint.name, schema=constraint.schema, strict=constraint.strict)
