"""One connection: aiohttp's own protocol, and what it does not tell.

- Whether a call failed on a connection that an earlier call had used, before any byte of a reply came. The server has
  then most likely closed an idle connection at the moment of sending, and the call may be sent again.
- That the connection went while somebody waits for a body: after a chunk that it cannot parse, and when the pool is
  closed, aiohttp leaves the reader waiting for ever.
- That something came while no call was under way, which aiohttp gives to the next call as its reply.
- That a process has forked. A child shares the sockets of its parent, and merely collecting a connection as garbage
  there would unregister it from the event loop of the parent, or end its TLS session.
"""

from __future__ import annotations

import asyncio
import functools
import os
import ssl
import sys
import weakref
from collections.abc import Callable
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler

__all__ = ["Connection", "Connector", "LostError"]

# Shorter than the five seconds after which common servers drop an idle connection: a call sent into a connection that
# is just being closed fails, and may or may not have been received.
_KEEP_ALIVE_S = 4
_DNS_S = 10

_open: weakref.WeakSet[Connection] = weakref.WeakSet()
"""Every connection of this process, to be let go of in a child."""


class LostError(aiohttp.ClientConnectionError):
    """The connection went before the head of a reply was there."""

    def __init__(self, cause: BaseException | None, *, is_stale: bool) -> None:
        super().__init__("the connection was lost")
        self.is_stale = is_stale
        """Whether an earlier call had used the connection and not a byte has come back for this one."""
        self.os_error = cause if isinstance(cause, OSError) and not isinstance(cause, aiohttp.ClientError) else None
        """What the operating system said, if it was not the orderly end of the connection."""


class Connection(ResponseHandler):
    """One connection of a pool."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._calls = 0
        self._is_answered = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands."""
        super().connection_made(transport)
        _open.add(self)

    @property
    def is_new(self) -> bool:
        """Whether no call has used it yet."""
        return self._calls == 0

    def begin(self) -> None:
        """The next call begins."""
        self._calls += 1
        self._is_answered = False

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        self._is_answered = True
        super().data_received(data)

    def set_exception(self, exc: BaseException, exc_cause: BaseException | None = None) -> None:
        """The call under way fails, unless the head of its reply is there already."""
        if isinstance(exc, aiohttp.ClientError):
            exc = LostError(exc_cause or exc.__cause__, is_stale=self._calls > 1 and not self._is_answered)
        super().set_exception(exc)

    def connection_lost(self, exc: BaseException | None) -> None:
        """The connection is gone, for whatever reason."""
        _open.discard(self)
        payload = self._payload
        if exc is None:
            super().connection_lost(exc)  # an orderly end, which aiohttp alone can tell from a cut
        # Of a reset it would make the end of a body that has no length.
        if payload is not None and not payload.is_eof() and payload.exception() is None:
            payload.set_exception(aiohttp.ClientPayloadError("the connection was lost in the middle of the body"))
        if exc is not None:
            super().connection_lost(exc)

    def close(self) -> None:
        """Cut the connection now: bytes not yet sent, or a TLS peer that says no goodbye, would keep it open."""
        if self.transport is not None:
            self.transport.abort()
        super().close()

    def let_go(self) -> None:
        """In a forked child: put nothing in the place of the socket, so that the parent alone has it."""
        if self.transport is not None:
            nothing = os.open(os.devnull, os.O_RDWR)
            os.dup2(nothing, self.transport.get_extra_info("socket").fileno(), inheritable=False)
            os.close(nothing)


class Connector(aiohttp.TCPConnector):
    """The pool of connections behind a session, or, with `is_single`, a maker of connections for one call each."""

    def __init__(self, *, is_single: bool = False, ssl_context: ssl.SSLContext | None = None) -> None:
        keeping: dict[str, Any] = {"force_close": True} if is_single else {"keepalive_timeout": _KEEP_ALIVE_S}
        # Its signature holds a type that nobody has said.
        super().__init__(limit=0, ttl_dns_cache=_DNS_S, ssl=ssl_context or True, **keeping)  # pyright: ignore[reportUnknownMemberType]
        make: Callable[[asyncio.AbstractEventLoop], ResponseHandler] = Connection
        self._factory = functools.partial(make, self._loop)

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Any],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109  # its own
    ) -> aiohttp.connector.Connection:
        """A connection for one call, from the pool or new."""
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol = connection.protocol
            if not isinstance(protocol, Connection):
                return connection
            if protocol.is_new or not protocol.should_close:
                protocol.begin()
                return connection
            # Something came on it while nobody had asked: aiohttp keeps it as the reply to the next call.
            connection.close()


def _let_go() -> None:
    for connection in list(_open):
        connection.let_go()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_let_go)
