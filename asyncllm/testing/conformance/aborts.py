"""Checks of leaving that go beyond the stream: whole replies, readers that drop a stream, and how soon it is over."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import anyio

from asyncllm.backend import Backend
from asyncllm.client import Client
from asyncllm.errors import AsyncLLMError
from asyncllm.testing.conformance.harness import within
from asyncllm.testing.conformance.leaver import Leaver
from asyncllm.testing.conformance.subject import check
from asyncllm.types import SamplingOptions

__all__ = ["AbortChecks"]

_MOMENTS_S = (0, 0.001, 0.005, 0.02, 0.05)
_TRIES = 3

_Way: TypeAlias = Callable[[Backend, Callable[[], None]], Awaitable[None]]


class AbortChecks(Leaver):
    """A whole reply is left as a stream is, and both at once."""

    @check
    async def test_a_whole_reply_that_is_cancelled_frees_the_call(self, backend: Backend) -> None:
        """By `task.cancel()`, before it began, at its beginning and in the middle."""
        moments = iter(_MOMENTS_S * self.rounds)

        async def leave() -> None:
            task = asyncio.create_task(self.read_for_ever(backend, request=self.long_request(stream=False)))
            await asyncio.sleep(next(moments))
            task.cancel()
            await asyncio.wait([task], timeout=self.patience_s)
            assert task.done(), f"a cancelled call did not end within {self.patience_s} seconds"
            assert task.cancelled(), f"a cancelled call ends with {task.exception()!r} in place of CancelledError"

        await self.frees(backend, leave, "task.cancel() of a whole reply")

    @check
    async def test_a_whole_reply_in_a_cancelled_scope_frees_the_call(self, backend: Backend) -> None:
        """By an anyio scope, which strikes again at every await of the clean-up."""
        moments = iter(_MOMENTS_S[1:] * self.rounds)

        async def leave() -> None:
            with anyio.move_on_after(next(moments)) as scope:
                await self.read_for_ever(backend, request=self.long_request(stream=False))
            assert scope.cancelled_caught, "the cancellation of the scope does not come out of the block"

        await self.frees(backend, leave, "an anyio scope around a whole reply")

    @check
    async def test_a_whole_reply_past_a_deadline_frees_the_call(self, backend: Backend) -> None:
        """By `asyncio.timeout`, whose `TimeoutError` comes out."""
        moments = iter(_MOMENTS_S * self.rounds)

        async def leave() -> None:
            came_out = False
            try:
                async with asyncio.timeout(next(moments)):
                    await self.read_for_ever(backend, request=self.long_request(stream=False))
            except TimeoutError:
                came_out = True
            assert came_out, "the deadline around a whole reply does not come out of it"

        await self.frees(backend, leave, "asyncio.timeout around a whole reply")

    @check
    async def test_a_stream_that_its_reader_drops_frees_the_call(self, backend: Backend) -> None:
        """A client's text stream that nobody holds any more, after its first piece."""
        if not self.chat:
            return
        client = Client(backend=backend, model=self.model, retry=None, env={})
        options: SamplingOptions = {} if self.long_max_tokens is None else {"max_tokens": self.long_max_tokens}

        async def leave() -> None:
            texts = client.stream_text(self.long_prompt, **options)
            await anext(texts)
            del texts
            gc.collect()
            await asyncio.sleep(0)

        await self.frees(backend, leave, "a stream that was dropped")

    @check
    async def test_leaving_a_call_takes_no_time(self, backend: Backend) -> None:
        """Within `abort_s` by every way out, the block is left and what it held is free."""
        await self.answer(backend)
        ways = (
            self._by_break,
            self._by_error,
            self._by_cancel,
            self._by_scope,
            self._by_deadline,
            self._by_cancel_of_a_whole_reply,
        )
        for way in ways:
            quickest_s = min([await self._seconds(backend, way) for _ in range(_TRIES)])
            name = way.__name__.strip("_").replace("_", " ")
            assert quickest_s <= self.abort_s, f"a call left {name} is over after {quickest_s:.2f} seconds"

    @check
    async def test_reading_on_after_leaving_does_not_hang(self, backend: Backend) -> None:
        """The events of a call that was left end, or fail with an error of the tree."""
        with within(self.patience_s, "reading on after leaving"):
            async with asyncio.timeout(self.patience_s):
                async with backend.open(self.long_request()) as events:
                    await anext(events)
                try:
                    async for _ in events:
                        pass
                except AsyncLLMError:
                    pass  # as good as an end: the call is over

    async def _seconds(self, backend: Backend, way: _Way) -> float:
        """From the moment that a call is left by `way` until nothing is held."""
        time = asyncio.get_running_loop().time
        struck = [0.0]
        with within(self.patience_s, "leaving a call"):
            async with asyncio.timeout(self.patience_s):
                await way(backend, lambda: struck.append(time()))
                while self.held(backend):  # noqa: ASYNC110  # what is held is counted, not announced
                    await asyncio.sleep(0.002)
        return time() - struck[-1]

    async def _by_break(self, backend: Backend, leaving: Callable[[], None]) -> None:
        async with backend.open(self.long_request()) as events:
            async for _ in events:
                leaving()
                break

    async def _by_error(self, backend: Backend, leaving: Callable[[], None]) -> None:
        mine = ValueError("the reader's own")
        try:
            async with backend.open(self.long_request()) as events:
                await anext(events)
                leaving()
                raise mine
        except ValueError:
            return

    async def _by_cancel(self, backend: Backend, leaving: Callable[[], None]) -> None:
        task = asyncio.create_task(self.read_for_ever(backend, first := asyncio.Event()))
        await self.reached(first, task)
        leaving()
        task.cancel()
        await asyncio.wait([task])

    async def _by_cancel_of_a_whole_reply(self, backend: Backend, leaving: Callable[[], None]) -> None:
        task = asyncio.create_task(self.read_for_ever(backend, request=self.long_request(stream=False)))
        await asyncio.sleep(_MOMENTS_S[-1])
        leaving()
        task.cancel()
        await asyncio.wait([task])

    async def _by_scope(self, backend: Backend, leaving: Callable[[], None]) -> None:
        with anyio.CancelScope() as scope:
            await self.read_for_ever(backend, then=_both(leaving, scope.cancel))

    async def _by_deadline(self, backend: Backend, leaving: Callable[[], None]) -> None:
        try:
            async with asyncio.timeout(None) as deadline:
                await self.read_for_ever(backend, then=_both(leaving, lambda: deadline.reschedule(0)))
        except TimeoutError:
            return


def _both(one: Callable[[], None], other: Callable[[], None]) -> Callable[[], None]:
    def both() -> None:
        one()
        other()

    return both
