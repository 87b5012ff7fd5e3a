"""The deadline over a whole call: every attempt, every wait between two, and the reply to its end."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from types import TracebackType

from asyncllm.errors import APITimeoutError, TotalTimeoutError
from asyncllm.events import Event, Events
from asyncllm.middleware import Open
from asyncllm.middleware.gate import unroll
from asyncllm.middleware.watch import Watch
from asyncllm.types import Request

__all__ = ["total_timeout"]


def total_timeout(open_: Open) -> Open:
    """Hold every call of `open_` to the `total_s` of its request."""

    def opened(request: Request) -> AbstractAsyncContextManager[Events]:
        total_s = request.timeouts.total_s
        return open_(request) if total_s is None else _Timed(open_(request), total_s)

    return opened


class _Timed:
    __slots__ = ("_count", "_due", "_inner", "_total_s", "_watch")

    def __init__(self, inner: AbstractAsyncContextManager[Events], total_s: float) -> None:
        self._inner = inner
        self._total_s = total_s
        self._watch = Watch()
        self._due = self._watch.now() + total_s
        self._count = 0

    async def __aenter__(self) -> Events:
        self._watch.wait(self._due)
        try:
            events = await self._inner.__aenter__()
        except CancelledError:
            self._watch.stop_timer()
            self._watch.convert(self._late)
            raise
        except BaseException:
            self._watch.stop_timer()
            raise
        self._watch.rest()
        return self._iterate(events)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        self._watch.rest()
        self._watch.stop_timer()
        return await self._inner.__aexit__(kind, error, trace)

    async def _iterate(self, events: Events) -> AsyncGenerator[Event]:
        watch, due = self._watch, self._due
        watch.wait(due)
        try:
            async for event in unroll(events):
                watch.rest()
                self._count += 1
                yield event
                watch.wait(due)
        except CancelledError:
            watch.convert(self._late)
            raise

    def _late(self) -> APITimeoutError:
        return TotalTimeoutError(
            f"the call took longer than total_s={self._total_s} seconds",
            elapsed_s=self._total_s,
            events=self._count,
            maybe_billed=True,
        )
