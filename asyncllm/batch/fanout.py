"""Many pieces of work at once, out of a source that is never held whole.

Workers take from the source one after the other, so its items begin in order. Together they have at most `window` items
that were taken and not yet handed out: a slow reader holds the source back, and so does a slow item where the order of
the input is kept.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import Any, Generic, Self, TypeAlias, TypeVar, cast

from asyncllm.finishing import finish

__all__ = ["FanOut", "Source"]

T = TypeVar("T")
R = TypeVar("R")

Source: TypeAlias = Iterable[T] | AsyncIterable[T]

_CANCEL_S = 10
_HIRED = 2
"""Workers that each new piece of work brings in: a thousand are there after ten turns of the loop."""
_END = object()


class FanOut(Generic[T, R]):
    """The results of `work(index, item)` for every item of a source.

    Begins with the first result that is asked for. What `work` raises ends all of it; what the source raises does once
    everything taken before is handed out. An object that nobody holds any more stops what is under way.
    """

    def __init__(
        self,
        source: Source[T],
        work: Callable[[int, T], Awaitable[R]],
        *,
        concurrency: int,
        window: int,
        ordered: bool,
    ) -> None:
        self._crew: _Crew[T, R] = _Crew(source, work, concurrency, window, ordered=ordered)
        self._end: weakref.finalize[Any, Any] | None = None

    @property
    def in_flight(self) -> int:
        """Items that are being worked on."""
        return self._crew.in_flight

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> R:
        crew = self._crew
        if self._end is None:
            self._end = weakref.finalize(self, _drop, asyncio.get_running_loop(), crew)
            self._end.atexit = False
            crew.start()
        while not crew.has_next():
            if crew.error is not None:
                await crew.cancel()
                self._end.detach()  # or what it holds, the error's traceback, would hold this object for ever
                raise crew.error
            if crew.is_done():
                if crew.source_error is not None:
                    error, crew.source_error = crew.source_error, None
                    raise error
                raise StopAsyncIteration
            await crew.news()
        return crew.take()

    def stop(self) -> None:
        """Take nothing more from the source. Iteration ends after what is under way."""
        self._crew.stop()

    def abandon(self) -> None:
        """Cancel what is under way. Iteration ends with what has come to its end."""
        self._crew.abandon()

    async def aclose(self, drain_s: float = 0) -> None:
        """End it all, giving what is under way `drain_s` seconds to finish.

        Cancelled, it goes on to its end and is cancelled then.
        """
        crew = self._crew
        crew.stop()
        crew.unbounded()
        ending = asyncio.create_task(crew.end(drain_s))
        await finish(ending, drain_s + _CANCEL_S)
        if self._end is not None:
            self._end.detach()

    def rest(self) -> list[R]:
        """After the end: results that nobody has read, each told once."""
        return self._crew.rest()


def _drop(loop: asyncio.AbstractEventLoop, crew: _Crew[Any, Any]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(crew.abandon)


class _Crew(Generic[T, R]):
    """What the workers hold: apart from `FanOut`, so that they do not keep alive what nobody reads."""

    def __init__(
        self,
        source: Source[T],
        work: Callable[[int, T], Awaitable[R]],
        concurrency: int,
        window: int,
        *,
        ordered: bool,
    ) -> None:
        self._source = source
        self._work = work
        self._concurrency = concurrency
        self._window = window
        self._ordered = ordered
        self._tasks: set[asyncio.Task[None]] = set()
        self._items: Iterator[T] | AsyncIterator[T] | None = None
        self._turn = asyncio.Lock()
        self._room: asyncio.Future[None] | None = None
        self._news: asyncio.Future[None] | None = None
        self._by_index: dict[int, R] = {}
        self._ready: deque[R] = deque()
        self._taken = 0
        self._handed_out = 0
        self._stopped = False
        self.in_flight = 0
        self.error: BaseException | None = None
        """What `work` has raised."""
        self.source_error: Exception | None = None

    # -- the reader's side

    def start(self) -> None:
        source = self._source
        self._items = aiter(source) if isinstance(source, AsyncIterable) else iter(source)
        self._hire()

    def has_next(self) -> bool:
        return self._handed_out in self._by_index if self._ordered else bool(self._ready)

    def take(self) -> R:
        result = self._by_index.pop(self._handed_out) if self._ordered else self._ready.popleft()
        self._handed_out += 1
        _wake(self._room)
        return result

    def is_done(self) -> bool:
        return not self._tasks

    async def news(self) -> None:
        """Wait until there may be a result, or the end."""
        self._news = asyncio.get_running_loop().create_future()
        try:
            await self._news
        finally:
            self._news = None

    def rest(self) -> list[R]:
        """What nobody has read, which nobody will read any more."""
        rest = [*(self._by_index[index] for index in sorted(self._by_index)), *self._ready]
        self._by_index.clear()
        self._ready.clear()
        return rest

    def stop(self) -> None:
        self._stopped = True
        _wake(self._room)

    def unbounded(self) -> None:
        """Nobody reads any more, and nobody is to wait for that."""
        self._window = self._taken + self._concurrency
        _wake(self._room)

    async def end(self, drain_s: float) -> None:
        if drain_s > 0 and self._tasks:
            await asyncio.wait(self._tasks, timeout=drain_s)
        await self.cancel()
        items: object = self._items
        if isinstance(items, AsyncGenerator):
            await cast("AsyncGenerator[Any]", items).aclose()

    async def cancel(self) -> None:
        self.abandon()
        while self._tasks:
            await asyncio.wait(self._tasks)

    def abandon(self) -> None:
        self._stopped = True
        for task in self._tasks:
            task.cancel()

    # -- the workers' side

    def _hire(self) -> None:
        task = asyncio.create_task(self._run())
        self._tasks.add(task)
        task.add_done_callback(self._leave)

    def _leave(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and self.error is None:
            self.error = error
            self.abandon()
        _wake(self._news)

    async def _run(self) -> None:
        while True:
            async with self._turn:
                while self._taken - self._handed_out >= self._window and not self._stopped:
                    await self._wait_for_room()
                if self._stopped:
                    return
                try:
                    item = await self._next()
                except Exception as error:
                    self.source_error = error
                    item = _END
                if item is _END:
                    self._stopped = True
                    return
                index = self._taken
                self._taken += 1
            for _ in range(_HIRED):
                if len(self._tasks) < self._concurrency and not self._stopped:
                    self._hire()
            self.in_flight += 1
            try:
                result = await self._work(index, cast("T", item))
            finally:
                self.in_flight -= 1
            del item
            if self._ordered:
                self._by_index[index] = result
            else:
                self._ready.append(result)
            if self.has_next():
                _wake(self._news)

    async def _next(self) -> T | object:
        items = self._items
        if isinstance(items, AsyncIterator):
            return await anext(items, _END)
        assert items is not None  # there are workers only once it has begun
        return next(items, _END)

    async def _wait_for_room(self) -> None:
        self._room = asyncio.get_running_loop().create_future()
        try:
            await self._room
        finally:
            self._room = None


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
