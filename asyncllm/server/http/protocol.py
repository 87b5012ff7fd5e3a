"""One connection: uvicorn's own protocol, kept from being held for nothing and from being read in two ways.

uvicorn has no deadline but the one between two requests, and holds what it is sent without a limit. Added here:

1. Deadlines for the head of a request, for its body by its rate, and for a reply by the rate at which it is taken.
2. Limits of the head, and of what a chunked body has beside its content. Trailers are dropped: uvicorn would add them
   to the headers of a request that has been judged by them already.
3. What one server reads as one request and another as two is refused, and its connection closed: a length together
   with chunks, chunks in HTTP/1.0, codings that are not known. The parser refuses the rest: see the tests.
4. Nobody is answered out of turn. uvicorn queues requests that come before their turn, and then neither sees the
   client of the first go, nor keeps what it says of the next from the middle of the first reply. Here the first reply
   is the last of its connection, and clients ask again, as they have to in any case.
5. A client that closes its side has gone, though it has not taken all that was written.
"""

from __future__ import annotations

import asyncio
import socket
from enum import Enum
from typing import Any, cast

import httptools
import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from asyncllm.dialect.faults import write_error
from asyncllm.errors import BadRequestError, OverloadedError
from asyncllm.server.http.connections import Gate
from asyncllm.watchdog import Waiter

__all__ = ["protocol_of"]

_GRACE_S = 20  # for a body to begin to come
_IDLE_S = 5  # for the rest of a body whose reply is out already, and for the next request
_LOOK_S = 30  # between two looks at whether a reply is taken
_STEP_S = 0.25  # deadlines are rounded up to this, so that those of thousands come together
_SEND_BUFFER = 64 * 2**10  # of the kernel, which doubles it
_HIGH, _LOW = 16 * 2**10, 4 * 2**10  # bytes written that the kernel has no room for: then writing waits
_FRAMING_BYTES = 64 * 2**10
_FRAMING_RATIO = 8  # a chunk of a single byte has five beside it
_LENGTH_DIGITS = 18


class _At(Enum):
    """How far the latest request has come."""

    HEAD = 1
    BODY = 2
    END = 3


class _RefusedError(Exception):
    """A request that is not read any further."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class _Timer(Waiter):
    """The one deadline that a connection has at a time."""

    __slots__ = ("_connection",)

    def __init__(self, connection: _Connection, gate: Gate) -> None:
        super().__init__(gate.dog)
        self._connection = connection

    def wait(self, due: float) -> None:
        """See `Waiter`."""
        super().wait(-(-due // _STEP_S) * _STEP_S)

    def expire(self) -> None:
        """See `Waiter`."""
        self._connection.expire()


class _Connection(HttpToolsProtocol):
    parser: httptools.HttpRequestParser  # which is there for as long as anything comes

    def __init__(self, gate: Gate, **given: Any) -> None:
        super().__init__(**given)
        self._gate = gate
        self._settings = gate.settings
        self._timer = _Timer(self, gate)
        self._at = _At.HEAD
        self._is_new = False  # the head that is being read began in the piece of bytes under way
        self._is_over = False  # nothing more is read
        self._refusal: _RefusedError | None = None
        self._head_bytes = 0
        self._body_bytes = 0
        self._framing_bytes = 0
        self._body_from_s = 0.0
        self._held: int | None = None  # bytes that waited to be taken at the last look
        self._was_taken = False  # some were, so that writing went on

    # -- the network -----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Somebody has connected."""
        known = cast("asyncio.Transport", transport)
        super().connection_made(known)
        known.set_write_buffer_limits(_HIGH, _LOW)
        sock = known.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        refused = self._gate.enter(self, self.client[0] if self.client is not None else None)
        if refused is None:
            self._timer.wait(self.loop.time() + self._settings.head_timeout_s)
        else:
            self._refuse(_RefusedError(503, refused))

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._timer.leave()
        self._gate.leave(self)
        super().connection_lost(exc)

    def eof_received(self) -> None:
        """The client has closed its side. An answer under way is for nobody; one that is written goes out."""
        if self._is_answering:
            self.transport.abort()
        else:
            self._timer.wait(self.loop.time() + _LOOK_S)

    def drop(self) -> None:
        """See `Guest`."""
        self._is_over = True
        self.transport.abort()

    def resume_writing(self) -> None:
        """The client takes what is written."""
        self._was_taken = True
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        if self._is_over:
            return
        self._unset_keepalive_if_required()
        at, body_bytes = self._at, self._body_bytes
        try:
            self._feed(data)
            if at is self._at is _At.BODY:
                self._check_framing(len(data) - (self._body_bytes - body_bytes))
            elif self._at is _At.HEAD and not self._is_new:
                self._count_head(len(data))
        except httptools.HttpParserError:
            self._fail(self._refusal or _RefusedError(400, "this is not HTTP as it has to be"))
        except _RefusedError as refused:
            self._fail(refused)
        else:
            self._set_deadline()
        self._is_new = False

    # -- the parser ------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A request begins."""
        if self._is_answering:
            raise self._refused(400, "a request before the reply to the last")
        self._at = _At.HEAD
        self._is_new = True
        self._head_bytes = self._body_bytes = self._framing_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A piece of the address has come."""
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header has come, or a trailer."""
        if self._at is not _At.HEAD:
            return
        self._count_head(len(name) + len(value))
        if len(self.headers) >= self._settings.max_headers:
            raise self._refused(431, f"a request has at most {self._settings.max_headers} headers")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head of a request is there."""
        if self._refusal is not None or self.parser.should_upgrade():
            return
        self._check_head()
        super().on_headers_complete()
        self._at = _At.BODY
        self._body_from_s = self.loop.time()

    def on_body(self, body: bytes) -> None:
        """A piece of a body has come."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is there."""
        if self._at is _At.HEAD:
            return  # see `_feed`
        self._at = _At.END
        self._gate.has_request(self)
        super().on_message_complete()
        if self.cycle.response_complete:
            self._gate.await_request(self)

    # -- the reply -------------------------------------------------------------------------------------------------

    def on_response_complete(self) -> None:
        """A reply has been written."""
        super().on_response_complete()
        if self._at is _At.END:
            self._gate.await_request(self)
        if self._at is _At.BODY:
            self._timer.wait(self.loop.time() + _IDLE_S)

    def expire(self) -> None:
        """The deadline has passed."""
        now = self.loop.time()
        if self.transport.is_closing() or (self._is_answering and self._at is _At.END):
            if self._is_stuck():
                self.drop()
            else:
                self._timer.wait(now + _LOOK_S)
        elif self._at is _At.HEAD and self.scope is not None:
            self._refuse(_RefusedError(408, "the head of the request did not arrive in time"))
        elif not self._is_answering:
            self._close()
        elif self.flow.read_paused:
            self._body_from_s = now  # nobody has looked at what came: that is not the client's doing
            self._timer.wait(now + _GRACE_S)
        else:
            self._refuse(_RefusedError(408, "the body of the request comes too slowly"))

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _feed(self, data: bytes) -> None:
        """Parse. A wish for another protocol is passed over: the parser would read no body after it."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            method = self.parser.get_method()
            if method == b"CONNECT":
                raise _RefusedError(400, "there are no tunnels here") from None
            kept = [one for one in self.headers if one[0] not in (b"connection", b"upgrade", b"http2-settings")]
            head = [method, b" ", self.url, b" HTTP/1.1\r\n"]
            for name, value in kept:
                head += [name, b": ", value, b"\r\n"]
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            self.parser.feed_data(b"".join([*head, b"\r\n"]))
            self._feed(data[upgrade.args[0] :])

    def _set_deadline(self) -> None:
        now = self.loop.time()
        if self._at is _At.HEAD:
            if self._is_new and self.cycle is not None:
                self._timer.wait(now + self._settings.head_timeout_s)
        elif self._is_answering:
            slow_s = self._body_bytes / self._settings.min_bytes_per_s
            self._timer.wait(self._body_from_s + _GRACE_S + slow_s if self._at is _At.BODY else now + _LOOK_S)
        elif self._at is _At.END:
            self._timer.wait(now + _IDLE_S)

    def _is_stuck(self) -> bool:
        """Whether too little of what is written has been taken since the last look."""
        held, self._held = self._held, self.transport.get_write_buffer_size()
        was_taken, self._was_taken = self._was_taken, False
        due = _LOOK_S * self._settings.min_bytes_per_s
        return self._held > 0 and not was_taken and held is not None and held - self._held < due

    def _check_head(self) -> None:
        if self.parser.get_http_version() not in ("1.0", "1.1"):
            raise self._refused(505, "this server speaks HTTP/1.1")
        told = {b"host": 0, b"content-length": 0, b"transfer-encoding": 0}
        for name, value in self.headers:
            if name in told:
                told[name] += 1
            if name == b"transfer-encoding" and value.strip(b" \t").lower() != b"chunked":
                raise self._refused(501, "the only Transfer-Encoding known here is chunked")
            length = value.strip(b" \t")
            if name == b"content-length" and not (length.isdigit() and len(length) <= _LENGTH_DIGITS):
                raise self._refused(400, "Content-Length is a number")
        is_chunked = told[b"transfer-encoding"] > 0
        if is_chunked and (told[b"content-length"] or self.parser.get_http_version() == "1.0"):
            raise self._refused(400, "a body comes in chunks or has a length, and in HTTP/1.0 a length")
        if max(told.values()) > 1:
            raise self._refused(400, "Host, Content-Length and Transfer-Encoding are each told once")
        if not told[b"host"] and self.parser.get_http_version() == "1.1":
            raise self._refused(400, "a request has a Host")

    def _check_framing(self, size: int) -> None:
        self._framing_bytes += size
        if self._framing_bytes > _FRAMING_BYTES + _FRAMING_RATIO * self._body_bytes:
            raise self._refused(400, "the body is hardly anything but the framing of its chunks")

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self._settings.max_head_bytes:
            raise self._refused(431, f"the head of a request has at most {self._settings.max_head_bytes} bytes")

    def _refused(self, status: int, text: str) -> _RefusedError:
        """The parser passes on that there was an error, and not which."""
        self._refusal = _RefusedError(status, text)
        return self._refusal

    def _fail(self, refused: _RefusedError) -> None:
        if self._at is _At.END and self._is_answering:
            self._end_after_reply()
        else:
            self._refuse(refused)

    def _end_after_reply(self) -> None:
        self._is_over = True
        if self._is_answering:
            self.cycle.keep_alive = False
        else:
            self._close()

    def _refuse(self, refused: _RefusedError) -> None:
        """Say why, where no reply has begun, and close."""
        self._is_over = True
        if self._is_answering:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if not (self._is_answering and self.cycle.response_started):
            kind = OverloadedError if refused.status == 503 else BadRequestError
            error = kind(refused.text, status=refused.status, code="http")
            body = msgspec.json.encode(write_error(error))
            head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
            self.transport.write(STATUS_LINE[refused.status] + head + body)
        self._close()

    def _close(self) -> None:
        """Close as soon as all is taken that was written, or it is known that nobody takes it."""
        self._is_over = True
        self.transport.close()
        self._timer.wait(self.loop.time() + _LOOK_S)


def protocol_of(gate: Gate) -> type[asyncio.Protocol]:
    """What uvicorn is given as `http`, whose connections go through `gate`."""

    class Connection(_Connection):
        def __init__(self, **given: Any) -> None:
            super().__init__(gate, **given)

    return Connection
