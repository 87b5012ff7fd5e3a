"""A server for very many streams at once, run in a process of its own: `events_server.py STREAMS EVENTS INTERVAL_S`.

Each stream says who it is for, the number of the event and when it was sent (`stream:event:nanoseconds`, on the clock
that all processes of a machine share). A stream gets its first event when it is asked for, and the others, one an
interval, when all are there. It prints its ports, one an address, and ends with its standard input.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time

ADDRESSES = ("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4")

_BACKLOG = 4096
_TICK_S = 0.01
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def raise_file_limit() -> None:
    """Allow this process as many open files as the system lets it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Streams:
    """All streams, and the ticker that sends their events, an even share of the streams at a time."""

    def __init__(self, streams: int, events: int, interval_s: float) -> None:
        self._expected = streams
        self._events = events
        self._ticks = max(1, round(interval_s / _TICK_S))
        self._transports: list[tuple[str, asyncio.Transport]] = []
        self._started: asyncio.Task[None] | None = None

    def add(self, name: str, transport: asyncio.Transport) -> None:
        """Begin a stream."""
        transport.write(_HEAD + _chunk(_event(name, 0)))
        self._transports.append((name, transport))
        if len(self._transports) == self._expected:
            self._started = asyncio.ensure_future(self._send())

    async def _send(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        for event in range(1, self._events):
            for tick in range(self._ticks):
                for name, transport in self._transports[tick :: self._ticks]:
                    transport.write(_chunk(_event(name, event)))
                due += _TICK_S
                await asyncio.sleep(due - loop.time())
        end = {"index": 0, "delta": {}, "finish_reason": "stop"}
        last = f"data: {json.dumps({'choices': [end]})}\n\ndata: [DONE]\n\n".encode()
        for _, transport in self._transports:
            transport.write(_chunk(last) + _chunk(b""))


class Connection(asyncio.Protocol):
    """One connection, which brings one request."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to write."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Begin the stream as soon as its request is whole: its prompt is its name."""
        self._received += data
        head, _, body = self._received.partition(b"\r\n\r\n")
        try:
            prompt = json.loads(body)["messages"][0]["content"]
        except ValueError:
            return  # the rest is still to come
        assert head.startswith(b"POST ")
        self._streams.add(prompt, self._transport)


def _event(name: str, number: int) -> bytes:
    content = f"{name}:{number}:{time.monotonic_ns()}"
    return b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % content.encode()


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def _serve(streams: Streams) -> None:
    loop = asyncio.get_running_loop()
    ports: list[int] = []
    for address in ADDRESSES:
        server = await loop.create_server(lambda: Connection(streams), address, 0, backlog=_BACKLOG)
        ports.append(server.sockets[0].getsockname()[1])
    print(*ports, flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    raise_file_limit()
    asyncio.run(_serve(Streams(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))))
