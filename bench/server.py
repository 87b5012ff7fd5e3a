"""A mock OpenAI server that costs as little as Python allows: HTTP/1.1 by hand on an asyncio protocol.

`/<manner>/<tokens>/v1/chat/completions` answers with a reply of `tokens` tokens in one of the manners of `_MANNERS`, so
the client under test needs nothing but a base URL. Run by `bench.processes`, on a core of its own; it prints its port
and ends when its standard input does, that is, with its parent.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable, Coroutine
from itertools import count
from typing import Any

from bench import lockstep, wire
from bench.lockstep import Driver

PACE_S = 0.02
"""Seconds between two events of a paced stream."""
PACED_STREAMS = 64
"""How many paced streams share one interval: stream n speaks n/64 of it after stream 0."""
LOCKSTEP_STREAMS = 32
"""How many streams a lockstep client has open."""
SLOW_S = 0.5
"""How long a slow call takes on the server."""
EVENTS_PER_WRITE = 16
"""Events in one write of a coalesced stream."""

_BACKLOG = 4096  # a thousand clients connect at once
_NOT_FOUND = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"
_paced_streams = count()


class Connection(asyncio.Protocol):
    """One client connection, kept alive from reply to reply."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self._received = bytearray()
        self._answer: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Make every write a packet of its own."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        # asyncio sets it too; without it Nagle's algorithm would merge the events of a burst.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """End the answer, if one is under way: its client has left."""
        if self._answer is not None:
            self._answer.cancel()

    def pause_writing(self) -> None:
        """Hold the answer back: the client reads more slowly than it is written."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Let the answer go on."""
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        """Collect one request, head and body, and answer it."""
        self._received += data
        end_of_head = self._received.find(b"\r\n\r\n")
        if end_of_head < 0:
            return
        head = bytes(self._received[:end_of_head])
        end = end_of_head + 4 + _content_length(head)
        if len(self._received) < end:
            return
        del self._received[:end]
        self._reply(head.split(b" ", 2)[1].decode())

    def _reply(self, target: str) -> None:
        _, manner, tokens, *_ = (*target.split("/"), "", "")
        if manner not in _MANNERS:
            self._transport.write(_NOT_FOUND)
        elif manner == "plain":  # without a task: the server must never be what a plain call waits for
            self._transport.write(wire.plain_response(int(tokens)))
        else:
            self._answer = asyncio.create_task(_MANNERS[manner](self, int(tokens)))

    async def write(self, data: bytes) -> None:
        """Send `data` as a write of its own, as soon as the client has room for it."""
        if not self._writable.is_set():
            await self._writable.wait()
        self._transport.write(data)

    def write_now(self, data: bytes, /) -> None:
        """Send `data` whether or not the client has room."""
        self._transport.write(data)


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


async def _slow(connection: Connection, tokens: int) -> None:
    await asyncio.sleep(SLOW_S)
    await connection.write(wire.plain_response(tokens))


async def _as_fast_as_possible(connection: Connection, chunks: tuple[bytes, ...]) -> None:
    await connection.write(wire.STREAM_HEAD)
    for chunk in chunks:
        # Every other stream gets its turn between two writes, and the kernel sees each write by itself.
        await asyncio.sleep(0)
        await connection.write(chunk)
    await connection.write(wire.STREAM_END)


async def _burst(connection: Connection, tokens: int) -> None:
    await _as_fast_as_possible(connection, wire.http_chunks(wire.events(tokens), 1))


async def _coalesced(connection: Connection, tokens: int) -> None:
    await _as_fast_as_possible(connection, wire.http_chunks(wire.events(tokens), EVENTS_PER_WRITE))


async def _paced(connection: Connection, tokens: int) -> None:
    loop = asyncio.get_running_loop()
    share = next(_paced_streams) % PACED_STREAMS / PACED_STREAMS
    # Deadlines on a common grid keep the streams evenly apart, however close together they were opened.
    turn = loop.time() // PACE_S + 1 + share
    await connection.write(wire.STREAM_HEAD)
    for chunk in wire.http_chunks(wire.events(tokens), 1):
        await asyncio.sleep(turn * PACE_S - loop.time())
        await connection.write(chunk)
        turn += 1
    await connection.write(wire.STREAM_END)


async def _eager(connection: Connection, tokens: int) -> None:
    role, first, *rest = wire.http_chunks(wire.events(tokens), 1)
    loop = asyncio.get_running_loop()
    due = loop.time()
    await connection.write(wire.STREAM_HEAD + role + first)
    for chunk in rest:
        due += PACE_S  # counted from the first, or streams that were late together would stay together
        await asyncio.sleep(due - loop.time())
        await connection.write(chunk)
    await connection.write(wire.STREAM_END)


async def _lockstep(connection: Connection, tokens: int) -> None:
    role, *content = wire.http_chunks(wire.events(tokens), 1)
    await connection.write(wire.STREAM_HEAD + role)
    await connection.driver.send(connection, content[:tokens])
    await connection.write(b"".join(content[tokens:]) + wire.STREAM_END)


async def _hold(connection: Connection, tokens: int) -> None:
    await connection.write(wire.STREAM_HEAD)
    for chunk in wire.http_chunks(wire.opening_events(tokens), 1):
        await connection.write(chunk)
    # Nothing more: the stream stays open until its client leaves.


async def _plain(connection: Connection, tokens: int) -> None:
    await connection.write(wire.plain_response(tokens))


_MANNERS: dict[str, Callable[[Connection, int], Coroutine[Any, Any, None]]] = {
    "plain": _plain,
    "slow": _slow,
    "burst": _burst,
    "coalesced": _coalesced,
    "paced": _paced,
    "eager": _eager,
    "lockstep": _lockstep,
    "hold": _hold,
}


async def serve(core: int | None) -> None:
    """Answer on a free port of the loopback until standard input ends; the port is the first line printed."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    loop = asyncio.get_running_loop()
    parent_gone = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), parent_gone.set)  # nothing is ever written to it: readable means closed
    with lockstep.counter() as taken:
        driver = Driver(taken, LOCKSTEP_STREAMS)
        server = await loop.create_server(lambda: Connection(driver), "127.0.0.1", 0, backlog=_BACKLOG)
        print(server.sockets[0].getsockname()[1], flush=True)
        await parent_gone.wait()
        server.close()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]) if len(sys.argv) > 1 else None))
