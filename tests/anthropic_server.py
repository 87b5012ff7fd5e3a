"""Anthropic's Messages API and Amazon Bedrock's framing of it, as their services speak: for tests to listen to.

`repeat` is a model that says what it was told, for a `FaultyServer`; the dialects are what the conformance suite puts
into a service's mouth; and the functions above them write single events and replies.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from binascii import crc32
from collections.abc import Mapping, Sequence
from struct import pack
from typing import Any

import msgspec

from asyncllm.testing import Chunk, Op, SeenRequest, Status
from asyncllm.testing.ops import Named
from asyncllm.testing.wire import sse_event
from asyncllm.types import ToolCall, Usage

REQUEST_ID = "req_0123"
MODEL = "claude-fake"
MESSAGE_ID = "msg_0123"
FRAMED = "application/vnd.amazon.eventstream"

# -- events and replies -------------------------------------------------------------------------------------------


def event(kind: str, **fields: Any) -> dict[str, Any]:
    """One event of a stream."""
    return {"type": kind, **fields}


def start(**fields: Any) -> dict[str, Any]:
    """The event that begins a message."""
    message: dict[str, Any] = {
        "id": MESSAGE_ID, "type": "message", "role": "assistant", "model": MODEL, "content": [], "stop_reason": None,
        "stop_sequence": None,
    }  # fmt: skip
    return event("message_start", message={**message, **fields})


def block(index: int, first: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
    """A block of content from its beginning to its end."""
    return [
        event("content_block_start", index=index, content_block=first),
        *(event("content_block_delta", index=index, delta=delta) for delta in deltas),
        event("content_block_stop", index=index),
    ]


def text(index: int, *pieces: str) -> list[dict[str, Any]]:
    """A block of text."""
    return block(index, {"type": "text", "text": ""}, *({"type": "text_delta", "text": piece} for piece in pieces))


def call(index: int, call_id: str, name: str, *pieces: str) -> list[dict[str, Any]]:
    """A block with a call of a tool."""
    first = {"type": "tool_use", "id": call_id, "name": name, "input": {}}
    return block(index, first, *({"type": "input_json_delta", "partial_json": piece} for piece in pieces))


def thinking(index: int, signature: str, *pieces: str) -> list[dict[str, Any]]:
    """A block of thinking, signed."""
    first = {"type": "thinking", "thinking": "", "signature": ""}
    deltas = [{"type": "thinking_delta", "thinking": piece} for piece in pieces]
    return block(index, first, *deltas, {"type": "signature_delta", "signature": signature})


def stop(reason: str | None = "end_turn", usage: dict[str, Any] | None = None, **fields: Any) -> list[dict[str, Any]]:
    """The end of a message."""
    delta = {"stop_reason": reason, "stop_sequence": None, **fields}
    return [event("message_delta", delta=delta, usage=usage or {"output_tokens": 1}), event("message_stop")]


def sse(*events: dict[str, Any]) -> bytes:
    """Events by name, as the service sends them."""
    return b"".join(sse_event(Named(one["type"], msgspec.json.encode(one))) for one in events)


def streamed(body: bytes, kind: str = "text/event-stream", headers: Mapping[str, str] = {}) -> list[Op]:
    """A reply with `body` as a stream."""
    told = {"Content-Type": kind, "Transfer-Encoding": "chunked", "request-id": REQUEST_ID, **headers}
    return [Status(200, told, None), *([Chunk(body)] if body else []), Chunk()]


def message(*content: dict[str, Any], reason: str | None = "end_turn", **fields: Any) -> dict[str, Any]:
    """A whole reply."""
    head = {"id": MESSAGE_ID, "type": "message", "role": "assistant", "model": MODEL, "content": list(content)}
    return {**head, "stop_reason": reason, "stop_sequence": None, **fields}


def whole(document: object, status: int = 200, headers: Mapping[str, str] = {}) -> list[Op]:
    """A reply with `document` as its body."""
    return [Status(status, {"request-id": REQUEST_ID, **headers}, msgspec.json.encode(document))]


def error(kind: str, told: str = "no") -> dict[str, Any]:
    """An error, by status or in a stream."""
    return event("error", error={"type": kind, "message": told}, request_id=REQUEST_ID)


# -- Amazon's frames ----------------------------------------------------------------------------------------------


def frame(headers: dict[str, str], payload: bytes) -> bytes:
    """One message of an event stream: https://docs.aws.amazon.com/transcribe/latest/dg/event-stream.html."""
    head = b"".join(
        bytes([len(name.encode())]) + name.encode() + b"\x07" + pack(">H", len(value.encode())) + value.encode()
        for name, value in headers.items()
    )
    prelude = pack(">II", 16 + len(head) + len(payload), len(head))
    body = prelude + pack(">I", crc32(prelude)) + head + payload
    return body + pack(">I", crc32(body))


def chunk(document: dict[str, Any] | bytes) -> bytes:
    """A frame with an event of the Messages API, padded as the service pads it."""
    data = document if isinstance(document, bytes) else msgspec.json.encode(document)
    payload = msgspec.json.encode({"bytes": b64encode(data).decode(), "p": "abcdefgh"})
    return frame(
        {":event-type": "chunk", ":content-type": "application/json", ":message-type": "event"},
        payload,
    )


def exception(name: str, told: str = "no") -> bytes:
    """A frame with an exception."""
    headers = {":exception-type": name, ":content-type": "application/json", ":message-type": "exception"}
    return frame(headers, msgspec.json.encode({"message": told}))


def framed(*events: dict[str, Any]) -> bytes:
    """Events in frames."""
    return b"".join(map(chunk, events))


# -- a model that says what it was told ---------------------------------------------------------------------------


def repeat(request: SeenRequest) -> Sequence[Op]:
    """The service with such a model, by either address."""
    path = request.path.partition("?")[0]
    if path == "/v1/models":
        return whole({"data": [{"type": "model", "id": MODEL, "display_name": "Fake"}], "has_more": False})
    asked = request.json()
    if path.endswith("/count_tokens"):
        return whole({"input_tokens": len(said(asked).split())})
    if path.endswith("/count-tokens"):
        asked = msgspec.json.decode(b64decode(asked["input"]["invokeModel"]["body"]))
        return whole({"inputTokens": len(said(asked).split())})
    words, reason, usage = _answer(asked)
    if not asked.get("stream") and not path.endswith("-stream"):
        return whole(message({"type": "text", "text": " ".join(words)}, reason=reason, usage=usage))
    pieces = [word if place == 0 else f" {word}" for place, word in enumerate(words)]
    events = [start(usage={**usage, "output_tokens": 1}), *text(0, *pieces), *stop(reason, usage)]
    if path.endswith("-stream"):
        return streamed(framed(*events), FRAMED)
    return streamed(sse(*events))


def said(asked: dict[str, Any]) -> str:
    """The text of the last turn."""
    content = asked["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _answer(asked: dict[str, Any]) -> tuple[list[str], str, dict[str, Any]]:
    answer = '{"answer": true}' if "format" in asked.get("output_config", {}) else said(asked)
    for word in asked.get("stop_sequences", ()):
        answer = answer.partition(word)[0]
    words = answer.split(" ")
    limit = asked["max_tokens"]
    usage = {"input_tokens": len(words) + 1, "output_tokens": min(limit, len(words))}
    return words[:limit], "end_turn" if len(words) <= limit else "max_tokens", usage


# -- dialects -----------------------------------------------------------------------------------------------------


class AnthropicDialect:
    """The format of the Messages API."""

    prefix = ""
    content_type = "text/event-stream"
    model = MODEL
    request_id = MESSAGE_ID

    def start(self) -> bytes:
        """A message, and a block of text in it."""
        first = {"type": "text", "text": ""}
        return self._frames(start(), event("content_block_start", index=0, content_block=first))

    def text(self, text: str, index: int = 0) -> bytes:
        """A piece of that block."""
        return self._delta(0, {"type": "text_delta", "text": text})

    def call(
        self, position: int, *, call_id: str | None = None, name: str | None = None, arguments: str | None = None
    ) -> bytes:
        """A block that begins, where the call is named, and a piece of it."""
        frames = b""
        if name is not None or call_id is not None:
            first: dict[str, Any] = {"type": "tool_use", "id": call_id, "name": name, "input": {}}
            frames = self._frames(event("content_block_start", index=position + 1, content_block=first))
        if arguments is not None:
            frames += self._delta(position + 1, {"type": "input_json_delta", "partial_json": arguments})
        return frames

    def usage(self, usage: Usage) -> bytes:
        """Counts without a reason to stop."""
        return self._frames(event("message_delta", delta={}, usage=_counts(usage)))

    def finish(self, index: int = 0) -> bytes:
        """The end of the block of text, and the reason."""
        delta = {"stop_reason": "end_turn", "stop_sequence": None}
        return self._frames(event("content_block_stop", index=0), event("message_delta", delta=delta))

    def end(self) -> bytes:
        """The terminal event."""
        return self._frames(event("message_stop"))

    def error(self, message: str) -> bytes:
        """An error by its event."""
        return self._frames(error("api_error", message))

    def keep_alive(self) -> bytes:
        """A ping."""
        return self._frames(event("ping"))

    def reply(self, texts: Sequence[str], *, calls: Sequence[ToolCall] = (), usage: Usage | None = None) -> bytes:
        """A message; the arguments of calls stand in it as they are written."""
        uses = [
            {"type": "tool_use", "id": call.id, "name": call.name, "input": msgspec.Raw(call.arguments.encode())}
            for call in calls
        ]
        content = [{"type": "text", "text": text} for text in texts]
        told: dict[str, Any] = {} if usage is None else {"usage": _counts(usage)}
        return msgspec.json.encode(message(*content, *uses, **told))

    def _delta(self, index: int, delta: dict[str, Any]) -> bytes:
        return self._frames(event("content_block_delta", index=index, delta=delta))

    def _frames(self, *events: dict[str, Any]) -> bytes:
        return sse(*events)


class BedrockDialect(AnthropicDialect):
    """The same in Amazon's frames."""

    content_type = FRAMED

    def error(self, message: str) -> bytes:
        """An exception."""
        return exception("internalServerException", message)

    def _frames(self, *events: dict[str, Any]) -> bytes:
        return framed(*events)


def _counts(usage: Usage) -> dict[str, Any]:
    read, written = usage.cached_tokens, usage.cache_write_tokens
    counts: dict[str, Any] = {
        "input_tokens": None if usage.input_tokens is None else usage.input_tokens - (read or 0) - (written or 0),
        "output_tokens": usage.output_tokens,
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": written,
    }
    if usage.reasoning_tokens is not None:
        counts["output_tokens_details"] = {"thinking_tokens": usage.reasoning_tokens}
    return counts
