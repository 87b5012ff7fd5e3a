"""A transport that answers from a script, for tests of HTTP backends without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TypeAlias

from asyncllm.backend import HttpCall, HttpReply
from asyncllm.errors import APIError, ProtocolError, RedirectRefusedError
from asyncllm.rejection import rejection
from asyncllm.testing.ops import Pause, Stall
from asyncllm.types import Noun

__all__ = ["ScriptedReply", "ScriptedTransport", "in_pieces"]


class ScriptedReply(Noun, frozen=True):
    """One scripted HTTP reply."""

    status: int = 200
    headers: Mapping[str, str] = {}
    """`Content-Type` is added where it is missing: an event stream for a streamed call, else JSON."""
    body: bytes | Sequence[bytes | BaseException | Pause | Stall | float] = b""
    """The whole body, or the pieces that `receive` gives one by one, with errors and waits between them."""

    _private = frozenset({"headers", "body"})


Answer: TypeAlias = ScriptedReply | BaseException
"""What a call gets: a reply, or an error raised on entering."""


def in_pieces(data: bytes, size: int = 1) -> list[bytes]:
    """`data` cut into pieces of `size` bytes, as a body for `ScriptedReply`."""
    return [data[start : start + size] for start in range(0, len(data), size)]


class ScriptedTransport:
    """Answers each call with the next of `replies`; the last one answers all that follow.

    In place of a reply there may be an error, raised on entering, or a function of the call that gives either. What
    status means what is decided as the real transport decides it, scrubbing of echoed prompts and keys included.
    Entering and every `receive` give other tasks a turn, so that a cancellation can strike where it would in life.
    """

    def __init__(self, replies: Sequence[Answer | Callable[[HttpCall], Answer]] = ()) -> None:
        self._replies = replies
        self.calls: list[HttpCall] = []
        """Every call, in order."""
        self.opened = 0
        """Replies lent."""
        self.closed = 0
        """Replies given back. Equal to `opened` when nothing is under way."""
        self.is_closed = False
        """Whether `aclose` was called."""

    @asynccontextmanager
    async def open(self, call: HttpCall, /) -> AsyncGenerator[HttpReply]:
        """Answer `call` by the script; see `asyncllm.backend.Transport`."""
        if not self._replies:
            raise AssertionError(f"a ScriptedTransport without replies was asked for {call.method} {call.url}")
        answer = self._replies[min(len(self.calls), len(self._replies) - 1)]
        self.calls.append(call)
        await asyncio.sleep(0)
        if not isinstance(answer, ScriptedReply | BaseException):
            answer = answer(call)
        if isinstance(answer, BaseException):
            raise answer
        error = _refusal(answer, call)
        if error is not None:
            raise error
        self.opened += 1
        try:
            yield _Reply(answer, call)
        finally:
            self.closed += 1

    async def aclose(self) -> None:
        """Note that it was called. Idempotent."""
        self.is_closed = True


class _Reply:
    """The reply that a call is lent."""

    def __init__(self, reply: ScriptedReply, call: HttpCall) -> None:
        kind = "text/event-stream" if call.stream else "application/json"
        self.status = reply.status
        self.headers: Mapping[str, str] = _Headers({"Content-Type": kind, **reply.headers})
        self._pieces = iter([reply.body] if isinstance(reply.body, bytes) else reply.body)

    async def receive(self) -> bytes:
        """The next piece of the script; empty at its end."""
        await asyncio.sleep(0)
        for piece in self._pieces:
            match piece:
                case BaseException():
                    raise piece
                case Stall():
                    await asyncio.Event().wait()
                case Pause(seconds=seconds):
                    await asyncio.sleep(seconds)
                case float() | int():
                    await asyncio.sleep(piece)
                case _ if piece:
                    return piece
                case _:
                    pass  # an empty piece would pass for the end
        return b""

    async def read(self) -> bytes:
        """The rest of the script, joined."""
        pieces: list[bytes] = []
        while data := await self.receive():
            pieces.append(data)
        return b"".join(pieces)

    async def drain(self) -> None:
        """Nothing: there is no connection to save."""


class _Headers(Mapping[str, str]):
    """Headers by names of any case."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._values = {name.lower(): value for name, value in headers.items()}

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def _refusal(reply: ScriptedReply, call: HttpCall) -> APIError | None:
    """The error that a real transport raises for the status of `reply`, if it raises one."""
    status = reply.status
    if status == 200 or (status < 300 and not call.stream):
        return None
    if status < 300:
        return ProtocolError(f"a stream was asked for and status {status} has none", status=status)
    if status < 400:
        return RedirectRefusedError("the server redirects, which is not followed", status=status)
    body = reply.body if isinstance(reply.body, bytes) else b"".join(p for p in reply.body if isinstance(p, bytes))
    return rejection(status, _Headers(reply.headers), body, sent=call.body, secrets=call.secrets)
