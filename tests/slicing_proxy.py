"""A proxy of the loopback that hands on what a server says in pieces of another size."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

__all__ = ["sliced"]

_END = b"\r\n0\r\n\r\n"


@asynccontextmanager
async def sliced(url: str, size: int | None) -> AsyncGenerator[str]:
    """The address of a proxy before `url`: replies come `size` bytes at a time, or each in one piece."""
    host, port = url.removeprefix("http://").split(":")
    pipes: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, onward = await asyncio.open_connection(host, int(port))
        there = asyncio.create_task(_copy(reader, onward))
        back = asyncio.create_task(_slice(behind, writer, size))
        pipes.update((there, back))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for pipe in pipes:
            pipe.cancel()
        await asyncio.gather(*pipes, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.closing(writer), contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


async def _slice(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, size: int | None) -> None:
    held = b""
    with contextlib.closing(writer), contextlib.suppress(OSError):
        while data := await reader.read(65536):
            if size is None:
                held += data
                if held.endswith(_END):
                    writer.write(held)
                    held = b""
                continue
            for at in range(0, len(data), size):
                writer.write(data[at : at + size])
                await writer.drain()
                await asyncio.sleep(0)  # whoever reads has its turn
        writer.write(held)
