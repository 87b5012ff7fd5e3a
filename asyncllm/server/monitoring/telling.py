"""The figures of a server told to whoever asks: those of all processes that share its store, each up to date."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from asyncllm.errors import StoreError
from asyncllm.server.monitoring.figures import GAUGES, Figures
from asyncllm.workspace.board import Board, Series

__all__ = ["Telling"]

_TELL_S = 5.0
"""Between a change of the figures and when other processes see it, at the most."""


class Telling:
    """Brings figures together; `refresh` is called before they are told. Without a `board` it is this process's own."""

    def __init__(self, figures: Figures, refresh: Callable[[], None], board: Board | None, worker: str) -> None:
        self._figures = figures
        self._refresh = refresh
        self._board = board
        self._worker = worker
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[Series] | None = None

    async def series(self) -> Series:
        """All figures, as they are now; of this process alone while the store fails."""
        self._refresh()
        if self._board is None:
            return self._figures.series
        try:
            return await self._board.exchange(self._worker, self._figures.series, GAUGES)
        except StoreError:
            self._figures.add("asyncllm_store_failures_total", "figures")
            return self._figures.series

    def plan(self) -> None:
        """The figures have changed, which others are to see soon."""
        if self._board is not None and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_TELL_S, self._begin)

    async def aclose(self) -> None:
        """Tell them for the last time. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is not None:
            await asyncio.wait([self._task])
        await self.series()

    def _begin(self) -> None:
        self._timer = None
        self._task = asyncio.create_task(self.series())
