"""Bytes in, server-sent events out, by the WHATWG algorithm.

Source: HTML Living Standard, section 9.2.6 "Interpreting an event stream". Pure: no I/O, no clock, no asyncio.

A CR at the end of a chunk ends its line at once and a LF that opens the next chunk is swallowed: waiting for it
would hold back every event by one token. Lines are cut as bytes and decoded only where text is asked for, so a
comment is never decoded and the JSON of an event goes to its decoder as the bytes that came.

Deliberate deviations, each opt-in or limited to input that the standard discards:

1. `close()` accepts an unterminated last event when its data is exactly `[DONE]`: some servers end their stream
   without the final blank line, and losing the terminal event would turn a complete reply into a broken one.
2. `error_field=True` reads a field named `error`, which llama.cpp's server used for failures until late 2025, as
   an event of type `error`. The standard says to ignore unknown fields.
3. `max_event_bytes` bounds what one event may hold; the standard has no limit.
"""

from __future__ import annotations

from msgspec import Struct

from asyncllm.errors import EventTooLargeError

__all__ = ["SSEDecoder", "ServerSentEvent"]

_BOM = b"\xef\xbb\xbf"
_COLON = 0x3A
_PREFIX = len(b"data: ")  # what a line may hold beyond the data that the limit counts
_RETRY_DIGITS = 18  # far beyond any reconnection time, and no work to parse


class ServerSentEvent(Struct, frozen=True):
    """One dispatched event."""

    type: str
    """The `event` field, or `message` where the stream names none."""
    data: bytes
    """The data lines joined by LF, as the bytes that came: nothing was decoded or replaced."""
    id: str = ""
    """The last event id in force when the event was dispatched."""

    @property
    def text(self) -> str:
        """`data` as UTF-8, with U+FFFD for each maximal malformed part."""
        return self.data.decode("utf-8", "replace")

    def __repr__(self) -> str:
        return f"ServerSentEvent(type={self.type!r}, data=<{len(self.data)} bytes>, id={self.id!r})"


class SSEDecoder:
    """Decodes one event stream, fed in pieces of any size.

    `max_event_bytes` bounds one event, and one line, before it is stored; `None` lifts the limit.
    """

    def __init__(self, *, max_event_bytes: int | None = 16 * 2**20, error_field: bool = False) -> None:
        self.last_event_id = ""
        """What a reconnecting client sends as `Last-Event-ID`."""
        self.retry_ms: int | None = None
        """The reconnection time that the server asked for, in milliseconds."""
        self.cut_short = False
        """Whether `close` found the beginning of an event without its end, which it discarded."""
        self._limit = max_event_bytes
        self._error_field = error_field
        self._tail = bytearray()  # the start of a line that has no end yet
        self._skip_lf = False
        self._at_start = True  # a byte order mark may still come
        self._at_rest = False  # between two events, with nothing held over
        self._type = ""
        self._id = ""
        self._data: list[bytes] = []
        self._data_size = 0

    def feed(self, data: bytes) -> list[ServerSentEvent]:
        """Take the next bytes of the stream and return the events they complete, in order.

        Raises `EventTooLargeError`; the decoder is of no use after that.
        """
        if not data:
            return []
        if self._at_rest and data.startswith(b"data: ") and data.endswith(b"\n\n") and b"\r" not in data:
            # Nearly every read of a language model's stream is whole events of one line, `data: {...}`: cut at
            # what joins two of them, and count line ends to be sure that there is nothing else in between.
            parts = data[_PREFIX:-2].split(b"\n\ndata: ")
            if data.count(b"\n") == 2 * len(parts) and (self._limit is None or len(data) <= self._limit):
                self.last_event_id = last_id = self._id
                if len(parts) == 1:
                    return [ServerSentEvent("message", parts[0], last_id)]
                return [ServerSentEvent("message", part, last_id) for part in parts]
        events = self._feed(data)
        self._at_rest = not (self._at_start or self._skip_lf or self._tail or self._data or self._type)
        return events

    def _feed(self, data: bytes) -> list[ServerSentEvent]:
        if self._skip_lf:
            self._skip_lf = False
            if data[0] == 0x0A:
                data = data[1:]
        if b"\r" in data:
            self._skip_lf = data[-1] == 0x0D
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        end = data.rfind(b"\n") + 1
        if not end:
            self._keep(data)
            return []
        whole = data[:end]
        if self._tail:
            head = data.find(b"\n")
            self._keep(data[:head])
            self._tail += data[head:end]
            whole = bytes(self._tail)
            self._tail.clear()
        if self._at_start:
            self._at_start = False
            whole = whole.removeprefix(_BOM)
        if end < len(data):
            self._keep(data[end:])
        return self._lines(whole)

    def close(self) -> list[ServerSentEvent]:
        """End the stream: an unterminated event is discarded, except a bare `[DONE]` (deviation 1)."""
        tail = bytes(self._tail)
        self._tail.clear()
        if tail and not self._data and tail.startswith(b"data:"):
            self._line(tail)
            tail = b""
        if not tail and len(self._data) == 1 and self._data[0].strip() == b"[DONE]":
            return [self._dispatch()]
        self.cut_short = bool(self._data or self._type or tail.strip(b":"))
        return []

    def _lines(self, whole: bytes) -> list[ServerSentEvent]:
        """Events of `whole`, which is complete lines with LF endings."""
        events: list[ServerSentEvent] = []
        for line in whole.split(b"\n")[:-1]:
            if line:
                self._line(line)
            else:
                self._end_block(events)
        return events

    def _line(self, line: bytes) -> None:
        """Take one field or comment line, without its ending."""
        if line[0] == _COLON:  # a comment
            return
        self._check(len(line) - _PREFIX)
        name, colon, value = line.partition(b":")
        if colon and value[:1] == b" ":
            value = value[1:]
        if name == b"data":
            self._append(value)
        elif name == b"event":
            self._type = value.decode("utf-8", "replace")
        elif name == b"id":
            if b"\0" not in value:
                self._id = value.decode("utf-8", "replace")
        elif name == b"retry":
            # bytes.isdigit knows ASCII only, where str.isdigit and int() take digits of any script.
            if value.isdigit():
                self.retry_ms = int(value.lstrip(b"0")[:_RETRY_DIGITS] or b"0")
        elif name == b"error" and self._error_field:
            self._type = "error"
            self._append(value)

    def _end_block(self, events: list[ServerSentEvent]) -> None:
        """A blank line: dispatch what there is, or forget the type of an event without data."""
        self.last_event_id = self._id
        if self._data:
            events.append(self._dispatch())
        else:
            self._type = ""

    def _dispatch(self) -> ServerSentEvent:
        event = ServerSentEvent(self._type or "message", b"\n".join(self._data), self._id)
        self._type = ""
        self._data.clear()
        self._data_size = 0
        return event

    def _append(self, value: bytes) -> None:
        self._data_size += len(value) + 1
        self._check(self._data_size - 1)
        self._data.append(value)

    def _keep(self, piece: bytes) -> None:
        """Hold the start of a line until its end arrives; of a comment, only that it is one."""
        tail = self._tail
        self._check(len(tail) + len(piece) - _PREFIX - (len(_BOM) if self._at_start else 0))
        tail += piece
        if self._at_start and len(tail) >= len(_BOM):
            self._at_start = False
            if tail.startswith(_BOM):
                del tail[: len(_BOM)]
            self._check(len(tail) - _PREFIX)
        if tail.startswith(b":"):
            del tail[1:]

    def _check(self, size: int) -> None:
        if self._limit is not None and size > self._limit:
            raise EventTooLargeError(
                f"a server-sent event is larger than max_event_bytes={self._limit}; "
                "raise the limit if the server is right to send it"
            )
