"""Deadlines over the awaits of one call.

A deadline can only strike while the call itself is being awaited, never while the caller's own code runs between two
events: how long that takes is the caller's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from math import inf
from types import TracebackType

from asyncllm.errors import APITimeoutError
from asyncllm.events import Event, Events, Ready, has_content
from asyncllm.watchdog import Waiter, Watchdog

__all__ = ["Held"]


class Held(Waiter):
    """A call held to a deadline for the first piece of its answer, and for each wait after that.

    `first_s` counts from now. `later_s` counts from the start of each later wait; without it, the first deadline is
    that of the whole call. `late` makes the error from the call, which knows how far it has come.

    Striking means cancelling the waiting task and turning that cancellation into the error. A cancellation that comes
    from outside always wins.
    """

    __slots__ = (
        "_baseline",
        "_events",
        "_fired",
        "_first_due",
        "_inner",
        "_late",
        "_later_s",
        "_loop",
        "_started",
        "_task",
        "count",
        "has_begun",
    )

    def __init__(
        self,
        inner: AbstractAsyncContextManager[Events],
        dog: Watchdog,
        *,
        first_s: float | None,
        later_s: float | None,
        late: Callable[[Held], APITimeoutError],
    ) -> None:
        super().__init__(dog)
        self._inner = inner
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.time()
        self._first_due = inf if first_s is None else self._started + first_s
        self._later_s = later_s
        self._late = late
        self.count = 0
        """Events received."""
        self.has_begun = False
        """Whether anything of an answer was among them."""
        self._events: Ready | None = None
        self._fired = False
        self._task: asyncio.Task[object] | None = None
        self._baseline = 0

    async def __aenter__(self) -> Events:
        self._claim()
        self.wait(self._first_due)
        try:
            events = Ready.of(await self._inner.__aenter__())
        except asyncio.CancelledError:
            self._strike()
            raise
        except BaseException:
            self.leave()
            raise
        self.rest()
        if events.rest is None:
            return events
        self.count = len(events.head)
        self.has_begun = has_content(events.head)
        self._events = Ready(events.head, self._iterate(events.rest))
        return self._events

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        self.leave()
        if self._events is not None:
            await self._events.aclose()
        return await self._inner.__aexit__(kind, error, trace)

    async def _iterate(self, batches: AsyncIterator[Sequence[Event]]) -> AsyncGenerator[Sequence[Event]]:
        loop, later_s = self._loop, self._later_s
        now = loop.time
        self._claim()
        self.wait(now() + later_s if self.has_begun and later_s is not None else self._first_due)
        try:
            async for batch in batches:
                self._waiting = False
                self.count += len(batch)
                if not self.has_begun:
                    self.has_begun = has_content(batch)
                yield batch
                if asyncio.current_task(loop) is not self._task:
                    self._claim()
                self.wait(now() + later_s if self.has_begun and later_s is not None else self._first_due)
        except asyncio.CancelledError:
            self._strike()
            raise
        finally:
            self.leave()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return self._loop.time() - self._started

    def expire(self) -> None:
        """The deadline has passed: interrupt the task that waits."""
        if self._task is not None:
            self._fired = True
            self._task.cancel()

    def _claim(self) -> None:
        """The current task is the one to interrupt."""
        task = asyncio.current_task(self._loop)
        if task is not self._task:
            self._task = task
            # Cancellations that this task has swallowed before are none of ours.
            self._baseline = task.cancelling() if task else 0

    def _strike(self) -> None:
        """On a `CancelledError`: raise the error instead, if the deadline caused it and nobody else cancelled."""
        self.leave()
        if self._fired and self._task is not None:
            self._fired = False
            if self._task.uncancel() <= self._baseline:
                raise self._late(self) from None
