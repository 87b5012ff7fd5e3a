"""The deadline over a whole call: every attempt, every wait between two, and the reply to its end."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from asyncllm.errors import TotalTimeoutError
from asyncllm.events import Events
from asyncllm.middleware import Open
from asyncllm.middleware.watch import Held
from asyncllm.trail import Trail
from asyncllm.types import Request
from asyncllm.watchdog import Watchdog

__all__ = ["total_timeout"]


def total_timeout(open_: Open, request: Request, trail: Trail, dog: Watchdog) -> AbstractAsyncContextManager[Events]:
    """Start the call, held to the `total_s` of its request if it has one."""
    total_s = request.timeouts.total_s
    if total_s is None:
        return open_(request, trail)

    def late(call: Held) -> TotalTimeoutError:
        return TotalTimeoutError(
            f"the call took longer than total_s={total_s} seconds",
            elapsed_s=call.elapsed_s,
            events=call.count,
            attempts=trail.failures,
            maybe_billed=True,
        )

    return Held(open_(request, trail), dog, first_s=total_s, later_s=None, late=late)
