"""A reply that is streamed, as server-sent events or as bytes of any other kind.

Of sse_starlette's response it has the headers. Its loop over events was measured to lose data, time or the end of a
stream, and to cost more than all the rest (`python -m bench server`); here

1. events are bytes that are framed already, as many in one message as came together;
2. there are no comments: readers are known that lose an event over one. In a silence the writer of the dialect says
   something without a meaning;
3. whoever does not take what is sent for `send_timeout_s` is cut off; its timer is the watchdog's one;
4. a stream whose next event is always there lets the others' turns come in between;
5. a shutdown lets streams come to their end; how long it waits is the server's to say.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import cache

from starlette.types import Message, Send

from asyncllm.server.http.departure import SlowReader, Watched
from asyncllm.server.settings import ServerSettings
from asyncllm.watchdog import Waiter, Watchdog

try:  # importing it replaces how uvicorn takes a signal, in the whole process
    from uvicorn import Server
except ImportError:
    from sse_starlette import EventSourceResponse
else:
    _handle_exit = Server.handle_exit
    from sse_starlette import EventSourceResponse

    Server.handle_exit = _handle_exit  # type: ignore[method-assign]

__all__ = ["send_events", "send_pieces"]

_TURN = 32  # events: one that never waits lets the others' be sent after its first, and then after as many


async def send_events(
    send: Send,
    pieces: AsyncIterator[bytes],
    watched: Watched,
    *,
    dog: Watchdog,
    settings: ServerSettings,
    keep_alive: Callable[[], bytes],
) -> None:
    """Send framed events, each as it comes; `keep_alive` makes what is sent in a silence.

    Ends the block of `watched` for a client that takes nothing of it.
    """
    sending = _Lively(dog, send, watched, settings, keep_alive)
    try:
        await sending.send({"type": "http.response.start", "status": 200, "headers": _event_headers()})
        count = 0
        async for piece in pieces:
            if piece:
                await sending.send({"type": "http.response.body", "body": piece, "more_body": True})
                if count % _TURN == 0:
                    await asyncio.sleep(0)
                count += 1
        await sending.send({"type": "http.response.body", "body": b""})
    finally:
        await sending.aclose()


async def send_pieces(
    send: Send,
    pieces: AsyncIterator[bytes],
    watched: Watched,
    *,
    dog: Watchdog,
    settings: ServerSettings,
    media_type: str,
) -> None:
    """Send a body of `media_type` as it comes, within the same deadline."""
    sending = _Sending(dog, send, watched, settings)
    try:
        headers = [(b"content-type", media_type.encode("latin-1", "replace"))]
        await sending.send({"type": "http.response.start", "status": 200, "headers": headers})
        async for piece in pieces:
            await sending.send({"type": "http.response.body", "body": piece, "more_body": True})
        await sending.send({"type": "http.response.body", "body": b""})
    finally:
        sending.leave()


@cache
def _event_headers() -> list[tuple[bytes, bytes]]:
    # Its signature holds a type that nobody has said.
    return EventSourceResponse(iter(())).raw_headers  # pyright: ignore[reportUnknownMemberType]


class _Sending(Waiter):
    """Sends messages one after the other, each within a deadline."""

    __slots__ = ("_loop", "_send", "_timeout_s", "_watched")

    def __init__(self, dog: Watchdog, send: Send, watched: Watched, settings: ServerSettings) -> None:
        super().__init__(dog)
        self._send = send
        self._watched = watched
        self._timeout_s = settings.send_timeout_s
        self._loop = asyncio.get_running_loop()

    def send(self, message: Message) -> Awaitable[None]:
        """Return once the message is with the network, or far enough on its way."""
        return self._pass(message)

    async def _pass(self, message: Message) -> None:
        self.wait(self._loop.time() + self._timeout_s)
        try:
            await self._send(message)
        finally:
            self.rest()

    def expire(self) -> None:
        """Nothing was taken for too long: nobody reads."""
        self._watched.end(SlowReader)


class _Lively(_Sending):
    """Sends something without a meaning besides, over and over, where nothing came for a while."""

    __slots__ = ("_after_s", "_is_sending", "_say", "_speaking")

    def __init__(
        self, dog: Watchdog, send: Send, watched: Watched, settings: ServerSettings, say: Callable[[], bytes]
    ) -> None:
        super().__init__(dog, send, watched, settings)
        self._after_s = settings.keep_alive_s
        self._say = say
        self._is_sending = False
        self._speaking: asyncio.Task[None] | None = None

    def send(self, message: Message) -> Awaitable[None]:
        """See `_Sending`. What is being said in the silence is said first."""
        return self._pass(message) if self._speaking is None else self._pass_after(self._speaking, message)

    async def aclose(self) -> None:
        """It is all over."""
        self.leave()
        if self._speaking is not None:
            self._speaking.cancel()
            await asyncio.wait([self._speaking])

    def expire(self) -> None:
        """It has been silent for long enough, or nobody reads."""
        if self._is_sending:
            super().expire()
        else:
            # Said now and not in the task: what is written until that runs comes after it.
            message: Message = {"type": "http.response.body", "body": self._say(), "more_body": True}
            self._speaking = asyncio.create_task(self._pass(message))

    async def _pass_after(self, speaking: asyncio.Task[None], message: Message) -> None:
        await speaking
        self._speaking = None
        await self._pass(message)

    async def _pass(self, message: Message) -> None:
        now = self._loop.time
        self._is_sending = True
        self.wait(now() + self._timeout_s)
        await self._send(message)
        self._is_sending = False
        self.wait(now() + self._after_s)
