"""`client.batch` and `client.map`: many requests in memory, each with a result of its own. Time is virtual."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

import asyncllm
from asyncllm import Batch, BatchProgress, BatchResult, Client, Finished, Limits, Message, Request, TextDelta, Timeouts
from asyncllm.batch.template import Template
from asyncllm.errors import BadRequestError, InvalidRequestError
from asyncllm.events import Events, Ready
from asyncllm.testing import run_virtual
from asyncllm.types import Sampling

REFUSED = "no"


class Service:
    """Answers `word seconds` with the word, after so many seconds; refuses the word `no`."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.requests: list[Request] = []
        self.inside = 0
        self.most = 0
        self.cancelled = 0

    @asynccontextmanager
    async def open(self, request: Request, /) -> AsyncGenerator[Events]:
        text = request.messages[-1].text if request.is_chat else str(request.prompt)
        word, _, takes = text.partition(" ")
        self.asked.append(word)
        self.requests.append(request)
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await asyncio.sleep(float(takes or 1))
            if word.startswith(REFUSED):
                raise BadRequestError("refused")
            yield Ready([TextDelta(word), Finished("stop")])
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.inside -= 1

    async def aclose(self) -> None:
        pass


@asynccontextmanager
async def serving(**options: Any) -> AsyncGenerator[tuple[Client, Service]]:
    service = Service()
    async with Client(backend=service, retry=None, **options) as client:
        yield client, service
        assert service.inside == 0
        assert len(asyncio.all_tasks()) == 1


async def texts(batch: Batch[Any]) -> list[str]:
    return [result.unwrap().text async for result in batch]


def numbered(count: int) -> list[str]:
    return [f"w{number}" for number in range(count)]


# -- results -----------------------------------------------------------------------------------------------------


def test_results_come_in_the_order_of_the_input() -> None:
    async def main() -> None:
        async with serving() as (client, _):
            assert await texts(client.batch(["a 3", "b 1", "c 2"])) == ["a", "b", "c"]

    run_virtual(main())


def test_results_come_as_they_are_ready_where_that_is_asked_for() -> None:
    async def main() -> None:
        async with serving() as (client, _):
            found = [(one.index, one.item) async for one in client.batch(["a 3", "b 1", "c 2"], order="completion")]
            assert found == [(1, "b 1"), (2, "c 2"), (0, "a 3")]

    run_virtual(main())


def test_a_request_that_fails_is_a_result_and_ends_nothing() -> None:
    async def main() -> None:
        async with serving() as (client, _):
            good, refused, empty, last = [one async for one in client.batch(["a", REFUSED, "", "d"])]

            assert (good.unwrap().text, last.unwrap().text) == ("a", "d")
            assert isinstance(refused.error, BadRequestError)
            assert refused.response is None
            assert isinstance(empty.error, InvalidRequestError)
            with pytest.raises(BadRequestError):
                refused.unwrap()

    run_virtual(main())


def test_a_result_does_not_show_what_was_asked() -> None:
    assert "secret" not in repr(BatchResult(index=0, item="secret"))


def test_a_request_may_be_a_text_a_conversation_a_dict_or_a_request() -> None:
    async def main() -> None:
        async with serving() as (client, service):
            items: list[asyncllm.BatchInput] = [
                "a",
                [Message("system", "s"), Message("user", "b")],
                {"messages": [{"role": "user", "content": "c"}], "temperature": 0.5},
                {"prompt": "d", "max_tokens": 7},
                Request(model="", messages=(Message("user", "e"),), sampling=Sampling(seed=3)),
            ]
            assert [one.unwrap().text async for one in client.batch(items[:4], max_tokens=5)] == ["a", "b", "c", "d"]
            assert await texts(client.batch(items[4:])) == ["e"]

            a, b, c, d, e = service.requests
            assert (a.sampling.max_tokens, b.messages[0].text) == (5, "s")
            assert (c.sampling.temperature, c.sampling.max_tokens) == (0.5, 5)
            assert (d.is_chat, d.sampling.max_tokens) == (False, 7)
            assert e.sampling.seed == 3

    run_virtual(main())


@pytest.mark.parametrize("item", [{"prompt": "a", "messages": []}, {"text": "a"}, 5, {"prompt": "a", "tempature": 1}])
def test_what_is_no_request_is_the_error_of_its_result(item: Any) -> None:
    async def main() -> None:
        async with serving() as (client, service):
            wrong, right = [one async for one in client.batch([item, "b"])]

            assert isinstance(wrong.error, InvalidRequestError)
            assert right.unwrap().text == "b"
            assert service.asked == ["b"]

    run_virtual(main())


def test_options_beside_a_request_that_says_all_itself_are_refused() -> None:
    async def main() -> None:
        async with serving() as (client, _):
            request = Request(model="", messages=(Message("user", "a"),))
            (result,) = [one async for one in client.batch([request], max_tokens=5)]

            assert isinstance(result.error, InvalidRequestError)
            assert "max_tokens" in str(result.error)

    run_virtual(main())


def test_an_empty_batch_has_no_result() -> None:
    async def main() -> None:
        async with serving() as (client, _):
            assert await texts(client.batch([])) == []

    run_virtual(main())


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"concurrency": 0}, "concurrency"),
        ({"concurrency": 2.5}, "concurrency"),
        ({"concurrency": True}, "concurrency"),
        ({"order": "random"}, "order"),
        ({"drain_s": -1}, "drain_s"),
        ({"drain_s": float("nan")}, "drain_s"),
    ],
)
async def test_arguments_that_cannot_be_right_are_named_at_once(arguments: dict[str, Any], field: str) -> None:
    async with Client(model="echo:x") as client:
        with pytest.raises(InvalidRequestError) as caught:
            client.batch(["a"], **arguments)

    assert caught.value.field == field


# -- the window --------------------------------------------------------------------------------------------------


def test_no_more_calls_run_at_once_than_asked_for() -> None:
    async def main() -> None:
        async with serving() as (client, service):
            await texts(client.batch(numbered(50), concurrency=7))
            assert service.most == 7

    run_virtual(main())


def test_as_many_calls_run_at_once_as_asked_for_so_that_time_is_shared() -> None:
    async def main() -> None:
        async with serving() as (client, _):
            start = asyncio.get_running_loop().time()
            await texts(client.batch(numbered(50), concurrency=10))
            assert asyncio.get_running_loop().time() - start == pytest.approx(5)

    run_virtual(main())


def test_the_source_is_read_no_further_than_twice_the_concurrency_ahead_of_the_reader() -> None:
    async def main() -> None:
        taken = 0

        def source() -> Iterator[str]:
            nonlocal taken
            for number in range(10_000):
                taken += 1
                yield f"w{number}"

        async with serving() as (client, _), client.batch(source(), concurrency=3) as batch:
            assert taken == 0
            for read in range(1, 20):
                await anext(batch)
                await asyncio.sleep(100)
                assert taken <= read + 6

    run_virtual(main())


def test_a_slow_item_holds_the_source_back_where_order_is_kept() -> None:
    async def main() -> None:
        async with serving() as (client, service), client.batch(["a 50", *numbered(100)], concurrency=4) as batch:
            assert (await anext(batch)).item == "a 50"
            assert len(service.asked) <= 1 + 8

    run_virtual(main())


def test_a_source_without_an_end_can_be_read_for_a_while() -> None:
    async def main() -> None:
        def source() -> Iterator[str]:
            while True:
                yield "again"

        async with serving() as (client, _), client.batch(source(), concurrency=2) as batch:
            for _ in range(100):
                assert (await anext(batch)).unwrap().text == "again"

    run_virtual(main())


# -- the source --------------------------------------------------------------------------------------------------


def test_an_async_source_is_read_as_it_comes_and_closed_at_the_end() -> None:
    async def main() -> None:
        closed = False

        async def source() -> AsyncIterator[str]:
            nonlocal closed
            try:
                for number in range(100):
                    await asyncio.sleep(0.1)
                    yield f"w{number}"
            finally:
                closed = True

        async with serving() as (client, _):
            async with client.batch(source(), concurrency=5) as batch:
                assert (await anext(batch)).unwrap().text == "w0"
            assert closed

    run_virtual(main())


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("order", ["input", "completion"])
def test_what_the_source_raises_comes_after_the_results_of_what_it_gave(is_async: bool, order: Any) -> None:
    def plain() -> Iterator[str]:
        yield "a 5"
        yield "b 1"
        raise KeyError("broken")

    async def asynchronous() -> AsyncIterator[str]:
        for item in plain():
            yield item

    async def main() -> None:
        async with serving() as (client, _):
            found: list[str] = []
            with pytest.raises(KeyError, match="broken"):
                async for result in client.batch(asynchronous() if is_async else plain(), order=order):
                    found.append(result.unwrap().text)  # noqa: PERF401  # what came before it raises
            assert sorted(found) == ["a", "b"]

    run_virtual(main())


# -- leaving early -----------------------------------------------------------------------------------------------


def test_leaving_the_block_cancels_the_calls_under_way() -> None:
    async def main() -> None:
        async with serving() as (client, service):
            async with client.batch(["a 1", "b 9", "c 9"], concurrency=3) as batch:
                await anext(batch)
            assert (service.cancelled, batch.unread) == (2, ())

    run_virtual(main())


def test_calls_under_way_may_finish_within_the_drain_and_what_they_bring_is_unread() -> None:
    async def main() -> None:
        async with serving() as (client, service):
            items = ["a 1", "b 3", "c 90", "d 90", "e 1"]
            async with client.batch(items, concurrency=3, drain_s=5) as batch:
                await anext(batch)
            assert [result.item for result in batch.unread] == ["b 3"]
            assert service.cancelled == 2
            assert "e" not in service.asked

    run_virtual(main())


def test_breaking_out_of_a_batch_that_nobody_holds_frees_its_calls() -> None:
    async def main() -> None:
        async with serving() as (client, service):
            async for _ in client.batch(["a 1", "b 900", "c 900"], concurrency=3):
                break
            gc.collect()
            await asyncio.sleep(1)
            assert (service.inside, service.cancelled) == (0, 2)

    run_virtual(main())


def test_a_batch_that_nobody_reads_asks_nothing_and_holds_nothing() -> None:
    async def main() -> None:
        async with serving() as (client, service):
            batch = client.batch(numbered(5))
            gone = weakref.ref(batch)
            await asyncio.sleep(10)
            del batch
            gc.collect()
            assert gone() is None
            assert service.asked == []

    run_virtual(main())


def test_a_batch_that_an_error_of_the_program_has_ended_is_freed() -> None:
    class Broken(Service):
        async def aclose(self) -> None:
            pass

        def open(self, request: Request, /) -> Any:
            raise KeyError("broken")

    async def main() -> None:
        async with Client(backend=Broken(), retry=None) as client:
            batch = client.batch(["a"])
            gone = weakref.ref(batch._fan_out)
            with suppress(KeyError):
                await anext(batch)
            del batch
            gc.collect()
            assert gone() is None

    run_virtual(main())


def test_stopping_ends_the_batch_after_what_is_under_way() -> None:
    async def main() -> None:
        async with serving() as (client, _):
            batch = client.batch(numbered(100), concurrency=2)
            found = [(await anext(batch)).item]
            batch.stop()
            found += [result.item async for result in batch]
            assert 2 <= len(found) <= 5
            assert found == numbered(len(found))

    run_virtual(main())


def test_cancelling_the_task_that_reads_cancels_the_calls() -> None:
    async def main() -> None:
        async with serving() as (client, service):

            async def read() -> None:
                async with client.batch(["a 900", "b 900"]) as batch:
                    await anext(batch)

            task = asyncio.create_task(read())
            await asyncio.sleep(1)
            assert service.inside == 2
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert service.cancelled == 2

    run_virtual(main())


def test_a_cancelled_scope_of_anyio_lets_the_drain_come_to_its_end() -> None:
    async def main() -> None:
        async with serving() as (client, service):
            with anyio.move_on_after(2):
                async with client.batch(["a 5", "b 900"], drain_s=10) as batch:
                    await anext(batch)
            assert [result.item for result in batch.unread] == ["a 5"]
            assert service.cancelled == 1

    run_virtual(main())


def test_reading_goes_on_after_a_wait_that_was_cancelled() -> None:
    async def main() -> None:
        async with serving() as (client, _), client.batch(["a 5", "b 6"]) as batch:
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await anext(batch)
            assert await texts(batch) == ["a", "b"]

    run_virtual(main())


# -- what it shares with single calls ----------------------------------------------------------------------------


def test_the_limits_of_the_client_hold_and_standing_in_line_is_no_failure() -> None:
    async def main() -> None:
        # 40 calls of a minute each, two at a time: the last one stands in line for 19 minutes.
        async with serving(limits=Limits(concurrency=2), timeouts=Timeouts(pool_s=60)) as (client, service):
            items = [f"w{number} 60" for number in range(40)]
            assert len(await texts(client.batch(items, concurrency=40))) == 40
            assert service.most == 2

    run_virtual(main())


def test_how_long_a_call_may_stand_in_line_can_be_said() -> None:
    async def main() -> None:
        async with serving(limits=Limits(concurrency=1)) as (client, _):
            batch = client.batch(["a 60", "b 60"], timeouts=Timeouts(pool_s=5))
            first, second = [result async for result in batch]
            assert first.unwrap().text == "a"
            assert isinstance(second.error, asyncllm.PoolTimeoutError)

    run_virtual(main())


def test_a_single_call_beside_a_batch_has_its_turn_in_the_line_they_share() -> None:
    async def main() -> None:
        async with serving(limits=Limits(concurrency=1)) as (client, service):
            async with client.batch(numbered(20), concurrency=4) as batch:
                await anext(batch)
                await client.chat("single")
                assert service.asked.index("single") <= 6
                assert service.most == 1

    run_virtual(main())


# -- progress ----------------------------------------------------------------------------------------------------


def test_progress_is_told_after_each_result_and_counts_what_failed_by_its_class() -> None:
    async def main() -> None:
        told: list[BatchProgress] = []
        async with serving() as (client, _):
            batch = client.batch(["a", REFUSED, "b"], progress=told.append)
            async for _ in batch:
                pass
            assert [(one.done, one.failed) for one in told] == [(1, 0), (1, 1), (2, 1)]
            assert batch.progress == told[-1]
            assert told[-1].errors == {"BadRequestError": 1}

    run_virtual(main())


async def test_progress_adds_up_tokens_and_cost() -> None:
    prices = {"echo:x": asyncllm.Price(input_usd=1_000_000, output_usd=1_000_000)}
    async with Client(model="echo:x", prices=prices) as client:
        batch = client.batch(["one two", "three"])
        async for _ in batch:
            pass

    assert (batch.progress.input_tokens, batch.progress.output_tokens) == (3, 3)
    assert batch.progress.cost_usd == pytest.approx(6)


# -- map ---------------------------------------------------------------------------------------------------------


def test_a_template_is_filled_with_each_row() -> None:
    async def main() -> None:
        async with serving() as (client, service):
            rows = [{"word": "a", "takes": 2}, {"word": "b", "takes": 1}]
            results = [one async for one in client.map("{word} {takes}", rows, max_tokens=5)]

            assert [(one.item, one.unwrap().text) for one in results] == [(rows[0], "a"), (rows[1], "b")]
            assert {request.sampling.max_tokens for request in service.requests} == {5}

    run_virtual(main())


def test_a_template_may_be_a_conversation_or_made_before() -> None:
    async def main() -> None:
        async with serving() as (client, service):
            turns = [Message("system", "Speak {language}."), Message("user", "{word}")]
            assert await texts(client.map(turns, [{"word": "a", "language": "Latin"}])) == ["a"]
            assert await texts(client.map(Template("{word}"), [{"word": "b"}])) == ["b"]
            assert service.requests[0].messages[0].text == "Speak Latin."

    run_virtual(main())


@pytest.mark.parametrize("row", [{}, {"word": None}, "a", None])
def test_a_bad_row_is_the_error_of_its_result(row: Any) -> None:
    async def main() -> None:
        async with serving() as (client, service):
            bad, good = [one async for one in client.map("{word}", [row, {"word": "b"}])]

            assert isinstance(bad.error, InvalidRequestError)
            assert good.unwrap().text == "b"
            assert service.asked == ["b"]

    run_virtual(main())


async def test_a_template_that_cannot_be_read_is_refused_at_once() -> None:
    async with Client(model="echo:x") as client:
        with pytest.raises(InvalidRequestError, match="brace"):
            client.map("{word", [{"word": "a"}])


# -- whatever happens --------------------------------------------------------------------------------------------


@given(
    takes=st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=40),
    concurrency=st.integers(1, 8),
    order=st.sampled_from(["input", "completion"]),
    is_async=st.booleans(),
)
def test_every_request_has_one_result_whatever_they_take(
    takes: list[tuple[bool, int]], concurrency: int, order: Any, is_async: bool
) -> None:
    items = [f"{REFUSED if fails else 'yes'}{index} {wait}" for index, (fails, wait) in enumerate(takes)]

    async def source() -> AsyncIterator[str]:
        for item in items:
            await asyncio.sleep(0)
            yield item

    async def main() -> None:
        async with serving() as (client, service):
            batch = client.batch(source() if is_async else items, concurrency=concurrency, order=order)
            results = [result async for result in batch]

            indices = [result.index for result in results]
            assert sorted(indices) == list(range(len(items)))
            assert order == "completion" or indices == sorted(indices)
            assert [result.item for result in results] == [items[index] for index in indices]
            assert all((result.error is not None) == takes[result.index][0] for result in results)
            assert service.most <= concurrency
            assert sorted(service.asked) == sorted(item.partition(" ")[0] for item in items)
            assert batch.progress.done + batch.progress.failed == len(items)

    run_virtual(main())


@given(
    takes=st.lists(st.integers(0, 9), min_size=1, max_size=20),
    concurrency=st.integers(1, 5),
    reads=st.integers(0, 20),
    drain_s=st.integers(0, 5),
)
def test_whenever_it_is_left_every_call_has_ended_and_no_result_is_told_twice(
    takes: list[int], concurrency: int, reads: int, drain_s: int
) -> None:
    async def main() -> None:
        async with serving() as (client, service):
            items = [f"w{index} {wait}" for index, wait in enumerate(takes)]
            found: list[int] = []
            async with client.batch(items, concurrency=concurrency, order="completion", drain_s=drain_s) as batch:
                async for result in batch:
                    found.append(result.index)
                    if len(found) > reads:
                        break
            found += [result.index for result in batch.unread]

            assert len(found) == len(set(found))
            assert len(found) + service.cancelled == len(service.asked)

    run_virtual(main())
