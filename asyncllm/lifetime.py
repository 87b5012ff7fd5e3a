"""The time for which a client can be used: on one event loop, until it is closed."""

from __future__ import annotations

import asyncio

from asyncllm.errors import APIConnectionError, WrongLoopError

__all__ = ["Lifetime"]


class Lifetime:
    """Begins with the first use."""

    __slots__ = ("_loop", "is_over")

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self.is_over = False

    def bind(self) -> None:
        """Tie it to the running loop, or refuse: connections live on one loop and no other.

        Raises `WrongLoopError`, and `APIConnectionError` where it is over.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise WrongLoopError(
                "no event loop runs here: use a client inside asyncio.run, or share asyncllm.sync.Client; a process "
                "that was forked inside a loop makes a loop and a client of its own"
            ) from None
        if loop is self._loop and not self.is_over:
            return
        if self.is_over:
            raise APIConnectionError("this client is closed; make a new one", retryable=False)
        if self._loop is not None:
            raise WrongLoopError(
                f"this client is bound to the event loop of its first call ({_name(self._loop)}) and was now used on "
                f"another ({_name(loop)}): make a client in each asyncio.run, or share asyncllm.sync.Client"
            )
        self._loop = loop


def _name(loop: asyncio.AbstractEventLoop) -> str:
    return f"{'closed' if loop.is_closed() else 'open'}, {id(loop):#x}"
