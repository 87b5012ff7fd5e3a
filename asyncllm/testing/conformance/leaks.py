"""Checks of what grows: after many calls there is as much of everything as after a few."""

from __future__ import annotations

import asyncio
import gc
import random
import sys
import threading
from collections.abc import Callable

from asyncllm.backend import Backend
from asyncllm.errors import AsyncLLMError
from asyncllm.testing.conformance.harness import open_files, settled
from asyncllm.testing.conformance.subject import Subject, check
from asyncllm.types import Request

__all__ = ["LeakChecks"]

_WINDOWS = 5


class LeakChecks(Subject):
    """Calls in a row, each left at a random point; then a look at what there is, and the same again.

    Caches fill and are full; a leak grows in every window. Two windows without growth are enough, as other things
    come and go in the same process.
    """

    @check
    async def test_many_calls_leave_no_file_and_no_thread(self, backend: Backend) -> None:
        """Nor a task, wherever they were left."""
        await self._is_flat(backend, open_files, 1, "files and sockets open")
        await self._is_flat(backend, threading.active_count, 1, "threads running")

    @check
    async def test_many_calls_leave_no_memory(self, backend: Backend) -> None:
        """Blocks of the interpreter's memory, of which a leak takes at least one a call."""
        await self._is_flat(backend, _blocks, self.many, "blocks of memory")

    async def _is_flat(self, backend: Backend, count: Callable[[], int], limit: int, what: str) -> None:
        """Fail if `count` grows by `limit` or more in most of several windows of `many` calls."""
        chance = random.Random(0)
        before = asyncio.all_tasks()
        await self._make_calls(backend, chance, self.many // 2)
        growths: list[int] = []
        start = count()
        for _ in range(_WINDOWS):
            await self._make_calls(backend, chance, self.many)
            await settled(before, "many calls")
            now = count()
            growths.append(now - start)
            if sum(growth < limit for growth in growths) == 2:
                return
            start = now
        raise AssertionError(f"{self.many} calls leave {sorted(growths)[1]} {what}, time after time")

    async def _make_calls(self, backend: Backend, chance: random.Random, count: int) -> None:
        for _ in range(count):
            request = self.request(stream=chance.random() < 0.7)
            steps = chance.choice((0, 1, 2, 5, 1000))
            if chance.random() < 0.5:
                await self._leave(backend, request, steps)
            else:
                task = asyncio.create_task(self._leave(backend, request, 1000))
                for _ in range(steps % 100):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task], timeout=self.patience_s)

    async def _leave(self, backend: Backend, request: Request, steps: int) -> None:
        """Leave a call after `steps` events, or at its end."""
        try:
            async with asyncio.timeout(self.patience_s), backend.open(request) as events:
                async for _ in events:
                    steps -= 1
                    if steps < 0:
                        break
        except AsyncLLMError:
            pass  # what fails may leak too, and is looked at as well


def _blocks() -> int:
    gc.collect()
    return sys.getallocatedblocks()
