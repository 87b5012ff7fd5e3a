"""Hold calls back before a deployment's limits do: slots, requests and tokens a minute, and a pause after a refusal.

Whoever has to wait stands in one line, first come, first served. One call that is throttled pauses the deployment for
all; when the pause is over they are let go one after the other, and not all at once.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from math import inf
from types import TracebackType

from msgspec import Struct

from asyncllm.backend import AnyRequest, Clock
from asyncllm.clock import LoopClock
from asyncllm.errors import (
    AsyncLLMError,
    ConfigError,
    OverloadedError,
    PoolTimeoutError,
    QuotaExceededError,
    RateLimitError,
    WrongLoopError,
)
from asyncllm.estimate import estimated_tokens
from asyncllm.events import Events
from asyncllm.middleware import Open
from asyncllm.trail import Trail
from asyncllm.types import Limits, Request, Usage

__all__ = ["Limiter", "limits"]

_MINUTE_S = 60.0
_GAP_S = 0.05  # at most this long between two calls that a pause has held back


class Slot(Struct, eq=False):
    """A call's leave to be under way."""

    epoch: int
    """How many pauses there had been."""
    at: float = 0
    """Event-loop time at which it was given."""
    tokens: int = 0
    """Tokens counted for it."""
    is_counted: bool = False
    """Whether it is among those of the last minute."""


class _Waiter(Struct, eq=False):
    ready: asyncio.Future[Slot]
    tokens: int


class Limiter:
    """Keeps `Limits`. Give one to several clients of one event loop, and they keep them together.

    `Client(limits=Limits(...))` makes one for each of its deployments.
    """

    def __init__(self, limits: Limits = Limits(), clock: Clock = LoopClock()) -> None:
        if not isinstance(limits, Limits):
            raise ConfigError("limits is a Limits, as in Limits(concurrency=8)", field="limits")
        self.limits = limits
        self.in_flight = 0
        """Calls under way."""
        self._is_limited = limits != Limits()
        self._counts_minutes = limits.requests_per_minute is not None or limits.tokens_per_minute is not None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._line: deque[_Waiter] = deque()
        self._clock = clock
        self._timer: asyncio.Task[None] | None = None
        self._recent: deque[Slot] = deque()  # those of the last minute, oldest first
        self._recent_tokens = 0
        self._pause: _Pause | None = None
        self._epoch = 0
        self._throttles = 0  # in a row

    @property
    def waiting(self) -> int:
        """Calls that stand in line."""
        return len(self._line)

    def paused_s(self) -> float:
        """Seconds for which no call will be let through."""
        return 0.0 if self._pause is None else max(0.0, self._pause.until - self._clock.time())

    def enter(self, request: AnyRequest) -> Slot | None:
        """Take a slot if one is free and nobody stands in line for it."""
        if not self._is_limited and self._pause is None:
            self.in_flight += 1
            return Slot(self._epoch)
        self._bind()
        tokens = self._tokens(request)
        if self._line or self._delay_s(tokens) > 0:
            return None
        return self._give(tokens)

    async def wait(self, request: AnyRequest, pool_s: float | None) -> Slot:
        """Stand in line for a slot, for those to whom `enter` gave none.

        Raises `PoolTimeoutError` after `pool_s` seconds; `RateLimitError` at once, where a pause will not be over by
        then.
        """
        paused_s = self.paused_s()
        if pool_s is not None and paused_s > pool_s:
            raise RateLimitError(
                f"the deployment has asked for a pause that is not over within pool_s={pool_s} seconds; nothing was "
                "sent",
                retry_after_s=paused_s,
            )
        waiter = _Waiter(asyncio.get_running_loop().create_future(), self._tokens(request))
        self._line.append(waiter)
        self._advance()
        try:
            async with asyncio.timeout(pool_s):
                return await waiter.ready
        except BaseException as error:
            self._give_up(waiter)
            if isinstance(error, TimeoutError):
                raise PoolTimeoutError(
                    f"no slot came free within pool_s={pool_s} seconds: {self.in_flight} calls are under way (a stream "
                    f"is until its block is left) and {len(self._line)} more stand in line",
                    elapsed_s=pool_s,
                ) from None
            raise

    def leave(self, slot: Slot, usage: Usage | None = None) -> None:
        """Give `slot` back; `usage` corrects what was estimated."""
        self.in_flight -= 1
        total = usage.total_tokens if usage is not None else None
        if total is not None and slot.is_counted and self.limits.tokens_per_minute is not None:
            self._recent_tokens += total - slot.tokens
            slot.tokens = total
        if self._line:
            self._advance()

    def throttle(self, error: AsyncLLMError, slot: Slot, pause_s: Callable[[AsyncLLMError, int], float]) -> None:
        """The call of `slot` was refused because there are too many: pause, for as long as `pause_s` says."""
        self._bind()
        now = self._clock.time()
        is_news = slot.epoch == self._epoch  # calls that were sent before a pause began say the same once more
        self._throttles += is_news
        wait_s = pause_s(error, max(1, self._throttles))
        until = now + wait_s
        if wait_s <= 0 or not (is_news or (error.retry_after_s and self._pause and until > self._pause.until)):
            return
        self._epoch += is_news
        self._pause = _Pause(max(until, self._pause.until if self._pause else 0), wait_s)
        self._advance()

    def succeed(self) -> None:
        """A call was answered."""
        self._throttles = 0

    def _bind(self) -> None:
        loop = asyncio.get_running_loop()
        if loop is self._loop:
            return
        if self._loop is not None and (self._line or self.in_flight) and not self._loop.is_closed():
            raise WrongLoopError("a Limiter keeps the calls of one event loop, and others are under way on another")
        self._loop = loop
        self._recent.clear()
        self._recent_tokens = 0
        self._pause = None

    def _tokens(self, request: AnyRequest) -> int:
        limit = self.limits.tokens_per_minute
        # A call above the whole limit could never be made: it is let through where nothing else was.
        return 0 if limit is None else min(limit, estimated_tokens(request))

    def _delay_s(self, tokens: int) -> float:
        """Seconds until a call of `tokens` may be let through; infinite until one that is under way has ended."""
        now = self._clock.time()
        if self._pause is not None:
            wait_s = self._pause.wait_s(now, len(self._line))
            if wait_s > 0:
                return wait_s
            if not self._line:
                self._pause = None
        concurrency = self.limits.concurrency
        if concurrency is not None and self.in_flight >= concurrency:
            return inf
        return self._minute_s(now, tokens) if self._counts_minutes else 0.0

    def _minute_s(self, now: float, tokens: int) -> float:
        """Seconds until the last minute has room for a call of `tokens`."""
        limits, recent = self.limits, self._recent
        while recent and recent[0].at + _MINUTE_S <= now:
            oldest = recent.popleft()
            oldest.is_counted = False
            self._recent_tokens -= oldest.tokens
        if limits.requests_per_minute is not None and len(recent) >= limits.requests_per_minute:
            return recent[0].at + _MINUTE_S - now
        if limits.tokens_per_minute is not None:
            over = self._recent_tokens + tokens - limits.tokens_per_minute
            for slot in recent:
                if over <= 0:
                    break
                over -= slot.tokens
                if over <= 0:
                    return slot.at + _MINUTE_S - now
        return 0.0

    def _give(self, tokens: int) -> Slot:
        self.in_flight += 1
        slot = Slot(self._epoch, self._clock.time(), tokens, is_counted=self._counts_minutes)
        if slot.is_counted:
            self._recent.append(slot)
            self._recent_tokens += tokens
        return slot

    def _give_up(self, waiter: _Waiter) -> None:
        """`waiter` is gone: so is its place in line, or the slot that it had just been given."""
        if waiter in self._line:
            self._line.remove(waiter)
        elif not waiter.ready.cancelled():
            slot = waiter.ready.result()
            self.in_flight -= 1
            if slot.is_counted:
                self._recent.remove(slot)
                self._recent_tokens -= slot.tokens
        self._advance()

    def _advance(self) -> None:
        """Let through as many of the line as may go, and come back when the next one may."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._line:
            delay_s = self._delay_s(self._line[0].tokens)
            if delay_s > 0:
                if delay_s < inf:
                    self._timer = asyncio.create_task(self._come_back(delay_s))
                return
            waiter = self._line.popleft()
            if not waiter.ready.done():
                waiter.ready.set_result(self._give(waiter.tokens))

    async def _come_back(self, delay_s: float) -> None:
        await self._clock.sleep(delay_s)
        self._timer = None
        self._advance()


class _Pause:
    """A time in which no call is let through, and after which those that it held back go one by one."""

    __slots__ = ("_gap_s", "_held_s", "_next_at", "until")

    def __init__(self, until: float, held_s: float) -> None:
        self.until = until
        self._held_s = held_s
        self._gap_s = 0.0
        self._next_at = until

    def wait_s(self, now: float, waiting: int) -> float:
        """Seconds until the first of `waiting` calls may go; asking when it may go is letting it go."""
        if now < self._next_at:
            return self._next_at - now
        if not self._gap_s:
            # As long a time to let them go as they were held, and no long one for a few.
            self._gap_s = min(_GAP_S, self._held_s / max(1, waiting))
        self._next_at = now + self._gap_s * random.uniform(0.5, 1.5)
        return 0.0


def limits(open_: Open, limiter: Limiter, pause_s: Callable[[AsyncLLMError, int], float]) -> Open:
    """Hold every call of `open_` to `limiter`, from before its attempt until it is left."""

    def opened(request: Request, trail: Trail) -> AbstractAsyncContextManager[Events]:
        return _Limited(open_, limiter, pause_s, request, trail)

    return opened


class _Limited:
    __slots__ = ("_inner", "_limiter", "_open", "_pause_s", "_request", "_slot", "_trail")

    def __init__(
        self,
        open_: Open,
        limiter: Limiter,
        pause_s: Callable[[AsyncLLMError, int], float],
        request: Request,
        trail: Trail,
    ) -> None:
        self._open = open_
        self._limiter = limiter
        self._pause_s = pause_s
        self._request = request
        self._trail = trail
        self._inner: AbstractAsyncContextManager[Events]
        self._slot: Slot

    async def __aenter__(self) -> Events:
        limiter, asked = self._limiter, self._trail.request
        slot = limiter.enter(asked)
        if slot is None:
            loop = asyncio.get_running_loop()
            began = loop.time()
            try:
                slot = await limiter.wait(asked, asked.timeouts.pool_s)
            finally:
                self._trail.queue_s += loop.time() - began
        self._slot = slot
        try:
            self._inner = self._open(self._request, self._trail)
            events = await self._inner.__aenter__()
        except BaseException as error:
            limiter.leave(slot)
            if isinstance(error, RateLimitError | OverloadedError) and not isinstance(error, QuotaExceededError):
                limiter.throttle(error, slot, self._pause_s)
            raise
        limiter.succeed()
        return events

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        try:
            return await self._inner.__aexit__(kind, error, trace)
        finally:
            self._limiter.leave(self._slot, self._trail.usage)
