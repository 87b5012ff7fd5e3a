"""One call: sending it, following where it is sent on to, and reading its reply."""

from __future__ import annotations

import asyncio
import io
import zlib
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING

import aiohttp
from aiohttp import hdrs
from yarl import URL

from asyncllm.backend import HttpCall, HttpReply
from asyncllm.errors import (
    APIConnectionError,
    APIError,
    BodyTooLargeError,
    ByteIdleTimeoutError,
    ProtocolError,
    RedirectRefusedError,
)
from asyncllm.rejection import rejection
from asyncllm.transport.connection import LostError
from asyncllm.transport.failures import broken, host_of, not_answered, os_error
from asyncllm.transport.inflate import CODINGS, Inflater
from asyncllm.watchdog import Waiter

if TYPE_CHECKING:
    from asyncllm.transport.pool import AiohttpTransport

__all__ = ["Exchange"]

_ERROR_BODY_BYTES = 64 * 2**10
_ERROR_BODY_S = 5
_DRAIN_BYTES = 64 * 2**10
_DRAIN_S = 0.1
_REDIRECTS = 3
_REDIRECTED = (307, 308)
_MOVED = (301, 302, 303, *_REDIRECTED)
_WHOLE_BYTES = 2**20  # a larger body is sent in pieces, so that other calls get their turn in between


class Exchange(Waiter):
    """One call under way: the context manager that `open` gives, and the reply that entering it lends."""

    __slots__ = (
        "_call", "_content", "_idle_s", "_loop", "_received", "_response", "_timeout", "_transport", "headers", "status"
    )  # fmt: skip

    status: int
    headers: Mapping[str, str]

    def __init__(
        self,
        transport: AiohttpTransport,
        call: HttpCall,
        timeout: aiohttp.ClientTimeout,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(transport.dog)
        self._transport = transport
        self._call = call
        self._timeout = timeout
        self._loop = loop
        self._idle_s = call.timeouts.byte_idle_s
        self._received = 0

    async def __aenter__(self) -> HttpReply:
        call = self._call
        response = await self._send(call.url)
        if self._leads_on(response):
            response = await self._follow(response)
        self._response = response
        self._content = response.content
        self.status = status = response.status
        self.headers = response.headers
        coding = response.headers.get(hdrs.CONTENT_ENCODING)
        if coding is not None:
            coding = coding.strip().lower()
        is_good = status == 200 or (200 <= status < 300 and not call.stream)
        reply: HttpReply
        if is_good and (coding is None or coding == "identity"):
            reply = self
        elif is_good and coding in CODINGS:
            reply = _Inflated(self, Inflater(coding), self._transport.max_body_bytes)
        else:
            try:
                raise await self._refused(coding)
            finally:
                response.close()
        self._transport.exchanges.add(self)
        return reply

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._transport.exchanges.discard(self)
        self.cut()

    def cut(self) -> None:
        """End the call: synchronous, so no cancellation can interrupt it.

        A body read to its end has already handed its connection back to the pool; any other connection is cut, which
        is what tells the server to stop.
        """
        self.leave()
        self._response.close()

    async def receive(self) -> bytes:
        """The next piece of the body, as the network brings it; empty at its end."""
        content = self._content
        if self._idle_s is not None:
            self._received = content.total_bytes
            self.wait(self._loop.time() + self._idle_s)
        try:
            return await content.readany()
        except APIError:
            raise
        except (aiohttp.ClientError, OSError) as error:
            failure = self.broken(error)
        finally:
            self._waiting = False
        raise failure

    def expire(self) -> None:
        """No byte has come for too long: the reader gets the error in their place."""
        if self._content.total_bytes == self._received:
            self._content.set_exception(
                ByteIdleTimeoutError(
                    f"no byte arrived for byte_idle_s={self._idle_s} seconds in the middle of a reply",
                    elapsed_s=self._idle_s,
                    maybe_billed=True,
                )
            )

    async def read(self) -> bytes:
        """The whole body."""
        content = self._content
        limit = self._transport.max_body_bytes
        if content.is_eof() and content.exception() is None:
            data = content.read_nowait()  # head and body came in one read, as those of a plain reply mostly do
            if limit is not None and len(data) > limit:
                raise _too_large(limit)
            return data
        return await _read_whole(self, limit)

    async def drain(self) -> None:
        """Read a little past the part of the body that mattered, so that the connection can serve again."""
        content = self._content
        if content.at_eof():
            return
        size = 0
        try:
            async with asyncio.timeout(_DRAIN_S):
                while size < _DRAIN_BYTES and (data := await content.readany()):
                    size += len(data)
        except (aiohttp.ClientError, OSError, TimeoutError):
            return  # the answer is complete; all this costs is a new connection for the next call

    def broken(self, error: Exception) -> APIError:
        """The error for a reply that broke off."""
        if self._transport.is_closed:
            return APIConnectionError("the client was closed during the call", retryable=False, maybe_billed=True)
        return broken(error, self._call)

    async def _send(self, url: str | URL) -> aiohttp.ClientResponse:
        """The head of the reply to one request.

        A call that a used connection loses is sent once more, at once: see `connection`. One that must not arrive twice
        is given no used connection, of which nobody could tell what it has received.
        """
        call, transport = self._call, self._transport
        error: Exception | None = None
        for is_single in (True,) if call.once else (False, True):
            session = transport.sessions.get(is_single) or await transport.start(is_single=is_single)
            try:
                return await session.request(
                    call.method,
                    url,
                    data=call.body if len(call.body) <= _WHOLE_BYTES else io.BytesIO(call.body),
                    headers=call.headers,
                    timeout=self._timeout,
                    allow_redirects=False,
                )
            except LostError as lost:
                error = lost
                if not lost.is_stale:
                    break
            except (aiohttp.ClientError, OSError, ValueError, RuntimeError) as failed:
                error = failed  # a RuntimeError: the session has ended, with its event loop
                break
        assert error is not None  # the loop ends by a reply or by an error
        raise not_answered(error, call) from os_error(error)

    async def _follow(self, response: aiohttp.ClientResponse) -> aiohttp.ClientResponse:
        """The reply at the end of the redirects that `response` is the first of; all are of the same origin."""
        for _ in range(_REDIRECTS):
            target = _target(response)
            if target is None or not _is_same_origin(response.url, target):
                return response
            response.close()
            response = await self._send(target)
            if not self._leads_on(response):
                return response
        response.close()
        raise RedirectRefusedError(
            f"{host_of(self._call.url)} redirects more than {_REDIRECTS} times in a row", status=response.status
        )

    def _leads_on(self, response: aiohttp.ClientResponse) -> bool:
        """Whether a reply is a redirect that keeps the call what it is; any does of a call that asks for a file."""
        return response.status in (_MOVED if self._call.method == "GET" else _REDIRECTED)

    async def _refused(self, coding: str | None) -> APIError:
        """What a reply without a good status, or in an unknown coding, means."""
        response, status = self._response, self.status
        if status < 200:
            return ProtocolError("the server switches to another protocol, which nobody asked for", status=status)
        if status < 300:
            if self._call.stream and status != 200:
                return ProtocolError(f"a stream was asked for and status {status} has none", status=status)
            return ProtocolError(
                f"the body is encoded as {coding!r:.40}, which was not asked for", status=status, maybe_billed=True
            )
        if status < 400:
            target = _target(response)
            host = host_of(str(target)) if target is not None else "an address that is none"
            return RedirectRefusedError(
                f"the server redirects to {host}; the redirect is not followed, because the key and the prompt would "
                "go with it: put the final address into base_url",
                status=status,
            )
        body = b""
        try:
            async with asyncio.timeout(_ERROR_BODY_S):
                while len(body) < _ERROR_BODY_BYTES and (data := await self._content.readany()):
                    body += data
        except (aiohttp.ClientError, OSError, TimeoutError):
            pass  # the status alone is enough
        if coding in CODINGS:
            body = _inflated_start(body, coding)
        return rejection(
            status, response.headers, body[:_ERROR_BODY_BYTES], sent=self._call.body, secrets=self._call.secrets
        )


class _Inflated:
    """The reply of an exchange whose body comes compressed."""

    def __init__(self, exchange: Exchange, inflater: Inflater, limit: int | None) -> None:
        self.status = exchange.status
        self.headers = exchange.headers
        self._exchange = exchange
        self._inflater = inflater
        self._limit = limit

    async def receive(self) -> bytes:
        """The next piece of the body, inflated; empty at its end, if that is the end of the compressed stream too."""
        while True:
            try:
                if data := self._inflater.take():
                    return data
            except zlib.error as error:
                raise ProtocolError("the compressed body is corrupt", maybe_billed=True) from error
            packed = await self._exchange.receive()
            if packed:
                self._inflater.feed(packed)
            elif self._inflater.is_complete:
                return b""
            else:
                raise self._exchange.broken(aiohttp.ClientPayloadError())

    async def read(self) -> bytes:
        """The whole body, inflated."""
        return await _read_whole(self, self._limit)

    async def drain(self) -> None:
        """As `Exchange.drain`."""
        await self._exchange.drain()


async def _read_whole(reply: HttpReply, limit: int | None) -> bytes:
    pieces: list[bytes] = []
    size = 0
    while data := await reply.receive():
        size += len(data)
        if limit is not None and size > limit:
            raise _too_large(limit)
        pieces.append(data)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _too_large(limit: int) -> BodyTooLargeError:
    return BodyTooLargeError(
        f"the body of the reply is larger than max_body_bytes={limit}; raise the limit of AiohttpTransport if the "
        "server is right to send it"
    )


def _target(response: aiohttp.ClientResponse) -> URL | None:
    """Where a redirect leads to, if it says so."""
    try:
        return response.url.join(URL(response.headers[hdrs.LOCATION]))
    except (KeyError, ValueError):
        return None


def _is_same_origin(here: URL, there: URL) -> bool:
    try:
        return here.origin() == there.origin() and there.raw_user is None and there.raw_password is None
    except ValueError:  # no host, or none of the web
        return False


def _inflated_start(body: bytes, coding: str) -> bytes:
    """As much of a compressed error body as can be read, at least its start."""
    inflater = Inflater(coding)
    inflater.feed(body)
    try:
        return inflater.take()
    except zlib.error:
        return b""
