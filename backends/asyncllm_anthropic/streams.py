"""Streamed replies of Anthropic's Messages API to events.

Source: https://platform.claude.com/docs/en/build-with-claude/streaming. `message_start`, then each block of content
from its `content_block_start` to its `content_block_stop`, then `message_delta` with the reason and the counts, and
`message_stop`, which is the terminal event. Types of events, of blocks and of deltas that are not known here are passed
over: the API may add some at any time.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from asyncllm.dialect.lenient import decode
from asyncllm.errors import APIStatusError, ResponseValidationError
from asyncllm.events import Event, ReasoningDelta, Started, TextDelta, ToolCallDelta, UsageReport
from asyncllm.exchange import EventDecoder
from asyncllm.rejection import embedded_error
from asyncllm.sse import ServerSentEvent
from asyncllm_anthropic.replies import (
    Tally,
    WireBlock,
    WireMessage,
    WireStop,
    WireUsage,
    arguments,
    document,
    ended,
    failed,
    sealed,
)

__all__ = ["MessageEvents", "MessageStream"]


class _WireDelta(WireStop, gc=False):
    """What a block gains, or how the message ends."""

    type: str | None = None
    text: str | None = None
    partial_json: str | None = None
    thinking: str | None = None
    signature: str | None = None


class _WireEvent(Struct, gc=False):
    type: str | None = None
    index: int = 0
    message: WireMessage | None = None
    content_block: WireBlock | None = None
    delta: _WireDelta | None = None
    usage: WireUsage | None = None


class _OpenBlock(Struct):
    """A block under way."""

    type: str
    position: int = 0
    """Of a call among the calls of the message."""
    input: str = "{}"
    """Of a call, as it stood at its beginning."""
    data: dict[str, Any] | None = None
    """Of thinking: the block as it is to be sent back."""
    has_pieces: bool = False


_PARTS = {"content_block_start", "content_block_delta", "content_block_stop", "message_delta", "message_stop"}

_BLOCK_OF = {
    "text_delta": "text", "thinking_delta": "thinking", "signature_delta": "thinking", "input_json_delta": "tool_use"
}  # fmt: skip
"""The type of block that a type of piece belongs to."""

_decoder = msgspec.json.Decoder(_WireEvent)


class MessageEvents:
    """The events of one message, by whichever framing they come."""

    def __init__(self, *, request_id: str | None, sent: bytes, secrets: tuple[str, ...]) -> None:
        self._request_id = request_id
        self._sent = sent
        self._secrets = secrets
        self._tally = Tally()
        self._blocks: dict[int, _OpenBlock] = {}
        self._calls = 0
        self._stop = WireStop()
        self._is_started = False

    def read(self, data: bytes, kind: str, events: list[Event]) -> bool:
        """Add what one event means, `kind` being its name in the framing. Returns whether it is the terminal one.

        Raises `APIStatusError` for an error, and `ResponseValidationError` for what cannot be read.
        """
        if kind == "error":
            raise self.failed(data)
        event = decode(data, _decoder, "an event")
        word = event.type or kind
        if word == "error" or (event.type is None and embedded_error(data) is not None):
            raise self.failed(data)
        if word == "message_start":
            self._start(event, events)
        elif word not in _PARTS:
            return False  # a ping, or something new
        elif not self._is_started:
            raise ResponseValidationError("a part of a message comes before its beginning")
        elif word == "content_block_delta":
            self._delta(event, events)
        elif word == "content_block_start":
            self._open(event, data, events)
        elif word == "content_block_stop":
            self._close(self._blocks.pop(event.index, None), events)
        elif word == "message_delta":
            self._stop = event.delta if event.delta is not None and event.delta.stop_reason else self._stop
            self._count(event.usage, events)
        else:
            for index in sorted(self._blocks):
                self._close(self._blocks[index], events)
            events += ended(self._stop)
            return True
        return False

    def failed(self, document: bytes) -> APIStatusError:
        """The error that `document` means, which came in place of an event."""
        return failed(document, request_id=self._request_id, sent=self._sent, secrets=self._secrets)

    def _start(self, event: _WireEvent, events: list[Event]) -> None:
        message = event.message
        if message is None:
            raise ResponseValidationError("the beginning of a message has no `message`")
        self._is_started = True
        events.append(Started(message.model, self._request_id or message.id))
        self._count(message.usage, events)

    def _count(self, usage: WireUsage | None, events: list[Event]) -> None:
        if usage is not None:
            events.append(UsageReport(self._tally.add(usage)))

    def _open(self, event: _WireEvent, data: bytes, events: list[Event]) -> None:
        wire = event.content_block
        if wire is None:
            raise ResponseValidationError("the beginning of a block has no `content_block`")
        block = self._blocks[event.index] = self._blocks.get(event.index) or _OpenBlock(wire.type, self._calls)
        if wire.type == "text":
            if wire.text:
                events.append(TextDelta(wire.text))
        elif wire.type in ("thinking", "redacted_thinking"):
            block.data = decode(data, document, "an event")["content_block"]
            if wire.thinking:
                events.append(ReasoningDelta(wire.thinking))
        elif wire.type == "tool_use":
            if bytes(wire.input) in (b"", b"null"):
                wire.input = msgspec.Raw(b"{}")
            # Some servers begin a call again with each piece of it, and name it once.
            block.input = arguments(wire, is_new=block.position == self._calls)
            self._calls = max(self._calls, block.position + 1)
            events.append(ToolCallDelta(block.position, wire.id, wire.name))

    def _delta(self, event: _WireEvent, events: list[Event]) -> None:
        delta, block = event.delta, self._blocks.get(event.index)
        if delta is None or delta.type is None or block is None:
            raise ResponseValidationError("a piece of content belongs to no block, or says not what it is")
        kind = delta.type
        if _BLOCK_OF.get(kind) != block.type:
            if kind in _BLOCK_OF and block.type in _BLOCK_OF.values():
                raise ResponseValidationError(f"a {kind} belongs to no block of {block.type}")
            return  # a citation, or something new
        if kind == "text_delta":
            _add(TextDelta(_told(delta.text, kind)), events)
        elif kind == "thinking_delta":
            _add(ReasoningDelta(_told(delta.thinking, kind)), events)
            _extend(block, "thinking", delta.thinking)
        elif kind == "signature_delta":
            _extend(block, "signature", _told(delta.signature, kind))
        elif piece := _told(delta.partial_json, kind):
            block.has_pieces = True
            events.append(ToolCallDelta(block.position, arguments=piece))

    def _close(self, block: _OpenBlock | None, events: list[Event]) -> None:
        """What is known of a block at its end alone."""
        if block is None:
            return
        if block.data is not None:
            events.append(sealed(block.data))
        elif block.type == "tool_use" and not block.has_pieces:
            # A call without arguments has no pieces, and some servers send the whole of them with its beginning.
            block.has_pieces = True
            events.append(ToolCallDelta(block.position, arguments=block.input))


def _told(text: str | None, kind: str) -> str:
    if text is None:
        raise ResponseValidationError(f"a {kind} lacks its content")
    return text


def _add(event: TextDelta | ReasoningDelta, events: list[Event]) -> None:
    if event.text:
        events.append(event)


def _extend(block: _OpenBlock, name: str, piece: str | None) -> None:
    """Add `piece` to a field of a block that is to be sent back."""
    if block.data is not None:
        block.data[name] = f"{block.data.get(name) or ''}{piece}"


class MessageStream(EventDecoder):
    """A message as server-sent events."""

    def __init__(self, *, request_id: str | None, sent: bytes, secrets: tuple[str, ...]) -> None:
        super().__init__()
        self._message = MessageEvents(request_id=request_id, sent=sent, secrets=secrets)

    def read(self, event: ServerSentEvent, events: list[Event], /) -> None:
        """See `EventDecoder`."""
        if event.type != "ping" and event.data.strip():
            self.done = self._message.read(event.data, event.type, events)
