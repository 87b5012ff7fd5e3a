"""A worker process, as the batch sees it.

Nothing of what it is told stands in its arguments or in the environment it is started with. It is in a session of its
own, so that Ctrl-C in a terminal reaches the batch alone, which then lets its rows come to their end.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from asyncllm.batch.codec import decode_outcome
from asyncllm.batch.lost import WorkerLostError
from asyncllm.batch.rows import AnyAsk
from asyncllm.batch.workers.recipe import Recipe
from asyncllm.batch.workers.wire import (
    Answered,
    Begin,
    Cancel,
    Frames,
    Ping,
    Ready,
    Refused,
    question_of,
    to_frame,
    upward,
)
from asyncllm.calls import Model

__all__ = ["ProcessWorker"]

_CHUNK = 2**18
_START_S = 120.0
_STOP_S = 10.0
_LAST_S = 1.0
_PING_S = 5.0
_SILENT = 24
"""Pings without an answer after which a process is taken to hang: two minutes."""

_NEEDED = ("PATH", "HOME", "LANG", "TZ", "TMPDIR", "VIRTUAL_ENV")
_NEEDED_KINDS = ("LC_", "LD_", "DYLD_", "MALLOC_", "GLIBC_", "PYTHON")
"""Variables that a process needs from its first instruction on. All others come over the socket."""


class ProcessWorker:
    """One process, which is started once."""

    def __init__(self, recipe: Recipe, *, ping_s: float = _PING_S) -> None:
        self._recipe = recipe
        self._ping_s = ping_s
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._calls: dict[int, asyncio.Future[bytes]] = {}
        self._number = 0
        self._silent = 0
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._how: str | None = None
        """How it has ended."""

    @property
    def pid(self) -> int | None:
        """The number of the process, once there is one."""
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """Return once there is a client over there.

        Raises `WorkerLostError`, and what making the client raises over there.
        """
        ours, theirs = socket.socketpair()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "asyncllm.batch.workers", str(theirs.fileno())),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=2,  # the output of a batch may go to ours
                pass_fds=(theirs.fileno(),),
                env=_environ(),
                start_new_session=True,
            )
            reader, self._writer = await asyncio.open_connection(sock=ours)
        except OSError as error:
            ours.close()
            raise WorkerLostError(f"could not be started: {error.strerror}", was_asked=False) from error
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        reading = asyncio.create_task(self._read(self._process, reader))
        self._tasks += [reading, asyncio.create_task(self._see_end(self._process, reading))]
        self._writer.write(to_frame(Begin(self._recipe, dict(os.environ))))
        try:
            async with asyncio.timeout(_START_S):
                await self._ready
        except TimeoutError:
            raise WorkerLostError(f"was not ready within {_START_S:.0f} seconds", was_asked=False) from None
        self._tasks.append(asyncio.create_task(self._watch()))

    async def ask(self, asked: AnyAsk, model: Model | None) -> bytes:
        """What became of a row, as `codec` writes it. Cancelled, it is cancelled there. Raises `WorkerLostError`."""
        writer = self._writer
        if writer is None or self._how is not None:
            raise WorkerLostError(self._how or "has not begun", was_asked=False)
        self._number += 1
        number = self._number
        call: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._calls[number] = call
        try:
            writer.write(to_frame(question_of(number, asked, model)))
            with suppress(ConnectionError):  # then `_read` comes to the end as well, and says how it was
                await writer.drain()
            return await call
        except asyncio.CancelledError:
            if not writer.is_closing():
                writer.write(to_frame(Cancel(number)))
            raise
        finally:
            del self._calls[number]

    def kill(self) -> None:
        """End it now, and with it all processes of its own that are in its session's group."""
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def stop(self) -> None:
        """Let it close its client, for ten seconds at the most, and end it. Idempotent."""
        if self._writer is not None:
            self._writer.close()
        try:
            if self._process is not None:
                async with asyncio.timeout(_STOP_S):
                    await self._process.wait()
        except TimeoutError:
            self.kill()
        except BaseException:
            self.kill()
            raise
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._lose("was stopped")
        if self._process is not None:
            await self._process.wait()

    async def _read(self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader) -> None:
        frames = Frames()
        with suppress(ConnectionError, msgspec.MsgspecError):  # as good as its end
            while data := await reader.read(_CHUNK):
                self._silent = 0
                for body in frames.feed(data):
                    self._take(body)
        try:
            async with asyncio.timeout(_LAST_S):
                await process.wait()
        except TimeoutError:
            self._how = "closed its connection"
            self.kill()

    async def _see_end(self, process: asyncio.subprocess.Process, reading: asyncio.Task[None]) -> None:
        """Apart from the end of the connection, which a process that it has started may hold open."""
        code = await process.wait()
        await asyncio.wait([reading], timeout=_LAST_S)  # for what it has still said
        self._lose(_end(code))

    def _take(self, body: bytes) -> None:
        message = upward.decode(body)
        if isinstance(message, Answered):
            call = self._calls.get(message.number)
            if call is not None and not call.done():
                call.set_result(message.body)
        elif isinstance(message, Ready | Refused) and not self._ready.done():
            if isinstance(message, Ready):
                self._ready.set_result(None)
            else:
                error = decode_outcome(message.error, index=0).error
                assert error is not None  # as it was encoded
                self._ready.set_exception(error)

    async def _watch(self) -> None:
        """End a process that stands still: what it was asked would never come to its end."""
        while True:
            await asyncio.sleep(self._ping_s)
            self._silent += 1
            if self._silent > _SILENT:
                self._how = f"gave no sign of life for {_SILENT * self._ping_s:.0f} seconds"
                self.kill()
                return
            if self._writer is not None and not self._writer.is_closing():
                self._writer.write(to_frame(Ping()))

    def _lose(self, how: str) -> None:
        self._how = self._how or how
        waiting: list[asyncio.Future[Any]] = [self._ready, *self._calls.values()]
        for one in waiting:
            if not one.done():
                one.set_exception(WorkerLostError(self._how, was_asked=one is not self._ready))
                one.exception()  # nobody may be waiting any more


def _end(code: int) -> str:
    """How a process has ended that left `code`."""
    if code >= 0:
        return f"ended with status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was ended by {name}" + (", as by a system without memory" if -code == signal.SIGKILL else "")


def _environ() -> dict[str, str]:
    """What a process is started with: what it needs to run this Python, and to find what this one can import."""
    told = {name: value for name, value in os.environ.items() if name in _NEEDED or name.startswith(_NEEDED_KINDS)}
    told["PYTHONPATH"] = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    return told
