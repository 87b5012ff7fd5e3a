"""Replies of Anthropic's Messages API to events: the wire structs, and what their words mean.

Source: https://platform.claude.com/docs/en/api/messages. Blocks of a type that is not known here are passed over, as
the API's rules for versions ask; a block that is known and cannot be read is an error.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw, Struct

from asyncllm.dialect.lenient import decode
from asyncllm.errors import APIStatusError, ResponseValidationError
from asyncllm.events import (
    Event,
    Finished,
    ReasoningBlockDelta,
    ReasoningDelta,
    RefusalDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    UsageReport,
)
from asyncllm.rejection import broken_off, embedded_error
from asyncllm.types import FinishReason, ModelInfo, ReasoningBlock, Usage
from asyncllm_anthropic.requests import DIALECT

__all__ = [
    "Tally",
    "WireBlock",
    "WireMessage",
    "WireStop",
    "WireUsage",
    "arguments",
    "document",
    "ended",
    "failed",
    "read_count",
    "read_message",
    "read_models",
    "sealed",
]

_STOP: dict[str, FinishReason] = {
    "end_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
}
# `pause_turn`, by which a long turn of the service's own tools is handed back unfinished, is none of ours: the reason
# stays unknown, and the word itself is kept.

_BODY_LIMIT = 65536


# Structs that live for one event and hold no cycles: nothing for the collector to track (`gc=False`).


class WireOutputDetails(Struct, gc=False):
    thinking_tokens: int | None = None


class WireUsage(Struct, gc=False):
    """Of the input, `input_tokens` are those that were neither read from a cache nor written to one."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    output_tokens_details: WireOutputDetails | None = None


class WireStopDetails(Struct, gc=False):
    explanation: str | None = None


class WireStop(Struct, gc=False):
    """Why an answer ended."""

    stop_reason: str | None = None
    stop_sequence: str | None = None
    stop_details: WireStopDetails | None = None


class WireBlock(Struct, gc=False):
    """A block of content of any type."""

    type: str
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: Raw = Raw()


class WireMessage(WireStop, gc=False):
    """A whole reply, or the beginning of a streamed one."""

    id: str | None = None
    type: str | None = None
    model: str | None = None
    content: list[WireBlock] | None = None
    usage: WireUsage | None = None


class _WireModel(Struct):
    id: str
    owned_by: str | None = None
    max_input_tokens: int | None = None


class WireModels(Struct):
    """A page of the list of models."""

    data: list[_WireModel]
    has_more: bool = False
    last_id: str | None = None


class _WireCount(Struct):
    input_tokens: int


_message = msgspec.json.Decoder(WireMessage)
_models = msgspec.json.Decoder(WireModels)
_count = msgspec.json.Decoder(_WireCount)

document = msgspec.json.Decoder(dict[str, Any])
"""Reads a reply or an event once more, for what is to be sent back as it came."""


def read_message(
    body: bytes, *, request_id: str | None = None, sent: bytes = b"", secrets: tuple[str, ...] = ()
) -> list[Event]:
    """Events of a whole reply, `request_id` being what its headers call it.

    Raises `APIStatusError` for an error in a reply of status 200, `ResponseValidationError` for one that cannot be
    read. `sent` is the request's body and `secrets` are its keys, which no error text may repeat.
    """
    reply = decode(body, _message, "a reply")
    if reply.content is None:
        if reply.type == "error" or embedded_error(body) is not None:
            raise failed(body, request_id=request_id, sent=sent, secrets=secrets)
        raise ResponseValidationError("the reply has no `content`", body=body[:_BODY_LIMIT])
    events: list[Event] = [Started(reply.model, request_id or reply.id, body)]
    calls = 0
    for place, block in enumerate(reply.content):
        if block.type == "tool_use":
            events.append(ToolCallDelta(calls, block.id, block.name, arguments(block)))
            calls += 1
        elif block.type in ("text", "thinking", "redacted_thinking"):
            events += _said(block, body, place)
    if reply.usage is not None:
        events.append(UsageReport(Tally().add(reply.usage)))
    return events + ended(reply)


def failed(
    document: bytes, *, request_id: str | None, sent: bytes = b"", secrets: tuple[str, ...] = ()
) -> APIStatusError:
    """The error that a document inside a reply of status 200 means, with the id of the reply's headers or its own."""
    error = broken_off(document, sent=sent, secrets=secrets)
    error.request_id = request_id or error.request_id
    return error


def arguments(block: WireBlock, *, is_new: bool = True) -> str:
    """Arguments of a call. Raises `ResponseValidationError` where they are no object, or a new call has no name."""
    if not bytes(block.input).startswith(b"{") or (is_new and not block.name):
        raise ResponseValidationError("a call of a tool has no name or no `input`")
    return bytes(block.input).decode()


def _said(block: WireBlock, body: bytes, place: int) -> list[Event]:
    if block.type == "text":
        if block.text is None:
            raise ResponseValidationError("a block of text has no `text`", body=body[:_BODY_LIMIT])
        return [TextDelta(block.text)] if block.text else []
    data = decode(body, document, "a reply")["content"][place]
    thought = [ReasoningDelta(block.thinking)] if block.thinking else []
    return [*thought, sealed(data)]


def sealed(data: dict[str, Any]) -> Event:
    """A block of thinking to be sent back as it is. Raises `ResponseValidationError` for one that lacks its content."""
    name = "thinking" if data.get("type") == "thinking" else "data"
    if not isinstance(data.get(name), str):
        raise ResponseValidationError(f"a block of thinking has no `{name}`")
    return ReasoningBlockDelta(ReasoningBlock(DIALECT, data))


def ended(stop: WireStop) -> list[Event]:
    """The terminal event; before it, what the service says of a refusal."""
    word, details = stop.stop_reason, stop.stop_details
    events: list[Event] = []
    if word == "refusal" and details is not None and details.explanation:
        events.append(RefusalDelta(details.explanation))
    return [*events, Finished(_STOP.get(word or ""), word or None, stop=stop.stop_sequence)]


class Tally:
    """The counts of one reply, which come in parts: the input's at its beginning and the output's at its end."""

    def __init__(self) -> None:
        self._known = WireUsage()

    def add(self, told: WireUsage) -> Usage:
        """What is known with `told`, which says in total and not in addition."""
        known = self._known
        for name in told.__struct_fields__:
            value = getattr(told, name)
            if value is not None:
                setattr(known, name, value)
        read, written = known.cache_read_input_tokens, known.cache_creation_input_tokens
        fresh, details = known.input_tokens, known.output_tokens_details
        return Usage(
            input_tokens=None if fresh is None else fresh + (read or 0) + (written or 0),
            output_tokens=known.output_tokens,
            cached_tokens=read,
            cache_write_tokens=written,
            reasoning_tokens=None if details is None else details.thinking_tokens,
        )


def read_models(body: bytes) -> tuple[list[ModelInfo], str | None]:
    """A page of the list of models, and after which model the next page begins, if there is one."""
    page = decode(body, _models, "a list of models")
    models = [
        ModelInfo(id=model.id, owned_by=model.owned_by, context_tokens=model.max_input_tokens) for model in page.data
    ]
    return models, page.last_id if page.has_more else None


def read_count(body: bytes) -> int:
    """Tokens of a prompt."""
    return decode(body, _count, "a count of tokens").input_tokens
