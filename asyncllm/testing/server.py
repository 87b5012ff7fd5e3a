"""A real HTTP server that misbehaves on purpose: raw asyncio on 127.0.0.1, one script a request.

It writes what its script says and nothing else, so that a test can put every byte, and every way of dying, where it
wants it. What came in, and how the client left, is kept for the test to look at.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import cycle
from types import TracebackType
from typing import Any, Self, TypeAlias, cast

from asyncllm.testing.backlog import FullBacklog
from asyncllm.testing.ops import Chunk, Fin, HalfClose, Op, Pause, Rst, Slice, Sse, Stall, Status
from asyncllm.testing.seen import HEAD_BYTES, MalformedError, SeenRequest, read_request
from asyncllm.testing.tls import Authority, Tls
from asyncllm.testing.wire import compressed, sse_pieces

__all__ = ["FaultyServer", "Scripts"]

TASK_NAME = "asyncllm.testing.FaultyServer"
"""Name of the tasks that serve connections, by which a test can tell them from those of the code under test."""

_REASONS = {200: "OK", 204: "No Content", 307: "Temporary Redirect", 429: "Too Many Requests"}


Scripts: TypeAlias = Sequence[Op] | Sequence[Sequence[Op]] | Callable[[SeenRequest], Sequence[Op]]
"""One script for every request, a list of scripts to play in order, or a function that chooses."""


class FaultyServer:
    """Serves HTTP/1.1 by script while its block lasts: `async with FaultyServer(scripts) as server: server.url`.

    Of a list of scripts the last one serves every further request. A connection stays open after a script unless the
    script closes it. `on_connect` is played when a connection is accepted, before anything is read. `tls` makes it an
    https server, for better or worse; see `Tls`.

    Connections wait for `accept_after_s` seconds from the start, or for ever with `None`: the queue for them is full,
    so that connecting itself takes that long. The network asks again after one second, three, seven.

    What is not HTTP is answered with status 400. Leaving closes every connection and raises what a script function
    raised.
    """

    def __init__(
        self,
        scripts: Scripts,
        *,
        on_connect: Sequence[Op] = (),
        tls: Tls | None = None,
        accept_after_s: float | None = 0,
        port: int = 0,
        keep: bool = True,
    ) -> None:
        self._scripts = scripts
        self._on_connect = [Stall()] if tls == "stall" else on_connect
        self._accept_after_s = accept_after_s
        self._port = port
        self._keep = keep
        self._count = 0
        self._tls: Tls | None = tls
        self._authority = Authority() if tls else None
        self._tasks: set[asyncio.Task[object]] = set()
        self._errors: list[Exception] = []
        self._pulse = asyncio.Event()
        self._server: asyncio.Server
        self._backlog: FullBacklog | None = None
        self.requests: list[SeenRequest] = []
        """Every request, in order of arrival; none with `keep=False`, for a server that is to run for long."""
        self.connections = 0
        """Connections accepted so far."""
        self.url = ""
        """`http://127.0.0.1:port`, without a slash at its end; `https` with any `tls`."""

    @property
    def authority(self) -> Authority:
        """Who signed the certificate: `authority.client()` is an `ssl.SSLContext` that trusts it, `.pem` its bytes."""
        if self._authority is None:
            raise ValueError("a server without tls= has no certificate")
        return self._authority

    async def __aenter__(self) -> Self:
        door = socket.create_server(("127.0.0.1", self._port))
        self.url = f"http{'s' if self._tls else ''}://127.0.0.1:{door.getsockname()[1]}"
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Wire(self._accept),
            sock=door,
            ssl=self._authority.server(self._tls) if self._authority and self._tls else None,
            start_serving=False,
        )
        if self._accept_after_s == 0:
            await self._server.start_serving()
        else:
            self._backlog = FullBacklog(door)
            if self._accept_after_s is not None:
                self._tasks.add(asyncio.create_task(self._open_late(self._accept_after_s), name=TASK_NAME))
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
        if self._backlog is not None:
            self._backlog.close()
        if self._errors and error is None:
            raise self._errors[0]

    async def _open_late(self, after_s: float) -> None:
        assert self._backlog is not None  # made just before this task
        await asyncio.sleep(after_s)
        self._backlog.release()
        await self._server.start_serving()

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
        if self._tls == "plain":
            await reader.readexactly(1)  # of what is no HTTP at all
            await player.play([Status(400), Fin()])
            return
        while is_open:
            try:
                request = await read_request(reader, connection)
            except MalformedError:
                await player.play([Status(400), Fin()])
                return
            arrived = time()
            self._count += 1
            if self._keep:
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
            position = min(self._count, len(scripts)) - 1
            return cast("Sequence[Sequence[Op]]", scripts)[position]
        return cast("Sequence[Op]", scripts)


class _Wire(asyncio.StreamReaderProtocol):
    """One connection that knows at once when its client is gone, read or not."""

    def __init__(self, serve: Callable[[_Wire, asyncio.StreamReader, asyncio.StreamWriter], Any]) -> None:
        self.gone = asyncio.Event()
        reader = asyncio.StreamReader(limit=HEAD_BYTES)
        super().__init__(reader, lambda reader, writer: serve(self, reader, writer))

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
        self._sizes: Iterator[int] = iter(())

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
                await self._send(_reply(op))
            case Chunk(data=data):
                await self._send(_chunk(data))
            case Sse():
                return await self._stream(op)
            case Slice(size=size):
                self._slice = op
                self._sizes = cycle((size,) if isinstance(size, int) else size)
            case HalfClose():
                self._half_close()
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
        pieces = sse_pieces(op.events, done=op.ending == "done", pings=op.pings, newline=op.newline, bom=op.bom)
        if op.gzip is not None:
            pieces = compressed(pieces, op.gzip)
            last["Content-Encoding"] = "gzip"
        head = _head(op.status, {"Content-Type": "text/event-stream", **last, **op.headers}, None)
        writes = [frame(piece) for piece in pieces]
        if op.at_once:
            writes = [b"".join(writes)]
        await self._send(head)
        for number, data in enumerate(writes, 1):
            await self._send(data)
            if op.every_s and not (op.ending == "done" and number == len(writes)):
                await self._wait(op.every_s)
        match op.ending:
            case "fin":
                return await self._do(Fin())
            case "rst":
                return await self._do(Rst())
            case "stall":
                return await self._do(Stall())
            case "done" | "end" if op.framing == "close":
                return await self._do(Fin())
            case "done" | "end":
                await self._send(_chunk(b""))
        return True

    async def _send(self, data: bytes) -> None:
        pieces = [data]
        if self._slice is not None:
            pieces = list(_slices(data, self._sizes))
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

    def _half_close(self) -> None:
        if self._writer.can_write_eof():
            self._writer.write_eof()
        else:
            # TLS has no such thing: below it the connection is cut, without the farewell that TLS asks for.
            raw: socket.socket = self._writer.get_extra_info("socket")
            raw.shutdown(socket.SHUT_WR)

    def _reset(self) -> None:
        raw: socket.socket = self._writer.get_extra_info("socket")
        # Closing a socket that lingers for zero seconds sends RST in place of FIN.
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


def _slices(data: bytes, sizes: Iterator[int]) -> Iterator[bytes]:
    start = 0
    while start < len(data):
        size = next(sizes)
        yield data[start : start + size]
        start += size


def _reply(op: Status) -> bytes:
    if op.body is None or op.gzip is None:
        return _head(op.code, op.headers, op.body) + (op.body or b"")
    body = b"".join(compressed([op.body], op.gzip))
    return _head(op.code, {"Content-Encoding": "gzip", **op.headers}, body) + body


def _head(code: int, headers: Mapping[str, str], body: bytes | None) -> bytes:
    shown = {} if body is None else {"Content-Type": "application/json", "Content-Length": str(len(body))}
    lines = [f"HTTP/1.1 {code} {_REASONS.get(code, 'Scripted')}"]
    lines += [f"{name}: {value}" for name, value in {**shown, **headers}.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)
