"""One timer for all the deadlines of a client.

A timer of the event loop costs several microseconds to arm and to cancel, and a call has three deadlines, each of which
moves with every piece that arrives. Here beginning to wait and ceasing to are attributes of the waiter, and nobody is
told; the one timer sleeps until the earliest deadline that was known when it was set, looks who is really late, and
sleeps again.

Who is late gets a few more turns of the event loop before it expires. Where the loop was held up, or the whole machine
was, what came in time still waits in a socket and has not been read: it wins.
"""

from __future__ import annotations

import asyncio
from math import inf

__all__ = ["Waiter", "Watchdog"]

# Late by this much at the most; and this seldom at the most is everyone looked at.
_GRAIN_S = 0.01
# From a socket to its reader it is two turns, and one more on loops that look at timers before they look at sockets.
_GRACE_TURNS = 3


class Waiter:
    """Base of whatever waits with a deadline: `wait` and `rest` in turn, as often as it likes, then `leave`."""

    __slots__ = ("__weakref__", "_dog", "_due", "_look", "_waiting")

    def __init__(self, dog: Watchdog) -> None:
        self._dog = dog
        self._due = inf
        self._look = inf  # when the watchdog looks at this the next time
        self._waiting = False

    def wait(self, due: float) -> None:
        """The wait begins, until `due` on the loop's clock; `inf` waits for ever."""
        self._due = due
        self._waiting = True
        if due < self._look:
            self._look = due
            self._dog.watch(self, due)

    def rest(self) -> None:
        """The wait is over."""
        self._waiting = False

    def leave(self) -> None:
        """Nothing will be waited for any more."""
        self._waiting = False
        if self._look < inf:
            self._look = inf
            self._dog.forget(self)

    def look(self, now: float) -> float:
        """The watchdog's look: when to look again, in the past or now if the deadline has passed in a wait."""
        if not self._waiting:
            self._look = inf  # the next wait asks for a look of its own
            return inf
        self._look = inf if self._due <= now else self._due
        return self._due

    def judge(self, now: float) -> None:
        """The watchdog's last look, after some turns of grace: expire if the wait goes on."""
        if self._waiting and self._due <= now:
            self._waiting = False
            self.expire()

    def expire(self) -> None:
        """The deadline has passed in the middle of a wait."""
        raise NotImplementedError


class Watchdog:
    """Looks at each waiter when its deadline may have passed. Lives on the event loop of its first waiter."""

    __slots__ = ("_looks", "_next", "_timer")

    def __init__(self) -> None:
        self._looks: dict[Waiter, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._next = inf

    def watch(self, waiter: Waiter, due: float) -> None:
        """Look at `waiter` at `due`, on the loop's clock."""
        self._looks[waiter] = due
        if due < self._next:
            self._arm(due)

    def forget(self, waiter: Waiter) -> None:
        """Look at `waiter` no more."""
        self._looks.pop(waiter, None)

    def close(self) -> None:
        """Let go of the loop's timer."""
        self._looks.clear()
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
        loop = asyncio.get_running_loop()
        now = loop.time()
        late: list[Waiter] = []
        for waiter in [waiter for waiter, due in self._looks.items() if due <= now]:
            again = waiter.look(now)
            if now < again < inf:
                self._looks[waiter] = again
            else:
                self._looks.pop(waiter, None)
                if again <= now:
                    late.append(waiter)
        if late:
            loop.call_soon(self._wait_a_turn, loop, late, _GRACE_TURNS)
        if self._looks:
            self._arm(max(min(self._looks.values()), now + _GRAIN_S))

    def _wait_a_turn(self, loop: asyncio.AbstractEventLoop, late: list[Waiter], turns: int) -> None:
        if turns:
            loop.call_soon(self._wait_a_turn, loop, late, turns - 1)
            return
        now = loop.time()
        for waiter in late:
            waiter.judge(now)
