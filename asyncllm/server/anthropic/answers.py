"""Nouns to Anthropic's replies and streams.

Source: https://platform.claude.com/docs/en/api/messages/create, and its page on streaming.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import msgspec

from asyncllm.collect import merged_usage
from asyncllm.dialect.faults import status_of, write_error
from asyncllm.dialect.pieces import safe
from asyncllm.errors import AsyncLLMError, InvalidRequestError
from asyncllm.events import (
    Event,
    Finished,
    ReasoningBlockDelta,
    ReasoningDelta,
    RefusalDelta,
    TextDelta,
    ToolCallDelta,
    UsageReport,
)
from asyncllm.types import FinishReason, Response, Usage

__all__ = ["EventWriter", "write_fault", "write_message"]

_DIALECT = "anthropic"
_REASONS: dict[FinishReason | None, str] = {
    "stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal", None: "end_turn",
}  # fmt: skip
_TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 402: "billing_error", 403: "permission_error",
    404: "not_found_error", 408: "timeout_error", 413: "request_too_large", 422: "invalid_request_error",
    429: "rate_limit_error", 503: "overloaded_error", 504: "timeout_error", 529: "overloaded_error",
}  # fmt: skip
_encode = msgspec.json.Encoder().encode


def write_message(response: Response, *, id_: str, model: str) -> dict[str, Any]:
    """The body that answers a request, with its first choice: this API has no other."""
    choice = response.choices[0]
    message = choice.message
    content: list[dict[str, Any]] = [block.data for block in message.reasoning_blocks if block.dialect == _DIALECT]
    if message.reasoning and not content:
        content.append({"type": "thinking", "thinking": message.reasoning, "signature": ""})
    text = message.text or message.refusal or ""
    if text or not message.tool_calls:
        content.append({"type": "text", "text": text})
    content += [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": _arguments(call.arguments)}
        for call in message.tool_calls
    ]
    reason = "refusal" if message.refusal else _stop_reason(choice.finish_reason, choice.finish_reason_raw, choice.stop)
    return {
        **_head(id_, model),
        "content": content,
        "stop_reason": "tool_use" if message.tool_calls and reason == "end_turn" else reason,
        "stop_sequence": choice.stop,
        "usage": _usage(response.usage),
    }


def write_fault(error: AsyncLLMError, request_id: str) -> dict[str, Any]:
    """The body of an error reply, and the data of an `error` event."""
    told = write_error(error)["error"]
    field = f" ({told['param']})" if told["param"] and isinstance(error, InvalidRequestError) else ""
    kind = _TYPES.get(status_of(error), "api_error")
    return {"type": "error", "error": {"type": kind, "message": f"{told['message']}{field}"}, "request_id": request_id}


class EventWriter:
    """Writes the events of one answer by their names, framed as server-sent events."""

    def __init__(self, *, id_: str, model: str, request_id: str) -> None:
        self._message = _head(id_, model)
        self._request_id = request_id
        self._usage = Usage()
        self._has_begun = False
        self._open: str | None = None  # the kind of the block that is being written
        self._index = -1
        self._call: str | int | None = None
        self._reason: str | None = None
        self._stop: str | None = None

    def write(self, events: Sequence[Event]) -> bytes:
        """The events of this API that `events` come to; other choices than the first have no place in it."""
        written: list[bytes] = []
        for event in events:
            if getattr(event, "index", 0) == 0:
                self._one(event, written)
        return b"".join(written)

    def end(self) -> bytes:
        """What comes after the last event."""
        written: list[bytes] = []
        self._begin(written)
        self._close(written)
        reason = self._reason or "end_turn"
        usage = _usage(self._usage)
        written += [
            _event("message_delta", delta={"stop_reason": reason, "stop_sequence": self._stop}, usage=usage),
            _event("message_stop"),
        ]
        return b"".join(written)

    def fail(self, error: AsyncLLMError) -> bytes:
        """What comes in place of the rest."""
        return b"event: error\ndata: %b\n\n" % safe(_encode(write_fault(error, self._request_id)))

    def keep_alive(self) -> bytes:
        """What this API has for a silence."""
        return _event("ping")

    def _one(self, event: Event, written: list[bytes]) -> None:
        match event:
            case TextDelta() | RefusalDelta():
                if isinstance(event, RefusalDelta):
                    self._reason = "refusal"
                self._delta("text", {"text": ""}, {"type": "text_delta", "text": event.text}, written)
            case ReasoningDelta():
                delta = {"type": "thinking_delta", "thinking": event.text}
                self._delta("thinking", {"thinking": "", "signature": ""}, delta, written)
            case ReasoningBlockDelta():
                self._block(event, written)
            case ToolCallDelta():
                self._tool(event, written)
            case UsageReport():
                self._usage = merged_usage(self._usage, event.usage)
            case Finished():
                reason = _stop_reason(event.reason, event.raw_reason, event.stop)
                used = self._call is not None and reason == "end_turn"
                self._reason = self._reason or ("tool_use" if used else reason)
                self._stop = event.stop
            case _:
                pass  # who answers, and probabilities, for which this API has no place

    def _block(self, event: ReasoningBlockDelta, written: list[bytes]) -> None:
        data = event.block.data
        if event.block.dialect != _DIALECT:
            return
        if data.get("type") == "redacted_thinking":
            self._start("redacted_thinking", data, written)
            self._close(written)
        elif self._open == "thinking" and data.get("signature"):
            delta = {"type": "signature_delta", "signature": data["signature"]}
            written.append(_event("content_block_delta", index=self._index, delta=delta))
            self._close(written)

    def _tool(self, event: ToolCallDelta, written: list[bytes]) -> None:
        key = event.id if event.position is None else event.position
        if self._open != "tool_use" or (key is not None and key != self._call):
            self._call = key if key is not None else self._index + 1
            head: dict[str, Any] = {"type": "tool_use", "id": event.id or "", "name": event.name or "", "input": {}}
            self._start("tool_use", head, written)
        if event.arguments:
            delta = {"type": "input_json_delta", "partial_json": event.arguments}
            written.append(_event("content_block_delta", index=self._index, delta=delta))

    def _delta(self, kind: str, empty: dict[str, Any], delta: dict[str, Any], written: list[bytes]) -> None:
        if self._open != kind:
            self._start(kind, {"type": kind, **empty}, written)
        written.append(_event("content_block_delta", index=self._index, delta=delta))

    def _start(self, kind: str, block: dict[str, Any], written: list[bytes]) -> None:
        self._begin(written)
        self._close(written)
        self._index += 1
        self._open = kind
        written.append(_event("content_block_start", index=self._index, content_block=block))

    def _begin(self, written: list[bytes]) -> None:
        if self._has_begun:
            return
        self._has_begun = True
        message: dict[str, Any] = {**self._message, "content": [], "stop_reason": None, "stop_sequence": None}
        written.append(_event("message_start", message={**message, "usage": _usage(self._usage)}))

    def _close(self, written: list[bytes]) -> None:
        if self._open is not None:
            self._open = None
            written.append(_event("content_block_stop", index=self._index))


def _event(name: str, **data: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), safe(_encode({"type": name, **data})))


def _head(id_: str, model: str) -> dict[str, Any]:
    return {"id": id_, "type": "message", "role": "assistant", "model": model}


def _stop_reason(reason: FinishReason | None, raw: str | None, stop: str | None) -> str:
    if reason == "stop" and (stop is not None or raw == "stop_sequence"):
        return "stop_sequence"
    return _REASONS.get(reason, "end_turn")


def _usage(usage: Usage) -> dict[str, Any]:
    """Its two counts always, as its readers take them for granted; one that nobody knows is zero."""
    wire = {"input_tokens": usage.input_tokens or 0, "output_tokens": usage.output_tokens or 0}
    if usage.cached_tokens:
        wire |= {"cache_read_input_tokens": usage.cached_tokens}
        wire["input_tokens"] = max(0, wire["input_tokens"] - usage.cached_tokens)
    return wire


def _arguments(text: str) -> Any:
    """What a model wrote as the arguments of a call; this API takes an object, and a text that is none in one."""
    try:
        found: Any = msgspec.json.decode(text) if text.strip() else {}
    except msgspec.DecodeError:
        return {"_arguments": text}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {"_arguments": found}
