"""What blocks runs in a thread, and is over before anyone goes on: a file is never closed under a write."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from asyncllm.finishing import finish

__all__ = ["in_thread"]

T = TypeVar("T")

_AS_LONG_AS_IT_TAKES = 30 * 86_400.0  # a thread cannot be stopped


async def in_thread(call: Callable[[], T]) -> T:
    """What `call` returns. Who is cancelled meanwhile hears of it when the call has ended."""
    results: list[T] = []

    async def run() -> None:
        results.append(await asyncio.to_thread(call))

    await finish(asyncio.create_task(run()), _AS_LONG_AS_IT_TAKES)
    return results[0]
