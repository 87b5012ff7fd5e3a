"""Thousands that read slowly, or never say what they want: the server stays small, and quick for everybody else."""

from __future__ import annotations

import asyncio
import json
import math
import socket
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from msgspec import Struct

from events_server import raise_file_limit

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="its memory is read from /proc")

FLOOR_S = 0.05
PARTIAL_BODY = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n{"
HALVES = (b"", b"P", b"POST /v1/chat/completions HTTP/1.1\r\nHost: loc", PARTIAL_BODY)


def asking(text: str) -> bytes:
    body = json.dumps({"messages": [{"role": "user", "content": text}], "stream": True}).encode()
    return (b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)) + body


class Crowded(Struct):
    """A server with a crowd before it."""

    pid: int
    port: int

    @property
    def rss_mib(self) -> float:
        """Its resident memory."""
        return int(Path(f"/proc/{self.pid}/statm").read_text("ascii").split()[1]) * 4096 / 2**20

    async def p99_s(self, seconds: float) -> float:
        """The latency of short answers to four who ask one after the other."""
        took: list[float] = []
        ends = time.monotonic() + seconds

        async def ask() -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            while time.monotonic() < ends:
                began = time.perf_counter()
                writer.write(asking("little"))
                await reader.readuntil(b"\r\n0\r\n\r\n")
                took.append(time.perf_counter() - began)
                await asyncio.sleep(0.01)
            writer.close()
            await writer.wait_closed()

        await asyncio.gather(*[ask() for _ in range(4)])
        return sorted(took)[math.ceil(len(took) * 0.99) - 1]


@asynccontextmanager
async def crowded() -> AsyncGenerator[Crowded]:
    pipe = asyncio.subprocess.PIPE
    script = Path(__file__).with_name("crowd_server.py")
    process = await asyncio.create_subprocess_exec(sys.executable, script, stdin=pipe, stdout=pipe)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield Crowded(process.pid, int(await process.stdout.readline()))
    finally:
        process.stdin.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(10):
                await process.wait()
        if process.returncode is None:
            process.kill()
            await process.wait()


async def crowd(port: int, count: int, said: Sequence[bytes], opened: list[socket.socket]) -> None:
    """`count` connections, which say each of `said` in turn, with little room for what comes back."""
    loop = asyncio.get_running_loop()
    for number in range(count):
        sock = socket.socket()
        opened.append(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", port))
        await loop.sock_sendall(sock, said[number % len(said)])


async def sip(opened: Sequence[socket.socket]) -> None:
    """Read ten bytes a second of each."""
    while True:
        began = time.monotonic()
        for number, sock in enumerate(opened):
            with suppress(OSError):
                sock.recv(10)
            if number % 100 == 0:
                await asyncio.sleep(0)
        await asyncio.sleep(max(0, began + 1 - time.monotonic()))


SIZES = [pytest.param(100, 1.5, id="few"), pytest.param(2000, 15, id="many", marks=pytest.mark.slow)]


@pytest.mark.parametrize(("count", "seconds"), SIZES)
async def test_slow_readers_cost_little_and_slow_nobody_down(count: int, seconds: float) -> None:
    raise_file_limit()
    opened: list[socket.socket] = []
    async with crowded() as server:
        await server.p99_s(0.5)
        alone_s, alone_mib = await server.p99_s(seconds), server.rss_mib
        try:
            await crowd(server.port, count, [asking("much")], opened)
            sipping = asyncio.create_task(sip(opened))
            await asyncio.sleep(seconds / 3)
            beside_s, beside_mib = await server.p99_s(seconds), server.rss_mib
            sipping.cancel()
        finally:
            for sock in opened:
                sock.close()
        kib = (beside_mib - alone_mib) * 1024 / count
        print(f"{count} slow readers: p99 {alone_s * 1e3:.1f} -> {beside_s * 1e3:.1f} ms, {kib:.0f} KiB each")

    assert beside_s < max(2 * alone_s, FLOOR_S)
    assert beside_mib - alone_mib < 150 * count / 1000 + 10


@pytest.mark.parametrize(
    ("count", "seconds"),
    [pytest.param(300, 1.5, id="few"), pytest.param(5000, 9, id="many", marks=pytest.mark.slow)],
)
async def test_half_open_connections_cost_little_and_slow_nobody_down(count: int, seconds: float) -> None:
    raise_file_limit()
    opened: list[socket.socket] = []
    async with crowded() as server:
        await server.p99_s(0.5)
        alone_s, alone_mib = await server.p99_s(seconds), server.rss_mib
        try:
            await crowd(server.port, count, HALVES, opened)
            beside_s, beside_mib = await server.p99_s(seconds), server.rss_mib
        finally:
            for sock in opened:
                sock.close()
        kib = (beside_mib - alone_mib) * 1024 / count
        print(f"{count} half-open: p99 {alone_s * 1e3:.1f} -> {beside_s * 1e3:.1f} ms, {kib:.0f} KiB each")

    assert beside_s < max(2 * alone_s, FLOOR_S)
    assert beside_mib - alone_mib < 30 * count / 1000 + 10
