"""One call over HTTP as `Backend.open` lends it: a reply that is read whole, or one that is decoded as it comes.

A backend over HTTP brings what only it can know, how its service's bytes become events, and nothing else:

    def open(self, request):
        call = HttpCall(url=..., body=..., headers=..., stream=request.stream, timeouts=request.timeouts)
        return Exchange(self._transport, call, whole=_read, stream=_decoder)

    def _read(call: HttpCall, reply: HttpReply, body: bytes) -> list[Event]: ...

    def _decoder(call: HttpCall, reply: HttpReply, kind: str) -> StreamDecoder | None:
        return MyDecoder() if kind == EVENT_STREAM else None
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Protocol

from asyncllm.backend import HttpCall, HttpReply, Transport
from asyncllm.errors import AsyncLLMError, ProtocolError, ResponseValidationError, StreamInterrupted
from asyncllm.events import Event, Events, Ready
from asyncllm.rejection import embedded_error, excerpt
from asyncllm.sse import ServerSentEvent, SSEDecoder

__all__ = ["EVENT_STREAM", "EventDecoder", "Exchange", "Prepared", "StreamDecoder", "content_type", "raise_embedded"]

EVENT_STREAM = "text/event-stream"
_PAGE_BYTES = 4096  # enough of a page to tell whose it is


class StreamDecoder(Protocol):
    """Bytes of a streamed reply in, events out: such as `ReplyStream` of the dialect, or an `EventDecoder`."""

    done: bool
    """Whether the terminal event has arrived; what follows it is not read."""
    error: AsyncLLMError | None
    """What broke the stream, after the events that came before it."""

    def feed(self, data: bytes, /) -> list[Event]:
        """Events that `data` completes. Raises nothing: a failure goes to `error`."""
        ...

    def close(self) -> list[Event]:
        """The body ended cleanly. Returns the terminal events, or raises `StreamInterrupted`."""
        ...


class EventDecoder(ABC):
    """A `StreamDecoder` for server-sent events: a subclass says what one event means, and what its end is.

    `read` sets `done` with the terminal event. A body that ends before is interrupted, unless `close` is told
    otherwise by `at_end`.
    """

    def __init__(self) -> None:
        self.done = False
        self.error: AsyncLLMError | None = None
        self._frames = SSEDecoder(error_field=True)
        self._position = 0

    @abstractmethod
    def read(self, event: ServerSentEvent, events: list[Event], /) -> None:
        """Add what `event` means. Raises `AsyncLLMError` for one that is an error or cannot be read."""

    def at_end(self, events: list[Event], /) -> None:
        """The body ended cleanly, between two events and before the terminal one: `StreamInterrupted`.

        A service that ends its streams by closing adds what its end means here instead.
        """
        del events
        raise self.interrupted("without its terminal event")

    def feed(self, data: bytes) -> list[Event]:
        """See `StreamDecoder`."""
        events: list[Event] = []
        try:
            self._read_all(self._frames.feed(data), events)
        except AsyncLLMError as error:
            self.error = error
        return events

    def close(self) -> list[Event]:
        """See `StreamDecoder`."""
        events: list[Event] = []
        try:
            self._read_all(self._frames.close(), events)
        except ResponseValidationError:
            raise self.interrupted("in the middle of an event") from None
        if not self.done:
            if self._frames.cut_short:
                raise self.interrupted("in the middle of an event")
            self.at_end(events)
        return events

    def interrupted(self, how: str) -> StreamInterrupted:
        """The error for a body that ended too early."""
        return StreamInterrupted(f"the stream ended after {self._position} events {how}", maybe_billed=True)

    def _read_all(self, frames: Sequence[ServerSentEvent], events: list[Event]) -> None:
        for frame in frames:
            if self.done:
                return
            self.read(frame, events)
            self._position += 1


class Exchange:
    """One call under way. A class and not a decorated generator: this is the path that every call takes.

    `whole` reads the body of a reply in one piece. `stream` makes the decoder for a streamed reply of a media type
    (the empty text where the server names none), or gives `None` for a type that is no stream. A reply of JSON to a
    call that asked for a stream is read whole: the server does not stream, or says what is wrong with a status of 200.
    """

    __slots__ = ("_call", "_events", "_exchange", "_stream", "_whole")

    def __init__(
        self,
        transport: Transport,
        call: HttpCall,
        *,
        whole: Callable[[HttpCall, HttpReply, bytes], list[Event]],
        stream: Callable[[HttpCall, HttpReply, str], StreamDecoder | None],
    ) -> None:
        self._exchange = transport.open(call)
        self._call = call
        self._whole = whole
        self._stream = stream
        self._events: Ready | None = None

    async def __aenter__(self) -> Events:
        reply = await self._exchange.__aenter__()
        call = self._call
        if call.stream:
            self._events = Ready((), self._decode(reply))
            return self._events
        try:
            return Ready(self._whole(call, reply, await reply.read()))
        except BaseException as error:
            await self._exchange.__aexit__(type(error), error, error.__traceback__)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if self._events is not None:
            await self._events.aclose()
        return await self._exchange.__aexit__(kind, error, trace)

    async def _decode(self, reply: HttpReply) -> AsyncGenerator[list[Event]]:
        """The events of each network read together."""
        call = self._call
        kind = content_type(reply)
        decoder = self._stream(call, reply, kind)
        if decoder is None:
            if kind == "application/json" or kind.endswith("+json"):
                yield self._whole(call, reply, await reply.read())
                return
            raise await _not_a_stream(reply, kind, call)
        while data := await reply.receive():
            if events := decoder.feed(data):
                yield events
            if decoder.error is not None:
                raise decoder.error
            if decoder.done:
                # Stopping at the terminal event would cost a new connection a call: its body has an end of its own.
                await reply.drain()
                return
        yield decoder.close()


class Prepared:
    """An exchange that is opened once something else has been done, such as asking a server what it serves."""

    __slots__ = ("_exchange", "_prepare")

    def __init__(self, prepare: Callable[[], Awaitable[object]], exchange: AbstractAsyncContextManager[Events]) -> None:
        self._prepare = prepare
        self._exchange = exchange

    async def __aenter__(self) -> Events:
        await self._prepare()
        return await self._exchange.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._exchange.__aexit__(kind, error, trace)


def content_type(reply: HttpReply) -> str:
    """What a reply says it is, without its parameters; empty where it does not say."""
    return reply.headers.get("content-type", "").partition(";")[0].strip().lower()


def raise_embedded(call: HttpCall, document: bytes) -> None:
    """Raise the error that a document in a reply of status 200 is, if it is one."""
    error = embedded_error(document, sent=call.body, secrets=call.secrets)
    if error is not None:
        raise error


async def _not_a_stream(reply: HttpReply, kind: str, call: HttpCall) -> ProtocolError:
    """The error for a reply of another kind, most often a page of something in between."""
    page = b""
    while len(page) < _PAGE_BYTES and (data := await reply.receive()):
        page += data
    told = excerpt(page, sent=call.body, secrets=call.secrets) if kind.startswith("text/") else ""
    return ProtocolError(
        f"a stream was asked for and the server answers with {kind[:60]}{f' ({told[:200]})' if told else ''}: "
        "check base_url",
        status=reply.status,
        body=page,
    )
