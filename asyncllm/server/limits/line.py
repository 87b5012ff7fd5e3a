"""Who waits where the server has no room: one line a key, the keys in turn, first come, first served within one.

The lines are bounded together. Where they are full, the newest of the longest one makes room for a key that has less
than its share of them, so that whoever sends the most keeps nobody else out.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from typing import TypeAlias

from asyncllm.errors import RateLimitError

__all__ = ["Line"]

_Waiter: TypeAlias = "asyncio.Future[None]"

_ADVICE_S = (1.0, 60.0)
"""Seconds after which somebody who was refused is told to ask again, at least and at most."""
_WEIGHT = 0.1  # of the newest of the times between two calls that end


class Line:
    """Room for `room` calls at a time, and for `places` more that wait, each for `timeout_s` seconds at most."""

    def __init__(self, room: int, places: int, timeout_s: float) -> None:
        self.in_flight = 0
        self.waiting = 0
        self._room = room
        self._places = places
        self._timeout_s = timeout_s
        self._lines: OrderedDict[str, deque[_Waiter]] = OrderedDict()  # in the order of their turns, none empty
        self._gap_s = 0.0
        self._left_at: float | None = None

    def enter(self) -> bool:
        """Take room for a call if there is any and nobody waits for it."""
        if self.waiting or self.in_flight >= self._room:
            return False
        self.in_flight += 1
        return True

    async def wait(self, key: str) -> None:
        """Return with room taken, for those to whom `enter` gave none. Raises `RateLimitError`: full, or too late."""
        self._find_place(key)
        waiter: _Waiter = asyncio.get_running_loop().create_future()
        self._lines.setdefault(key, deque()).append(waiter)
        self.waiting += 1
        try:
            async with asyncio.timeout(self._timeout_s):
                await waiter
        except BaseException as error:
            self._give_up(key, waiter)
            if isinstance(error, TimeoutError):
                raise self._refusal(
                    f"the server is busy, and no room came free within {self._timeout_s} seconds", "queue_timeout"
                ) from None
            raise

    def leave(self) -> None:
        """Give the room of a call back."""
        now = asyncio.get_running_loop().time()
        if self._left_at is not None:
            self._gap_s += _WEIGHT * (now - self._left_at - self._gap_s)
        self._left_at = now
        self._free()

    def _free(self) -> None:
        self.in_flight -= 1
        while self.waiting and self.in_flight < self._room:
            key, line = next(iter(self._lines.items()))
            waiter = line.popleft()
            self.waiting -= 1
            if line:
                self._lines.move_to_end(key)
            else:
                del self._lines[key]
            if not waiter.done():  # or else it is being cancelled
                self.in_flight += 1
                waiter.set_result(None)

    def _find_place(self, key: str) -> None:
        """Raise `RateLimitError` if there is none."""
        if self.waiting < self._places:
            return
        own = len(self._lines.get(key, ()))
        if (own + 1) * (len(self._lines) + (own == 0)) <= self._places:
            longest = max(self._lines, key=lambda one: len(self._lines[one]))
            newest = self._lines[longest][-1]
            self._remove(longest, newest)
            if not newest.done():
                newest.set_exception(self._full())
        else:
            raise self._full()

    def _give_up(self, key: str, waiter: _Waiter) -> None:
        """`waiter` is gone: so is its place in line, or the room that it had just been given."""
        line = self._lines.get(key)
        if line is not None and waiter in line:
            self._remove(key, waiter)
        elif waiter.done() and not waiter.cancelled() and waiter.exception() is None:
            self._free()

    def _remove(self, key: str, waiter: _Waiter) -> None:
        line = self._lines[key]
        line.remove(waiter)
        self.waiting -= 1
        if not line:
            del self._lines[key]

    def _full(self) -> RateLimitError:
        return self._refusal(
            f"the server is busy: {self.in_flight} calls are under way and {self.waiting} wait", "queue_full"
        )

    def _refusal(self, told: str, code: str) -> RateLimitError:
        least_s, most_s = _ADVICE_S
        wait_s = min(most_s, max(least_s, self._gap_s * self.waiting))
        return RateLimitError(told, status=429, code=code, retry_after_s=wait_s)
