"""Running the application with uvicorn, and ending it without breaking off what is under way."""

from __future__ import annotations

import socket
from collections.abc import Callable

import uvicorn

from asyncllm.client import Client
from asyncllm.errors import ConfigError
from asyncllm.server.app import application_of
from asyncllm.server.connections import Gate, raise_file_limit
from asyncllm.server.exposure import guarded
from asyncllm.server.protocol import protocol_of
from asyncllm.server.service import Service
from asyncllm.server.settings import ServerSettings
from asyncllm.server.unix import leave_unix, listen_unix
from asyncllm.workspace.served import ServerStore

__all__ = ["serve"]

_BACKLOG = 2048
_DRAIN_S = 30
_KEEP_ALIVE_S = 5


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
) -> None:
    """Answer requests until SIGINT or SIGTERM; then streams may end for `drain_s` seconds. `tell` hears the address.

    Where others than this machine reach the address, they need keys. Raises `ConfigError` for an address that cannot be
    listened on, and where keys are needed and `store` has none that is good; `StoreError`.
    """
    settings = await guarded(settings, store, host if uds is None else None)
    service = Service(client, settings, store)
    listening = _listen(host, port) if uds is None else listen_unix(uds, backlog=_BACKLOG)
    gate = Gate(settings, files=raise_file_limit())
    config = uvicorn.Config(
        application_of(service),
        http=protocol_of(gate),
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=drain_s,
        log_config=None,
        access_log=False,  # its lines have queries in them
        server_header=False,
        lifespan="off",
        ws="none",
    )
    try:
        tell(f"http://{_written(listening)}" if uds is None else f"unix:{uds}")
        async with service:
            await uvicorn.Server(config).serve([listening])
    finally:
        gate.close()
        listening.close()
        if uds is not None:
            leave_unix(uds)


def _listen(host: str, port: int) -> socket.socket:
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
