"""What retries may cost: quota, ratio, deadline, and what a whole crowd of callers does to a server in trouble."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

import asyncllm
from asyncllm import Client, Finished, Retry, TextDelta, Timeouts
from asyncllm.events import Events, Ready
from asyncllm.middleware.retry import RetryQuota
from asyncllm.testing import FaultyServer, ManualClock, ScriptedBackend, Stall, Status, openai_reply, run_virtual
from asyncllm.types import Request

DOWN = asyncllm.InternalServerError
SLOW = asyncllm.FirstEventTimeoutError
BUSY = asyncllm.RateLimitError
OK = None
ANSWER: list[asyncllm.Event] = [TextDelta("ok"), Finished("stop")]

# What happens to calls in turn, and how many of the failures may be made again.
QUOTAS = [
    (500, [DOWN] * 35, 35),
    (500, [DOWN] * 36, 35),
    (500, [SLOW] * 51, 50),
    (500, [BUSY] * 101, 100),
    (28, [DOWN, DOWN, DOWN], 2),
    (28, [BUSY] * 6, 5),
    (27, [DOWN, DOWN], 1),
    (14, [DOWN, DOWN], 1),
    (14, [DOWN, *[OK] * 13, DOWN], 1),
    (14, [DOWN, *[OK] * 14, DOWN], 2),
    (14, [*[OK] * 50, DOWN, DOWN], 1),
    (20, [SLOW, SLOW, SLOW], 2),
    (19, [DOWN, BUSY, BUSY], 2),
    (0, [BUSY], 0),
    (None, [DOWN] * 1000, 1000),
]


@pytest.mark.parametrize(("quota", "outcomes", "granted"), QUOTAS)
def test_a_quota_pays_for_retries_by_what_they_cost(
    quota: int | None, outcomes: list[type[asyncllm.APIError] | None], granted: int
) -> None:
    taken = 0
    kept = RetryQuota(Retry(quota=quota, ratio=None))

    for outcome in outcomes:
        if outcome is None:
            kept.succeed()
        else:
            taken += kept.take(outcome("x"), 0)

    assert taken == granted


@pytest.mark.parametrize(
    ("calls", "granted"), [(1, 35), (100, 35), (350, 35), (351, 35), (360, 36), (1000, 100), (5000, 500)]
)
def test_a_tenth_of_the_calls_is_made_again_where_that_is_more_than_a_burst(calls: int, granted: int) -> None:
    kept = RetryQuota(Retry(quota=None))
    for _ in range(calls):
        kept.call(100.0)

    assert sum(kept.take(DOWN("x"), 101.0) for _ in range(calls)) == min(granted, calls)


def test_what_was_two_minutes_ago_is_forgotten() -> None:
    kept = RetryQuota(Retry(quota=None))
    for _ in range(1000):
        kept.call(0.0)

    assert sum(kept.take(DOWN("x"), 60.0) for _ in range(200)) == 100
    assert sum(kept.take(DOWN("x"), 125.0) for _ in range(200)) == 0  # the calls have gone, the retries have not
    assert sum(kept.take(DOWN("x"), 190.0) for _ in range(200)) == 35


@given(st.lists(st.tuples(st.floats(0, 400), st.sampled_from(["call", "fail", "succeed"])), max_size=200))
def test_a_quota_is_never_overdrawn_whatever_the_order(steps: list[tuple[float, str]]) -> None:
    kept = RetryQuota(Retry(quota=50, ratio=None))
    cost = won = 0

    for now, what in steps:
        if what == "call":
            kept.call(now)
        elif what == "succeed":
            kept.succeed()
            won += 1
        elif kept.take(DOWN("x"), now):
            cost += 14

    assert cost <= 50 + won


@pytest.mark.parametrize("fields", [{"quota": -1}, {"quota": 1.5}, {"ratio": -0.1}, {"ratio": 2}, {"ratio": True}])
def test_a_bound_that_cannot_be_right_is_refused_by_name(fields: dict[str, float]) -> None:
    with pytest.raises(asyncllm.ConfigError) as caught:
        Retry(**fields)  # type: ignore[arg-type]

    assert caught.value.field == next(iter(fields))


async def test_one_call_alone_is_made_as_often_as_its_policy_says() -> None:
    clock, backend = ManualClock(instant=True), ScriptedBackend([DOWN("down")])

    async with Client(backend=backend, clock=clock, retry=Retry(attempts=5)) as client:
        with pytest.raises(asyncllm.InternalServerError) as caught:
            await client.chat("hi")

    assert backend.opened == len(caught.value.attempts) == 5
    assert len(clock.sleeps) == 4


async def test_a_call_that_runs_out_of_time_says_which_attempts_had_failed() -> None:
    backend = ScriptedBackend([DOWN("down"), Stall()])

    async with Client(backend=backend, retry=Retry(backoff_s=0)) as client:
        with pytest.raises(asyncllm.TotalTimeoutError) as caught:
            await client.chat("hi", timeouts=Timeouts(total_s=0.1))

    assert [type(error) for error in caught.value.attempts] == [DOWN]


async def test_no_wait_goes_past_the_deadline_of_the_call() -> None:
    backend = ScriptedBackend([BUSY("busy", retry_after_s=30), ANSWER])

    async with Client(backend=backend) as client:
        with pytest.raises(asyncllm.RateLimitError):
            await client.chat("hi", timeouts=Timeouts(total_s=20))

    assert backend.opened == 1


async def test_the_reply_says_which_attempts_failed_before_it() -> None:
    backend = ScriptedBackend([DOWN("down", status=500), asyncllm.OverloadedError("busy", status=529), ANSWER])

    async with Client(backend=backend, retry=Retry(backoff_s=0, throttled_s=0)) as client:
        reply = await client.chat("hi", model="m")

    assert [(one.error, one.status, one.model) for one in reply.failures] == [
        ("InternalServerError", 500, "m"),
        ("OverloadedError", 529, "m"),
    ]


async def test_every_attempt_has_the_same_idempotency_key_and_every_call_another() -> None:
    backend = ScriptedBackend([DOWN("down"), ANSWER])

    async with Client(backend=backend, retry=Retry(backoff_s=0)) as client:
        await client.chat("hi")
        await client.chat("hi")
        await client.chat("hi", idempotency_key="mine")

    first, again, second, named = [request.idempotency_key for request in backend.requests]
    assert first == again != second
    assert named == "mine"


async def test_the_key_goes_out_as_a_header_that_is_the_same_for_every_attempt() -> None:
    async with FaultyServer([[Status(500)], [Status(body=openai_reply("ok"))]]) as server:
        async with Client(model="openai:x", base_url=server.url, env={}, retry=Retry(backoff_s=0)) as client:
            await client.chat("hi")

    first, again = [request.headers["idempotency-key"] for request in server.requests]
    assert first == again
    assert len(first) == 32


@pytest.mark.parametrize("key", ["", "a\nb", "ö", "x" * 256, 7])
async def test_an_idempotency_key_that_no_header_can_carry_is_refused(key: object) -> None:
    async with Client(backend=ScriptedBackend([ANSWER])) as client:
        with pytest.raises(asyncllm.InvalidRequestError) as caught:
            await client.chat("hi", idempotency_key=key)  # type: ignore[arg-type]

    assert caught.value.field == "idempotency_key"


async def test_with_an_instant_clock_nobody_waits() -> None:
    backend = ScriptedBackend([BUSY("busy", retry_after_s=100), DOWN("down"), ANSWER])

    async with Client(backend=backend, clock=ManualClock(instant=True)) as client, asyncio.timeout(5):
        assert (await client.chat("hi")).text == "ok"


async def test_the_fixture_that_makes_retries_instant_does_so_for_pauses_too(instant_retries: list[float]) -> None:
    backend = ScriptedBackend([BUSY("busy", retry_after_s=100), DOWN("down"), ANSWER])

    async with Client(backend=backend) as client, asyncio.timeout(5):
        assert (await client.chat("hi")).text == "ok"

    assert sum(instant_retries) >= 100


class Outage:
    """A service that is down for a while, and counts who asks."""

    def __init__(self, down_s: float, error: type[asyncllm.APIError]) -> None:
        self._down_s = down_s
        self._error = error
        self.requests = 0

    @asynccontextmanager
    async def open(self, _: Request, /) -> AsyncGenerator[Events]:
        self.requests += 1
        await asyncio.sleep(0.05)
        if asyncio.get_running_loop().time() < self._down_s:
            raise self._error("down")
        yield Ready(ANSWER)

    async def aclose(self) -> None:
        pass


@pytest.mark.parametrize("error", [DOWN, BUSY, asyncllm.APIConnectionError, SLOW])
def test_a_thousand_callers_do_not_storm_a_service_that_is_down(error: type[asyncllm.APIError]) -> None:
    down_s, callers, every_s = 60.0, 1000, 5.0
    backend = Outage(down_s, error)
    asked: list[float] = []
    failed: list[float] = []

    async def caller(client: Client, offset: float) -> None:
        time = asyncio.get_running_loop().time
        await asyncio.sleep(offset)
        while time() < down_s + 20:
            asked.append(time())
            try:
                await client.chat("hi")
            except asyncllm.APIError:
                failed.append(time())
            await asyncio.sleep(every_s)

    async def main() -> None:
        async with Client(backend=backend) as client:
            await asyncio.gather(*(caller(client, every_s * number / callers) for number in range(callers)))

    run_virtual(main())

    demand = len(asked)
    assert backend.requests <= 1.1 * demand
    assert max(failed) <= down_s + 10
