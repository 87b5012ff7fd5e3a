"""A reply under way: the events of one call, folded as they pass.

The stream owns the call for the length of its `async with` block. Leaving the block, for whatever reason, stops the
model. One that is dropped without being left is closed by its event loop, the way a dropped async generator is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Self

from msgspec import Struct
from msgspec.structs import replace

from asyncllm.collect import Collector
from asyncllm.errors import APIError, AsyncLLMError, StreamInterrupted
from asyncllm.events import Event, Events, Ready, TextDelta, end
from asyncllm.middleware.fallback import Fallback
from asyncllm.middleware.observe import Observation, Observer
from asyncllm.middleware.total_timeout import total_timeout
from asyncllm.place import Place
from asyncllm.prices import Tariff
from asyncllm.trail import Trail
from asyncllm.typed.output import Output
from asyncllm.typed.partial import Growing
from asyncllm.types import Failure, Request, Response, Usage
from asyncllm.watchdog import Watchdog

__all__ = ["Candidate", "Stream"]


class Candidate(Struct, frozen=True, gc=False):
    """One place that a call may go to."""

    place: Place
    request: Request
    """The call as it suits that place."""
    tariff: Tariff | None = None


class Stream:
    """The events of one call: iterate inside `async with`; `response` is complete after the loop.

    Raises, on entering: what `Client.chat` raises before an answer begins.
    Raises, while iterating: `APIError`, with what had arrived in `partial`.
    """

    __slots__ = ("__weakref__", "_batches", "_call", "_dog", "_events", "_fold", "_loop")

    def __init__(
        self,
        candidates: Sequence[Candidate],
        dog: Watchdog,
        observer: Observer,
        output: Output | None = None,
    ) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None  # set while the call is open
        self._fold = _Fold(candidates, observer, output)
        self._dog = dog
        self._batches: AsyncGenerator[Sequence[Event]] | None = None
        self._events: AsyncGenerator[Event] | None = None
        self._call: AbstractAsyncContextManager[Events]

    async def __aenter__(self) -> Self:
        fold = self._fold
        loop = asyncio.get_running_loop()
        fold.start(loop.time())
        if fold.observation is not None:
            await fold.observation.begin()
        self._call = fold.call(self._dog)
        try:
            events = await self._call.__aenter__()
        except BaseException as error:
            told = await fold.fail(error)
            if told is not error:
                raise told from error
            raise
        fold.trail.first_content_s = loop.time() - fold.trail.started_at
        self._loop = loop
        self._batches = fold.iterate(events)
        self._events = _singly(self._batches)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop = None
        for iterator in (self._events, self._batches):
            if iterator is not None:
                await end(iterator)
        try:
            await self._call.__aexit__(kind, error, trace)
        finally:
            await self._fold.leave(error)

    def __aiter__(self) -> AsyncIterator[Event]:
        if self._events is None:
            raise TypeError("a stream is iterated inside its block: `async with client.stream(...) as stream:`")
        return self._events

    @property
    def batches(self) -> AsyncIterator[Sequence[Event]]:
        """The events, as many at a time as came together: for whoever passes them on. Read these, or single ones."""
        if self._batches is None:
            raise TypeError("a stream is iterated inside its block: `async with client.stream(...) as stream:`")
        return self._batches

    async def whole(self) -> Response:
        """Make the call and return the reply, without handing out its events."""
        fold = self._fold
        time = asyncio.get_running_loop().time
        fold.start(time())
        if fold.observation is not None:
            await fold.observation.begin()
        try:
            async with fold.call(self._dog) as events:
                fold.trail.first_content_s = time() - fold.trail.started_at
                await fold.take(events)
        except BaseException as error:
            told = await fold.fail(error)
            if told is not error:
                raise told from error
            raise
        if fold.observation is not None:
            await fold.leave(None)
        return fold.response()

    @property
    def response(self) -> Response:
        """The reply: whole after the loop, and what has arrived so far before its end."""
        return self._fold.response()

    @property
    def partial(self) -> Any:
        """The JSON of the answer so far as plain Python data, `None` while there is nothing of it.

        Each value is part of what it will be: a text is its beginning, a list has its first items, an object its first
        keys, and a number is there once it is whole. Any one reading takes time in proportion to the answer so far.
        """
        return self._fold.partial()

    async def objects(self) -> AsyncGenerator[Any]:
        """`partial` after each piece of the answer that changed it: `async for value in stream.objects(): ...`

        Iterates the stream: read its events, or these.
        """
        last = None
        async for event in self:
            if type(event) is TextDelta and (value := self.partial) != last:
                last = value
                yield value

    def __del__(self) -> None:
        loop = self._loop
        if loop is not None and not loop.is_closed():
            # What an event loop does for an async generator that is dropped half way.
            loop.call_soon_threadsafe(_close, loop, self._call, self._fold)


async def _singly(batches: AsyncIterator[Sequence[Event]]) -> AsyncGenerator[Event]:
    async for batch in batches:
        for event in batch:
            yield event


def _close(loop: asyncio.AbstractEventLoop, call: AbstractAsyncContextManager[Events], fold: _Fold) -> None:
    loop.create_task(_leave(call, fold))


async def _leave(call: AbstractAsyncContextManager[Events], fold: _Fold) -> None:
    try:
        await call.__aexit__(None, None, None)
    finally:
        await fold.leave(None)


class _Fold:
    """What has arrived of a call and what is known about it.

    Apart from `Stream`, so that the generator it runs does not hold the stream: a dropped stream must be freed at once
    and not by the collector of cycles.
    """

    __slots__ = (
        "_candidates", "_collector", "_error", "_growing", "_observer", "_output", "_read", "_response", "observation",
        "trail",
    )  # fmt: skip

    def __init__(
        self,
        candidates: Sequence[Candidate],
        observer: Observer,
        output: Output | None,
    ) -> None:
        self._candidates = candidates
        self._observer = observer
        self._output = output
        self._growing: Growing | None = None  # made when somebody looks
        self._read = 0
        self._collector = Collector()
        self._response: Response | None = None
        self._error: BaseException | None = None
        self.observation: Observation | None = None
        place, request = candidates[0].place, candidates[0].request
        self.trail = Trail("chat" if request.is_chat else "complete", request, place.name, place.label)

    def start(self, now: float) -> None:
        """The call begins. Raises `BudgetExceededError`, `ConfigError`."""
        self.trail.started_at = now
        observation = self.observation = self._observer.observe(self.trail, self._candidates[0].tariff)
        if observation is not None:
            self._candidates = [
                Candidate(one.place, observation.bounded(one.request), one.tariff) for one in self._candidates
            ]
            self.trail.request = self._candidates[0].request

    def call(self, dog: Watchdog) -> AbstractAsyncContextManager[Events]:
        """The call where the first candidate says, or at the first of several that answers."""
        first = self._candidates[0]
        if len(self._candidates) == 1:
            return total_timeout(first.place.open, first.request, self.trail, dog)
        asked = [(candidate.place, candidate.request) for candidate in self._candidates]
        return total_timeout(lambda _, trail: Fallback(asked, trail), first.request, self.trail, dog)

    async def iterate(self, events: Events) -> AsyncGenerator[Sequence[Event]]:
        """Hand out the events by the batch, folding each as it comes."""
        collector = self._collector
        ready = Ready.of(events)
        try:
            collector.add(ready.head)
            yield ready.head
            if ready.rest is not None:
                async for batch in ready.rest:
                    collector.add(batch)
                    yield batch
            self._end()
        except AsyncLLMError as error:
            self.tell(error)
            told = self.observation.explain(error) if self.observation is not None else None
            if told is not None:
                self._error = told
                raise told from error
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
        trail = self.trail
        trail.usage = self._collector.usage
        response = self._told()
        self._response = self._output.parse(response) if self._output else response
        trail.is_complete = True

    def partial(self) -> Any:
        """What there is of the first choice's JSON. Reads each piece once, however often it is asked."""
        if self._growing is None:
            self._growing = self._output.growing() if self._output else Growing()
        pieces = self._collector.pieces
        for text in pieces[self._read :]:
            self._growing.feed(text)
        self._read = len(pieces)
        return self._growing.value()

    def response(self) -> Response:
        """What there is of the reply."""
        return self._response or self._told()

    def _told(self) -> Response:
        """What has arrived, with what is known of its way."""
        trail = self.trail
        response = self._collector.response(trail.backend)
        usage = response.usage
        charged = usage.cost_usd is not None  # by the service's own word, which wins over any price
        tariff = self._candidates[0].tariff if len(self._candidates) == 1 else self._tariff()
        price = None if tariff is None or charged else tariff.price(response.model)
        if not (price or charged or trail.failures or trail.queue_s or trail.cached or trail.abandoned):
            return response
        if trail.abandoned and usage.input_tokens is not None:
            usage = replace(usage, input_tokens=usage.input_tokens * (1 + trail.abandoned))
        if price or charged:
            trail.cost_usd = 0.0 if trail.cached else price.cost_usd(usage) if price else usage.cost_usd
        return replace(
            response,
            usage=usage,
            cost_usd=trail.cost_usd,
            queue_s=trail.queue_s,
            failures=tuple(_failure(error) for error in trail.failures),
            cached=trail.cached,
        )

    def _tariff(self) -> Tariff | None:
        """That of the candidate which answered."""
        return next((one.tariff for one in self._candidates if one.request is self.trail.request), None)

    async def fail(self, error: BaseException) -> BaseException:
        """The call ends with `error`. Returns what the caller is to get."""
        if isinstance(error, AsyncLLMError):
            self.tell(error)
        observation = self.observation
        if observation is None:
            return error
        told = observation.explain(error) or error
        self.trail.end()
        await observation.end(None, self._usage(), told)
        return told

    async def leave(self, error: BaseException | None) -> None:
        """The call is left, with whatever `error` came through its block."""
        if self.observation is not None:
            if self._error is not None:
                error = self._error
            elif isinstance(error, Exception):
                error = None  # the caller's own: the call did not fail, it was left
            self.trail.end()
            await self.observation.end(None if error else self.response(), self._usage(), error)

    def _usage(self) -> Usage | None:
        usage = self.response().usage
        return None if usage.total_tokens is None else usage

    def tell(self, error: AsyncLLMError) -> None:
        """Add what this call knows to `error`: who was asked and how far the answer had come."""
        trail, collector = self.trail, self._collector
        self._error = error
        error.backend = error.backend or trail.backend
        error.model = error.model or trail.model
        if isinstance(error, APIError):
            error.events = collector.count if error.events is None else error.events
            if collector.has_content:
                error.partial = error.partial or self._told()
                error.maybe_billed = True


def _failure(error: AsyncLLMError) -> Failure:
    return Failure(
        error=type(error).__name__,
        backend=error.backend,
        model=error.model,
        status=error.status,
        code=error.code,
        request_id=error.request_id,
    )
