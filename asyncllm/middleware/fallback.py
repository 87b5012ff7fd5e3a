"""Try an ordered list of models until one begins to answer.

The next one is asked only while nothing of an answer has arrived, and only after an error that another place could
do better at: a place that is down, overloaded, out of quota or without the model. An error that is the caller's own,
such as a bad request, is raised at once. A place that has just failed is asked last for a while, and one that is known
to be down only where all are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Protocol

from asyncllm.errors import APIError, NotFoundError, QuotaExceededError, TotalTimeoutError
from asyncllm.events import Events
from asyncllm.middleware import Open
from asyncllm.trail import Trail
from asyncllm.types import Request

__all__ = ["Askable", "Fallback"]


class Askable(Protocol):
    """What has to be known of a place to choose among several."""

    name: str
    label: str
    open: Open
    cooling_until: float
    is_down: bool

    def fail(self, error: APIError, now: float) -> None:
        """It could not answer a call."""
        ...

    def recover(self) -> None:
        """It has answered a call."""
        ...


class Fallback:
    """One call over several places, each with the request that suits it."""

    __slots__ = ("_candidates", "_inner", "_trail")

    def __init__(self, candidates: Sequence[tuple[Askable, Request]], trail: Trail) -> None:
        self._candidates = candidates
        self._trail = trail
        self._inner: AbstractAsyncContextManager[Events]

    async def __aenter__(self) -> Events:
        trail = self._trail
        time = asyncio.get_running_loop().time
        now = time()
        # Sorting is stable: those that are not cooling keep their order, and come before those that are.
        there = [candidate for candidate in self._candidates if not candidate[0].is_down] or self._candidates
        order = sorted(there, key=lambda candidate: max(0.0, candidate[0].cooling_until - now))
        for position, (place, request) in enumerate(order):
            trail.ask(place.name, place.label, request)
            self._inner = place.open(request, trail)
            try:
                events = await self._inner.__aenter__()
            except APIError as error:
                trail.fail(error)
                elsewhere = _is_of_the_place(error)
                if elsewhere:
                    place.fail(error, time())
                if not elsewhere or position == len(order) - 1:
                    error.attempts = trail.failures if len(trail.failures) > 1 else ()
                    error.maybe_billed = any(one.maybe_billed for one in trail.failures)
                    raise
            else:
                place.recover()
                return events
        raise AssertionError("a call has at least one candidate")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._inner.__aexit__(kind, error, trace)


def _is_of_the_place(error: APIError) -> bool:
    """Whether another place could do better."""
    if isinstance(error, TotalTimeoutError):
        return False
    return error.retryable or isinstance(error, NotFoundError | QuotaExceededError)
