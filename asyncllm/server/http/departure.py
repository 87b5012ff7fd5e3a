"""The end of a request whose client goes: its work ends with it, whole replies included."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from starlette.types import Receive

__all__ = ["ClientGone", "SlowReader", "Watched"]


class ClientGone(Exception):  # noqa: N818  # no error: nobody is left to be told
    """The client has gone, and nobody waits for an answer."""


class SlowReader(ClientGone):
    """The client took nothing for too long, and was cut off."""


class Watched:
    """Ends the work of its block when the client goes, which is then `ClientGone`.

        async with Watched(receive):
            ...

    The work is cancelled as by `asyncio.timeout`; a cancellation from outside stays one. Only where the body of the
    request has been read to its end.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._gone: type[ClientGone] | None = None
        self._is_over = False

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None  # a coroutine that runs is one of some task
        self._task = task
        self._cancelling = task.cancelling()
        self._watcher = asyncio.create_task(self._watch())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over = True
        self._watcher.cancel()
        if self._gone and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise self._gone from error

    def end(self, gone: type[ClientGone] = ClientGone) -> None:
        """The client is as good as gone: end the work of the block, which raises `gone`."""
        if not self._is_over:
            self._gone, self._is_over = gone, True
            self._task.cancel()

    async def _watch(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                break
        self.end()
