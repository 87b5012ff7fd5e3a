"""Time as a client takes it, unless it is given another clock."""

from __future__ import annotations

import asyncio

__all__ = ["LoopClock"]


class LoopClock:
    """`backend.Clock` of the running event loop."""

    def time(self) -> float:
        """Seconds on a clock that never goes back."""
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float, /) -> None:
        """Return after `seconds`."""
        await asyncio.sleep(seconds)
