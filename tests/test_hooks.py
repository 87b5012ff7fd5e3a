"""Hooks see every call from its start to its end, and change nothing."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import anyio
import pytest

import asyncllm
from asyncllm import Client, Finished, Retry, TextDelta, Trail, Usage, UsageReport
from asyncllm.testing import ScriptedBackend, Stall, run_virtual

ANSWER: list[asyncllm.Event] = [TextDelta("ok"), UsageReport(Usage(input_tokens=1, output_tokens=2)), Finished("stop")]


class Watcher:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Trail, Any]] = []

    def before(self, call: Trail) -> None:
        self.told.append(("before", call, None))

    async def after(self, call: Trail, response: asyncllm.Response | None) -> None:
        await asyncio.sleep(0)
        self.told.append(("after", call, response))

    def on_error(self, call: Trail, error: BaseException) -> None:
        self.told.append(("on_error", call, error))

    @property
    def names(self) -> list[str]:
        return [name for name, _, _ in self.told]


def client(watcher: Any, *scripts: Any, **options: Any) -> Client:
    return Client(backend=ScriptedBackend(scripts or (ANSWER,)), model="m", hooks=[watcher], **options)


async def test_a_chat_is_told_before_and_after_with_its_facts() -> None:
    watcher = Watcher()

    async with client(watcher) as asked:
        reply = await asked.chat("hi")

    assert watcher.names == ["before", "after"]
    _, call, response = watcher.told[1]
    assert response == reply
    assert (call.kind, call.backend, call.model, call.stream, call.is_complete) == (
        "chat", "ScriptedBackend", "m", False, True,
    )  # fmt: skip
    assert 0 <= (call.first_content_s or 0) <= (call.ended_s or 0)
    assert watcher.told[0][1] is call


async def test_a_failed_call_is_told_with_the_error_that_the_caller_gets() -> None:
    watcher = Watcher()

    async with client(watcher, asyncllm.BadRequestError("no")) as asked:
        with pytest.raises(asyncllm.BadRequestError) as caught:
            await asked.chat("hi")

    assert watcher.names == ["before", "on_error"]
    assert watcher.told[1][2] is caught.value


async def test_retries_are_one_call_and_are_told_as_its_failures() -> None:
    watcher = Watcher()

    async with client(watcher, asyncllm.InternalServerError("x"), ANSWER, retry=Retry(backoff_s=0)) as asked:
        await asked.chat("hi")

    assert watcher.names == ["before", "after"]
    assert [type(error) for error in watcher.told[1][1].failures] == [asyncllm.InternalServerError]


async def test_a_stream_is_told_when_it_ends_and_one_that_is_left_early_is_not_complete() -> None:
    watcher = Watcher()

    async with client(watcher) as asked:
        async with asked.stream("hi") as stream:
            assert [event async for event in stream] == ANSWER
            assert watcher.names == ["before"]
        async with asked.stream("hi") as stream:
            async for _ in stream:
                break

    assert watcher.names == ["before", "after"] * 2
    assert [call.is_complete for name, call, _ in watcher.told if name == "after"] == [True, False]
    assert watcher.told[3][2].text == "ok"


async def test_a_stream_that_fails_half_way_is_told_once_with_its_error() -> None:
    watcher = Watcher()

    async with client(watcher, [TextDelta("a"), asyncllm.OverloadedError("x")]) as asked:
        with pytest.raises(asyncllm.OverloadedError):
            async for _ in asked.stream_text("hi"):
                pass

    assert watcher.names == ["before", "on_error"]


async def test_the_callers_own_exception_is_no_failure_of_the_call() -> None:
    watcher = Watcher()

    async with client(watcher) as asked:
        with pytest.raises(ZeroDivisionError):
            async with asked.stream("hi"):
                raise ZeroDivisionError

    assert watcher.names == ["before", "after"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("how", ["task", "scope"])
async def test_a_cancelled_call_is_told(how: str, stream: bool) -> None:
    watcher = Watcher()

    async def call(asked: Client) -> None:
        if not stream:
            await asked.chat("hi")
        async with asked.stream("hi") as events:
            async for _ in events:
                pass

    async with client(watcher, [TextDelta("a"), Stall()]) as asked:
        if how == "scope":
            with anyio.move_on_after(0.05):
                await call(asked)
        else:
            task = asyncio.create_task(call(asked))
            await asyncio.sleep(0.05)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    assert watcher.names == ["before", "on_error"]
    assert isinstance(watcher.told[1][2], asyncio.CancelledError)


async def test_embeddings_and_lists_are_told_too() -> None:
    watcher = Watcher()

    async with Client(model="echo:x", hooks=[watcher]) as asked:
        await asked.check_prompt("hi")
        with pytest.raises(asyncllm.UnsupportedError):
            await asked.embed("hi")  # refused before anything could be told

    assert [(name, call.kind) for name, call, _ in watcher.told] == [
        ("before", "check_prompt"),
        ("after", "check_prompt"),
    ]


class Breaks:
    def __init__(self, *methods: str, strict: bool = False) -> None:
        self.strict = strict
        for method in methods:
            setattr(self, method, self._fail)

    def _fail(self, *_: Any) -> None:
        raise ValueError("secret-prompt")


@pytest.mark.parametrize("method", ["before", "after", "on_error"])
async def test_a_hook_that_raises_is_logged_once_by_its_name_and_changes_nothing(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    error = asyncllm.BadRequestError("no")

    async with client(Breaks(method), ANSWER, error, ANSWER, error) as asked:
        for _ in range(2):
            assert (await asked.chat("hi")).text == "ok"
            with pytest.raises(asyncllm.BadRequestError):
                await asked.chat("hi")

    assert [(r.levelno, r.getMessage()) for r in caplog.records] == [
        (logging.ERROR, f"the hook Breaks failed in {method} with ValueError")
    ]
    assert "secret-prompt" not in caplog.text


async def test_a_strict_hook_is_taken_at_its_word() -> None:
    backend = ScriptedBackend([ANSWER])

    hook: Any = Breaks("before", strict=True)
    async with Client(backend=backend, hooks=[hook]) as asked:
        with pytest.raises(ValueError, match="secret"):
            await asked.chat("hi")

    assert not backend.requests


async def test_a_call_that_a_hook_refuses_is_told_to_the_others_as_one_that_failed() -> None:
    first, last = Watcher(), Watcher()
    gate = asyncllm.Gate(lambda: False)

    async with Client(backend=ScriptedBackend([ANSWER]), model="m", hooks=[first, gate, last]) as asked:
        with pytest.raises(asyncllm.BudgetExceededError) as caught:
            await asked.chat("hi")

    assert (first.names, last.names) == (["before", "on_error"], ["on_error"])
    assert first.told[1][2] is caught.value
    assert first.told[1][1].ended_s is not None


async def test_calls_that_consume_nothing_are_not_counted() -> None:
    totals = asyncllm.Totals()

    async with Client(model="echo:x", hooks=[totals]) as asked:
        await asked.check_prompt("hi")
        await asked.chat("hi there")

    assert (totals.calls, totals.input_tokens, totals.unpriced) == (1, 2, 1)


async def test_an_answer_that_was_repaired_is_counted_as_the_reply_says() -> None:
    totals = asyncllm.Totals()
    prices = {"m": asyncllm.Price(input_usd=1_000_000, output_usd=0)}
    answers = [
        [TextDelta(text), UsageReport(Usage(input_tokens=3, output_tokens=1)), Finished("stop")] for text in "x5"
    ]

    async with client(totals, answers[0], answers[1], prices=prices) as asked:
        reply = await asked.chat("hi", output_type=int)

    assert (totals.calls, totals.failures) == (1, 1)
    assert totals.cost_usd == reply.cost_usd == 6
    assert totals.input_tokens == reply.usage.input_tokens == 6
    assert list(totals.cost_by_model.values()) == [6]


async def test_an_answer_out_of_a_cache_costs_nothing_and_counts_no_tokens() -> None:
    totals = asyncllm.Totals()
    prices = {"m": asyncllm.Price(input_usd=1_000_000, output_usd=0)}

    async with client(totals, ANSWER, cache=asyncllm.MemoryCache(), prices=prices) as asked:
        for _ in range(2):
            await asked.chat("hi")

    assert (totals.calls, totals.cost_usd, totals.input_tokens) == (2, 1, 1)
    assert [(record.cached, record.attempts) for record in totals.records] == [(False, 1), (True, 0)]


@pytest.mark.parametrize(
    "make",
    [
        lambda: asyncllm.AfterCall(),
        lambda: asyncllm.AfterCall(5),  # type: ignore[arg-type]
        lambda: asyncllm.Gate(True),  # type: ignore[arg-type]
        lambda: asyncllm.Totals(keep=-1),
    ],
)
def test_a_hook_that_cannot_be_right_is_refused(make: Any) -> None:
    with pytest.raises(asyncllm.ConfigError):
        make()


def test_a_hook_that_hangs_holds_nobody_up_for_long(caplog: pytest.LogCaptureFixture) -> None:
    class Hangs:
        async def after(self, _: Trail, __: Any) -> None:
            await asyncio.Event().wait()

    async def main() -> float:
        async with client(Hangs()) as asked:
            await asked.chat("hi")
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == 5
    assert "Hangs failed in after with TimeoutError" in caplog.text


async def test_hooks_are_told_in_order_and_have_a_place_for_what_is_theirs() -> None:
    order: list[str] = []

    class Keeper:
        def __init__(self, name: str) -> None:
            self._name = name

        def before(self, call: Trail) -> None:
            order.append(self._name)
            call.state[id(self)] = self._name

        def after(self, call: Trail, _: Any) -> None:
            order.append(call.state[id(self)])

    async with Client(backend=ScriptedBackend([ANSWER]), hooks=[Keeper("one"), Keeper("two")]) as asked:
        await asked.chat("hi")

    assert order == ["one", "two", "one", "two"]


async def test_a_trail_shows_no_prompt() -> None:
    watcher = Watcher()

    async with client(watcher) as asked:
        await asked.chat("secret-prompt", idempotency_key="secret-key")

    call = watcher.told[0][1]
    assert len(call.id) == 16
    assert "secret" not in repr(call) + repr(call.request) + repr(call.failures)
