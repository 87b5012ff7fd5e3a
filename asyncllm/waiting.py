"""Streams for code without an event loop: each step of one is awaited on the loop of the client behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Executor
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

__all__ = ["Runner", "WaitingStream", "next_of"]

T = TypeVar("T")
P_co = TypeVar("P_co", covariant=True)


class Runner(Protocol):
    """Who awaits things on the background loop."""

    @property
    def closed(self) -> bool:
        """Whether the loop has ended, and what ran on it."""
        ...

    def run(self, call: Callable[[], Awaitable[T]], /) -> T:
        """Await `call()` over there and return its result here."""
        ...

    async def in_thread(self, threads: Executor, code: Callable[[], T], /) -> T:
        """Over there: run code that may wait for calls in one of the `threads`. Cancelled, such a call is ended."""
        ...


class Opened(Protocol[P_co]):
    """A stream as it is over there."""

    async def __aenter__(self) -> object: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> object: ...

    def __aiter__(self) -> AsyncIterator[P_co]: ...


class WaitingStream(Generic[T]):
    """The pieces of one call: iterate inside `with`."""

    def __init__(self, runner: Runner, stream: Opened[T]) -> None:
        self._runner = runner
        self._opened = stream

    def __enter__(self) -> Self:
        self._runner.run(self._opened.__aenter__)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._runner.closed:  # otherwise closing the client has ended the call
            self._runner.run(lambda: self._opened.__aexit__(None, None, None))

    def __iter__(self) -> Iterator[T]:
        pieces = aiter(self._opened)
        while (piece := self._runner.run(lambda: next_of(pieces))) is not None:
            yield piece


async def next_of(pieces: AsyncIterator[Any], end: object = None) -> Any:
    """The next piece, or `end` after the last: a `StopAsyncIteration` does not pass through a future."""
    return await anext(pieces, end)
