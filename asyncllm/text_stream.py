"""The text of one answer, piece by piece, over the stream of its events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

from asyncllm.events import Event, TextDelta
from asyncllm.stream import Stream
from asyncllm.types import Response

__all__ = ["TextStream"]


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
        except BaseException as error:
            await self._close(error)
            raise
        await self._close(None)
        raise StopAsyncIteration

    @property
    def response(self) -> Response:
        """The reply: whole after the last piece."""
        return self._stream.response

    async def aclose(self) -> None:
        """Stop the model and free the connection. Idempotent."""
        await self._close(None)

    async def _close(self, error: BaseException | None) -> None:
        if not self._closed:
            self._closed = True
            if self._events is not None:
                await self._stream.__aexit__(type(error) if error else None, error, None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
