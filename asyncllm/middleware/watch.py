"""A deadline over the awaits of one call, at the price of one lazy timer.

`asyncio.timeout` around each event would arm and cancel a timer a token. Here a single timer sleeps until the deadline
that was in force when it was armed; if the deadline has moved on by then, it sleeps again. It can only strike while the
call itself is being awaited, never while the caller's own code runs between two events.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf

from asyncllm.errors import APITimeoutError

__all__ = ["Watch"]


class Watch:
    """Cancels the task that waits past the deadline, and turns that cancellation into the typed error.

    Between `wait` and `rest` the calling task is waiting. A cancellation that comes from outside always wins.
    """

    __slots__ = ("_baseline", "_due", "_fired", "_loop", "_task", "_timer", "_waiting", "error")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._waiting = False
        self._fired = False
        self._task: asyncio.Task[object] | None = None
        self._baseline = 0

    def now(self) -> float:
        """Seconds on the loop's clock, which deadlines are given on."""
        return self._loop.time()

    def wait(self, due: float) -> None:
        """The current task begins to wait, until `due` at the latest; `inf` waits for ever."""
        task = asyncio.current_task()
        if task is not self._task:
            self._task = task
            # Cancellations that this task has swallowed before are none of ours.
            self._baseline = task.cancelling() if task else 0
        self._due = due
        self._waiting = True
        timer = self._timer
        if timer is None or due < timer.when():
            self._arm(due)

    def rest(self) -> None:
        """The wait is over; the caller's own code runs now."""
        self._waiting = False

    def stop_timer(self) -> None:
        """Disarm: the call is done with, or a nearer deadline needs the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def convert(self, error: Callable[[], APITimeoutError]) -> None:
        """On a `CancelledError`: raise `error()` if this watch caused it and nobody else cancelled meanwhile."""
        self._waiting = False
        if self._fired and self._task is not None:
            self._fired = False
            if self._task.uncancel() <= self._baseline:
                raise error() from None

    def _arm(self, due: float) -> None:
        self.stop_timer()
        if due < inf:
            self._timer = self._loop.call_at(due, self._fire)

    def _fire(self) -> None:
        self._timer = None
        if not self._waiting or self._task is None:
            return  # the next wait arms it again
        if self._due > self._loop.time():
            self._arm(self._due)
            return
        self._fired = True
        self._task.cancel()
