"""Waiting for what has to be done, also where the one who waits is cancelled meanwhile."""

from __future__ import annotations

import asyncio

import anyio

__all__ = ["finish"]


async def finish(task: asyncio.Task[None], seconds: float) -> None:
    """Wait until `task` is done, cancelled or not, but no longer than `seconds`."""
    with anyio.CancelScope(shield=True):
        await _finish(task, seconds)


async def _finish(task: asyncio.Task[None], seconds: float) -> None:
    loop = asyncio.get_running_loop()
    due = loop.time() + seconds
    cancelled: asyncio.CancelledError | None = None
    while not task.done() and (left_s := due - loop.time()) > 0:
        try:
            await asyncio.wait([task], timeout=left_s)
        except asyncio.CancelledError as error:  # it is what this waits out
            cancelled = error
    if not task.done():
        task.cancel()
    if cancelled is not None:
        if task.done() and not task.cancelled():
            task.exception()  # the cancellation wins; asyncio reports an error that nobody looked at
        raise cancelled
    if task.done():
        task.result()
