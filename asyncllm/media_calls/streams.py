"""A sound or a picture under way: what has come of it, while its block lasts.

The same layers lie around it as around any call: it is made again until the first piece has come, and never after
that. Leaving the block, for whatever reason, stops the service.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Generic, Self, TypeVar, cast

from msgspec import Struct

from asyncllm.backend import MediaEvents, MediaRequest
from asyncllm.errors import APIError, AsyncLLMError
from asyncllm.events import Event, Events, Ready, UsageReport, end
from asyncllm.media import AudioChunk, ImageFrame, MediaEvent
from asyncllm.middleware.gate import gate
from asyncllm.middleware.observe import Observation, Observer
from asyncllm.middleware.total_timeout import total_timeout
from asyncllm.place import Target
from asyncllm.trail import Kind, Trail
from asyncllm.types import Request, Usage
from asyncllm.watchdog import Watchdog

__all__ = ["ImageStream", "MediaStream", "Prepared", "SpeechStream"]

T = TypeVar("T")


class Prepared(Struct, frozen=True):
    """A call that is ready to be made."""

    kind: Kind
    target: Target
    request: MediaRequest
    open: Callable[[], MediaEvents]


class MediaStream(ABC, Generic[T]):
    """The pieces of one call: iterate inside `async with`.

    Raises, on entering: what the same call raises that is not streamed, until the first piece has come.
    Raises, while iterating: `APIError`; `StreamInterrupted` where the answer breaks off.
    """

    def __init__(self, prepare: Callable[[], Awaitable[Prepared]], dog: Watchdog, observer: Observer) -> None:
        self._prepare = prepare
        self._dog = dog
        self._observer = observer
        self._observation: Observation | None = None
        self._pieces: AsyncGenerator[T] | None = None
        self._error: BaseException | None = None
        self._call: AbstractAsyncContextManager[Events]
        self._target: Target
        self._trail: Trail
        self.usage = Usage()
        """What the call has consumed, as far as it is known."""

    @property
    def cost_usd(self) -> float | None:
        """US dollars once the answer has ended, or `None` where no price is known."""
        return self._trail.cost_usd if self._pieces is not None else None

    async def __aenter__(self) -> Self:
        prepared = await self._prepare()
        target = self._target = prepared.target
        trail = self._trail = Trail(prepared.kind, prepared.request, target.place.name, target.place.label)
        loop = asyncio.get_running_loop()
        trail.started_at = loop.time()
        # The layers ask a request for its deadlines alone.
        request = Request(model=trail.model, stream=True, timeouts=prepared.request.timeouts)
        observation = self._observation = self._observer.observe(trail, target.tariff)
        if observation is not None:
            request = observation.bounded(request)
            await observation.begin()

        def opened(_: Request, __: Trail) -> AbstractAsyncContextManager[Events]:
            # The layers count events and look at none.
            return cast("AbstractAsyncContextManager[Events]", prepared.open())

        self._call = total_timeout(target.place.within(gate(opened)), request, trail, self._dog)
        try:
            events = await self._call.__aenter__()
        except BaseException as error:
            told = self._tell(error)
            if observation is not None:
                trail.end()
                await observation.end(None, None, told)
            if told is not error:
                raise told from error
            raise
        trail.first_content_s = loop.time() - trail.started_at
        self._pieces = self._iterate(events)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pieces is not None:
            await end(self._pieces)
        try:
            await self._call.__aexit__(kind, error, trace)
        finally:
            if self._observation is not None:
                # An exception of the caller's own: the call did not fail, it was left.
                failed = self._error or (None if isinstance(error, Exception) else error)
                self._trail.end()
                await self._observation.end(None, self._trail.usage, failed)

    def __aiter__(self) -> AsyncIterator[T]:
        if self._pieces is None:
            raise TypeError("a stream is iterated inside its block: `async with client.stream_...(...) as stream:`")
        return self._pieces

    @abstractmethod
    def _take(self, event: MediaEvent) -> T | None:
        """What the caller gets of an event, if anything."""

    async def _iterate(self, events: Events) -> AsyncGenerator[T]:
        ready = Ready.of(events)
        try:
            for event in ready.head:
                if (piece := self._read(event)) is not None:
                    yield piece
            if ready.rest is not None:
                async for batch in ready.rest:
                    for event in batch:
                        if (piece := self._read(event)) is not None:
                            yield piece
            self._end()
        except AsyncLLMError as error:
            told = self._error = self._tell(error)
            if told is not error:
                raise told from error
            raise

    def _end(self) -> None:
        """The answer has come to its proper end."""
        trail, tariff = self._trail, self._target.tariff
        trail.usage = self.usage
        trail.cost_usd = None if tariff is None else tariff.cost_usd(self.usage)
        trail.is_complete = True

    def _read(self, event: Event) -> T | None:
        if isinstance(event, UsageReport):
            self.usage = event.usage
            return None
        return self._take(cast("MediaEvent", event))

    def _tell(self, error: BaseException) -> BaseException:
        """The error that the caller gets, with what this call knows of it."""
        trail = self._trail
        if isinstance(error, AsyncLLMError):
            error.backend = error.backend or trail.backend
            error.model = error.model or trail.model or None
            if isinstance(error, APIError) and self._pieces is not None:
                error.maybe_billed = True
        return (self._observation.explain(error) if self._observation is not None else None) or error


class SpeechStream(MediaStream[bytes]):
    """A sound as it is made: `async for data in stream`, in pieces of the network's choosing."""

    media_type: str | None = None
    """MIME type of the whole, once the first piece is here and where the service names it."""

    def _take(self, event: MediaEvent) -> bytes | None:
        if not isinstance(event, AudioChunk):
            return None
        if isinstance(event.media_type, str):
            self.media_type = event.media_type
        return event.data


class ImageStream(MediaStream[ImageFrame]):
    """Pictures as they are made: `async for frame in stream`, the final ones with `is_final`."""

    def _take(self, event: MediaEvent) -> ImageFrame | None:
        return event if isinstance(event, ImageFrame) else None
