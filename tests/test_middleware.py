"""The layers by themselves: policies as tables, and the one timer that serves every deadline."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

import asyncllm
from asyncllm import Finished, Retry, TextDelta
from asyncllm.events import Events, Ready
from asyncllm.middleware import Open, bottom
from asyncllm.middleware.gate import gate
from asyncllm.middleware.limits import Limiter
from asyncllm.middleware.retry import RetryQuota, retry
from asyncllm.testing import ScriptedBackend
from asyncllm.trail import Trail
from asyncllm.types import Message, Request
from asyncllm.watchdog import Waiter, Watchdog

REQUEST = Request(model="m", messages=(Message("user", "hi"),))


def opened(layer: Open) -> AbstractAsyncContextManager[Events]:
    return layer(REQUEST, Trail("chat", REQUEST, "scripted", "scripted"))


class Sleeps:
    """A clock that only writes down how long it was asked to sleep."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def time(self) -> float:
        return sum(self.seconds)

    async def sleep(self, seconds: float, /) -> None:
        self.seconds.append(seconds)


WAITS = [
    (asyncllm.InternalServerError("x"), 1, 1.0, 0.5),
    (asyncllm.InternalServerError("x"), 2, 1.0, 1.0),
    (asyncllm.InternalServerError("x"), 1, 0.0, 0.0),
    (asyncllm.RateLimitError("x"), 1, 1.0, 1.0),
    (asyncllm.OverloadedError("x"), 2, 0.5, 1.0),
    (asyncllm.RateLimitError("x", retry_after_s=20), 1, 0.0, 20.0),
    (asyncllm.RateLimitError("x", retry_after_s=20), 1, 1.0, 22.0),
    (asyncllm.RateLimitError("x", retry_after_s=120), 1, 0.0, 120.0),
    (asyncllm.RateLimitError("x", retry_after_s=121), 1, 0.0, None),
    (asyncllm.RateLimitError("x", retry_after_s=0), 1, 1.0, 1.0),
    (asyncllm.RateLimitError("x", retry_after_s=float("9" * 35)), 1, 0.0, None),
    (asyncllm.QuotaExceededError("x", retry_after_s=1), 1, 0.0, None),
    (asyncllm.BadRequestError("x"), 1, 0.0, None),
    (asyncllm.InternalServerError("x", retryable=False), 1, 0.0, None),
    (asyncllm.APIConnectionError("x"), 3, 0.0, None),
    (asyncllm.TotalTimeoutError("x"), 1, 0.0, None),
    (asyncllm.FirstEventTimeoutError("x"), 1, 0.0, 0.0),
    (asyncllm.ConfigError("x"), 1, 0.0, None),
]


@pytest.mark.parametrize(("error", "attempt", "draw", "wait_s"), WAITS)
def test_the_wait_after_a_failure_follows_the_policy(
    error: asyncllm.AsyncLLMError, attempt: int, draw: float, wait_s: float | None
) -> None:
    assert Retry().wait_s(error, attempt, lambda: draw) == wait_s


@given(st.integers(1, 60), st.floats(0, 1, exclude_max=True))
def test_a_wait_never_exceeds_its_bound(attempt: int, draw: float) -> None:
    wait_s = Retry(attempts=100).wait_s(asyncllm.InternalServerError("x"), attempt, lambda: draw)

    assert wait_s is not None
    assert 0 <= wait_s <= 30


@pytest.mark.parametrize(
    "fields",
    [{"attempts": 0}, {"attempts": True}, {"attempts": 1.5}, {"backoff_s": -1}, {"max_backoff_s": float("nan")}],
)
def test_a_policy_that_cannot_be_right_is_refused_by_name(fields: dict[str, float]) -> None:
    with pytest.raises(asyncllm.ConfigError, match=next(iter(fields))):
        Retry(**fields)  # type: ignore[arg-type]


async def test_a_call_is_made_until_it_succeeds_and_waits_in_between() -> None:
    errors = [asyncllm.RateLimitError("x", retry_after_s=2), asyncllm.InternalServerError("x")]
    backend, clock, policy = ScriptedBackend([*errors, [TextDelta("ok"), Finished("stop")]]), Sleeps(), Retry()

    async with opened(retry(bottom(backend), policy, clock, Limiter(), RetryQuota(policy))) as events:
        assert [event async for event in events] == [TextDelta("ok"), Finished("stop")]
    assert len(clock.seconds) == 2
    assert 2 <= clock.seconds[0] <= 2.2


async def test_the_gate_reads_ahead_to_the_first_content_and_loses_nothing() -> None:
    events: list[asyncllm.Event] = [asyncllm.Started("m"), TextDelta("a"), TextDelta("b"), Finished("stop")]

    async with opened(gate(bottom(ScriptedBackend([events])))) as lent:
        assert isinstance(lent, Ready)
        assert list(lent.head) == events[:2]
        assert [event async for event in lent] == events


async def test_an_error_before_the_first_content_is_raised_at_the_gate_and_frees_the_call() -> None:
    backend = ScriptedBackend([[asyncllm.Started("m"), asyncllm.OverloadedError("busy")]])

    with pytest.raises(asyncllm.OverloadedError):
        async with opened(gate(bottom(backend))):
            raise AssertionError("entered")

    assert backend.opened == backend.closed == 1


async def test_a_reply_without_a_word_is_interrupted_at_the_gate() -> None:
    backend = ScriptedBackend([[asyncllm.Started("m")]])

    with pytest.raises(asyncllm.StreamInterrupted, match="before anything"):
        async with opened(gate(bottom(backend))):
            raise AssertionError("entered")

    assert backend.opened == backend.closed == 1


class Bell(Waiter):
    """A waiter that notes when it expired."""

    def __init__(self, dog: Watchdog) -> None:
        super().__init__(dog)
        self.rung_at: list[float] = []

    def expire(self) -> None:
        self.rung_at.append(asyncio.get_running_loop().time())


async def test_the_watchdog_wakes_each_waiter_once_and_in_time() -> None:
    dog, now = Watchdog(), asyncio.get_running_loop().time()
    bells = [Bell(dog) for _ in range(5)]

    for number, bell in enumerate(bells):
        bell.wait(now + 0.02 * (5 - number))
    await asyncio.sleep(0.3)

    for number, bell in enumerate(bells):
        (rung,) = bell.rung_at
        assert rung >= now + 0.02 * (5 - number)


async def test_who_rests_leaves_or_waits_for_longer_is_not_woken() -> None:
    dog, now = Watchdog(), asyncio.get_running_loop().time()
    resting, leaving, moving, endless = (Bell(dog) for _ in range(4))

    for bell in (resting, leaving, moving):
        bell.wait(now + 0.02)
    endless.wait(inf)
    resting.rest()
    leaving.leave()
    leaving.leave()
    moving.wait(now + 10)
    await asyncio.sleep(0.1)

    assert [bell.rung_at for bell in (resting, leaving, moving, endless)] == [[]] * 4
    dog.close()


async def test_a_wait_after_a_rest_is_watched_again_and_so_is_a_shorter_one() -> None:
    dog, clock = Watchdog(), asyncio.get_running_loop()
    rested, shortened = Bell(dog), Bell(dog)

    rested.wait(clock.time() + 0.02)
    rested.rest()
    shortened.wait(clock.time() + 60)
    shortened.rest()
    await asyncio.sleep(0.05)
    rested.wait(clock.time() + 0.02)
    shortened.wait(clock.time() + 0.02)
    await asyncio.sleep(0.1)

    assert len(rested.rung_at) == len(shortened.rung_at) == 1


async def test_a_closed_watchdog_leaves_no_timer() -> None:
    dog = Watchdog()
    bell = Bell(dog)

    bell.wait(asyncio.get_running_loop().time() + 0.02)
    dog.close()
    await asyncio.sleep(0.1)

    assert bell.rung_at == []


def test_layers_fit_together_by_one_type() -> None:
    def layer(open_: Open) -> Open:
        def opened(request: Request, trail: Trail) -> AbstractAsyncContextManager[Events]:
            return open_(request, trail)

        return opened

    assert opened(layer(bottom(ScriptedBackend([[]]))))
