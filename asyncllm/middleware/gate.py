"""Holds a call at its door until the first piece of the answer.

Servers report overload inside a reply of status 200, and connections die right after the headers. Up to the first
piece of content nobody has seen anything of the answer, so such a failure is raised on entering, where the layers
above may try again. From then on nothing is ever repeated unseen.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType

from asyncllm.errors import StreamInterrupted
from asyncllm.events import Event, Events, Started, UsageReport
from asyncllm.middleware import Open
from asyncllm.types import Request

__all__ = ["gate", "unroll"]


class Opened:
    """Events of which the first were read ahead. `unroll` puts the two halves together again.

    A class of its own, and not one more generator around `rest`, because whoever reads the events is a loop already:
    unrolling there costs nothing an event.
    """

    __slots__ = ("_all", "head", "rest")

    def __init__(self, head: Sequence[Event], rest: Events) -> None:
        self.head = head
        self.rest = rest
        self._all: AsyncGenerator[Event] | None = None

    def __aiter__(self) -> Events:
        return self

    async def __anext__(self) -> Event:
        if self._all is None:
            self._all = _chain(self.head, self.rest)
        return await self._all.__anext__()


def unroll(events: Events) -> Events:
    """The events as one plain iterator."""
    return _chain(events.head, events.rest) if isinstance(events, Opened) else events


async def _chain(head: Sequence[Event], rest: Events) -> AsyncGenerator[Event]:
    for event in head:
        yield event
    async for event in rest:
        yield event


def gate(open_: Open) -> Open:
    """Enter `open_` only when its first piece of content is there, or its events have ended."""

    def opened(request: Request) -> AbstractAsyncContextManager[Events]:
        return _Gated(open_(request))

    return opened


class _Gated:
    __slots__ = ("_inner",)

    def __init__(self, inner: AbstractAsyncContextManager[Events]) -> None:
        self._inner = inner

    async def __aenter__(self) -> Events:
        events = await self._inner.__aenter__()
        head: list[Event] = []
        try:
            async for event in events:
                head.append(event)
                if type(event) is not Started and type(event) is not UsageReport:
                    return Opened(head, events)
        except BaseException as error:
            await self._inner.__aexit__(type(error), error, error.__traceback__)
            raise
        # Not a word came. The layers above may ask again, and the client says so if they do not.
        empty = StreamInterrupted("the reply ended before anything of the answer arrived", maybe_billed=True)
        await self._inner.__aexit__(type(empty), empty, None)
        raise empty

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._inner.__aexit__(kind, error, trace)
