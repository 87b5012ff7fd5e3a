"""SIGTERM does what Ctrl-C does, and is remembered, so that the status says which of the two it was."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

__all__ = ["Signals"]


class Signals:
    """For the length of its block, SIGTERM takes the way of SIGINT: cancel, clean up, end."""

    def __init__(self) -> None:
        self.terminated = False
        """Whether a SIGTERM came."""
        self._before: Any = None

    def __enter__(self) -> Self:
        # Python takes signals in the main thread alone; `main` called in another one goes without.
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._terminate)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        self.terminated = True
        # While an event loop runs, this handler is asyncio's, which cancels the main task. Raising the signal instead
        # would do nothing in a background job, whose shell ignores SIGINT for it.
        handler = signal.getsignal(signal.SIGINT)
        if callable(handler):
            handler(number, frame)
        else:
            raise KeyboardInterrupt
