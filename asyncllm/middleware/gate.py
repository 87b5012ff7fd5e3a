"""Holds a call at its door until the first piece of the answer.

Servers report overload inside a reply of status 200, and connections die right after the headers. Up to the first
piece of content nobody has seen anything of the answer, so such a failure is raised on entering, where the layers
above may try again. From then on nothing is ever repeated unseen.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from types import TracebackType

from asyncllm.errors import StreamInterrupted
from asyncllm.events import Events, Ready, has_content
from asyncllm.middleware import Open
from asyncllm.trail import Trail
from asyncllm.types import Request

__all__ = ["gate"]


def gate(open_: Open) -> Open:
    """Enter `open_` only when its first piece of content is there, or its events have ended."""

    def opened(request: Request, trail: Trail) -> AbstractAsyncContextManager[Events]:
        return _Gated(open_(request, trail))

    return opened


class _Gated:
    __slots__ = ("_inner",)

    def __init__(self, inner: AbstractAsyncContextManager[Events]) -> None:
        self._inner = inner

    async def __aenter__(self) -> Events:
        events = Ready.of(await self._inner.__aenter__())
        if has_content(events.head):
            return events
        head = list(events.head)
        try:
            if events.rest is not None:
                async for batch in events.rest:
                    head += batch
                    if has_content(batch):
                        return Ready(head, events.rest)
            # Not a word came. The layers above may ask again, and the client says so if they do not.
            raise StreamInterrupted("the reply ended before anything of the answer arrived", maybe_billed=True)
        except BaseException as error:
            await self._inner.__aexit__(type(error), error, error.__traceback__)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._inner.__aexit__(kind, error, trace)
