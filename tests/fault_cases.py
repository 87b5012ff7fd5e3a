"""Every way a call can die on the wire, as a table: what the server does, and what the caller is told.

Each fault is played in up to three modes: `plain`, a call for one JSON body; `before`, a stream that fails before its
first piece of text; `after`, a stream that fails after it.

Rows of the list of faults that stand elsewhere, because they are no script of a server: certificates, proxies, cookies,
redirects, socket shortage and header injection in `test_transport`; forks, ends of loops, forgotten streams, loops that
were held up, and cancellation in `test_lifecycle`; waits that a server asks for in `test_rejection` and
`test_middleware`; backends in the process, and hooks, with the layers they belong to.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

import asyncllm
from asyncllm import Timeouts
from asyncllm.testing import Chunk, Fin, Pause, Rst, Slice, Stall, Status, openai_chunks, openai_reply
from asyncllm.testing.ops import Op

__all__ = ["CASES", "MODES", "Case", "Mode", "begin", "good"]

Mode = Literal["plain", "before", "after"]
MODES: tuple[Mode, ...] = ("plain", "before", "after")


class Case(Struct, frozen=True):
    """One fault in one mode."""

    name: str
    mode: Mode
    script: Sequence[Op]
    error: type[asyncllm.APIError]
    retryable: bool = True
    maybe_billed: bool = True
    timeouts: Timeouts = Timeouts()
    on_connect: Sequence[Op] = ()
    tls: bool = False
    """Whether the client speaks TLS to it."""


CASES: list[Case] = []

_SSE = {"Content-Type": "text/event-stream"}
_JSON = {"Content-Type": "application/json"}
_BODY = openai_reply("Hello")
_FIRST = b"".join(b"data: " + chunk + b"\n\n" for chunk in openai_chunks(["Hel"], finish=None))
_REST = b"".join(b"data: " + chunk + b"\n\n" for chunk in openai_chunks(["lo"])[1:]) + b"data: [DONE]\n\n"


def good(mode: Mode) -> list[Op]:
    """The script of a server that does as it should."""
    if mode == "plain":
        return [Status(200, {}, _BODY)]
    return [Status(200, {**_SSE, "Transfer-Encoding": "chunked"}, None), Chunk(_FIRST + _REST), Chunk()]


def _head(
    name: str,
    script: Sequence[Op],
    error: type[asyncllm.APIError],
    *,
    retryable: bool = True,
    maybe_billed: bool = True,
    timeouts: Timeouts = Timeouts(),
    on_connect: Sequence[Op] = (),
    tls: bool = False,
) -> None:
    """A fault before the body begins, which is the same however the reply is read."""
    CASES.extend(
        Case(name, mode, script, error, retryable, maybe_billed, timeouts, on_connect, tls)
        for mode in ("plain", "before")
    )


def _body(
    name: str,
    end: Sequence[Op],
    plain: type[asyncllm.APIError] | None,
    stream: type[asyncllm.APIError],
    *,
    framing: Literal["chunked", "length", "close", "gzip"] = "chunked",
    retryable: bool | dict[Mode, bool] = True,
    maybe_billed: bool | dict[Mode, bool] = True,
    timeouts: Timeouts = Timeouts(),
    before: type[asyncllm.APIError] | None = None,
) -> None:
    """A fault in the body: `end` follows a good beginning."""
    for mode in MODES:
        error = {"plain": plain, "before": before or stream, "after": stream}[mode]
        if error is not None:
            script = [*begin(mode, framing), Pause(0.02), *end]
            again = retryable if isinstance(retryable, bool) else retryable[mode]
            billed = maybe_billed if isinstance(maybe_billed, bool) else maybe_billed[mode]
            CASES.append(Case(name, mode, script, error, again, billed, timeouts))


def begin(mode: Mode, framing: str = "chunked") -> list[Op]:
    """The script of a server that begins well: half a JSON document, or an event stream with or without text."""
    start = {"plain": _BODY[:20], "before": b": hello\n\n", "after": _FIRST}[mode]
    headers = _JSON if mode == "plain" else _SSE
    if framing == "chunked":
        return [Status(200, {**headers, "Transfer-Encoding": "chunked"}, None), Chunk(start)]
    if framing == "length":
        return [Status(200, {**headers, "Content-Length": "100000"}, None), start]
    if framing == "gzip":
        packer = zlib.compressobj(wbits=31)
        packed = packer.compress(start) + packer.flush(zlib.Z_SYNC_FLUSH)
        return [Status(200, {**headers, "Content-Encoding": "gzip"}, None), packed]
    return [Status(200, {**headers, "Connection": "close"}, None), start]


def _status(status: int, error: type[asyncllm.APIError], *, retryable: bool, code: str | None = None) -> None:
    body = b'{"error":{"message":"no","code":"%b"}}' % code.encode() if code else b'{"error":{"message":"no"}}'
    _head(f"{status} {code or ''}".strip(), [Status(status, {}, body)], error, retryable=retryable, maybe_billed=False)


# -- no connection: see also `test_transport` --------------------------------------------------------------------

_head(
    "plain server where TLS is spoken", [], asyncllm.APIConnectionError, retryable=False, maybe_billed=False,
    on_connect=[b"HTTP/1.0 400 Bad Request\r\n\r\n"], tls=True,
)  # fmt: skip
_head(
    "TLS handshake that stalls", [], asyncllm.ConnectTimeoutError, maybe_billed=False,
    on_connect=[Stall()], tls=True, timeouts=Timeouts(connect_s=0.2),
)  # fmt: skip

# -- no reply ----------------------------------------------------------------------------------------------------

_head("end before the head", [Fin()], asyncllm.APIConnectionError)
_head("reset before the head", [Rst()], asyncllm.APIConnectionError)
_head("end in the head", [b"HTTP/1.1 200 OK\r\nContent-Le", Pause(0.02), Fin()], asyncllm.APIConnectionError)
_head("reset in the head", [b"HTTP/1.1 200 OK\r\nContent-Le", Pause(0.02), Rst()], asyncllm.APIConnectionError)
_head("silence before the head", [Stall()], asyncllm.FirstEventTimeoutError, timeouts=Timeouts(first_event_s=0.15))
_head("silence after hints", [b"HTTP/1.1 103 X\r\n\r\n", Stall()], asyncllm.TotalTimeoutError,
      timeouts=Timeouts(total_s=0.15), retryable=False)  # fmt: skip

# -- no HTTP -----------------------------------------------------------------------------------------------------

_head("garbage", [b"garbage\r\n\r\n", Fin()], asyncllm.ProtocolError)
_head("another protocol", [b"SSH-2.0-OpenSSH_9.6\r\n"], asyncllm.ProtocolError)
_head("two lengths", [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi"], asyncllm.ProtocolError)
_head(
    "a length and chunks",
    [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"],
    asyncllm.ProtocolError,
)
_head("a header over the limit", [b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\n\r\n"], asyncllm.ProtocolError)
_head("more than the length says", [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}smuggled"], asyncllm.ProtocolError)
_head("another protocol, politely", [b"HTTP/1.1 101 X\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"],
      asyncllm.ProtocolError, maybe_billed=False)  # fmt: skip
_head("an unknown coding", [Status(200, {"Content-Encoding": "br"}, b"x")], asyncllm.ProtocolError)
CASES.extend(
    Case(f"status {code}", "before", [Status(code, {}, b"")], asyncllm.ProtocolError, maybe_billed=False)
    for code in (204, 205)
)

# -- refusals ----------------------------------------------------------------------------------------------------

_status(400, asyncllm.BadRequestError, retryable=False)
_status(400, asyncllm.ContextLengthExceededError, retryable=False, code="context_length_exceeded")
_status(401, asyncllm.AuthenticationError, retryable=False)
_status(403, asyncllm.PermissionDeniedError, retryable=False)
_status(404, asyncllm.NotFoundError, retryable=False)
_status(408, asyncllm.APIStatusError, retryable=True)
_status(409, asyncllm.ConflictError, retryable=True)
_status(413, asyncllm.APIStatusError, retryable=False)
_status(422, asyncllm.UnprocessableEntityError, retryable=False)
_status(425, asyncllm.APIStatusError, retryable=True)
_status(429, asyncllm.RateLimitError, retryable=True)
_status(429, asyncllm.QuotaExceededError, retryable=False, code="insufficient_quota")
_status(500, asyncllm.InternalServerError, retryable=True)
_status(501, asyncllm.InternalServerError, retryable=False)
_status(502, asyncllm.InternalServerError, retryable=True)
_status(503, asyncllm.OverloadedError, retryable=True)
_status(504, asyncllm.InternalServerError, retryable=True)
_status(505, asyncllm.InternalServerError, retryable=False)
_status(520, asyncllm.InternalServerError, retryable=True)
_status(529, asyncllm.OverloadedError, retryable=True)

for _name, _error_body in {
    "HTML": b"<html><head><title>Bad gateway</title></head></html>",
    "nothing": b"",
    "ten MiB": b"x" * (10 * 2**20),
    "no UTF-8": b"\xff\xfe\xff",
}.items():
    _head(f"500 with {_name}", [Status(500, {}, _error_body)], asyncllm.InternalServerError, maybe_billed=False)
_head(
    "an error body that breaks off", [Status(503, {"Content-Length": "99"}, None), b"{", Pause(0.02), Fin()],
    asyncllm.OverloadedError, maybe_billed=False,
)  # fmt: skip

# -- half a body -------------------------------------------------------------------------------------------------

_cut = (asyncllm.APIConnectionError, asyncllm.StreamInterrupted)
_body("end between chunks", [Fin()], *_cut)
_body("end in a chunk", [b"ff\r\ndata: ", Pause(0.02), Fin()], *_cut)
_body("reset between chunks", [Rst()], *_cut)
_body("a chunk that is none", [b"zz\r\n", Pause(0.02), Fin()], *_cut)
_body("end before the length", [Fin()], *_cut, framing="length")
_body("reset before the length", [Rst()], *_cut, framing="length")
_body("reset where the end is the end", [Rst()], *_cut, framing="close")
_body("compressed and cut", [Fin()], *_cut, framing="gzip")
_body("compressed and reset", [Rst()], *_cut, framing="gzip")
_body(
    "compressed and corrupt", [b"\xff" * 64, Pause(0.02), Fin()],
    asyncllm.ProtocolError, asyncllm.ProtocolError, framing="gzip",
)  # fmt: skip
# Nothing says that the body is cut, except what is in it.
_body(
    "cut where the end is the end", [Fin()],
    asyncllm.ResponseValidationError, asyncllm.StreamInterrupted, framing="close",
    retryable={"plain": False, "before": True, "after": True},
)  # fmt: skip
_body("a whole body without its last event", [Chunk()], None, asyncllm.StreamInterrupted)

# -- a body that does not come ------------------------------------------------------------------------------------

_body("silence", [Stall()], asyncllm.ByteIdleTimeoutError, asyncllm.ByteIdleTimeoutError,
      timeouts=Timeouts(byte_idle_s=0.15))  # fmt: skip
_pings: list[Op] = [op for _ in range(40) for op in (Chunk(b": ping\n\n"), Pause(0.05))]
_body("keep-alive comments only", _pings, None, asyncllm.EventIdleTimeoutError,
      before=asyncllm.FirstEventTimeoutError,
      timeouts=Timeouts(first_event_s=0.4, event_idle_s=0.25, byte_idle_s=5))  # fmt: skip
_body("blank lines only", [op for _ in range(40) for op in (Chunk(b"\n"), Pause(0.05))],
      asyncllm.FirstEventTimeoutError, asyncllm.EventIdleTimeoutError, before=asyncllm.FirstEventTimeoutError,
      timeouts=Timeouts(first_event_s=0.4, event_idle_s=0.25, byte_idle_s=5))  # fmt: skip
_body("a byte now and then", [Slice(1, 0.02), Chunk(b" " * 200)], asyncllm.TotalTimeoutError,
      asyncllm.TotalTimeoutError, timeouts=Timeouts(total_s=0.4), retryable=False)  # fmt: skip

# -- a body that is none -----------------------------------------------------------------------------------------

_invalid = (asyncllm.ResponseValidationError, asyncllm.ResponseValidationError)
_body("no JSON", [Chunk(b"data: {nonsense}\n\n"), Chunk()], *_invalid, retryable=False)
_body("another document", [Chunk(b"data: [1, 2]\n\n"), Chunk()], None, asyncllm.ResponseValidationError,
      retryable=False)  # fmt: skip
_body("an error event", [Chunk(b'data: {"error":{"message":"x","code":"overloaded_error"}}\n\n'), Chunk()],
      None, asyncllm.OverloadedError, maybe_billed={"before": False, "after": True})  # fmt: skip
_body("an event over the limit", [Chunk(b"data: " + b"x" * (17 * 2**20) + b"\n\n"), Chunk()], None,
      asyncllm.EventTooLargeError, retryable=False)  # fmt: skip
_html: list[Op] = [Status(200, {"Content-Type": "text/html"}, b"<html>Sign in</html>")]
CASES.append(Case("HTML", "plain", _html, asyncllm.ResponseValidationError, retryable=False))
CASES.append(Case("HTML", "before", _html, asyncllm.ProtocolError, maybe_billed=False))
_head(
    "an error under a good status",
    [Status(200, _JSON, b'{"error":{"message":"slow down","code":429}}')],
    asyncllm.RateLimitError,
    maybe_billed=False,
)
CASES.append(
    Case(
        "a body over the limit", "plain",
        [Status(200, {**_JSON, "Content-Encoding": "gzip"}, gzip.compress(b" " * (65 * 2**20), 1))],
        asyncllm.BodyTooLargeError, retryable=False,
    )
)  # fmt: skip
