"""The one thread that a store is read and written by, and what goes there and back.

What is to be written while a commit is under way goes into the next one together: a hundred rows cost one sync of the
disk. A disk that is full holds everything back, and is tried again until there is room, where somebody tells of that.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

from msgspec import Struct

from asyncllm.errors import AsyncLLMError, StoreError
from asyncllm.finishing import finish
from asyncllm.workspace.database import Db
from asyncllm.workspace.mishaps import is_full, store_error
from asyncllm.workspace.points import Points

__all__ = ["Writer"]

T = TypeVar("T")

_GROUP = 256
_FULL_S = (0.05, 2.0)
"""Seconds between two tries at a full disk: at first, and at the most."""

_BUSY_S = 20.0
"""Seconds after which another process that writes is waited for no more by who has nothing to lose yet: one that was
stopped in the middle of a write does not let go."""

_AS_LONG_AS_IT_TAKES = float("inf")  # a thread cannot be stopped, and what it does now ends


class _Task(Struct, eq=False):
    do: Callable[[Db], Any]
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop
    writes: bool


class Writer:
    """Runs functions of a connection on a thread of its own, in the order they come."""

    def __init__(self, open_: Callable[[], Db], file: Path, points: Points, *, waits: bool) -> None:
        self._open = open_
        self._file = file
        self._points = points
        self._process = os.getpid()
        self._tasks: list[_Task] = []
        self._wake = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None
        self.waits = waits
        """Whether what is to be written waits while the disk is full, and as long as another process writes. It raises
        otherwise, and after a while."""
        self.is_full = False
        """Whether the disk had no room for the last commit."""
        self.commits = 0

    async def write(self, do: Callable[[Db], T]) -> T:
        """Run `do` inside a transaction, perhaps with others, and return what it returns once that is durable.

        What `do` raises, having written nothing, is raised here. It may run again. Cancelled, it may still be done.
        """
        return await self._put(do, writes=True)

    async def read(self, do: Callable[[Db], T]) -> T:
        """Run `do` outside of a transaction."""
        return await self._put(do, writes=False)

    async def open(self) -> None:
        """Start the thread and open the connection there. Raises as that does, and then there is no thread."""
        self._thread = threading.Thread(target=self._run, name="asyncllm-store", daemon=True)
        self._thread.start()
        try:
            await self.read(lambda _: None)
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Finish what was asked for, and end the thread. What a full disk holds back is given up. Idempotent."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread is not None and os.getpid() == self._process:
            await finish(asyncio.create_task(asyncio.to_thread(self._thread.join)), _AS_LONG_AS_IT_TAKES)

    async def _put(self, do: Callable[[Db], T], *, writes: bool) -> T:
        if os.getpid() != self._process:
            raise StoreError("this store was opened before the process was forked; open one here")
        loop = asyncio.get_running_loop()
        task = _Task(do, loop.create_future(), loop, writes)
        with self._wake:
            if self._closing:
                raise StoreError("this store is closed")
            self._tasks.append(task)
            if len(self._tasks) == 1:
                self._wake.notify()
        return cast("T", await task.future)

    # -- on the thread

    def _run(self) -> None:
        connection: Db | None = None
        while (group := self._take()) is not None:
            try:
                if connection is None:
                    connection = self._open()
                _settle(group, self._work(connection, group))
            except Exception as error:  # it is raised where the work was asked for
                _settle(group, [store_error(error, self._file)] * len(group))
        if connection is not None:
            with suppress(Exception):  # what cannot be carried over into the database stays in its log, and is safe
                connection.close()

    def _take(self) -> list[_Task] | None:
        """What comes next: several that write, or one that reads. `None` at the end."""
        with self._wake:
            while not self._tasks and not self._closing:
                self._wake.wait()
            if not self._tasks:
                return None
            count = 1
            if self._tasks[0].writes:
                while count < min(_GROUP, len(self._tasks)) and self._tasks[count].writes:
                    count += 1
            group = self._tasks[:count]
            del self._tasks[:count]
            return group

    def _work(self, connection: Db, group: list[_Task]) -> list[Any]:
        if not group[0].writes:
            return [group[0].do(connection)]
        wait_s = _FULL_S[0]
        began = time.monotonic()
        while True:
            try:
                results = self._commit(connection, group)
            except Exception as error:
                self.is_full = is_full(error)
                if not (self.is_full or _is_busy(error)) or self._closing:
                    raise
                if not self.waits and (self.is_full or time.monotonic() - began >= _BUSY_S):
                    raise
            else:
                self.is_full = False
                return results
            finally:
                # SQLite has rolled back by itself where the disk was full, and then there is nothing to roll back.
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            with self._wake:
                self._wake.wait_for(lambda: self._closing, wait_s)
            wait_s = min(2 * wait_s, _FULL_S[1])

    def _commit(self, connection: Db, group: list[_Task]) -> list[Any]:
        points = self._points
        points.reach("commit.begin")
        connection.execute("BEGIN IMMEDIATE")
        results: list[Any] = []
        for task in group:
            try:
                results.append(task.do(connection))
            except AsyncLLMError as error:
                results.append(error)
        points.reach("commit.before")
        connection.execute("COMMIT")
        self.commits += 1
        points.reach("commit.after")
        return results


def _is_busy(error: Exception) -> bool:
    """Whether another process writes, for longer than is worth waiting within SQLite."""
    import apsw

    return isinstance(error, apsw.BusyError)


def _settle(group: list[_Task], results: list[Any]) -> None:
    """Hand the results over, in one go."""
    loops = {id(task.loop): task.loop for task in group}
    for loop in loops.values():
        pairs = [(task.future, result) for task, result in zip(group, results, strict=True) if task.loop is loop]
        with suppress(RuntimeError):  # the loop is closed, and nobody waits there any more
            loop.call_soon_threadsafe(_resolve, pairs)


def _resolve(pairs: list[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, result in pairs:
        if future.done():  # nobody waits any more
            continue
        if isinstance(result, BaseException):
            future.set_exception(result)
        else:
            future.set_result(result)
