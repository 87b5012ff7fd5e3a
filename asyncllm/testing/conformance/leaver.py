"""The ways to leave a call, and what must be true afterwards: the base of the checks that leave one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from asyncllm.backend import Backend
from asyncllm.testing.conformance.harness import settled, within
from asyncllm.testing.conformance.subject import Subject
from asyncllm.types import Request

__all__ = ["Leaver"]


class Leaver(Subject):
    """Leaves calls several times in a row, and looks at what is left of them."""

    async def read_for_ever(
        self,
        backend: Backend,
        first: asyncio.Event | None = None,
        then: Callable[[], None] | None = None,
        request: Request | None = None,
    ) -> None:
        """Read a call to its end and wait in its block until cancelled; tell of its first event."""
        async with backend.open(request or self.long_request()) as events:
            async for _ in events:
                if first is not None:
                    first.set()
                if then is not None:
                    then()
                    then = None
            await asyncio.Event().wait()

    async def cancelled_already(self, backend: Backend) -> None:
        """Begin a call in a task that was cancelled before."""
        task = asyncio.current_task()
        assert task is not None  # this runs as one
        task.cancel()
        await self.read_for_ever(backend)

    async def reached(self, first: asyncio.Event, task: asyncio.Task[None]) -> None:
        """Wait until `task` has its first event; raise what it raises before."""
        waiter = asyncio.create_task(first.wait())
        await asyncio.wait([waiter, task], timeout=self.patience_s, return_when=asyncio.FIRST_COMPLETED)
        if not waiter.done():
            waiter.cancel()
        if task.done():
            task.result()
        assert first.is_set(), f"a call has no first event within {self.patience_s} seconds"

    async def frees(self, backend: Backend, leave: Callable[[], Awaitable[None]], what: str) -> None:
        """Leave several calls by `leave`; fail unless all is as it was before."""
        # What is started once a backend, such as a reader of its engine, is not left over from a call.
        await self.answer(backend)
        before = asyncio.all_tasks()
        for _ in range(self.rounds):
            with within(self.patience_s, f"a call after one that ended with {what}"):
                async with asyncio.timeout(self.patience_s):
                    await leave()
        await self.is_as_before(backend, before, what)

    async def is_as_before(self, backend: Backend, before: set[asyncio.Task[object]], what: str) -> None:
        """Fail if a task is left over, or if the next call fails."""
        await settled(before, what)
        try:
            await self.answer(backend)
        except Exception as error:
            raise AssertionError(f"after {what} the next call fails: {error!r}") from error
