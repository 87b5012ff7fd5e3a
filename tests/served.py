"""Our own server on a socket of the loopback, in the loop of the test."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from asyncllm import Client
from asyncllm.server import ServerSettings
from asyncllm.server.app import application_of
from asyncllm.server.http.connections import Gate
from asyncllm.server.http.protocol import protocol_of
from asyncllm.server.service import Service
from asyncllm.workspace.served import ServerStore

__all__ = ["listening", "served", "server_of"]


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave signals to pytest."""
        yield


@asynccontextmanager
async def served(client: Client, *, store: ServerStore | None = None, **settings: Any) -> AsyncGenerator[str]:
    """The address of a server that answers with `client`."""
    known = ServerSettings(**settings)
    service = Service(client, known, store)
    async with service, listening(application_of(service), known) as url:
        yield url


@asynccontextmanager
async def listening(application: ASGIApp, settings: ServerSettings = ServerSettings()) -> AsyncGenerator[str]:
    """The same of any application."""
    door = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    door.bind(("127.0.0.1", 0))
    gate = Gate(settings)
    config = uvicorn.Config(
        application, http=protocol_of(gate), log_config=None, access_log=False, lifespan="off", ws="none"
    )
    server = _Server(config)
    running = asyncio.create_task(server.serve([door]))
    try:
        while not server.started:  # noqa: ASYNC110  # uvicorn tells nobody
            await asyncio.sleep(0.005)
        yield f"http://127.0.0.1:{door.getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True
        await running
        gate.close()
        door.close()


@asynccontextmanager
async def server_of(model: str, settings: dict[str, Any] | None = None, **options: Any) -> AsyncGenerator[str]:
    """The same, with a client of `model`."""
    async with Client(model=model, **options) as client, served(client, **(settings or {})) as url:
        yield url
