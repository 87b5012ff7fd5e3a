"""A real HTTP server that misbehaves on purpose: raw asyncio on 127.0.0.1, one script a request.

It writes what its script says and nothing else, so that a test can put every byte, and every way of dying, where it
wants it. What came in, and how the client left, is kept for the test to look at.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeAlias, cast

import msgspec
from msgspec import Struct

from asyncllm.testing.ops import Chunk, Fin, HalfClose, Op, Pause, Rst, Slice, Sse, Stall, Status
from asyncllm.testing.wire import sse_event

__all__ = ["FaultyServer", "SeenRequest"]

TASK_NAME = "asyncllm.testing.FaultyServer"
"""Name of the tasks that serve connections, by which a test can tell them from those of the code under test."""

_HEAD_BYTES = 2**20
_REASONS = {200: "OK", 204: "No Content", 307: "Temporary Redirect", 429: "Too Many Requests"}


class SeenRequest(Struct):
    """A request as it arrived, and how its client left."""

    method: str
    path: str
    """Query included."""
    headers: dict[str, str]
    """By names in lower case."""
    body: bytes
    connection: int
    """Which connection brought it, counted from one."""
    aborted_s: float | None = None
    """Seconds from its arrival until the client closed the connection, if it did before the script's end."""

    def json(self) -> Any:
        """The body decoded."""
        return msgspec.json.decode(self.body)


Scripts: TypeAlias = Sequence[Op] | Sequence[Sequence[Op]] | Callable[[SeenRequest], Sequence[Op]]
"""One script for every request, a list of scripts to play in order, or a function that chooses."""


class FaultyServer:
    """Serves HTTP/1.1 by script while its block lasts: `async with FaultyServer(scripts) as server: server.url`.

    Of a list of scripts the last one serves every further request. A connection stays open after a script unless the
    script closes it. `on_connect` is played when a connection is accepted, before anything is read.

    Leaving closes every connection and raises what a script function raised.
    """

    def __init__(self, scripts: Scripts, *, on_connect: Sequence[Op] = ()) -> None:
        self._scripts = scripts
        self._on_connect = on_connect
        self._tasks: set[asyncio.Task[object]] = set()
        self._errors: list[Exception] = []
        self._pulse = asyncio.Event()
        self._server: asyncio.Server
        self.requests: list[SeenRequest] = []
        """Every request, in order of arrival."""
        self.connections = 0
        """Connections accepted so far."""
        self.url = ""
        """`http://127.0.0.1:port`, without a slash at its end."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.get_running_loop().create_server(lambda: _Wire(self._accept), "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._server.wait_closed()
        if self._errors and error is None:
            raise self._errors[0]

    async def received(self, count: int = 1, *, within_s: float = 10) -> list[SeenRequest]:
        """Wait until `count` requests have arrived, and return all. Raises `TimeoutError` after `within_s`."""
        async with asyncio.timeout(within_s):
            while len(self.requests) < count:
                await self._pulse.wait()
        return self.requests

    async def aborted(self, count: int = 1, *, within_s: float = 10) -> list[SeenRequest]:
        """Wait until `count` requests were left by their client before their script ended, and return those.

        A reply that fits into the buffers of the network is sent to its end, whether or not anybody reads it, so a
        script that is to see its client leave ends with a `Stall` or takes its time. Raises `TimeoutError` after
        `within_s`.
        """
        async with asyncio.timeout(within_s):
            while len(left := [request for request in self.requests if request.aborted_s is not None]) < count:
                await self._pulse.wait()
        return left

    def _accept(self, wire: _Wire, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A task of our own: of one that asyncio starts for us, it reports the cancellation as an error (Python 3.11).
        task = asyncio.get_running_loop().create_task(self._serve(wire, reader, writer), name=TASK_NAME)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: writer.close())  # here, because a task may end before it begins

    async def _serve(self, wire: _Wire, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await self._converse(_Player(wire, writer), reader, self.connections)
        except (asyncio.IncompleteReadError, ConnectionError, _GoneError):
            pass  # the client left between two requests, or while it was greeted
        except asyncio.CancelledError:
            # What is still to be written to a client that does not read would keep the server from closing.
            writer.transport.abort()
            raise
        except Exception as error:
            self._errors.append(error)

    async def _converse(self, player: _Player, reader: asyncio.StreamReader, connection: int) -> None:
        time = asyncio.get_running_loop().time
        is_open = await player.play(self._on_connect)
        while is_open:
            request = await _read_request(reader, connection)
            arrived = time()
            self.requests.append(request)
            self._tell()
            try:
                is_open = await player.play(self._script(request))
            except _GoneError:
                request.aborted_s = time() - arrived
                self._tell()
                return

    def _tell(self) -> None:
        self._pulse.set()
        self._pulse = asyncio.Event()

    def _script(self, request: SeenRequest) -> Sequence[Op]:
        scripts = self._scripts
        if callable(scripts):
            return scripts(request)
        if scripts and isinstance(scripts[0], list | tuple):
            position = min(len(self.requests), len(scripts)) - 1
            return cast("Sequence[Sequence[Op]]", scripts)[position]
        return cast("Sequence[Op]", scripts)


class _Wire(asyncio.StreamReaderProtocol):
    """One connection that knows at once when its client is gone, read or not."""

    def __init__(self, accept: Callable[[_Wire, asyncio.StreamReader, asyncio.StreamWriter], None]) -> None:
        self.gone = asyncio.Event()
        reader = asyncio.StreamReader(limit=_HEAD_BYTES)
        super().__init__(reader, lambda reader, writer: accept(self, reader, writer))

    def eof_received(self) -> bool | None:
        self.gone.set()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # see below
        self.gone.set()
        # Without the reason: nobody asks for it, and asyncio reports an exception that nobody saw.
        super().connection_lost(None)


class _GoneError(Exception):
    """The client closed the connection."""


class _Player:
    """Plays scripts on one connection."""

    def __init__(self, wire: _Wire, writer: asyncio.StreamWriter) -> None:
        self._gone = wire.gone
        self._writer = writer
        self._slice: Slice | None = None

    async def play(self, ops: Sequence[Op]) -> bool:
        """Do what `ops` say. Returns whether the connection can take another request; raises `_GoneError`."""
        self._slice = None
        for op in ops:
            if not await self._do(op):
                return False
        return True

    async def _do(self, op: Op) -> bool:
        match op:
            case bytes():
                await self._send(op)
            case Pause(seconds=seconds):
                await self._wait(seconds)
            case float() | int():
                await self._wait(op)
            case Stall():
                await self._wait(None)
            case Status():
                await self._send(_head(op.code, op.headers, op.body) + (op.body or b""))
            case Chunk(data=data):
                await self._send(_chunk(data))
            case Sse():
                return await self._stream(op)
            case Slice():
                self._slice = op
            case HalfClose():
                self._writer.write_eof()
            case Fin():
                self._writer.close()
                return False
            case Rst():
                self._reset()
                return False
        return True

    async def _stream(self, op: Sse) -> bool:
        frame = _chunk if op.framing == "chunked" else bytes
        last = {"Transfer-Encoding": "chunked"} if op.framing == "chunked" else {"Connection": "close"}
        await self._send(_head(200, {"Content-Type": "text/event-stream", **last, **op.headers}, None))
        for event in op.events:
            data = event if isinstance(event, bytes | str) else msgspec.json.encode(event)
            await self._send(frame(sse_event(data)))
            if op.every_s:
                await self._wait(op.every_s)
        match op.ending:
            case "fin":
                return await self._do(Fin())
            case "rst":
                return await self._do(Rst())
            case "stall":
                return await self._do(Stall())
            case "done":
                await self._send(frame(sse_event(b"[DONE]")))
            case "end":
                pass
        if op.framing == "close":
            return await self._do(Fin())
        await self._send(_chunk(b""))
        return True

    async def _send(self, data: bytes) -> None:
        pieces = [data]
        if self._slice is not None:
            size = self._slice.size
            pieces = [data[start : start + size] for start in range(0, len(data), size)]
        for piece in pieces:
            if self._gone.is_set():
                raise _GoneError
            self._writer.write(piece)
            try:
                await self._writer.drain()
            except ConnectionError as error:
                raise _GoneError from error
            if self._slice is not None:
                await self._wait(self._slice.wait_s)

    async def _wait(self, seconds: float | None) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._gone.wait()
        except TimeoutError:
            return
        raise _GoneError

    def _reset(self) -> None:
        raw: socket.socket = self._writer.get_extra_info("socket")
        # Closing a socket that lingers for zero seconds sends RST in place of FIN.
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


async def _read_request(reader: asyncio.StreamReader, connection: int) -> SeenRequest:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.split("\r\n")[:-2]
    method, path, _ = first.split(" ", 2)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if "transfer-encoding" in headers:
        raise NotImplementedError("a FaultyServer reads requests with a Content-Length only")
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return SeenRequest(method, path, headers, body, connection)


def _head(code: int, headers: Mapping[str, str], body: bytes | None) -> bytes:
    shown = {} if body is None else {"Content-Type": "application/json", "Content-Length": str(len(body))}
    lines = [f"HTTP/1.1 {code} {_REASONS.get(code, 'Scripted')}"]
    lines += [f"{name}: {value}" for name, value in {**shown, **headers}.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)
