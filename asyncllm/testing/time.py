"""Time for tests: a clock that moves when it is told to, and an event loop on which waiting takes no time.

A `ManualClock` stands in for the one clock that a client is given. A `VirtualTimeLoop` is the whole event loop, and so
moves every timer there is: a deadline of 600 seconds passes in a millisecond.
"""

from __future__ import annotations

import asyncio
import heapq
import selectors
import sys
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, TypeAlias, TypeVar, TypeVarTuple

__all__ = ["ManualClock", "StuckError", "VirtualTimeLoop", "run_virtual"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_Found: TypeAlias = list[tuple[selectors.SelectorKey, int]]
_Poll: TypeAlias = Callable[[float | None], _Found]

_TURNS = 50
"""Turns of the event loop that a woken task gets before the clock moves on: a wait that follows is in time by then."""
_SHOWN_TASKS = 20
_RESOLUTION_S = 1e-6


class ManualClock:
    """`backend.Clock` that stands still until `advance`. Belongs to one event loop, or to none if nobody sleeps.

    With `instant=True` nobody waits: a sleep moves the clock itself and returns, once other tasks had a turn.
    """

    def __init__(self, start_s: float = 0, *, instant: bool = False) -> None:
        self._now = start_s
        self._instant = instant
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self.sleeps: list[float] = []
        """What every sleep was asked for, in seconds, in order."""

    def time(self) -> float:
        """Seconds on a clock that never goes back."""
        return self._now

    async def sleep(self, seconds: float, /) -> None:
        """Return when `advance` has moved the clock by `seconds`."""
        self.sleeps.append(seconds)
        if self._instant or seconds <= 0:
            self._now += max(0, seconds)
            await asyncio.sleep(0)
            return
        woken = asyncio.get_running_loop().create_future()
        # The count keeps sleepers that are due together in the order in which they lay down.
        heapq.heappush(self._sleepers, (self._now + seconds, len(self.sleeps), woken))
        await woken

    @property
    def sleeping(self) -> int:
        """How many tasks are asleep."""
        return sum(not woken.done() for _, _, woken in self._sleepers)

    async def advance(self, seconds: float) -> None:
        """Move the clock on, waking each sleeper at its time and in order; what they do next happens at that time.

        A sleep that begins on the way, and that is over before the end of it, is slept too.
        """
        if not seconds >= 0:
            raise ValueError(f"a clock goes forward only; got {seconds!r}")
        end = self._now + seconds
        await _settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            due, _, woken = heapq.heappop(self._sleepers)
            self._now = max(self._now, due)
            if not woken.done():
                woken.set_result(None)
                await _settle()
        self._now = end


async def _settle() -> None:
    for _ in range(_TURNS):
        await asyncio.sleep(0)


class StuckError(Exception):
    """On a `VirtualTimeLoop`, everybody waits and there is nothing left that could wake anyone."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer as soon as there is nothing else to do.

    `loop.time()` begins at zero. As long as something is ready it stands still; then:

    - *Nothing from outside is awaited* (no socket or pipe is open on this loop, no function runs in an executor): the
      clock jumps at once. Nothing depends on the machine's speed.
    - *Sockets are open*: what they bring comes first. The clock jumps when they have been silent for `grace_s` real
      seconds. Peers on this same loop, such as a `FaultyServer`, answer within that, for what is sent over 127.0.0.1
      has arrived when `send` returns; for a peer in another process it is a guess that the test makes.
    - *An executor works* (`run_in_executor`, `asyncio.to_thread`, a name look-up): it is waited for in real time, and
      the clock jumps only after `patience_s` real seconds without a sign. Threads started in any other way are not
      seen.
    - *Nobody has set a timer*: `StuckError` at once where nothing from outside is awaited, else after `patience_s`.

    `asyncio.Runner(loop_factory=VirtualTimeLoop)` runs on it, and so do `run_virtual` and pytest-asyncio; see
    `asyncllm.testing.plugin`.
    """

    def __init__(self, *, grace_s: float = 0.01, patience_s: float = 10) -> None:
        self._virtual_s = 0.0
        self._at_work = 0
        self._grace_s = grace_s
        self._patience_s = patience_s
        super().__init__(_Selector(self._wait))
        # asyncio's own name. A timer runs when it is due within this; of the nanosecond of a real clock, a float of a
        # few months has lost sight, and a timer that is due now would never run.
        self._clock_resolution = _RESOLUTION_S

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._virtual_s

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """Run `func` in a thread, and let the clock wait for it."""
        future = super().run_in_executor(executor, func, *args)
        self._at_work += 1
        future.add_done_callback(self._worked)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109  # asyncio's name
        """Wait for the threads, in real time."""
        self._at_work += 1
        try:
            if sys.version_info >= (3, 12):
                await super().shutdown_default_executor(timeout)
            else:
                await super().shutdown_default_executor()
        finally:
            self._at_work -= 1

    def _worked(self, _: asyncio.Future[Any]) -> None:
        self._at_work -= 1

    def _wait(self, poll: _Poll, timeout: float | None, sockets: int) -> _Found:
        """What the selector does in place of waiting `timeout` seconds; `None` means that no timer is set."""
        found = poll(0)
        if found or (timeout is not None and timeout <= 0):
            return found
        if sockets or self._at_work:
            patient = timeout is None or self._at_work
            found = poll(self._patience_s if patient else self._grace_s)
            if found:
                return found
        if timeout is None:
            raise StuckError(self._everybody())
        self._virtual_s += timeout
        return []

    def _everybody(self) -> str:
        tasks = sorted(f"{task.get_name()} in {_place(task)}" for task in asyncio.all_tasks(self))
        more = f" and {len(tasks) - _SHOWN_TASKS} more" if len(tasks) > _SHOWN_TASKS else ""
        who = "; ".join(tasks[:_SHOWN_TASKS]) or "no task at all"
        return f"nothing is left that could wake anyone at {self._virtual_s:g} s; waiting: {who}{more}"


class _Selector(selectors.DefaultSelector):
    """Asks its loop what waiting means."""

    def __init__(self, wait: Callable[[_Poll, float | None, int], _Found]) -> None:
        super().__init__()
        self._wait = wait

    def select(self, timeout: float | None = None) -> _Found:
        # One of those registered is the pipe by which a loop wakes itself.
        return self._wait(super().select, timeout, len(self.get_map()) - 1)


def _place(task: asyncio.Task[Any]) -> str:
    """Where a task waits, from its own function down to what that awaits."""
    steps: list[str] = []
    awaited: Any = task.get_coro()
    while (frame := getattr(awaited, "cr_frame", None)) is not None:
        steps.append(f"{frame.f_code.co_qualname}:{frame.f_lineno}")
        awaited = awaited.cr_await
    return " > ".join(steps)


def run_virtual(main: Coroutine[Any, Any, T], *, grace_s: float = 0.01, patience_s: float = 10) -> T:
    """`asyncio.run` on a `VirtualTimeLoop`."""
    with asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(grace_s=grace_s, patience_s=patience_s)) as runner:
        return runner.run(main)
