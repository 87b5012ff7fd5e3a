"""HTTP for all backends of a client, over aiohttp, which nothing else here imports.

One pool a client. What aiohttp would decide for a browser is switched off: no cookies, no netrc, no proxies from the
environment, no redirects, no deadline over the whole reply, no limit of connections that makes a call wait unseen.

An error is classified by where it arose, never by what aiohttp calls it: a malformed reply is aiohttp's
`ClientResponseError` of status 400, and would pass for a refusal of the request.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import aiohttp

from asyncllm.backend import HttpCall
from asyncllm.errors import (
    APIConnectionError,
    APIError,
    ByteIdleTimeoutError,
    ConfigError,
    ConnectTimeoutError,
    ProtocolError,
    RedirectRefusedError,
    StreamInterrupted,
)
from asyncllm.rejection import rejection
from asyncllm.watchdog import Waiter, Watchdog

__all__ = ["AiohttpTransport"]

_ERROR_BODY_BYTES = 64 * 2**10
_ERROR_BODY_S = 5
_DRAIN_BYTES = 64 * 2**10
_DRAIN_S = 0.1
# Shorter than the five seconds after which common servers drop an idle connection: a call sent into a connection that
# is just being closed fails, and may or may not have been received.
_KEEP_ALIVE_S = 4
_HEADER_BYTES = 64 * 2**10
_UNASKED = 10  # connections in a row, after which a server that speaks unasked is given up


class AiohttpTransport:
    """A connection pool on the running event loop, opened by its first call."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._closed = False
        self._dog = Watchdog()
        self._timeouts: dict[float | None, aiohttp.ClientTimeout] = {}

    def open(self, call: HttpCall, /) -> _Exchange:
        """Send `call` and lend the reply for the length of the block; see `backend.Transport`."""
        if self._session is None:
            self._session = self._start()
        timeout = self._timeouts.get(call.timeouts.connect_s)
        if timeout is None:
            # `connect` spans waiting for a slot, of which there is no lack, the name, TCP and TLS.
            timeout = aiohttp.ClientTimeout(total=None, connect=call.timeouts.connect_s, sock_connect=None)
            self._timeouts[call.timeouts.connect_s] = timeout
        return _Exchange(self._session, call, timeout, self._dog)

    async def aclose(self) -> None:
        """Close every connection. Idempotent."""
        self._closed = True
        session, self._session = self._session, None
        self._dog.close()
        if session is not None:
            await session.close()

    def _start(self) -> aiohttp.ClientSession:
        if self._closed:
            raise APIConnectionError("the client is closed; make a new one", retryable=False)
        return aiohttp.ClientSession(
            connector=_Connector(limit=0, ttl_dns_cache=10, keepalive_timeout=_KEEP_ALIVE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            max_line_size=_HEADER_BYTES,
            max_field_size=_HEADER_BYTES,
            # Compression would hide a cut: aiohttp takes a gzip body that stops early for a whole one.
            headers={"Accept-Encoding": "identity", "User-Agent": "asyncllm"},
        )


class _Connector(aiohttp.TCPConnector):
    """A pool that never reuses a connection on which something came while nobody had asked.

    aiohttp keeps such bytes, and gives them to the next call as its reply.
    """

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[aiohttp.tracing.Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109  # aiohttp's signature
    ) -> aiohttp.connector.Connection:
        """A connection from the pool, or a new one."""
        for _ in range(_UNASKED):
            connection = await super().connect(req, traces, timeout)
            if connection.protocol is None or not connection.protocol.should_close:
                return connection
            connection.close()
        raise aiohttp.ClientConnectionError("the server sends replies that nobody asked for")


class _Exchange(Waiter):
    """One call under way: the context manager that `open` gives, and the reply that entering it lends."""

    __slots__ = ("_call", "_closing", "_idle_s", "_now", "_response", "_session", "_timeout", "headers", "status")

    status: int
    headers: Mapping[str, str]

    def __init__(
        self, session: aiohttp.ClientSession, call: HttpCall, timeout: aiohttp.ClientTimeout, dog: Watchdog
    ) -> None:
        super().__init__(dog)
        self._session = session
        self._idle_s = call.timeouts.byte_idle_s
        self._now = asyncio.get_running_loop().time
        self._closing: asyncio.Future[None] | None = None
        self._call = call
        self._timeout = timeout

    async def __aenter__(self) -> Self:
        call = self._call
        try:
            response = await self._session.request(
                call.method,
                call.url,
                data=call.body or None,
                headers=call.headers,
                timeout=self._timeout,
                allow_redirects=False,
            )
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise _not_answered(error, call) from error
        self._response = response
        self.status = response.status
        self.headers = response.headers
        if response.status != 200 and (response.status >= 300 or call.stream):
            try:
                raise await self._refused()
            finally:
                response.close()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Synchronous, so no cancellation can interrupt it. A body read to its end has already handed its connection
        # back to the pool; any other is cut, which is what tells the server to stop.
        self.leave()
        if self._closing is not None:
            self._closing.remove_done_callback(self._lose)
        self._response.close()

    async def receive(self) -> bytes:
        """The next piece of the body, as the network brings it; empty at its end."""
        content = self._response.content
        try:
            if self._closing is None and not content.is_eof():
                self._watch_connection()
            if self._idle_s is not None:
                self.wait(self._now() + self._idle_s)
            data = await content.readany()
        except APIError:
            raise
        except (aiohttp.ClientError, OSError) as error:
            raise self._broken(error) from error
        finally:
            self._waiting = False
        return data

    def expire(self) -> None:
        """No byte has come for too long: the reader gets the error in their place."""
        self._response.content.set_exception(
            ByteIdleTimeoutError(
                f"no byte arrived for byte_idle_s={self._idle_s} seconds in the middle of a reply",
                elapsed_s=self._idle_s,
                maybe_billed=True,
            )
        )

    async def read(self) -> bytes:
        """The whole body."""
        content = self._response.content
        if content.is_eof() and content.exception() is None:
            return content.read_nowait()  # head and body came in one read, as those of a plain reply mostly do
        pieces: list[bytes] = []
        while data := await self.receive():
            pieces.append(data)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def drain(self) -> None:
        """Read a little past the part of the body that mattered, so that the connection can serve again."""
        content = self._response.content
        if content.at_eof():
            return
        size = 0
        try:
            async with asyncio.timeout(_DRAIN_S):
                while size < _DRAIN_BYTES and (data := await content.readany()):
                    size += len(data)
        except (aiohttp.ClientError, OSError, TimeoutError):
            return  # the answer is complete; all this costs is a new connection for the next call

    def _watch_connection(self) -> None:
        """Have the reader told when the connection goes: after a chunk that it cannot parse aiohttp forgets to."""
        connection = self._response.connection
        protocol = None if connection is None else connection.protocol
        self._closing = None if protocol is None else protocol.closed  # a protocol without messages is falsy
        if self._closing is None:
            self._lose(None)
            return
        self._closing.add_done_callback(_look)
        self._closing.add_done_callback(self._lose)

    def _lose(self, _: object) -> None:
        content = self._response.content
        if not content.is_eof() and content.exception() is None:
            content.set_exception(aiohttp.ClientPayloadError("the connection was lost in the middle of the body"))

    async def _refused(self) -> APIError:
        """What a reply without a good status means."""
        response, status = self._response, self.status
        if 300 <= status < 400:
            target = response.headers.get("location", "")
            return RedirectRefusedError(
                f"the server redirects to {_host(target)}; a redirect is not followed, because the key and the prompt "
                "would go with it: put the final address into base_url",
                status=status,
            )
        if status < 300:
            return ProtocolError(f"a stream was asked for and status {status} has none", status=status)
        body = b""
        try:
            async with asyncio.timeout(_ERROR_BODY_S):
                while len(body) < _ERROR_BODY_BYTES and (data := await response.content.readany()):
                    body += data
        except (aiohttp.ClientError, OSError, TimeoutError):
            pass  # the status alone is enough
        return rejection(
            status, response.headers, body[:_ERROR_BODY_BYTES], sent=self._call.body, secrets=self._call.secrets
        )

    def _broken(self, error: Exception) -> APIError:
        if isinstance(error, aiohttp.ClientPayloadError):
            reason = "the body ended early or broke its framing"
        else:
            reason = f"the connection was lost ({type(error).__name__})"
        kind = StreamInterrupted if self._call.stream else APIConnectionError
        return kind(f"while reading the reply: {reason}", maybe_billed=True)


def _look(closing: asyncio.Future[None]) -> None:
    """Take note of how a connection ended, or asyncio reports the error as one that nobody saw."""
    closing.exception()


def _not_answered(error: Exception, call: HttpCall) -> Exception:
    """The error for a call that failed before the headers of a reply, by where it failed."""
    host = _host(call.url)
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return ConnectTimeoutError(
            f"no connection to {host} within connect_s={call.timeouts.connect_s}", elapsed_s=call.timeouts.connect_s
        )
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return APIConnectionError(f"the certificate of {host} is not valid for it or not trusted", retryable=False)
    if isinstance(error, aiohttp.ClientConnectorSSLError | ssl.SSLError):
        return APIConnectionError(f"{host} does not speak TLS as expected", retryable=False)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return APIConnectionError(f"the name {host} cannot be resolved: check base_url and the network")
    if isinstance(error, aiohttp.ClientConnectorError):
        return APIConnectionError(f"cannot connect to {host}: {error.strerror or type(error.os_error).__name__}")
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return APIConnectionError(f"{host} closed the connection before it answered", maybe_billed=True)
    if isinstance(error, aiohttp.ClientResponseError):
        return ProtocolError(f"{host} answered with something that is not HTTP", maybe_billed=True)
    if isinstance(error, aiohttp.InvalidURL | ValueError):
        return ConfigError(
            "the address or a header is not valid for HTTP: check base_url and the key", field="base_url"
        )
    return APIConnectionError(f"the connection to {host} failed ({type(error).__name__})", maybe_billed=True)


def _host(url: str) -> str:
    """Host and port of an address: all of it that an error may show, since a path or query can hold a key."""
    rest = url.partition("://")[2]
    return (rest.split("/", 1)[0].split("?", 1)[0].rsplit("@", 1)[-1] or "another path of the same host")[:100]
