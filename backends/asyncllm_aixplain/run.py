"""One run under way, as `Backend.open` lends it.

Entering returns once the run is accepted. One that is not done by then is asked after while its events are read. From
there on no error says that the call may be made again: the run is billed, whatever becomes of its result.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from types import TracebackType

from asyncllm.backend import Clock, HttpCall, HttpReply, Transport
from asyncllm.errors import APIError, APIStatusError
from asyncllm.events import Event, Events, Ready
from asyncllm.exchange import EVENT_STREAM, Exchange
from asyncllm.types import Request
from asyncllm_aixplain.failures import categorised
from asyncllm_aixplain.polling import Poller
from asyncllm_aixplain.replies import PendingError, RunStream, read_result

__all__ = ["Run", "settle"]


class Run:
    """One run. `make` gives the call that submits it."""

    def __init__(
        self,
        transport: Transport,
        clock: Clock,
        poller: Poller,
        request: Request,
        make: Callable[[Request], Awaitable[HttpCall]],
    ) -> None:
        self._transport = transport
        self._clock = clock
        self._poller = poller
        self._request = request
        self._make = make
        limit = request.sampling.max_tokens
        self._limit = limit if isinstance(limit, int) else None
        self._exchange: Exchange | None = None
        self._events: Ready | None = None

    async def __aenter__(self) -> Events:
        since = self._clock.time()
        call = await self._make(self._request)
        exchange = Exchange(self._transport, call, whole=self._read, stream=self._decoder)
        try:
            events = Ready.of(await exchange.__aenter__())
        except PendingError as pending:
            self._events = Ready((), self._later(pending.url, call, since))
            return self._events
        except APIError as error:
            if isinstance(error, APIStatusError) and not error.maybe_billed:
                raise categorised(error) from None
            settle(error)
            raise
        self._exchange = exchange
        if events.rest is None:
            return events
        self._events = Ready(events.head, self._held(events.rest, call, since))
        return self._events

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if self._events is not None:
            await self._events.aclose()
        return None if self._exchange is None else await self._exchange.__aexit__(kind, error, trace)

    async def _held(
        self, batches: AsyncIterator[Sequence[Event]], call: HttpCall, since: float
    ) -> AsyncGenerator[Sequence[Event]]:
        """The events of a stream, or of the run that a model which does not stream has begun in its place."""
        url: str | None = None
        try:
            async for batch in batches:
                yield batch
        except PendingError as pending:
            url = pending.url
        except APIError as error:
            settle(error, accepted=True)
            raise
        if url is not None:
            async for batch in self._later(url, call, since):
                yield batch

    async def _later(self, url: str, call: HttpCall, since: float) -> AsyncGenerator[Sequence[Event]]:
        """The events of a run that was accepted and is not done yet."""
        try:
            body = await self._poller.result(url, call, since)
            events = read_result(body, model=self._request.model, limit=self._limit, call=call)
        except APIError as error:
            settle(error, accepted=True)
            raise
        yield events

    def _read(self, call: HttpCall, _: HttpReply, body: bytes) -> list[Event]:
        try:
            return read_result(body, model=self._request.model, limit=self._limit, call=call)
        except APIError as error:
            settle(error, accepted=True)
            raise

    def _decoder(self, call: HttpCall, _: HttpReply, kind: str) -> RunStream | None:
        if kind not in (EVENT_STREAM, ""):
            return None
        return RunStream(model=self._request.model, limit=self._limit, call=call)


def settle(error: APIError, *, accepted: bool = False) -> None:
    """Say of `error` that the call is not to be made again, unless it is certain that no run has begun."""
    error.maybe_billed = error.maybe_billed or accepted
    error.retryable = error.retryable and not error.maybe_billed
