"""Amazon's binary framing of a stream, and the events of a message inside of it.

A frame is its length and that of its headers, a checksum of both, the headers, the payload, and a checksum of it all.
The payload of a `chunk` is JSON with an event of the Messages API in base64; a frame whose message type is `exception`
or `error` ends the stream.

Sources: https://docs.aws.amazon.com/transcribe/latest/dg/event-stream.html for the frames, and
https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ResponseStream.html for what they hold. There is a
decoder in botocore, which is for synchronous streams; this one needs nothing, as does a call by a bearer token.
"""

from __future__ import annotations

from binascii import crc32
from struct import Struct as Layout
from typing import cast

import msgspec
from msgspec import Struct

from asyncllm.dialect.lenient import decode
from asyncllm.errors import AsyncLLMError, EventTooLargeError, ProtocolError, StreamInterrupted
from asyncllm.events import Event
from asyncllm_anthropic.streams import MessageEvents

__all__ = ["EVENT_STREAM", "Frame", "FrameDecoder", "FramedMessage"]

EVENT_STREAM = "application/vnd.amazon.eventstream"

_PRELUDE = Layout(">III")
_CHECKSUM = Layout(">I")
_LENGTH = Layout(">H")
_LEAST_BYTES = _PRELUDE.size + _CHECKSUM.size
_MOST_BYTES = 24 * 2**20  # by the format's own limits
_BYTES, _TEXT = 6, 7
_SIZES = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
"""Bytes of a header's value by its type: true, false, integers, a time, a UUID. The other types tell their length."""

_STATUS = {
    "InternalServerException": 500,
    "ModelStreamErrorException": 424,
    "ModelTimeoutException": 408,
    "ServiceUnavailableException": 503,
    "ThrottlingException": 429,
    "ValidationException": 400,
}


class Frame(Struct, frozen=True):
    """One message of a stream."""

    headers: dict[str, str]
    """Those that are text, which all are that say something here."""
    payload: bytes


class _Chunk(Struct):
    data: bytes = msgspec.field(name="bytes")  # which msgspec reads from base64


class _Reason(Struct):
    message: str = ""


_chunk = msgspec.json.Decoder(_Chunk)
_reason = msgspec.json.Decoder(_Reason)


class FrameDecoder:
    """Bytes in, by `push`; frames out, by `pop`."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def is_empty(self) -> bool:
        """Whether no part of a frame is held."""
        return not self._buffer

    def push(self, data: bytes) -> None:
        """Take the next bytes of the body."""
        self._buffer += data

    def pop(self) -> Frame | None:
        """The next frame, or `None` where more bytes are needed.

        Raises `ProtocolError` for bytes that are no frame, `EventTooLargeError` for a frame over the format's limit.
        """
        buffer = self._buffer
        if len(buffer) < _PRELUDE.size:
            return None
        size, headers_size, checksum = _PRELUDE.unpack_from(buffer)
        if crc32(buffer[: _PRELUDE.size - _CHECKSUM.size]) != checksum:
            raise _garbled("its checksum is wrong")
        if size > _MOST_BYTES:
            raise EventTooLargeError(f"a frame of {size} bytes is larger than the {_MOST_BYTES} of the format")
        if size < _LEAST_BYTES + headers_size:
            raise _garbled("its lengths contradict each other")
        if len(buffer) < size:
            return None
        frame = bytes(buffer[:size])
        del buffer[:size]
        end = size - _CHECKSUM.size
        if crc32(frame[:end]) != _CHECKSUM.unpack_from(frame, end)[0]:
            raise _garbled("its checksum is wrong")
        body = _PRELUDE.size + headers_size
        return Frame(_headers(frame[_PRELUDE.size : body]), frame[body:end])


def _headers(data: bytes) -> dict[str, str]:
    headers: dict[str, str] = {}
    place = 0
    try:
        while place < len(data):
            name_end = place + 1 + data[place]
            name, kind = data[place + 1 : name_end].decode(), data[name_end]
            place = name_end + 1
            if kind in _SIZES:
                place += _SIZES[kind]
                continue
            if kind not in (_BYTES, _TEXT):
                raise _garbled("a header is of no known type")
            start = place + _LENGTH.size
            place = start + cast("int", _LENGTH.unpack_from(data, place)[0])
            if kind == _TEXT:
                headers[name] = data[start:place].decode()
    except (IndexError, UnicodeDecodeError, ValueError) as error:
        raise _garbled("a header cannot be read") from error
    if place != len(data):
        raise _garbled("a header cannot be read")
    return headers


def _garbled(how: str) -> ProtocolError:
    return ProtocolError(f"a frame of the stream is damaged: {how}", maybe_billed=True)


class FramedMessage:
    """A message in frames: a `StreamDecoder`."""

    def __init__(self, *, request_id: str | None, sent: bytes, secrets: tuple[str, ...]) -> None:
        self.done = False
        self.error: AsyncLLMError | None = None
        self._frames = FrameDecoder()
        self._message = MessageEvents(request_id=request_id, sent=sent, secrets=secrets)
        self._position = 0

    def feed(self, data: bytes) -> list[Event]:
        """See `StreamDecoder`."""
        events: list[Event] = []
        self._frames.push(data)
        try:
            while not self.done and (frame := self._frames.pop()) is not None:
                self._read(frame, events)
                self._position += 1
        except AsyncLLMError as error:
            self.error = error
        return events

    def close(self) -> list[Event]:
        """See `StreamDecoder`: the end of the body is never the end of a message."""
        how = "without its terminal event" if self._frames.is_empty else "in the middle of an event"
        raise self._interrupted(how)

    def _read(self, frame: Frame, events: list[Event]) -> None:
        kind = frame.headers.get(":message-type")
        if kind == "event":
            if frame.headers.get(":event-type") == "chunk":
                data = decode(frame.payload, _chunk, "a chunk").data
                self.done = self._message.read(data, "", events)
            return
        name = frame.headers.get(":exception-type") or frame.headers.get(":error-code")
        if kind not in ("exception", "error") or not name:
            raise ProtocolError("a frame of the stream says neither what it is nor what is wrong", maybe_billed=True)
        name = name[:1].upper() + name[1:]
        message = frame.headers.get(":error-message") or _told(frame.payload)
        told = {"error": {"type": name, "message": message, "status_code": _STATUS.get(name, 500)}}
        raise self._message.failed(msgspec.json.encode(told))

    def _interrupted(self, how: str) -> StreamInterrupted:
        return StreamInterrupted(f"the stream ended after {self._position} events {how}", maybe_billed=True)


def _told(payload: bytes) -> str:
    try:
        return _reason.decode(payload).message
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
