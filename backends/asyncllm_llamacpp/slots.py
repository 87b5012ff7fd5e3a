"""Slots of one engine, given out in the order they were asked for, to any number of event loops.

llama.cpp has a line of its own, but a request that waits there cannot be taken out again, so no more are handed over
than it has slots for. An `asyncio.Semaphore` would bind the engine to one loop; clients on several may share it, and
the threads that run requests give slots back themselves: no loop has to be there for that, so none can be lost.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque

__all__ = ["Slots"]


class _Waiter:
    __slots__ = ("count", "future", "granted", "loop")

    def __init__(self, count: int, loop: asyncio.AbstractEventLoop) -> None:
        self.count = count
        self.loop = loop
        self.future: asyncio.Future[None] = loop.create_future()
        self.granted = False

    def wake(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


class Slots:
    """A counter of free slots with a line in front of it."""

    def __init__(self, count: int) -> None:
        self.free = count
        """Slots that nobody holds."""
        self._lock = threading.Lock()
        self._line: deque[_Waiter] = deque()

    async def take(self, count: int) -> None:
        """Wait for `count` slots at once, first come, first served. Cancelled, it holds none."""
        with self._lock:
            if not self._line and self.free >= count:
                self.free -= count
                return
            waiter = _Waiter(count, asyncio.get_running_loop())
            self._line.append(waiter)
        try:
            await waiter.future
        except BaseException:
            with self._lock:
                if waiter.granted:
                    self.free += count
                else:
                    self._line.remove(waiter)
                self._serve()
            raise

    def give(self, count: int) -> None:
        """Hand `count` slots back, from any thread."""
        with self._lock:
            self.free += count
            self._serve()

    def _serve(self) -> None:
        # A call that needs several slots is not overtaken by later ones: it would wait for ever under load.
        while self._line and self._line[0].count <= self.free:
            waiter = self._line.popleft()
            try:
                waiter.loop.call_soon_threadsafe(waiter.wake)
            except RuntimeError:  # its loop is closed, so nobody waits any more
                continue
            waiter.granted = True
            self.free -= waiter.count
