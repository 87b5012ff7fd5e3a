"""The sessions of one client, from its first call to its end.

What aiohttp would decide for a browser is switched off: no cookies, no netrc, no proxies from the environment, no
redirects, no deadline over the whole reply, no limit of connections that makes a call wait unseen.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator

import aiohttp
from yarl import URL

from asyncllm.backend import HttpCall
from asyncllm.errors import APIConnectionError, ConfigError, WrongLoopError
from asyncllm.events import end
from asyncllm.transport.connection import Connector
from asyncllm.transport.exchange import Exchange
from asyncllm.watchdog import Watchdog

__all__ = ["AiohttpTransport"]

_HEADER_BYTES = 64 * 2**10


class AiohttpTransport:
    """A connection pool on one event loop, that of its first call, which also ends it where nobody else does.

    `proxy` is the address of an HTTP proxy, user name and password included where it wants them; there is none
    otherwise, whatever the environment says. `ssl_context` decides which certificates are trusted, by default those
    that the system trusts. `max_body_bytes` bounds a reply that is read whole; `None` lifts the limit.

    Raises `ConfigError` naming the argument that cannot be right.
    """

    def __init__(
        self,
        *,
        proxy: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
        max_body_bytes: int | None = 64 * 2**20,
    ) -> None:
        if max_body_bytes is not None and (type(max_body_bytes) is not int or max_body_bytes < 1):
            raise ConfigError("max_body_bytes is a whole number from 1 up, or None", field="max_body_bytes")
        if ssl_context is not None and not isinstance(ssl_context, ssl.SSLContext):
            raise ConfigError("ssl_context is an ssl.SSLContext", field="ssl_context")
        self.max_body_bytes = max_body_bytes
        self.is_closed = False
        self.dog = Watchdog()
        self._proxy = None if proxy is None else _proxy(proxy)
        self._ssl_context = ssl_context
        self._loop: asyncio.AbstractEventLoop | None = None
        self.sessions: dict[bool, aiohttp.ClientSession] = {}
        """What `start` has made, by its `is_single`."""
        self._ends: list[AsyncGenerator[None]] = []
        self._timeouts: dict[float | None, aiohttp.ClientTimeout] = {}

    def open(self, call: HttpCall, /) -> Exchange:
        """Send `call` and lend the reply for the length of the block; see `backend.Transport`."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            if self._loop is not None:
                raise WrongLoopError(
                    "these connections are bound to the event loop of the first call, or to the process before a "
                    "fork: make a client in each asyncio.run and in each process"
                )
            self._loop = loop
        timeout = self._timeouts.get(call.timeouts.connect_s)
        if timeout is None:
            # `connect` spans waiting for a slot, of which there is no lack, the name, TCP and TLS.
            timeout = aiohttp.ClientTimeout(total=None, connect=call.timeouts.connect_s, sock_connect=None)
            self._timeouts[call.timeouts.connect_s] = timeout
        return Exchange(self, call, timeout, loop)

    async def start(self, *, is_single: bool) -> aiohttp.ClientSession:
        """Make the session with the pool, or, with `is_single`, the one that makes a connection for each call."""
        if self.is_closed:
            raise APIConnectionError("the client is closed; make a new one", retryable=False)
        session = self.sessions[is_single] = self._make(is_single=is_single)
        ending = _end_with_loop(session)
        self._ends.append(ending)
        await anext(ending)
        return session

    async def aclose(self) -> None:
        """Close every connection, at once, though this be cancelled. Idempotent."""
        self.is_closed = True
        self.dog.close()
        self.sessions.clear()
        if self._ends:
            try:
                await end(self._ends.pop())  # cuts everything before it first waits
            finally:
                await self.aclose()

    def _make(self, *, is_single: bool) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=Connector(is_single=is_single, ssl_context=self._ssl_context),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            proxy=self._proxy,
            auto_decompress=False,
            max_line_size=_HEADER_BYTES,
            max_field_size=_HEADER_BYTES,
            headers={"Accept-Encoding": "identity", "User-Agent": "asyncllm"},
        )


async def _end_with_loop(session: aiohttp.ClientSession) -> AsyncGenerator[None]:
    """Close `session` when this generator is closed, which an event loop does before it closes itself.

    A loop knows only its generators by that time, and connections that outlive it can no longer be closed at all.
    """
    try:
        yield
    finally:
        await session.close()


def _proxy(address: str) -> URL:
    try:
        url = URL(address)
    except (TypeError, ValueError):
        url = URL()
    if url.scheme not in ("http", "https") or not url.raw_host:
        raise ConfigError("proxy is an address such as http://proxy.example:3128", field="proxy") from None
    return url
