"""One timer for all the deadlines of a client.

A timer of the event loop costs several microseconds to arm and to cancel, and a call has three deadlines, each of which
moves with every piece that arrives. Here waiting and resting are entries in a dictionary; the one timer sleeps until
the earliest deadline that was known when it was set, looks who is really late, and sleeps again.
"""

from __future__ import annotations

import asyncio
from math import inf
from typing import Protocol

__all__ = ["Waiter", "Watchdog"]

# Late by this much at the most; and this seldom at the most is everyone looked at.
_GRAIN_S = 0.01


class Waiter(Protocol):
    """Somebody who waits with a deadline."""

    def expire(self) -> None:
        """The deadline has passed and nobody called `rest`."""
        ...


class Watchdog:
    """Calls `expire` on waiters whose deadline passes. Lives on the event loop of its first waiter."""

    __slots__ = ("_due", "_next", "_timer")

    def __init__(self) -> None:
        self._due: dict[Waiter, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._next = inf

    def watch(self, waiter: Waiter, due: float) -> None:
        """`waiter` waits until `due`, on the loop's clock; `inf` is not watched."""
        if due < self._next:
            self._arm(due)
        if due < inf:
            self._due[waiter] = due

    def rest(self, waiter: Waiter) -> None:
        """`waiter` no longer waits."""
        self._due.pop(waiter, None)

    def close(self) -> None:
        """Let go of the loop's timer."""
        self._due.clear()
        self._next = inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next = due
        self._timer = asyncio.get_running_loop().call_at(due, self._fire)

    def _fire(self) -> None:
        self._timer = None
        self._next = inf
        now = asyncio.get_running_loop().time()
        late = [waiter for waiter, due in self._due.items() if due <= now]
        for waiter in late:
            del self._due[waiter]
            waiter.expire()
        if self._due:
            self._arm(max(min(self._due.values()), now + _GRAIN_S))
