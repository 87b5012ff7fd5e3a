"""Calls that are over when they are answered, such as embeddings, in the same layers as those that stream."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Generic, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from asyncllm.budgets import Reservation
from asyncllm.errors import AsyncLLMError
from asyncllm.events import Events, Ready
from asyncllm.middleware.observe import Observation, Observer
from asyncllm.middleware.total_timeout import total_timeout
from asyncllm.place import Target
from asyncllm.trail import Trail
from asyncllm.types import Request, Usage
from asyncllm.watchdog import Watchdog

__all__ = ["Claim", "once"]

T = TypeVar("T")


class Claim:
    """What the budgets set aside for a job, from when it is submitted to when its result is taken."""

    def __init__(self) -> None:
        self._held: Reservation | None = None
        self._is_kept = False

    def observe(self, observer: Observer, trail: Trail, target: Target) -> Observation | None:
        """What to do around the call of `trail`: the one that submits the job, or the one that takes its result."""
        if trail.kind != "job_result":
            self._is_kept = True
            return observer.observe(trail, target.tariff)
        held, self._held = self._held, None
        return observer.resume(trail, held)

    def keep(self, observation: Observation) -> None:
        """The call of `observation` has gone well, and is not charged yet if it has submitted the job."""
        if self._is_kept:
            self._is_kept = False
            self._held = observation.keep()


async def once(
    call: Callable[[], Awaitable[T]],
    target: Target,
    trail: Trail,
    *,
    dog: Watchdog,
    observer: Observer,
    claim: Claim | None = None,
) -> T:
    """Make `call` at `target`, as often as its layers want, and return what it gives; `claim` is of a job alone.

    Raises `APIError`, `BudgetExceededError`.
    """
    trail.started_at = asyncio.get_running_loop().time()
    # The layers ask a request for its deadlines alone.
    request = Request(model=trail.model, timeouts=trail.request.timeouts)
    observation = observer.observe(trail, target.tariff) if claim is None else claim.observe(observer, trail, target)
    if observation is not None:
        request = observation.bounded(request)
        await observation.begin()
    made = _Made(call)
    try:
        async with total_timeout(target.place.within(made.attempt), request, trail, dog):
            pass
    except BaseException as error:
        if isinstance(error, AsyncLLMError):
            error.backend = error.backend or trail.backend
            error.model = error.model or trail.model or None
        if observation is not None:
            told = observation.explain(error) or error
            trail.end()
            await observation.end(None, None, told)
            if told is not error:
                raise told from error
        raise
    trail.is_complete = True
    usage: Usage | None = getattr(made.result, "usage", None)
    trail.usage = usage
    if usage is not None and target.tariff is not None:
        trail.cost_usd = target.tariff.cost_usd(usage)
    if observation is not None:
        trail.end()
        if claim is not None:
            claim.keep(observation)
        await observation.end(None, usage, None)
    return made.priced(trail.cost_usd)


class _Made(Generic[T]):
    """What comes of a call."""

    result: T

    def __init__(self, call: Callable[[], Awaitable[T]]) -> None:
        self._call = call

    def priced(self, cost_usd: float | None) -> T:
        """The result, with its cost where it has a place for one."""
        result = self.result
        if cost_usd is not None and isinstance(result, Struct) and "cost_usd" in result.__struct_fields__:
            return replace(result, cost_usd=cost_usd)
        return result

    def attempt(self, _: Request, __: Trail) -> AbstractAsyncContextManager[Events]:
        """Make the call once: entering is all of it."""
        return _Attempt(self)

    async def make(self) -> None:
        """Make the call and keep what it gives."""
        self.result = await self._call()


class _Attempt:
    def __init__(self, made: _Made[T]) -> None:
        self._made = made

    async def __aenter__(self) -> Events:
        await self._made.make()
        return Ready(())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is held."""
