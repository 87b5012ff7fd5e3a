"""First-event and event-idle deadlines of one attempt. Who answers, and at what cost, is no event of the model.

Events count, bytes do not: a server that keeps a dead stream open with comments is found out here.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from math import inf

from asyncllm.errors import APITimeoutError, EventIdleTimeoutError, FirstEventTimeoutError
from asyncllm.events import Events
from asyncllm.middleware import Open
from asyncllm.middleware.watch import Held
from asyncllm.trail import Trail
from asyncllm.types import Request, Timeouts
from asyncllm.watchdog import Watchdog

__all__ = ["deadlines"]


def deadlines(open_: Open, dog: Watchdog) -> Open:
    """Hold every call of `open_` to the `first_event_s` and `event_idle_s` of its request."""

    def opened(request: Request, trail: Trail) -> AbstractAsyncContextManager[Events]:
        timeouts = request.timeouts
        idle_s = timeouts.event_idle_s
        return Held(
            open_(request, trail),
            dog,
            first_s=timeouts.first_event_s,
            later_s=inf if idle_s is None else idle_s,
            late=lambda call: _late(timeouts, call),
        )

    return opened


def _late(timeouts: Timeouts, call: Held) -> APITimeoutError:
    if call.has_begun:
        message = f"the stream gave no event for event_idle_s={timeouts.event_idle_s} seconds"
    else:
        message = f"nothing came from the model within first_event_s={timeouts.first_event_s} seconds"
    error = EventIdleTimeoutError if call.has_begun else FirstEventTimeoutError
    return error(message, elapsed_s=call.elapsed_s, events=call.count, maybe_billed=True)
