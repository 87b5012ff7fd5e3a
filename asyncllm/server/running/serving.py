"""Running the application with uvicorn, and ending it without breaking off what is under way."""

from __future__ import annotations

import socket
from collections.abc import Callable

import uvicorn

from asyncllm.client import Client
from asyncllm.errors import ConfigError
from asyncllm.server.app import application_of
from asyncllm.server.http.connections import Gate, raise_file_limit
from asyncllm.server.http.protocol import protocol_of
from asyncllm.server.running.exposure import guarded
from asyncllm.server.running.reload import Kept, Renew
from asyncllm.server.running.seat import Seat
from asyncllm.server.running.unix import leave_unix, listen_unix
from asyncllm.server.service import Service
from asyncllm.server.settings import ServerSettings
from asyncllm.workspace.served import ServerStore

__all__ = ["address_of", "listen", "serve"]

_BACKLOG = 2048
_BACKLOG_OF_WORKERS = 1
"""Of connections that come at once, a worker takes one a turn, and leaves the others theirs."""
_DRAIN_S = 30
_KEEP_ALIVE_S = 5


def _no_note(_: str) -> None:
    """Nobody wants to know."""


async def serve(
    client: Client,
    settings: ServerSettings,
    *,
    store: ServerStore | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    uds: str | None = None,
    drain_s: int = _DRAIN_S,
    tell: Callable[[str], None],
    note: Callable[[str], None] = _no_note,
    renew: Renew | None = None,
    seat: Seat | None = None,
) -> None:
    """Answer requests until SIGINT or SIGTERM; then streams may end for `drain_s` seconds. `tell` hears the address.

    With `renew`, SIGHUP has the server answer by what that gives; `note` hears of it. A worker has a `seat`, whose
    socket is listened on already.

    Where others than this machine reach the address, they need keys. Raises `ConfigError` for an address that cannot be
    listened on, and where keys are needed and `store` has none that is good; `StoreError`.
    """
    service = Service(client, await guarded(settings, store, host if uds is None else None), store)
    listening = seat.listening if seat is not None else listen(host, port, uds)
    gate = Gate(settings, files=raise_file_limit())
    config = uvicorn.Config(
        application_of(service),
        http=protocol_of(gate),
        backlog=_BACKLOG if seat is None else _BACKLOG_OF_WORKERS,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=drain_s,
        log_config=None,
        access_log=False,  # its lines have queries in them
        server_header=False,
        proxy_headers=False,  # nothing is decided by where a caller says that it is from
        lifespan="off",
        ws="none",
    )
    try:
        async with Kept(service, settings, renew, note), service:
            if seat is None:
                tell(address_of(listening, uds))
            else:
                seat.take()
            await uvicorn.Server(config).serve([listening])
    finally:
        gate.close()
        listening.close()
        if uds is not None and seat is None:
            leave_unix(uds)


def address_of(listening: socket.socket, uds: str | None) -> str:
    """Where a server is to be found."""
    return f"http://{_written(listening)}" if uds is None else f"unix:{uds}"


def listen(host: str, port: int, uds: str | None) -> socket.socket:
    """A socket that connections wait at. Raises `ConfigError` as `serve` does."""
    if uds is not None:
        return listen_unix(uds, backlog=_BACKLOG)
    address = "127.0.0.1" if host == "localhost" else host
    # By its protocol asyncio knows that small writes are not to wait for one another, 40 ms a reply.
    kind = socket.AF_INET6 if ":" in address else socket.AF_INET
    listening = socket.socket(kind, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections have it from here; without it the body of a reply waits 40 ms for the word that its head arrived.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listening.bind((address, port))
        listening.listen(_BACKLOG)
    except (OSError, OverflowError) as error:
        listening.close()
        raise ConfigError(f"cannot listen on port {port} of {host}: {error}", field="port") from error
    return listening


def _written(listening: socket.socket) -> str:
    host, port, *_ = listening.getsockname()
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
