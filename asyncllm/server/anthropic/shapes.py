"""What Anthropic's routes take and answer, as types: for the server's description, and read by nobody else."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import fields

from asyncllm.server.anthropic.served import MessagesWire
from asyncllm.types import Sampling

__all__ = ["Answer", "CountBody", "Counted", "Failure", "MessagesBody"]

_SAMPLING = {field.name: field.type for field in fields(Sampling)}


class _Bytes(Struct, tag_field="type", tag="base64"):
    data: str
    media_type: str


class _Address(Struct, tag_field="type", tag="url"):
    url: str


class _Words(Struct, tag_field="type", tag="text"):
    data: str


class _Text(Struct, tag_field="type", tag="text"):
    text: str


class _Image(Struct, tag_field="type", tag="image"):
    source: _Bytes | _Address


class _Document(Struct, tag_field="type", tag="document"):
    source: _Bytes | _Words
    title: Any = None


_Shown = _Text | _Image | _Document


class _ToolResult(Struct, tag_field="type", tag="tool_result"):
    tool_use_id: str
    content: str | list[_Shown] | None = None
    is_error: bool | None = None


class _ToolUse(Struct, tag_field="type", tag="tool_use"):
    id: str
    name: str
    input: Any = None


class _Thinking(Struct, tag_field="type", tag="thinking"):
    pass


class _Redacted(Struct, tag_field="type", tag="redacted_thinking"):
    pass


class _Turn(Struct):
    role: Literal["user", "assistant", "system"]
    content: str | list[_Text | _Image | _Document | _ToolResult | _ToolUse | _Thinking | _Redacted]


class _Thought(Struct):
    type: Literal["enabled", "adaptive", "disabled"]
    budget_tokens: Any = None
    """Where it is enabled: a number of tokens from 1 up, and below `max_tokens`."""


def _body(name: str, *, is_counted: bool) -> type[Struct]:
    own: dict[str, tuple[str, Any, Any]] = {
        field.name: (field.name, field.type, field.default) for field in fields(MessagesWire)
    }
    for one in ("temperature", "top_p", "top_k"):
        own[one] = (one, _SAMPLING[one] | None, None)
    limit = Annotated[int, Meta(ge=1)]
    own["max_tokens"] = ("max_tokens", limit, msgspec.UNSET) if is_counted else ("max_tokens", limit, msgspec.NODEFAULT)
    own["messages"] = ("messages", Annotated[list[_Turn], Meta(min_length=1)], msgspec.NODEFAULT)
    own["system"] = ("system", str | list[_Text] | None, None)
    own["thinking"] = ("thinking", _Thought | None, None)
    own["stop_sequences"] = ("stop_sequences", list[Annotated[str, Meta(min_length=1)]] | None, None)
    return msgspec.defstruct(name, list(own.values()), kw_only=True, module=__name__)


MessagesBody = _body("MessagesBody", is_counted=False)
CountBody = _body("CountBody", is_counted=True)


class _Tokens(Struct):
    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int = 0


class Answer(Struct):
    """An answer to a conversation."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, Any]]
    stop_reason: str | None
    stop_sequence: str | None
    usage: _Tokens


class Counted(Struct):
    """How long a conversation is."""

    input_tokens: int


class _Told(Struct):
    type: str
    message: str


class Failure(Struct):
    """What went wrong."""

    type: Literal["error"]
    error: _Told
    request_id: str
