"""What backends over HTTP share in reading such answers: a document, or a sound that is the whole body of a reply."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import msgspec

from asyncllm.backend import HttpCall, HttpReply, MediaEvents, Transport
from asyncllm.dialect.lenient import decode
from asyncllm.errors import AsyncLLMError, BodyTooLargeError, ProtocolError, ResponseValidationError
from asyncllm.events import Event, UsageReport
from asyncllm.exchange import Exchange, content_type, raise_embedded
from asyncllm.media import AudioChunk, MediaEvent, Speech
from asyncllm.rejection import embedded_error, excerpt
from asyncllm.types import Usage

__all__ = ["as_events", "decode_document", "open_sound", "read_file", "read_sound"]

T = TypeVar("T")

_BODY_BYTES = 65536
_FILE_BYTES = 2**30
_SOUNDS = frozenset({"", "application/octet-stream", "binary/octet-stream"})
"""What servers call a sound, beside `audio/*` and `video/*`."""


def decode_document(call: HttpCall, reply: HttpReply, body: bytes, kind: type[T], what: str) -> T:
    """The JSON body of a good reply as a `kind`, leniently where it departs from that.

    Raises what an error in it means, and `ResponseValidationError`.
    """
    try:
        return decode(body, msgspec.json.Decoder(kind), what)
    except ResponseValidationError as error:
        raise_embedded(call, body)
        error.status = reply.status
        raise


def read_sound(call: HttpCall, reply: HttpReply, body: bytes, *, usage: Usage, media_type: str | None = None) -> Speech:
    """The sound that a body is, of the type that the server names or else of `media_type`.

    Raises for a document or a page in its place, and for nothing at all.
    """
    kind = content_type(reply)
    if not _is_sound(kind):
        raise _no_sound(call, reply, body)
    if not body:
        raise ResponseValidationError("sound was asked for and the reply is empty", status=reply.status)
    if kind in _SOUNDS and body[:1] == b"{":
        raise_embedded(call, body)
    told = kind if kind not in _SOUNDS else media_type
    return Speech(
        data=body,
        media_type=told or "application/octet-stream",
        usage=usage,
        request_id=reply.headers.get("request-id") or reply.headers.get("x-request-id") or None,
    )


async def read_file(call: HttpCall, reply: HttpReply, what: str) -> tuple[bytes, str | None]:
    """The film or recording that a body is, and its type where the server names one; `what` tells it in errors.

    A gigabyte at the most: other bodies that are read whole are none so large. Raises as `read_sound`.
    """
    kind = content_type(reply)
    if not _is_sound(kind):
        raise _no_sound(call, reply, await reply.read(), what)
    pieces: list[bytes] = []
    size = 0
    while data := await reply.receive():
        pieces.append(data)
        size += len(data)
        if size > _FILE_BYTES:
            raise BodyTooLargeError(f"{what} was asked for and is larger than {_FILE_BYTES} bytes", status=reply.status)
    body = b"".join(pieces)
    if not body:
        raise ResponseValidationError(f"{what} was asked for and the reply is empty", status=reply.status)
    if kind in _SOUNDS and body[:1] == b"{":
        raise_embedded(call, body)
    return body, None if kind in _SOUNDS else kind


def open_sound(transport: Transport, call: HttpCall, *, usage: Usage, media_type: str | None = None) -> MediaEvents:
    """The same as it comes; `usage` is what it will have consumed at its end."""

    def decoder(call: HttpCall, _: HttpReply, kind: str) -> _Sound | None:
        if kind in _SOUNDS:
            return _Unnamed(media_type, usage, lambda document: raise_embedded(call, document))
        return _Sound(kind, usage) if _is_sound(kind) else None

    def whole(call: HttpCall, reply: HttpReply, body: bytes) -> list[Event]:
        raise _no_sound(call, reply, body)

    return cast("MediaEvents", Exchange(transport, call, whole=whole, stream=decoder))


def as_events(*events: MediaEvent) -> list[Event]:
    """What a decoder of such a stream gives its `Exchange`, which passes events on and looks at none."""
    return cast("list[Event]", list(events))


class _Sound:
    """A `StreamDecoder` for a body that is the sound itself: its end is that of the body."""

    def __init__(self, media_type: str | None, usage: Usage) -> None:
        self.done = False
        self.error: AsyncLLMError | None = None
        self._media_type = media_type
        self._usage = usage

    def feed(self, data: bytes) -> list[Event]:
        """The bytes as they are."""
        return as_events(AudioChunk(data) if self._media_type is None else AudioChunk(data, self._media_type))

    def close(self) -> list[Event]:
        """What has been consumed."""
        return [UsageReport(self._usage)]


class _Unnamed(_Sound):
    """One of no certain type: what begins as a document is held back until it is too long for an error."""

    def __init__(self, media_type: str | None, usage: Usage, check: Callable[[bytes], None]) -> None:
        super().__init__(media_type, usage)
        self._check = check
        self._held: bytes | None = b""

    def feed(self, data: bytes) -> list[Event]:
        """The bytes as they are, once they can be no document."""
        if self._held is None:
            return super().feed(data)
        held = self._held = self._held + data
        if held[:1] == b"{" and len(held) <= _BODY_BYTES:
            return []
        self._held = None
        return super().feed(held)

    def close(self) -> list[Event]:
        """What was held back, and what has been consumed. Raises the error that a document is."""
        if not self._held:
            return super().close()
        self._check(self._held)
        return [*super().feed(self._held), *super().close()]


def _is_sound(kind: str) -> bool:
    return kind.startswith(("audio/", "video/")) or kind in _SOUNDS


def _no_sound(call: HttpCall, reply: HttpReply, body: bytes, what: str = "sound") -> AsyncLLMError:
    """The error for a document or a page in place of a sound."""
    error = embedded_error(body, sent=call.body, secrets=call.secrets)
    if error is not None:
        return error
    kind = content_type(reply)
    told = excerpt(body[:4096], sent=call.body, secrets=call.secrets) if kind.startswith("text/") else ""
    return ProtocolError(
        f"{what} was asked for and the server answers with {kind[:60]}{f' ({told[:200]})' if told else ''}: "
        "check base_url",
        status=reply.status,
        body=body[:_BODY_BYTES],
    )
