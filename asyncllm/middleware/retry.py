"""Reopen a call that failed before the first piece of its answer.

Every attempt is a full `open` of the next layer, so nothing is held while waiting between two. The wait is drawn evenly
from zero up to a bound that doubles (full jitter): callers that failed together do not come back together.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import TypeVar

from asyncllm.backend import Clock
from asyncllm.errors import AsyncLLMError, ConfigError, OverloadedError, RateLimitError
from asyncllm.events import Events
from asyncllm.middleware import Open
from asyncllm.types import Noun, Request

__all__ = ["Retry", "again", "retry"]

T = TypeVar("T")


class Retry(Noun, frozen=True, kw_only=True):
    """When and how often a failed call is made again, seconds throughout."""

    attempts: int = 3
    """Calls in all, the first one included."""
    backoff_s: float = 0.5
    """Bound of the first wait; it doubles with every attempt."""
    throttled_s: float = 1.0
    """The same after a server said that it has too much to do."""
    max_backoff_s: float = 30
    """Where the doubling ends."""
    max_retry_after_s: float = 120
    """A server that asks for a longer wait is not waited for: its error is raised with `retry_after_s`."""

    def __post_init__(self) -> None:
        if type(self.attempts) is not int or self.attempts < 1:
            raise ConfigError(f"attempts is a whole number from 1 up; got {self.attempts!r}", field="attempts")
        for name in ("backoff_s", "throttled_s", "max_backoff_s", "max_retry_after_s"):
            seconds = getattr(self, name)
            if not (type(seconds) in (int, float) and seconds >= 0):
                raise ConfigError(f"{name} is a number of seconds from zero up; got {seconds!r}", field=name)

    def wait_s(self, error: AsyncLLMError, attempt: int, draw: Callable[[], float] = random.random) -> float | None:
        """Seconds to wait after the `attempt`-th call failed with `error`, or `None` to give up.

        `draw` gives numbers from 0 up to 1.
        """
        if attempt >= self.attempts or not error.retryable:
            return None
        asked_s = error.retry_after_s
        if asked_s:
            if asked_s > self.max_retry_after_s:
                return None
            # At least what was asked; the tenth on top keeps a thousand callers from waking in the same instant.
            return asked_s * (1 + draw() / 10)
        base_s = self.throttled_s if isinstance(error, RateLimitError | OverloadedError) else self.backoff_s
        return draw() * min(self.max_backoff_s, base_s * 2.0 ** (attempt - 1))


async def again(call: Callable[[], Awaitable[T]], policy: Retry, clock: Clock) -> T:
    """Await `call()` until it succeeds or `policy` gives up; the error then lists every attempt."""
    errors: list[AsyncLLMError] = []
    while True:
        try:
            return await call()
        except AsyncLLMError as error:
            errors.append(error)
            wait_s = policy.wait_s(error, len(errors))
            if wait_s is None:
                error.attempts = tuple(errors) if len(errors) > 1 else ()
                error.maybe_billed = any(one.maybe_billed for one in errors)
                raise
        await clock.sleep(wait_s)


def retry(open_: Open, policy: Retry, clock: Clock) -> Open:
    """Make every call of `open_` up to `policy.attempts` times."""

    def opened(request: Request) -> AbstractAsyncContextManager[Events]:
        return _Retried(open_, policy, clock, request)

    return opened


class _Retried:
    __slots__ = ("_clock", "_inner", "_open", "_policy", "_request")

    def __init__(self, open_: Open, policy: Retry, clock: Clock, request: Request) -> None:
        self._open = open_
        self._policy = policy
        self._clock = clock
        self._request = request
        self._inner: AbstractAsyncContextManager[Events]

    async def __aenter__(self) -> Events:
        return await again(self._attempt, self._policy, self._clock)

    async def _attempt(self) -> Events:
        self._inner = self._open(self._request)
        return await self._inner.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._inner.__aexit__(kind, error, trace)
