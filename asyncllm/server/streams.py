"""A reply that is streamed as server-sent events.

`EventStream` is sse_starlette's response with its loop over events replaced. That keeps its headers, and drops what was
measured to lose data, time or the end of a stream:

1. Events are bytes that are framed already, as many in one message as came together.
2. No comments: readers are known that lose an event over one. In a silence the writer of the dialect says something
   without a meaning.
3. Whoever does not take what is sent for `send_timeout_s` is cut off; its timer is the watchdog's one.
4. A shutdown lets streams come to their end; how long it waits is the server's to say.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from starlette.types import Receive, Scope, Send

from asyncllm.server.http.departure import SlowReader, Watched
from asyncllm.server.incoming import Incoming
from asyncllm.watchdog import Waiter, Watchdog

try:  # importing it replaces how uvicorn takes a signal, in the whole process
    from uvicorn import Server
except ImportError:
    from sse_starlette import EventSourceResponse
else:
    _handle_exit = Server.handle_exit
    from sse_starlette import EventSourceResponse

    Server.handle_exit = _handle_exit  # type: ignore[method-assign]

__all__ = ["EventStream", "send_pieces"]


class EventStream(EventSourceResponse):
    """Sends what `pieces` yields, each as it comes; `keep_alive` makes what is sent in a silence."""

    def __init__(
        self,
        pieces: AsyncIterator[bytes],
        *,
        dog: Watchdog,
        send_timeout_s: float,
        keep_alive_s: float,
        keep_alive: Callable[[], bytes],
    ) -> None:
        # Its signature holds a type that nobody has said.
        super().__init__(pieces)  # pyright: ignore[reportUnknownMemberType]
        self._pieces = pieces
        self._dog = dog
        self._send_timeout_s = send_timeout_s
        self._keep_alive_s = keep_alive_s
        self._keep_alive = keep_alive

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all of it. Raises `ClientGone`, also for a client that takes nothing of it; its work has ended then."""
        del scope
        async with Watched(receive) as watched:
            sending = _Sending(self._dog, send, watched, self._send_timeout_s)
            silence = _Silence(self._dog, self._keep_alive_s, sending, self._keep_alive)
            try:
                await sending.send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                silence.begin()
                async for piece in self._pieces:
                    await silence.end()
                    if piece:
                        await sending.send({"type": "http.response.body", "body": piece, "more_body": True})
                    silence.begin()
                await silence.end()
                await sending.send({"type": "http.response.body", "body": b""})
            finally:
                sending.leave()
                await silence.aclose()


async def send_pieces(
    incoming: Incoming, pieces: AsyncIterator[bytes], media_type: str, *, dog: Watchdog, send_timeout_s: float
) -> None:
    """Send a body of `media_type` as it comes, within the same deadline. Raises `ClientGone`, as `EventStream`."""
    async with Watched(incoming.receive) as watched:
        sending = _Sending(dog, incoming.send, watched, send_timeout_s)
        try:
            headers = [(b"content-type", media_type.encode("latin-1", "replace"))]
            await sending.send({"type": "http.response.start", "status": 200, "headers": headers})
            async for piece in pieces:
                await sending.send({"type": "http.response.body", "body": piece, "more_body": True})
            await sending.send({"type": "http.response.body", "body": b""})
        finally:
            sending.leave()


class _Sending(Waiter):
    """Sends messages one after the other, each within a deadline."""

    __slots__ = ("_loop", "_send", "_timeout_s", "_watched")

    def __init__(self, dog: Watchdog, send: Send, watched: Watched, timeout_s: float) -> None:
        super().__init__(dog)
        self._send = send
        self._watched = watched
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()

    async def send(self, message: dict[str, object]) -> None:
        """Return once the message is with the network, or far enough on its way."""
        self.wait(self._loop.time() + self._timeout_s)
        try:
            await self._send(message)
        finally:
            self.rest()

    def expire(self) -> None:
        """Nothing was taken for too long: nobody reads."""
        self._watched.end(SlowReader)


class _Silence(Waiter):
    """Sends something without a meaning where nothing came for a while, over and over."""

    __slots__ = ("_after_s", "_loop", "_say", "_sending", "_speaking")

    def __init__(self, dog: Watchdog, after_s: float, sending: _Sending, say: Callable[[], bytes]) -> None:
        super().__init__(dog)
        self._after_s = after_s
        self._sending = sending
        self._say = say
        self._loop = asyncio.get_running_loop()
        self._speaking: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Nothing comes from now on."""
        self.wait(self._loop.time() + self._after_s)

    async def end(self) -> None:
        """Something comes: what was being said is said first."""
        self.rest()
        speaking, self._speaking = self._speaking, None
        if speaking is not None:
            await speaking

    async def aclose(self) -> None:
        """It is all over."""
        self.leave()
        if self._speaking is not None:
            self._speaking.cancel()
            await asyncio.wait([self._speaking])

    def expire(self) -> None:
        """It has been silent for long enough."""
        # Said now and not in the task: what is written until that runs comes after it.
        self._speaking = asyncio.create_task(self._speak(self._say()))

    async def _speak(self, piece: bytes) -> None:
        await self._sending.send({"type": "http.response.body", "body": piece, "more_body": True})
        self.begin()
