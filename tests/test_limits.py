"""Slots, requests and tokens a minute, one line for all, and the pause after a refusal. Time is virtual."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import asyncllm
from asyncllm import Client, Finished, Limiter, Limits, Retry, TextDelta, Timeouts, Usage, UsageReport
from asyncllm.estimate import estimated_tokens
from asyncllm.events import Events, Ready
from asyncllm.testing import ScriptedBackend, run_virtual
from asyncllm.types import Message, Request

ANSWER: list[asyncllm.Event] = [TextDelta("ok"), Finished("stop")]


class Service:
    """Takes a while for each call, and writes down when calls came and how many were there at once."""

    def __init__(self, takes_s: float = 1.0, usage: Usage | None = None) -> None:
        self._takes_s = takes_s
        self._usage = usage
        self.came: list[tuple[float, str]] = []
        self.inside = 0
        self.most = 0
        self.refuse: asyncllm.APIError | None = None

    @asynccontextmanager
    async def open(self, request: Request, /) -> AsyncGenerator[Events]:
        self.came.append((asyncio.get_running_loop().time(), request.messages[0].text))
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            if self.refuse is not None:
                error = self.refuse
                await asyncio.sleep(0.01)
                raise error
            await asyncio.sleep(self._takes_s)
            report = [] if self._usage is None else [UsageReport(self._usage)]
            yield Ready([TextDelta("ok"), *report, Finished("stop")])
        finally:
            self.inside -= 1

    async def aclose(self) -> None:
        pass

    @property
    def times(self) -> list[float]:
        return [time for time, _ in self.came]


def seconds(main: Coroutine[Any, Any, None]) -> float:
    """Virtual seconds that `main` takes."""

    async def timed() -> float:
        await main
        return asyncio.get_running_loop().time()

    return run_virtual(timed())


def test_no_more_calls_than_slots_are_under_way_and_they_come_in_order() -> None:
    service = Service()

    async def main() -> None:
        async with Client(backend=service, limits=Limits(concurrency=3)) as client:
            await asyncio.gather(*(client.chat(str(number)) for number in range(10)))

    assert seconds(main()) == 4
    assert service.most == 3
    assert [text for _, text in service.came] == [str(number) for number in range(10)]


@pytest.mark.parametrize("count", [4, 5, 6, 11])
def test_no_minute_has_more_requests_than_it_may(count: int) -> None:
    service = Service(takes_s=0)

    async def main() -> None:
        async with Client(backend=service, limits=Limits(requests_per_minute=5)) as client:
            await asyncio.gather(*(client.chat(str(n), timeouts=Timeouts(pool_s=None)) for n in range(count)))

    assert seconds(main()) == 60 * ((count - 1) // 5)
    assert all(sum(start <= time < start + 60 for time in service.times) <= 5 for start in service.times)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 300), min_size=1, max_size=40), st.integers(1, 7))
def test_no_window_of_a_minute_is_overfull_whenever_calls_come(arrivals: list[float], limit: int) -> None:
    service = Service(takes_s=0.5)

    async def one(client: Client, at: float) -> None:
        await asyncio.sleep(at)
        await client.chat("hi", timeouts=Timeouts(pool_s=None))

    async def main() -> None:
        async with Client(backend=service, limits=Limits(requests_per_minute=limit)) as client:
            await asyncio.gather(*(one(client, at) for at in arrivals))

    run_virtual(main())

    assert len(service.times) == len(arrivals)
    assert all(sum(start <= time < start + 59.999 for time in service.times) <= limit for start in service.times)


def test_tokens_are_estimated_before_a_call_and_corrected_by_its_usage() -> None:
    service = Service(takes_s=1, usage=Usage(input_tokens=10, output_tokens=40))

    async def main() -> None:
        patient = Timeouts(pool_s=None)
        async with Client(backend=service, limits=Limits(tokens_per_minute=152), timeouts=patient) as client:
            # Each may take 101 tokens and takes 50: the second waits for the first one's usage, the third too.
            await asyncio.gather(*(client.chat("hi", max_tokens=100) for _ in range(3)))

    assert seconds(main()) == 61
    assert service.times == [0, 1, 60]


def test_a_call_above_the_whole_limit_is_made_when_nothing_else_was() -> None:
    service = Service(takes_s=0)

    async def main() -> None:
        async with Client(backend=service, limits=Limits(tokens_per_minute=10)) as client:
            await client.chat("hi", max_tokens=1000)

    assert seconds(main()) == 0


def test_who_waits_too_long_is_told_how_full_it_is_and_is_not_made_to_wait_again() -> None:
    service = Service(takes_s=1000)

    async def main() -> None:
        async with Client(backend=service, limits=Limits(concurrency=1), timeouts=Timeouts(pool_s=5)) as client:
            first = asyncio.create_task(client.chat("first"))
            await asyncio.sleep(0)
            with pytest.raises(asyncllm.PoolTimeoutError, match="1 calls are under way") as caught:
                await client.chat("second")
            assert caught.value.elapsed_s == 5
            assert not caught.value.maybe_billed
            assert caught.value.attempts == ()
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)

    assert seconds(main()) == 5


def test_the_wait_for_a_slot_is_in_the_reply() -> None:
    waited: list[float] = []

    async def main() -> None:
        async with Client(backend=Service(takes_s=2), limits=Limits(concurrency=1)) as client:
            replies = await asyncio.gather(*(client.chat("hi") for _ in range(3)))
            waited.extend(reply.queue_s for reply in replies)

    run_virtual(main())

    assert waited == [0, 2, 4]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 5)), min_size=1, max_size=20), st.integers(1, 3))
def test_callers_that_give_up_take_no_slot_with_them(plans: list[tuple[float, float]], slots: int) -> None:
    service = Service(takes_s=1)
    limiter = Limiter(Limits(concurrency=slots, requests_per_minute=1000, tokens_per_minute=10_000))

    async def one(client: Client, start: float, patience: float) -> None:
        await asyncio.sleep(start)
        try:
            async with asyncio.timeout(patience):
                await client.chat("hi")
        except TimeoutError:
            pass

    async def main() -> None:
        async with Client(backend=service, limits=limiter) as client:
            await asyncio.gather(*(one(client, *plan) for plan in plans))
            assert limiter.in_flight == limiter.waiting == 0
            assert (await client.chat("after")).text == "ok"

    run_virtual(main())

    assert service.inside == 0
    assert service.most <= slots


def test_two_clients_share_a_limiter_and_two_limits_are_kept_apart() -> None:
    shared, apart = Service(), Service()
    limiter = Limiter(Limits(concurrency=1))

    async def main(service: Service, limits: Limits | Limiter) -> None:
        async with (
            Client(backend=service, limits=limits) as one,
            Client(backend=service, limits=limits) as other,
        ):
            await asyncio.gather(one.chat("a"), other.chat("b"))

    assert seconds(main(shared, limiter)) == 2
    assert seconds(main(apart, Limits(concurrency=1))) == 1


def test_one_refusal_pauses_all_calls_and_lets_them_go_one_by_one() -> None:
    service = Service(takes_s=0.001)
    calls = 1000

    async def main() -> None:
        async with Client(backend=service, retry=Retry(quota=None, ratio=None)) as client:
            service.refuse = asyncllm.RateLimitError("slow down", retry_after_s=20)
            waiting = [asyncio.create_task(client.chat(str(number))) for number in range(calls)]
            await asyncio.sleep(1)
            service.refuse = None
            await asyncio.gather(*waiting)

    run_virtual(main())

    first, again = service.times[:calls], sorted(service.times[calls:])
    assert max(first) < 1  # they were under way already
    assert min(again) >= 20
    most_at_once = max(sum(start <= time < start + 0.1 for time in again) for start in again[::10])
    assert most_at_once <= 20


def test_calls_that_come_during_a_pause_are_not_sent() -> None:
    service = Service(takes_s=0)

    async def main() -> None:
        async with Client(backend=service) as client:
            service.refuse = asyncllm.OverloadedError("busy", retry_after_s=10)
            first = asyncio.create_task(client.chat("first"))
            await asyncio.sleep(1)
            service.refuse = None
            late = await client.chat("late")
            assert 9 <= late.queue_s < 9.1
            await first

    run_virtual(main())

    assert service.times[0] == 0
    assert all(time >= 10 for time in service.times[1:])


def test_a_pause_that_outlasts_the_patience_of_a_call_is_said_at_once() -> None:
    service = Service(takes_s=0)

    async def main() -> None:
        async with Client(backend=service) as client:
            service.refuse = asyncllm.RateLimitError("slow down", retry_after_s=100)
            first = asyncio.create_task(client.chat("first"))
            await asyncio.sleep(1)
            with pytest.raises(asyncllm.RateLimitError, match="nothing was sent") as caught:
                await client.chat("late", timeouts=Timeouts(pool_s=5, total_s=30))
            assert caught.value.retry_after_s == pytest.approx(99.01)
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)

    assert seconds(main()) == 1
    assert len(service.came) == 1


@pytest.mark.parametrize(
    ("retry", "error"),
    [
        (None, asyncllm.RateLimitError("slow down", retry_after_s=10)),
        (Retry(), asyncllm.RateLimitError("come back tomorrow", retry_after_s=86_400)),
        (Retry(), asyncllm.QuotaExceededError("pay first", retry_after_s=10)),
        (Retry(), asyncllm.InternalServerError("oops", retryable=False)),
    ],
)
def test_what_is_not_waited_for_pauses_nobody(retry: Retry | None, error: asyncllm.APIError) -> None:
    service = Service(takes_s=0)

    async def main() -> None:
        async with Client(backend=service, retry=retry) as client:
            service.refuse = error
            with pytest.raises(type(error)):
                await client.chat("hi")
            service.refuse = None
            assert (await client.chat("hi")).text == "ok"

    assert seconds(main()) < 0.1


async def test_a_stream_holds_its_slot_until_it_is_left() -> None:
    limiter = Limiter(Limits(concurrency=1))

    async with Client(backend=ScriptedBackend([ANSWER]), limits=limiter) as client:
        async with client.stream("hi"):
            assert limiter.in_flight == 1
        assert limiter.in_flight == 0


def test_a_limiter_does_not_serve_two_loops_at_once() -> None:
    limiter = Limiter(Limits(concurrency=1))

    async def inner() -> None:
        async with Client(backend=ScriptedBackend([ANSWER]), limits=limiter) as client:
            await client.chat("hi")

    async def outer() -> None:
        async with Client(backend=ScriptedBackend([ANSWER]), limits=limiter) as client:
            async with client.stream("hi"):
                with pytest.raises(asyncllm.WrongLoopError):
                    await asyncio.to_thread(lambda: asyncio.run(inner()))

    asyncio.run(outer())
    asyncio.run(inner())


@pytest.mark.parametrize("field", ["concurrency", "requests_per_minute", "tokens_per_minute"])
@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "8"])
def test_a_limit_that_cannot_be_right_is_refused_by_name(field: str, limit: Any) -> None:
    with pytest.raises(asyncllm.ConfigError) as caught:
        Limits(**{field: limit})

    assert caught.value.field == field


def test_an_estimate_counts_prompt_and_bounded_answers() -> None:
    sampling = asyncllm.Sampling(max_tokens=100, n=2)
    request = Request(model="m", messages=(Message("user", "x" * 400),), sampling=sampling)

    assert estimated_tokens(request) == 101 + 200
    assert estimated_tokens(Request(model="m", prompt=(1, 2, 3))) == 3
    assert estimated_tokens(Request(model="m", prompt="x" * 40)) == 10
