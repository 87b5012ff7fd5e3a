"""Reopen a call that failed before the first piece of its answer.

Every attempt is a full `open` of the next layer, so nothing is held while waiting between two. The wait is drawn evenly
from zero up to a bound that doubles (full jitter): callers that failed together do not come back together. What all
calls of a deployment may retry together is bounded by a `RetryQuota`, so that a service in trouble is not kept there.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType

from asyncllm.backend import Clock
from asyncllm.errors import (
    APITimeoutError,
    AsyncLLMError,
    ConfigError,
    OverloadedError,
    PoolTimeoutError,
    RateLimitError,
)
from asyncllm.events import Events
from asyncllm.middleware import Open
from asyncllm.middleware.limits import Limiter
from asyncllm.trail import Trail
from asyncllm.types import Noun, Request

__all__ = ["Retry", "RetryQuota", "retry"]

_COST = 14
_TIMEOUT_COST = 10
_THROTTLED_COST = 5
_SLOTS = 12
_SLOT_S = 10.0
_BURST = 35  # retries that the ratio never forbids, which are as many as a full quota allows


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
    quota: int | None = 500
    """What the retries of a deployment's calls may cost together: 14 after a failure, 10 after a timeout, 5 after a
    throttled call; each call that succeeds gives one back. `None` sets no bound."""
    ratio: float | None = 0.1
    """The share of a deployment's calls of the last two minutes that may be retried, once that is more than what the
    full default quota allows (35). `None` sets no bound."""

    def __post_init__(self) -> None:
        if type(self.attempts) is not int or self.attempts < 1:
            raise ConfigError(f"attempts is a whole number from 1 up; got {self.attempts!r}", field="attempts")
        for name in ("backoff_s", "throttled_s", "max_backoff_s", "max_retry_after_s"):
            seconds = getattr(self, name)
            if not (type(seconds) in (int, float) and seconds >= 0):
                raise ConfigError(f"{name} is a number of seconds from zero up; got {seconds!r}", field=name)
        if self.quota is not None and (type(self.quota) is not int or self.quota < 0):
            raise ConfigError(f"quota is a whole number from 0 up, or None; got {self.quota!r}", field="quota")
        if self.ratio is not None and not (type(self.ratio) in (int, float) and 0 <= self.ratio <= 1):
            raise ConfigError(f"ratio is a share from 0 to 1, or None; got {self.ratio!r}", field="ratio")

    def wait_s(self, error: AsyncLLMError, attempt: int, draw: Callable[[], float] = random.random) -> float | None:
        """Seconds to wait after the `attempt`-th call failed with `error`, or `None` to give up.

        `draw` gives numbers from 0 up to 1.
        """
        # Who could not get a slot has waited already, and would queue up behind all the others.
        if attempt >= self.attempts or not error.retryable or isinstance(error, PoolTimeoutError):
            return None
        asked_s = error.retry_after_s
        if asked_s and asked_s > self.max_retry_after_s:
            return None
        if asked_s:
            # At least what was asked; the tenth on top keeps a thousand callers from waking in the same instant.
            return asked_s * (1 + draw() / 10)
        base_s = self.throttled_s if isinstance(error, RateLimitError | OverloadedError) else self.backoff_s
        return draw() * min(self.max_backoff_s, base_s * 2.0 ** (attempt - 1))

    def pause_s(self, error: AsyncLLMError, times: int) -> float:
        """Seconds for which no call goes to a deployment that has throttled one, `times` in a row; 0 for none."""
        asked_s = error.retry_after_s
        if self.attempts < 2 or (asked_s or 0) > self.max_retry_after_s:
            return 0.0
        return asked_s or min(self.max_backoff_s, self.throttled_s * 2.0 ** (times - 1))


class RetryQuota:
    """What the retries of all calls to one deployment may amount to, over the last two minutes and in a row."""

    __slots__ = ("_call_counts", "_calls", "_policy", "_retries", "_retry_counts", "_slot", "_tokens")

    def __init__(self, policy: Retry) -> None:
        self._policy = policy
        self._tokens = policy.quota or 0
        self._calls = self._retries = self._slot = 0
        self._call_counts = [0] * _SLOTS
        self._retry_counts = [0] * _SLOTS

    def call(self, now: float) -> None:
        """A call is made, for the first time."""
        if int(now / _SLOT_S) != self._slot:
            self._turn(int(now / _SLOT_S))
        self._calls += 1
        self._call_counts[self._slot % _SLOTS] += 1

    def succeed(self) -> None:
        """A call was answered."""
        if self._tokens < (self._policy.quota or 0):
            self._tokens += 1

    def take(self, error: AsyncLLMError, now: float) -> bool:
        """Whether the call that failed with `error` may be made again. If so, that is counted."""
        self._turn(int(now / _SLOT_S))
        policy = self._policy
        if policy.ratio is not None and self._retries >= max(_BURST, int(policy.ratio * self._calls)):
            return False
        if policy.quota is not None:
            cost = _cost(error)
            if self._tokens < cost:
                return False
            self._tokens -= cost
        self._retries += 1
        self._retry_counts[self._slot % _SLOTS] += 1
        return True

    def _turn(self, slot: int) -> None:
        """Forget what is older than the window."""
        for past in range(max(self._slot, slot - _SLOTS) + 1, slot + 1):
            position = past % _SLOTS
            self._calls -= self._call_counts[position]
            self._retries -= self._retry_counts[position]
            self._call_counts[position] = self._retry_counts[position] = 0
        self._slot = max(slot, self._slot)


def _cost(error: AsyncLLMError) -> int:
    if isinstance(error, RateLimitError | OverloadedError):
        return _THROTTLED_COST
    return _TIMEOUT_COST if isinstance(error, APITimeoutError) else _COST


def retry(open_: Open, policy: Retry, clock: Clock, limiter: Limiter, quota: RetryQuota) -> Open:
    """Make every call of `open_` up to `policy.attempts` times.

    `limiter` is the one that the calls of `open_` pass: a pause that it imposes on all calls is not waited for twice.
    `quota` bounds what all calls to the deployment retry together.
    """
    return _Retrier(open_, policy, clock, limiter, quota)


class _Retrier:
    """The layer: what all calls to one deployment share."""

    __slots__ = ("clock", "limiter", "open", "policy", "quota")

    def __init__(self, open_: Open, policy: Retry, clock: Clock, limiter: Limiter, quota: RetryQuota) -> None:
        self.open = open_
        self.policy = policy
        self.clock = clock
        self.limiter = limiter
        self.quota = quota

    def __call__(self, request: Request, trail: Trail) -> AbstractAsyncContextManager[Events]:
        return _Retried(self, request, trail)

    def wait_s(self, error: AsyncLLMError, attempt: int, trail: Trail) -> float | None:
        """Seconds to wait after the `attempt`-th call, or `None` if there is to be no other."""
        wait_s = self.policy.wait_s(error, attempt)
        if wait_s is None:
            return None
        now = asyncio.get_running_loop().time()
        due = trail.due
        # Where the answer would come too late, the caller gets the reason now.
        if (due is not None and now + wait_s >= due) or not self.quota.take(error, now):
            return None
        paused_s, pool_s = self.limiter.paused_s(), trail.request.timeouts.pool_s
        # What is left of a pause is spent in line, where a call that would stand longer than it may is turned away.
        return max(0.0, wait_s - (paused_s if pool_s is None else min(paused_s, pool_s)))


class _Retried:
    """One call."""

    __slots__ = ("_inner", "_layer", "_request", "_trail")

    def __init__(self, layer: _Retrier, request: Request, trail: Trail) -> None:
        self._layer = layer
        self._request = request
        self._trail = trail
        self._inner: AbstractAsyncContextManager[Events]

    async def __aenter__(self) -> Events:
        layer, trail = self._layer, self._trail
        layer.quota.call(trail.started_at)
        errors: list[AsyncLLMError] = []
        while True:
            self._inner = layer.open(self._request, trail)
            try:
                events = await self._inner.__aenter__()
            except AsyncLLMError as error:
                trail.fail(error)
                errors.append(error)
                wait_s = layer.wait_s(error, len(errors), trail)
                if wait_s is None:
                    if len(errors) > 1:
                        error.attempts = tuple(errors)
                        error.maybe_billed = any(one.maybe_billed for one in errors)
                    raise
            else:
                layer.quota.succeed()
                return events
            await layer.clock.sleep(wait_s)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._inner.__aexit__(kind, error, trace)
