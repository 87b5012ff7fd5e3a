"""Budgets: what fits, what is refused before it is sent, and what many calls at once may spend together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import asyncllm
from asyncllm import Budget, Client, Finished, Price, TextDelta, Timeouts, Usage, UsageReport
from asyncllm.events import Events, Ready
from asyncllm.testing import ScriptedBackend, run_virtual
from asyncllm.types import Request

USAGE = UsageReport(Usage(input_tokens=10, output_tokens=20))
ANSWER: list[asyncllm.Event] = [TextDelta("ok"), USAGE, Finished("stop")]
PRICES = {"m": Price(input_usd=1_000_000, output_usd=2_000_000)}  # a dollar and two dollars a token


def client(*scripts: Any, **options: Any) -> Client:
    return Client(backend=ScriptedBackend(scripts or (ANSWER,)), model="m", retry=None, **options)


async def test_a_scope_says_what_was_spent_in_it() -> None:
    async with client(prices=PRICES) as asked, asyncllm.budget(tokens=1000, usd=1000) as spent:
        await asked.chat("hi", max_tokens=50)
        await asked.chat("hi", max_tokens=50)

    assert (spent.tokens, spent.usd, spent.calls) == (60, 100.0, 2)
    assert (spent.left_tokens, spent.left_usd) == (940, 900.0)


async def test_the_reply_says_what_it_cost() -> None:
    price = Price(input_usd=1_000_000, output_usd=2_000_000, cached_usd=500_000)
    usage = UsageReport(Usage(input_tokens=10, output_tokens=20, cached_tokens=4))

    async with client([TextDelta("ok"), usage, Finished("stop")], prices={"m": price}) as asked:
        reply = await asked.chat("hi")
        other = await asked.chat("hi", model="unpriced")

    assert reply.cost_usd == 6 + 2 + 40
    assert other.cost_usd is None


async def test_a_call_that_does_not_fit_is_refused_before_it_is_sent() -> None:
    backend = ScriptedBackend([ANSWER])

    async with Client(backend=backend, model="m", prices=PRICES) as asked:
        for bounds in ({"tokens": 50}, {"usd": 50}):
            async with asyncllm.budget(**bounds) as spent:
                with pytest.raises(asyncllm.BudgetExceededError) as caught:
                    await asked.chat("hi", max_tokens=100)
                assert caught.value.field == next(iter(bounds))
                assert (spent.tokens, spent.calls) == (0, 0)

    assert not backend.requests


async def test_calls_at_once_cannot_together_go_over_a_bound() -> None:
    async with client([0.01, *ANSWER]) as asked, asyncllm.budget(tokens=350) as spent:
        results = await asyncio.gather(*(asked.chat("hi", max_tokens=99) for _ in range(10)), return_exceptions=True)

    assert sum(isinstance(result, asyncllm.BudgetExceededError) for result in results) == 7
    assert spent.tokens == 90


async def test_a_scope_reaches_into_tasks_and_ends_with_its_block() -> None:
    async with client() as asked:
        async with asyncllm.budget(tokens=1000) as spent:
            async with asyncio.TaskGroup() as group:
                for _ in range(3):
                    group.create_task(asked.chat("hi"))
        await asked.chat("outside")

    assert spent.calls == 3


async def test_scopes_nest_and_the_clients_own_budget_counts_too() -> None:
    own = Budget(tokens=10_000)

    async with client(budget=own) as asked:
        async with asyncllm.budget(tokens=1000) as outer:
            await asked.chat("hi")
            async with asyncllm.budget(tokens=20) as inner:
                with pytest.raises(asyncllm.BudgetExceededError):
                    await asked.chat("hi", max_tokens=50)
        await asked.chat("hi")

    assert (own.calls, outer.calls, inner.calls) == (2, 1, 0)
    assert own.left_tokens == 10_000 - 60


async def test_without_a_bound_of_its_own_a_call_may_take_what_is_left() -> None:
    async with client() as asked, asyncllm.budget(tokens=40) as spent:
        await asked.chat("hi")
        await asked.chat("hi")
        with pytest.raises(asyncllm.BudgetExceededError):
            await asked.chat("hi")

    assert spent.tokens == 60  # nobody could know that the second would take more than was left


async def test_dollars_need_a_price() -> None:
    async with client() as asked, asyncllm.budget(usd=1):
        with pytest.raises(asyncllm.ConfigError, match="prices") as caught:
            await asked.chat("hi")

    assert caught.value.field == "prices"


async def test_a_call_that_was_never_sent_costs_nothing_and_one_that_broke_off_what_it_may_have_taken() -> None:
    unsent = asyncllm.ConnectTimeoutError("nobody there")
    async with client(unsent, [TextDelta("half"), asyncllm.StreamInterrupted("cut")]) as asked:
        async with asyncllm.budget(tokens=1000) as spent:
            with pytest.raises(asyncllm.ConnectTimeoutError):
                await asked.chat("hi", max_tokens=99)
            assert (spent.tokens, spent.left_tokens) == (0, 1000)
            with pytest.raises(asyncllm.StreamInterrupted):
                await asked.chat("hi", max_tokens=99)

    assert (spent.tokens, spent.left_tokens, spent.calls) == (100, 900, 2)


async def test_a_stream_that_is_left_early_gives_back_what_it_set_aside() -> None:
    async with client() as asked, asyncllm.budget(tokens=1000) as spent:
        async with asked.stream("hi", max_tokens=99) as stream:
            async for _ in stream:
                assert spent.left_tokens == 900
                break

    assert spent.left_tokens == 1000 - spent.tokens
    assert spent.calls == 1


class Slow:
    @asynccontextmanager
    async def open(self, _: Request, /) -> AsyncGenerator[Events]:
        async def batches() -> AsyncGenerator[list[asyncllm.Event]]:
            for _ in range(100):
                await asyncio.sleep(1)
                yield [TextDelta("x")]
            yield [Finished("stop")]

        yield Ready((), batches())

    async def aclose(self) -> None:
        pass


def test_seconds_stop_a_call_that_is_under_way_and_keep_what_had_come(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr("asyncllm.budgets.time.monotonic", asyncio.get_running_loop().time)
        async with Client(backend=Slow()) as asked, asyncllm.budget(seconds=5.5):
            with pytest.raises(asyncllm.BudgetExceededError) as caught:
                await asked.chat("hi", timeouts=Timeouts(total_s=1000))
            assert caught.value.partial is not None
            assert caught.value.partial.text == "xxxxx"
            assert caught.value.field == "seconds"
            with pytest.raises(asyncllm.BudgetExceededError):
                await asked.chat("hi")
        assert asyncio.get_running_loop().time() < 5.6
        async with Client(backend=Slow()) as asked, asyncllm.budget(seconds=50):
            with pytest.raises(asyncllm.TotalTimeoutError):
                await asked.chat("hi", timeouts=Timeouts(total_s=2))

    run_virtual(main())


def test_a_scope_holds_calls_without_a_loop_too() -> None:
    with asyncllm.sync.Client(backend=ScriptedBackend([ANSWER])) as asked:
        with asyncllm.budget(tokens=100) as spent:
            asked.chat("hi")

    assert spent.tokens == 30


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 120), min_size=1, max_size=30), st.integers(100, 2000))
def test_a_bound_is_kept_whatever_calls_are_made_at_once(sizes: list[int], bound: int) -> None:
    class Exact:
        """Takes just what the call may take."""

        @asynccontextmanager
        async def open(self, request: Request, /) -> AsyncGenerator[Events]:
            await asyncio.sleep(request.sampling.max_tokens % 7)  # type: ignore[operator]
            used = Usage(input_tokens=1, output_tokens=request.sampling.max_tokens)  # type: ignore[arg-type]
            yield Ready([TextDelta("x"), UsageReport(used), Finished("stop")])

        async def aclose(self) -> None:
            pass

    async def main() -> None:
        async with Client(backend=Exact()) as asked, asyncllm.budget(tokens=bound) as spent:
            results = await asyncio.gather(
                *(asked.chat("hi", max_tokens=size) for size in sizes), return_exceptions=True
            )
        refused = [size for size, result in zip(sizes, results, strict=True) if isinstance(result, Exception)]
        assert all(isinstance(r, asyncllm.BudgetExceededError) for r in results if isinstance(r, Exception))
        assert spent.tokens == sum(sizes) + len(sizes) - sum(refused) - len(refused) <= bound
        assert spent.left_tokens == bound - spent.tokens

    run_virtual(main())


@pytest.mark.parametrize("bounds", [{}, {"usd": 0}, {"tokens": -1}, {"seconds": float("inf")}, {"usd": True}])
def test_a_budget_that_cannot_be_right_is_refused_by_name(bounds: dict[str, Any]) -> None:
    with pytest.raises(asyncllm.ConfigError) as caught:
        asyncllm.budget(**bounds)

    assert caught.value.field in (*bounds, "usd")


@pytest.mark.parametrize(
    "fields", [{"input_usd": -1, "output_usd": 1}, {"input_usd": 1, "output_usd": float("nan")}, {"input_usd": None}]
)
def test_a_price_that_cannot_be_right_is_refused_by_name(fields: dict[str, Any]) -> None:
    with pytest.raises(asyncllm.ConfigError) as caught:
        Price(**fields)

    assert caught.value.field in fields


@pytest.mark.parametrize(
    "options", [{"budget": 5}, {"limits": 5}, {"hedge": 5}, {"prices": {"m": 5}}, {"hooks": [object()]}]
)
def test_what_a_client_cannot_use_is_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(asyncllm.ConfigError) as caught:
        Client(**options)

    assert caught.value.field == next(iter(options))
