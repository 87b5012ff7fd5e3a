"""A backend that plays what it is told, for tests of whatever stands above `Backend.open`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import TypeAlias

from asyncllm.events import Event, Events
from asyncllm.testing.ops import Pause, Stall
from asyncllm.types import Request

__all__ = ["Script", "ScriptedBackend", "Step"]

Step: TypeAlias = Event | BaseException | Pause | Stall | float
"""An event to yield, an error to raise while iterating, or a wait."""

Script: TypeAlias = BaseException | Stall | Sequence[Step]
"""One call: an error to raise on entering, a `Stall` that never lets anyone in, or steps to play in order."""


class ScriptedBackend:
    """Plays one script a call, in order; asked more often than it has scripts, it plays the last one again.

    Nothing is added: a script without `Finished` ends without one. Steps follow each other without giving other
    tasks a turn, except where the script waits.
    """

    def __init__(self, scripts: Sequence[Script]) -> None:
        if not scripts:
            raise ValueError("a ScriptedBackend needs at least one script; an empty list of steps is one")
        self._scripts = scripts
        self.requests: list[Request] = []
        """Every request, in the order of the calls."""
        self.opened = 0
        """Calls entered, those that raise on entering included."""
        self.closed = 0
        """Calls left again, for whatever reason. Equal to `opened` when nothing is under way."""
        self.is_closed = False
        """Whether `aclose` was called."""

    @asynccontextmanager
    async def open(self, request: Request, /) -> AsyncGenerator[Events]:
        """Play the next script; see `asyncllm.backend.Backend`."""
        script = self._scripts[min(self.opened, len(self._scripts) - 1)]
        self.opened += 1
        self.requests.append(request)
        try:
            yield _play(await _enter(script))
        finally:
            self.closed += 1

    async def aclose(self) -> None:
        """Note that it was called. Idempotent."""
        self.is_closed = True


async def _enter(script: Script) -> Sequence[Step]:
    match script:
        case BaseException():
            raise script
        case Stall():
            await asyncio.Event().wait()
            return ()  # never: nobody sets that event
        case _:
            return script


async def _play(steps: Sequence[Step]) -> AsyncGenerator[Event]:
    for step in steps:
        match step:
            case BaseException():
                raise step
            case Stall():
                await asyncio.Event().wait()
            case Pause(seconds=seconds):
                await asyncio.sleep(seconds)
            case float() | int():
                await asyncio.sleep(step)
            case _:
                yield step
