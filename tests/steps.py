"""Interrupts a coroutine at a step of its own: one step is what runs between two of its waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import anyio

__all__ = ["Interrupt", "by_scope", "by_task", "interrupted"]


class Interrupt(Coroutine[Any, Any, None]):
    """Runs `work`, and calls `strike` once, in its wait number `at`, counted from one.

    With `late`, at the end of that wait: what was waited for has come, and `work` does not know it yet.
    """

    def __init__(self, work: Coroutine[Any, Any, None], at: int, strike: Callable[[], object], *, late: bool) -> None:
        self._work = work
        self._at = at
        self._strike = strike
        self._late = late
        self._waits = 0
        self.struck = False

    def send(self, value: Any, /) -> Any:
        """Run one step."""
        return self._watch(self._work.send(value))

    def throw(self, *error: Any) -> Any:
        """Run one step that begins with an error."""
        return self._watch(self._work.throw(*error))

    def close(self) -> None:
        """End the work."""
        self._work.close()

    def __await__(self) -> Generator[Any, Any, None]:
        raise NotImplementedError("an Interrupt is run as a task")

    def _watch(self, waiting: Any) -> Any:
        self._waits += 1
        if self._waits == self._at:
            if not self._late:
                self._hit()
            elif isinstance(waiting, asyncio.Future):
                waiting.add_done_callback(self._hit)  # before the task adds its own
            else:
                asyncio.get_running_loop().call_soon(self._hit)
        return waiting

    def _hit(self, *_: object) -> None:
        self.struck = True
        self._strike()


async def by_task(work: Coroutine[Any, Any, None], at: int, *, late: bool) -> bool:
    """Cancel `work` as a task in its wait `at`. Returns whether it came so far; fails if it survives."""
    task: asyncio.Task[None]
    interrupt = Interrupt(work, at, lambda: task.cancel(), late=late)
    task = asyncio.get_running_loop().create_task(interrupt, name="interrupted")
    await asyncio.wait([task], timeout=10)
    assert task.done(), "a cancelled call does not end"
    if interrupt.struck:
        assert task.cancelled(), f"cancelled in wait {at}, it ends with {task.exception()!r} and no CancelledError"
    else:
        task.result()
    return interrupt.struck


async def by_scope(work: Coroutine[Any, Any, None], at: int, *, late: bool) -> bool:
    """Cancel `work` by a scope of anyio around it in its wait `at`; as `by_task`."""
    scope = anyio.CancelScope()

    async def within() -> None:
        with scope:
            await work
            await asyncio.sleep(0)  # a scope strikes at a wait that is not shielded, and this is one

    interrupt = Interrupt(within(), at, scope.cancel, late=late)
    task = asyncio.get_running_loop().create_task(interrupt, name="interrupted")
    await asyncio.wait([task], timeout=10)
    assert task.done(), "a cancelled call does not end"
    task.result()
    assert scope.cancelled_caught == interrupt.struck, f"a scope cancelled in wait {at} does not get its cancellation"
    return interrupt.struck


interrupted = {"task": by_task, "scope": by_scope}
