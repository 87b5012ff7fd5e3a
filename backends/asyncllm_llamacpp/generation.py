"""One request running inside llama.cpp: a thread that makes the call, and what it says on the event loop's side.

llama.cpp calls back with each piece of the answer, and the only way to stop it is what that call returns: so every
request streams, whatever its caller asked for. Pieces cross to the loop in batches, one wake-up for all that came
since the last. What waits to be read is never more than one answer.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

from asyncllm.errors import APIConnectionError

__all__ = ["Generation", "Handler"]

Handler: TypeAlias = Callable[[bytes, Callable[[bytes], bool]], object]
"""A method of llama.cpp: a JSON body, and what is called with each piece of JSON; true stops it."""

_main = threading.main_thread()


class Generation:
    """Made and read on one event loop; the thread of its own ends with the request."""

    def __init__(self, handler: Handler, body: bytes, on_end: Callable[[Generation], None]) -> None:
        self.error: Exception | None = None
        """What the call raised in place of answering; complete when `ended`."""
        self.ended = False
        """Whether llama.cpp is done with the request."""
        self.stopped = False
        """Whether `stop` was called."""
        self._on_end = on_end
        self._pieces: deque[bytes] = deque()
        self._told = False
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        # Not a daemon: the interpreter would tear llama.cpp's thread down within C++ and abort. A thread a request
        # costs 60 us, against 8 ms a token, and needs no pool that would have to be shut down.
        self._thread = threading.Thread(target=self._run, args=(handler, body), name="asyncllm-llamacpp")

    def start(self) -> None:
        """Hand the request over. From here on `on_end` is called, in the thread, when it is over."""
        try:
            self._thread.start()
        except RuntimeError as error:  # the interpreter is ending, or the system has no more threads
            raise APIConnectionError(f"no thread for the request: {error}") from error

    def stop(self) -> None:
        """Have llama.cpp drop the request at its next token, or after the part of the prompt it is reading."""
        self.stopped = True

    def join(self, timeout_s: float) -> None:
        """Wait for the thread, blocking."""
        self._thread.join(timeout_s)

    async def receive(self) -> list[bytes]:
        """What came since the last time, at least one piece; empty when the request is over."""
        while True:
            # In this order: a piece that comes after the first line wakes us, one before is taken by the third.
            self._told = False
            ended = self.ended
            pieces = [self._pieces.popleft() for _ in range(len(self._pieces))]
            if pieces or ended:
                return pieces
            await self._news.wait()
            self._news.clear()

    async def wait(self) -> None:
        """Return when the request is over, dropping what it still says."""
        while not self.ended:
            await self.receive()

    def _run(self, handler: Handler, body: bytes) -> None:
        try:
            if not self.stopped:
                handler(body, self._take)
        except Exception as error:
            self.error = error
        finally:
            self._on_end(self)
            self.ended = True
            self._tell()

    def _take(self, piece: bytes) -> bool:
        """Called by llama.cpp. It reads an exception as `stop` and tells nobody, so none may leave here."""
        self._pieces.append(piece)
        if not self._told:
            self._told = True
            self._tell()
        # The interpreter waits for this thread to end, and by then no one is left who could stop it.
        return self.stopped or not _main.is_alive()

    def _tell(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._news.set)
        except RuntimeError:  # the loop is closed: nobody will read the answer
            self.stopped = True
