"""A worker process: `python -m asyncllm.batch.workers FD`, where FD is its end of a pair of sockets.

It ends with whoever has started it: the kernel ends it where there is Linux, and the end of the socket does elsewhere.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
from contextlib import suppress

from asyncllm.batch.workers.clerk import Clerk, told
from asyncllm.batch.workers.wire import (
    Answered,
    Begin,
    Cancel,
    Frames,
    Ping,
    Pong,
    Question,
    Ready,
    Refused,
    downward,
    to_frame,
)

_PR_SET_PDEATHSIG = 1
_CHUNK = 2**18
_END_S = 8.0


class _Process:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._clerk: Clerk | None = None
        self._calls: dict[int, asyncio.Task[None]] = {}

    async def serve(self) -> None:
        """Until the socket has come to its end."""
        frames = Frames()
        with suppress(ConnectionError):
            while data := await self._reader.read(_CHUNK):
                for body in frames.feed(data):
                    self._take(body)
        _end_in_time()
        for call in self._calls.values():
            call.cancel()
        await asyncio.gather(*self._calls.values(), return_exceptions=True)
        if self._clerk is not None:
            await self._clerk.aclose()

    def _take(self, body: bytes) -> None:
        message = downward.decode(body)
        if isinstance(message, Question):
            call = asyncio.create_task(self._answer(message))
            self._calls[message.number] = call
            call.add_done_callback(lambda _: self._calls.pop(message.number))
        elif isinstance(message, Cancel):
            with suppress(KeyError):  # it has just been answered
                self._calls[message.number].cancel()
        elif isinstance(message, Begin):
            self._begin(message)
        elif isinstance(message, Ping):
            self._writer.write(to_frame(Pong()))

    def _begin(self, message: Begin) -> None:
        # Not as the environment that it was started with: that can be read from outside.
        os.environ.clear()
        os.environ.update(message.environ)
        try:
            self._clerk = Clerk(message.recipe)
        except Exception as error:  # it is raised where the batch was started
            self._writer.write(to_frame(Refused(told(error))))
        else:
            self._writer.write(to_frame(Ready()))

    async def _answer(self, question: Question) -> None:
        assert self._clerk is not None  # a worker that is not ready is asked nothing
        body = await self._clerk.answer(question)
        with suppress(ConnectionError):
            self._writer.write(to_frame(Answered(question.number, body)))
            await self._writer.drain()


def _end_with_parent() -> None:
    if sys.platform == "linux":
        import ctypes  # here alone

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _end_in_time() -> None:
    """An engine may take its time to be freed, and its threads may never end; the process does."""
    timer = threading.Timer(_END_S, os._exit, (1,))
    timer.daemon = True
    timer.start()


async def _main(file: int) -> None:
    os.set_inheritable(file, False)
    reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=file))
    await _Process(reader, writer).serve()


if __name__ == "__main__":  # an engine that starts processes of its own imports this file again there
    _end_with_parent()
    asyncio.run(_main(int(sys.argv[1])))
