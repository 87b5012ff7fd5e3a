"""Checks of the ways out: however a call is left, what it held is free again."""

from __future__ import annotations

import asyncio

import anyio

from asyncllm.backend import Backend
from asyncllm.testing.conformance.leaver import Leaver
from asyncllm.testing.conformance.subject import check

__all__ = ["LeavingChecks"]

_STEPS = 24


class LeavingChecks(Leaver):
    """Each way out is taken several times in a row; then no task is left over and the next call works."""

    @check
    async def test_leaving_after_the_first_event_frees_the_call(self, backend: Backend) -> None:
        """By `break`."""

        async def leave() -> None:
            async with backend.open(self.long_request()) as events:
                async for _ in events:
                    break

        await self.frees(backend, leave, "leaving after the first event")

    @check
    async def test_leaving_without_reading_frees_the_call(self, backend: Backend) -> None:
        """Entered, and no event asked for."""

        async def leave() -> None:
            async with backend.open(self.long_request()):
                pass

        await self.frees(backend, leave, "leaving without reading")

    @check
    async def test_an_exception_in_the_block_frees_the_call_and_passes(self, backend: Backend) -> None:
        """The reader's own exception comes out as it went in."""

        async def leave() -> None:
            mine, out = ValueError("the reader's own"), None
            try:
                async with backend.open(self.long_request()) as events:
                    await anext(events)
                    raise mine
            except Exception as error:
                out = error
            assert out is mine, f"the reader's own exception comes out of the block as {out!r}"

        await self.frees(backend, leave, "an exception in the block")

    @check
    async def test_cancelling_the_task_frees_the_call(self, backend: Backend) -> None:
        """By `task.cancel()`, after the first event, and the task ends cancelled."""

        async def leave() -> None:
            task = asyncio.create_task(self.read_for_ever(backend, first := asyncio.Event()))
            await self.reached(first, task)
            task.cancel()
            await asyncio.wait([task], timeout=self.patience_s)
            assert task.done(), f"a cancelled call did not end within {self.patience_s} seconds"
            assert task.cancelled(), f"a cancelled call ends with {task.exception()!r} in place of CancelledError"

        await self.frees(backend, leave, "task.cancel()")

    @check
    async def test_a_call_cancelled_at_any_step_frees_what_it_holds(self, backend: Backend) -> None:
        """Cancelled before its first step, after its first, after its second, and so on."""
        await self.answer(backend)
        before = asyncio.all_tasks()
        for steps in sorted([*range(_STEPS)] * self.rounds):
            task = asyncio.create_task(self.read_for_ever(backend))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task], timeout=self.patience_s)
            assert task.done(), f"a call cancelled after {steps} steps did not end within {self.patience_s} seconds"
            assert task.cancelled(), f"a call cancelled after {steps} steps ends with {task.exception()!r}"
        await self.is_as_before(backend, before, "a cancelled call")

    @check
    async def test_a_deadline_of_asyncio_frees_the_call(self, backend: Backend) -> None:
        """By `asyncio.timeout`, whose `TimeoutError` comes out."""

        async def leave() -> None:
            try:
                async with asyncio.timeout(None) as deadline:
                    await self.read_for_ever(backend, then=lambda: deadline.reschedule(0))
            except TimeoutError:
                return

        await self.frees(backend, leave, "asyncio.timeout")

    @check
    async def test_a_cancelled_scope_of_anyio_frees_the_call(self, backend: Backend) -> None:
        """By `CancelScope.cancel()`, which strikes again at every await of the clean-up."""

        async def leave() -> None:
            with anyio.CancelScope() as scope:
                await self.read_for_ever(backend, then=scope.cancel)
            assert scope.cancelled_caught, "the cancellation of the scope does not come out of the block"

        await self.frees(backend, leave, "an anyio cancel scope")

    @check
    async def test_a_deadline_of_anyio_frees_the_call(self, backend: Backend) -> None:
        """By `anyio.fail_after` and `anyio.move_on_after`, which strike while the call waits or is read."""

        async def leave() -> None:
            with anyio.move_on_after(0.002):
                await self.read_for_ever(backend)
            try:
                with anyio.fail_after(0.005):
                    await self.read_for_ever(backend)
            except TimeoutError:
                return

        await self.frees(backend, leave, "a deadline of anyio")

    @check
    async def test_entering_when_already_cancelled_frees_the_call(self, backend: Backend) -> None:
        """A task and a scope that are cancelled before the call begins."""

        async def leave() -> None:
            with anyio.CancelScope() as scope:
                scope.cancel()
                await self.read_for_ever(backend)
            task = asyncio.create_task(self.cancelled_already(backend))
            await asyncio.wait([task], timeout=self.patience_s)
            assert task.cancelled(), "a call in a task that is cancelled already does not end cancelled"

        await self.frees(backend, leave, "entering when already cancelled")

    @check
    async def test_a_stream_left_while_others_run_does_not_touch_them(self, backend: Backend) -> None:
        """One of two calls at once is left; the other ends complete."""
        other = asyncio.create_task(self.answer(backend))
        async with backend.open(self.long_request()) as events:
            await anext(events)
        await other
