"""A reply under way: the events of one call, folded as they pass.

The stream owns the call for the length of its `async with` block. Leaving the block, for whatever reason, stops the
model. One that is dropped without being left is closed by its event loop, the way a dropped async generator is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Self

from asyncllm.collect import Collector
from asyncllm.errors import APIError, AsyncLLMError, StreamInterrupted
from asyncllm.events import Event, Events, Ready, TextDelta, end
from asyncllm.middleware import Open
from asyncllm.middleware.fallback import Fallback
from asyncllm.middleware.total_timeout import total_timeout
from asyncllm.types import Noun, Request, Response
from asyncllm.watchdog import Watchdog

__all__ = ["Candidate", "Stream", "TextStream"]


class Candidate(Noun, frozen=True):
    """One place that a call may go to."""

    backend: str
    open: Open
    request: Request


class Stream:
    """The events of one call: iterate inside `async with`; `response` is complete after the loop.

    Raises, on entering: what `Client.chat` raises before an answer begins.
    Raises, while iterating: `APIError`, with what had arrived in `partial`.
    """

    __slots__ = ("__weakref__", "_call", "_dog", "_events", "_fold", "_loop")

    def __init__(
        self,
        candidates: Sequence[Candidate],
        dog: Watchdog,
        finish: Callable[[Response], Response] | None = None,
    ) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None  # set while the call is open
        self._fold = _Fold(candidates, finish)
        self._dog = dog
        self._events: AsyncGenerator[Event] | None = None
        self._call: AbstractAsyncContextManager[Events]

    async def __aenter__(self) -> Self:
        fold = self._fold
        self._call = total_timeout(fold.open, fold.candidates[0].request, self._dog)
        try:
            events = await self._call.__aenter__()
        except AsyncLLMError as error:
            fold.tell(error)
            raise
        self._loop = asyncio.get_running_loop()
        self._events = fold.iterate(events)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop = None
        if self._events is not None:
            await end(self._events)
        await self._call.__aexit__(kind, error, trace)

    def __aiter__(self) -> AsyncIterator[Event]:
        if self._events is None:
            raise TypeError("a stream is iterated inside its block: `async with client.stream(...) as stream:`")
        return self._events

    async def whole(self) -> Response:
        """Make the call and return the reply, without handing out its events."""
        fold = self._fold
        try:
            async with total_timeout(fold.open, fold.candidates[0].request, self._dog) as events:
                await fold.take(events)
        except AsyncLLMError as error:
            fold.tell(error)
            raise
        return fold.response()

    @property
    def response(self) -> Response:
        """The reply: whole after the loop, and what has arrived so far before its end."""
        return self._fold.response()

    def __del__(self) -> None:
        loop = self._loop
        if loop is not None and not loop.is_closed():
            # What an event loop does for an async generator that is dropped half way.
            loop.call_soon_threadsafe(_close, loop, self._call)


def _close(loop: asyncio.AbstractEventLoop, call: AbstractAsyncContextManager[Events]) -> None:
    loop.create_task(_leave(call))


async def _leave(call: AbstractAsyncContextManager[Events]) -> None:
    await call.__aexit__(None, None, None)


class TextStream:
    """The text of one answer, piece by piece: `async for text in client.stream_text(...)`.

    The call begins with the first piece and ends with the last one, with `aclose`, or when the loop is left and
    nothing holds this object any more. `async with` ends it at a place of your choosing.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._events: AsyncIterator[Event] | None = None
        self._closed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        if self._closed:
            raise StopAsyncIteration
        if self._events is None:
            try:
                await self._stream.__aenter__()
            except BaseException:
                self._closed = True
                raise
            self._events = aiter(self._stream)
        try:
            async for event in self._events:
                if type(event) is TextDelta:
                    return event.text
        except BaseException:
            await self.aclose()
            raise
        await self.aclose()
        raise StopAsyncIteration

    @property
    def response(self) -> Response:
        """The reply: whole after the last piece."""
        return self._stream.response

    async def aclose(self) -> None:
        """Stop the model and free the connection. Idempotent."""
        if not self._closed:
            self._closed = True
            if self._events is not None:
                await self._stream.__aexit__(None, None, None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class _Fold:
    """What has arrived of a call and what is known about it.

    Apart from `Stream`, so that the generator it runs does not hold the stream: a dropped stream must be freed at once
    and not by the collector of cycles.
    """

    __slots__ = ("_collector", "_fallback", "_finish", "_response", "candidates")

    def __init__(self, candidates: Sequence[Candidate], finish: Callable[[Response], Response] | None) -> None:
        self.candidates = candidates
        self._finish = finish
        self._fallback: Fallback | None = None
        self._collector = Collector()
        self._response: Response | None = None

    def open(self, request: Request) -> AbstractAsyncContextManager[Events]:
        """Start the call where the first candidate says, or at the first of several that answers."""
        if len(self.candidates) == 1:
            return self.candidates[0].open(request)
        self._fallback = Fallback([(candidate.open, candidate.request) for candidate in self.candidates])
        return self._fallback

    async def iterate(self, events: Events) -> AsyncGenerator[Event]:
        """Hand out the events one by one, folding each batch as it comes."""
        collector = self._collector
        ready = Ready.of(events)
        try:
            collector.add(ready.head)
            for event in ready.head:
                yield event
            if ready.rest is not None:
                async for batch in ready.rest:
                    collector.add(batch)
                    for event in batch:
                        yield event
            self._end()
        except AsyncLLMError as error:
            self.tell(error)
            raise

    async def take(self, events: Events) -> None:
        """Fold the events to their end: `iterate` where nobody watches."""
        collector = self._collector
        ready = Ready.of(events)
        collector.add(ready.head)
        if ready.rest is not None:
            async for batch in ready.rest:
                collector.add(batch)
        self._end()

    def _end(self) -> None:
        if not self._collector.is_complete:
            raise StreamInterrupted("the backend ended the stream without its terminal event", maybe_billed=True)
        response = self._collector.response(self._candidate.backend)
        self._response = self._finish(response) if self._finish else response

    def response(self) -> Response:
        """What there is of the reply."""
        return self._response or self._collector.response(self._candidate.backend)

    def tell(self, error: AsyncLLMError) -> None:
        """Add what this call knows to `error`: who was asked and how far the answer had come."""
        candidate, collector = self._candidate, self._collector
        error.backend = error.backend or candidate.backend
        error.model = error.model or candidate.request.model
        if isinstance(error, APIError):
            error.events = collector.count if error.events is None else error.events
            if collector.has_content:
                error.partial = error.partial or collector.response(candidate.backend)
                error.maybe_billed = True

    @property
    def _candidate(self) -> Candidate:
        return self.candidates[self._fallback.chosen if self._fallback else 0]
