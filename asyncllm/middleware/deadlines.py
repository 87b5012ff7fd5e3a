"""First-event and event-idle deadlines of one attempt.

Events count, bytes do not: a server that keeps a dead stream open with comments is found out here. The time that the
caller takes between two events belongs to the caller.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from math import inf
from types import TracebackType

from asyncllm.errors import APITimeoutError, EventIdleTimeoutError, FirstEventTimeoutError
from asyncllm.events import Event, Events
from asyncllm.middleware import Open
from asyncllm.middleware.watch import Watch
from asyncllm.types import Request, Timeouts

__all__ = ["deadlines"]


def deadlines(open_: Open) -> Open:
    """Hold every call of `open_` to the `first_event_s` and `event_idle_s` of its request."""

    def opened(request: Request) -> AbstractAsyncContextManager[Events]:
        timeouts = request.timeouts
        if timeouts.first_event_s is None and timeouts.event_idle_s is None:
            return open_(request)
        return _Watched(open_(request), timeouts)

    return opened


class _Watched:
    __slots__ = ("_inner", "_started", "_timeouts", "_watch")

    def __init__(self, inner: AbstractAsyncContextManager[Events], timeouts: Timeouts) -> None:
        self._inner = inner
        self._timeouts = timeouts
        self._watch = Watch()
        self._started = self._watch.now()

    async def __aenter__(self) -> Events:
        watch = self._watch
        first_s = self._timeouts.first_event_s
        watch.wait(inf if first_s is None else self._started + first_s)
        try:
            events = await self._inner.__aenter__()
        except CancelledError:
            watch.stop_timer()
            watch.convert(self._first_late)
            raise
        except BaseException:
            watch.stop_timer()
            raise
        watch.rest()
        return self._iterate(events)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        self._watch.rest()
        self._watch.stop_timer()
        return await self._inner.__aexit__(kind, error, trace)

    async def _iterate(self, events: Events) -> AsyncGenerator[Event]:
        watch, now = self._watch, self._watch.now
        first_s, idle_s = self._timeouts.first_event_s, self._timeouts.event_idle_s
        wait_s = inf if idle_s is None else idle_s
        count = 0
        watch.wait(inf if first_s is None else self._started + first_s)
        try:
            async for event in events:
                watch.rest()
                count += 1
                yield event
                watch.wait(now() + wait_s)
        except CancelledError:
            if count:
                watch.convert(lambda: self._idle(count))
            else:
                watch.convert(self._first_late)
            raise

    def _first_late(self) -> APITimeoutError:
        return FirstEventTimeoutError(
            f"nothing came from the model within first_event_s={self._timeouts.first_event_s} seconds",
            elapsed_s=self._watch.now() - self._started,
            events=0,
            maybe_billed=True,
        )

    def _idle(self, count: int) -> APITimeoutError:
        return EventIdleTimeoutError(
            f"the stream gave no event for event_idle_s={self._timeouts.event_idle_s} seconds",
            elapsed_s=self._watch.now() - self._started,
            events=count,
            maybe_billed=True,
        )
