"""Runs of tools: rounds, results, caps, failures, and the events of all that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

import asyncllm
from asyncllm import (
    APIConnectionError,
    BudgetExceededError,
    Client,
    ConfigError,
    FinalResult,
    Finished,
    FunctionTool,
    ImagePart,
    InvalidRequestError,
    MaxRoundsExceededError,
    Message,
    Price,
    ReasoningBlock,
    ReasoningDelta,
    StreamInterrupted,
    TextDelta,
    TextPart,
    Tool,
    ToolCall,
    ToolCallDelta,
    ToolEnded,
    ToolStarted,
    Usage,
    UsageReport,
)
from asyncllm.backend import require_supported
from asyncllm.events import Events, ReasoningBlockDelta
from asyncllm.testing import ScriptedBackend, Stall
from asyncllm.testing.scripted_backend import Step
from asyncllm.types import Request

USAGE = Usage(input_tokens=10, output_tokens=5)


def wants(*calls: tuple[str, Any], text: str = "", usage: Usage = USAGE) -> list[Step]:
    """The script of an answer that asks for calls, each a name and its arguments."""
    deltas = [
        ToolCallDelta(
            position,
            f"c{position}",
            name,
            arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode(),
        )
        for position, (name, arguments) in enumerate(calls)
    ]
    return [*([TextDelta(text)] if text else []), *deltas, UsageReport(usage), Finished("tool_calls")]


def says(text: str = "done", usage: Usage = USAGE) -> list[Step]:
    return [TextDelta(text), UsageReport(usage), Finished("stop")]


def add(a: int, b: int) -> int:
    return a + b


async def fails(text: str) -> str:
    raise LookupError(text)


def told(backend: ScriptedBackend, call: int = -1) -> list[Any]:
    """What the tool turns of a request say."""
    return [message.content for message in backend.requests[call].messages if message.role == "tool"]


# -- rounds ------------------------------------------------------------------------------------------------------


async def test_tools_are_called_until_the_model_answers() -> None:
    backend = ScriptedBackend([wants(("add", {"a": 1, "b": 2})), wants(("add", {"a": 3, "b": 4}), text="hm"), says()])
    price = Price(input_usd=1_000_000, output_usd=0)

    async with Client(backend=backend, model="m", prices={"m": price}) as client:
        run = await client.run_tools("hi", tools=[add])

    assert (run.text, run.stopped, run.rounds, run.open_calls) == ("done", "answer", 3, ())
    assert [(result.value, result.content, result.round) for result in run.results] == [(3, "3", 1), (7, "7", 2)]
    assert (run.usage, run.cost_usd) == (Usage(input_tokens=30, output_tokens=15), 30.0)
    assert [message.role for message in run.messages] == ["user", "assistant", "tool", "assistant", "tool", "assistant"]
    assert run.messages[3].text == "hm"
    assert run.messages[2] == Message("tool", "3", tool_call_id="c0")


async def test_an_answer_at_once_is_a_run_of_one_round() -> None:
    async with Client(backend=ScriptedBackend([says()])) as client:
        run = await client.run_tools("hi", tools=[add])

    assert (run.text, run.rounds, run.results, run.stopped) == ("done", 1, (), "answer")


async def test_the_assistants_turn_goes_back_whole() -> None:
    block = ReasoningBlock("anthropic", {"signature": "s"})
    first = [ReasoningDelta("thinking"), ReasoningBlockDelta(block), *wants(("add", {"a": 1, "b": 2}), text="so")]
    first[3] = msgspec.structs.replace(first[3], signature="sealed")  # type: ignore[type-var]
    backend = ScriptedBackend([first, says()])

    async with Client(backend=backend) as client:
        await client.run_tools("hi", tools=[add])

    turn = backend.requests[1].messages[1]
    assert (turn.text, turn.reasoning, turn.reasoning_blocks) == ("so", "thinking", (block,))
    assert turn.tool_calls == (ToolCall("c0", "add", '{"a":1,"b":2}', "sealed"),)


async def test_the_callers_lists_stay_and_options_go_with_every_round() -> None:
    backend = ScriptedBackend([wants(("add", {"a": 1, "b": 2})), says()])
    prompt = [{"role": "user", "content": "hi"}]
    tools: list[Any] = [add]

    async with Client(backend=backend) as client:
        await client.run_tools(
            prompt, tools=tools, system="Be brief.", temperature=0.5, tool_choice="required", idempotency_key="k"
        )

    assert (len(prompt), tools) == (1, [add])
    first, second = backend.requests
    assert [message.role for message in second.messages] == ["system", "user", "assistant", "tool"]
    assert (first.sampling, first.tools) == (second.sampling, second.tools)
    assert (first.tool_choice, second.tool_choice) == ("required", msgspec.UNSET)
    assert first.idempotency_key == "k" != second.idempotency_key


async def test_each_round_may_be_answered_by_a_fallback() -> None:
    down = asyncllm.OverloadedError("full", status=503)
    backend = ScriptedBackend([down, wants(("add", {"a": 1, "b": 2})), says()])

    async with Client(backend=backend, model=["a", "b"], retry=None) as client:
        run = await client.run_tools("hi", tools=[add])

    assert run.text == "done"
    assert [request.model for request in backend.requests][:2] == ["a", "b"]


async def test_the_last_answer_is_parsed_and_repaired() -> None:
    backend = ScriptedBackend([wants(("add", {"a": 1, "b": 2}), text="let me"), says("three"), says('{"value": 3}')])

    async with Client(backend=backend) as client:
        run = await client.run_tools("hi", tools=[add], output_type=int)

    assert (run.parsed, run.rounds) == (3, 2)
    assert run.usage.input_tokens == 30


async def test_a_run_works_without_an_event_loop() -> None:
    def both() -> tuple[Any, Any]:
        with asyncllm.sync.Client(backend=ScriptedBackend([wants(("add", {"a": 1, "b": 2})), says()] * 2)) as client:
            run = client.run_tools("hi", tools=[add])
            with client.stream_tools("hi", tools=[add]) as stream:
                kinds = [type(event).__name__ for event in stream]
            return run, (kinds, stream.run)

    run, (kinds, streamed) = await asyncio.to_thread(both)

    assert run.text == streamed.text == "done"
    assert kinds.count("ToolStarted") == kinds.count("ToolEnded") == 1


# -- calls -------------------------------------------------------------------------------------------------------


async def test_the_calls_of_one_answer_run_at_once_and_their_results_keep_the_order() -> None:
    both = asyncio.Barrier(2)

    async def meet(name: str) -> str:
        await both.wait()
        if name == "first":
            await asyncio.sleep(0)
        return name

    backend = ScriptedBackend([wants(("meet", {"name": "first"}), ("meet", {"name": "second"})), says()])

    async with Client(backend=backend) as client:
        run = await client.run_tools("hi", tools=[meet])

    assert told(backend) == ["first", "second"]
    assert [result.call.id for result in run.results] == ["c0", "c1"]


async def test_no_more_than_so_many_run_at_once() -> None:
    running, most = 0, 0

    async def work(n: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return n

    backend = ScriptedBackend([wants(*(("work", {"n": n}) for n in range(6))), says()])

    async with Client(backend=backend) as client:
        await client.run_tools("hi", tools=[work], max_concurrency=2)

    assert most == 2
    assert told(backend) == ["0", "1", "2", "3", "4", "5"]


class Point(msgspec.Struct):
    x: int


@pytest.mark.parametrize(
    ("value", "content"),
    [
        ("text", "text"),
        (None, "null"),
        (Point(1), '{"x":1}'),
        ([1, {"a": True}], '[1,{"a":true}]'),
        ([], "[]"),
        (b"ab", '"YWI="'),
        ("a \ud800 name", "a \ufffd name"),
        (TextPart("t"), (TextPart("t"),)),
        ([TextPart("t"), ImagePart(url="http://i")], (TextPart("t"), ImagePart(url="http://i"))),
    ],
)
async def test_a_result_is_told_as_text_as_parts_or_as_json(value: Any, content: Any) -> None:
    backend = ScriptedBackend([wants(("give", {})), says()])

    async with Client(backend=backend) as client:
        run = await client.run_tools("hi", tools=[FunctionTool.of(lambda: value, name="give")])

    assert told(backend) == [content]
    assert run.results[0].value == value


@pytest.mark.parametrize(
    ("call", "content"),
    [
        (("fails", {"text": "no such page"}), "Error: LookupError: no such page"),
        (("fails", {"text": "x" * 5000}), f"Error: LookupError: {'x' * 2000}..."),
        (("fails", {"text": 5}), "Error: the arguments do not fit: Expected `str`, got `int` - at `$.text`"),
        (("fails", '{"text'), "Error: the arguments do not fit: Input data was truncated"),
        (("nothing", {}), "Error: there is no tool named 'nothing'; the tools are fails"),
    ],
)
async def test_what_a_model_can_mend_is_told_to_it(call: tuple[str, Any], content: str) -> None:
    backend = ScriptedBackend([wants(call), says()])

    async with Client(backend=backend) as client:
        run = await client.run_tools("hi", tools=[fails])

    assert told(backend) == [content]
    assert (run.text, f"Error: {run.results[0].error}") == ("done", content)
    assert "Traceback" not in content


async def test_a_result_that_is_no_json_is_an_error_of_the_tool() -> None:
    backend = ScriptedBackend([wants(("give", {})), says()])

    async with Client(backend=backend) as client:
        await client.run_tools("hi", tools=[FunctionTool.of(lambda: object(), name="give")])

    assert told(backend)[0].startswith("Error: TypeError")


async def test_a_function_that_stops_iterating_does_not_hang_the_run() -> None:
    backend = ScriptedBackend([wants(("give", {})), says()])

    async with Client(backend=backend) as client:
        await client.run_tools("hi", tools=[FunctionTool.of(lambda: next(iter(())), name="give")])

    assert told(backend) == ["Error: RuntimeError: the function raised StopIteration"]


def raising(error: BaseException) -> FunctionTool:
    async def act() -> None:
        raise error

    return FunctionTool.of(act)


async def test_a_tools_error_is_raised_as_it_is_if_told_to_and_stops_the_others() -> None:
    stopped = asyncio.Event()

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    backend = ScriptedBackend([wants(("wait", {}), ("fails", {"text": "x"})), says()])

    async with Client(backend=backend) as client:
        with pytest.raises(LookupError, match="x"):
            await client.run_tools("hi", tools=[wait, fails], on_tool_error="raise")

    assert stopped.is_set()
    assert backend.opened == 1


@pytest.mark.parametrize("error", [BudgetExceededError("over"), ConfigError("wrong"), asyncllm.WrongLoopError("loop")])
async def test_what_no_model_can_mend_ends_the_run(error: Exception) -> None:
    async with Client(backend=ScriptedBackend([wants(("act", {})), says()])) as client:
        with pytest.raises(type(error)):
            await client.run_tools("hi", tools=[raising(error)])


@pytest.mark.parametrize("error", [APIConnectionError("lost"), asyncio.CancelledError(), TimeoutError()])
async def test_a_call_that_failed_inside_a_tool_is_the_tools_error(error: BaseException) -> None:
    backend = ScriptedBackend([wants(("act", {})), says()])

    async with Client(backend=backend) as client:
        await client.run_tools("hi", tools=[raising(error)])

    assert told(backend)[0].startswith(f"Error: {type(error).__name__}")


async def test_a_tool_that_cancels_itself_alone_is_reported_even_where_errors_are_raised() -> None:
    backend = ScriptedBackend([wants(("act", {})), says()])

    async with Client(backend=backend) as client:
        await client.run_tools("hi", tools=[raising(asyncio.CancelledError())], on_tool_error="raise")

    assert told(backend) == ["Error: CancelledError"]


async def test_a_cancelled_run_cancels_its_tools() -> None:
    began, stopped = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async with Client(backend=ScriptedBackend([wants(("wait", {})), says()])) as client:
        task = asyncio.create_task(client.run_tools("hi", tools=[wait]))
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert stopped.is_set()


async def test_a_budget_holds_for_all_rounds() -> None:
    backend = ScriptedBackend([wants(("add", {"a": 1, "b": 2}))])

    async with Client(backend=backend) as client, asyncllm.budget(tokens=40) as spent:
        with pytest.raises(BudgetExceededError):
            await client.run_tools("hi", tools=[add], max_tokens=5, max_rounds=100)

    assert spent.calls == backend.opened < 5


# -- ends --------------------------------------------------------------------------------------------------------


async def test_after_the_last_round_the_calls_are_left_open() -> None:
    backend = ScriptedBackend([wants(("add", {"a": 1, "b": 2}))])

    async with Client(backend=backend) as client:
        run = await client.run_tools("hi", tools=[add], max_rounds=2)

    assert (backend.opened, run.rounds, run.stopped, len(run.results)) == (2, 2, "max_rounds", 1)
    assert run.open_calls == run.response.tool_calls == run.messages[-1].tool_calls


async def test_after_the_last_round_an_error_is_raised_if_told_to() -> None:
    backend = ScriptedBackend([wants(("add", {"a": 1, "b": 2}))])

    async with Client(backend=backend) as client:
        with pytest.raises(MaxRoundsExceededError) as caught:
            await client.run_tools("hi", tools=[add], at_max_rounds="raise")

    assert backend.opened == 4
    assert caught.value.partial is not None
    assert caught.value.partial.tool_calls[0].name == "add"


async def test_the_last_round_may_be_asked_to_answer() -> None:
    backend = ScriptedBackend([wants(("add", {"a": 1, "b": 2})), says()])

    async with Client(backend=backend) as client:
        run = await client.run_tools("hi", tools=[add], max_rounds=2, at_max_rounds="answer")

    assert [request.tool_choice for request in backend.requests] == [msgspec.UNSET, "none"]
    assert (run.text, run.stopped) == ("done", "max_rounds")


async def test_over_the_cap_of_tokens_the_model_is_asked_to_answer_without_tools() -> None:
    backend = ScriptedBackend([wants(("add", {"a": 1, "b": 2})), wants(("add", {"a": 1, "b": 2})), says()])

    async with Client(backend=backend) as client:
        run = await client.run_tools("hi", tools=[add], max_tokens_total=30)

    assert [request.tool_choice for request in backend.requests] == [msgspec.UNSET, msgspec.UNSET, "none"]
    assert (run.text, run.stopped, run.usage.total_tokens) == ("done", "max_tokens_total", 45)


async def test_a_model_that_calls_tools_all_the_same_is_not_obeyed() -> None:
    backend = ScriptedBackend([wants(("add", {"a": 1, "b": 2}))])

    async with Client(backend=backend) as client:
        run = await client.run_tools("hi", tools=[add], max_tokens_total=1, at_max_rounds="raise")

    assert (backend.opened, run.stopped, len(run.results), len(run.open_calls)) == (2, "max_tokens_total", 1, 1)


class Choiceless(ScriptedBackend):
    @asynccontextmanager
    async def open(self, request: Request, /) -> AsyncGenerator[Events]:
        require_supported(request, frozenset({"chat", "tools"}), backend="choiceless")
        async with super().open(request) as events:
            yield events


async def test_a_backend_that_knows_no_tool_choice_is_asked_without_tools() -> None:
    scripts: Sequence[Any] = [wants(("add", {"a": 1, "b": 2})), says(), wants(("add", {"a": 1, "b": 2})), says()]
    backend = Choiceless(scripts)

    async with Client(backend=backend) as client:
        run = await client.run_tools("hi", tools=[add], max_tokens_total=1)
        async with client.stream_tools("hi", tools=[add], max_tokens_total=1) as stream:
            async for _ in stream:
                pass
        with pytest.raises(asyncllm.UnsupportedError, match="tool_choice"):
            await client.run_tools("hi", tools=[add], tool_choice="required")

    assert run.text == stream.run.text == "done"
    assert [len(request.tools) for request in backend.requests] == [1, 0, 1, 0]


async def test_a_tool_may_end_the_run() -> None:
    backend = ScriptedBackend([wants(("give", {}), ("add", {"a": 1, "b": 2})), says()])

    async with Client(backend=backend) as client:
        run = await client.run_tools("hi", tools=[add, FunctionTool.of(lambda: FinalResult([1]), name="give")])

    assert (backend.opened, run.stopped) == (1, "final_result")
    assert [(result.value, result.content) for result in run.results] == [([1], "[1]"), (3, "3")]
    assert [message.role for message in run.messages] == ["user", "assistant", "tool", "tool"]


async def test_calls_of_tools_without_a_function_are_left_to_the_caller_who_can_go_on() -> None:
    backend = ScriptedBackend([wants(("ask", {"q": 1}), ("add", {"a": 1, "b": 2})), says()])
    tools: list[Any] = [add, Tool("ask")]

    async with Client(backend=backend) as client:
        run = await client.run_tools("hi", tools=tools, system="Be brief.")
        assert (run.stopped, [call.name for call in run.open_calls], len(run.results)) == ("open_calls", ["ask"], 1)
        answers = [Message("tool", "yes", tool_call_id=call.id) for call in run.open_calls]
        run = await client.run_tools([*run.messages, *answers], tools=tools)

    assert run.text == "done"
    assert [message.role for message in backend.requests[1].messages].count("system") == 1


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("tools", {}),
        ("tools", {"tools": []}),
        ("tools", {"tools": [add, Tool("add")]}),
        ("n", {"tools": [add], "n": 2}),
        ("max_rounds", {"tools": [add], "max_rounds": 0}),
        ("max_rounds", {"tools": [add], "max_rounds": True}),
        ("max_tokens_total", {"tools": [add], "max_tokens_total": -1}),
        ("max_concurrency", {"tools": [add], "max_concurrency": 0}),
        ("at_max_rounds", {"tools": [add], "at_max_rounds": "stop"}),
        ("on_tool_error", {"tools": [add], "on_tool_error": None}),
        ("temperatur", {"tools": [add], "temperatur": 1}),
    ],
)
async def test_bad_options_are_refused_by_their_name(field: str, options: Any) -> None:
    backend = ScriptedBackend([says()])

    async with Client(backend=backend) as client:
        with pytest.raises(InvalidRequestError) as caught:
            await client.run_tools("hi", **options)
        with pytest.raises(InvalidRequestError):
            client.stream_tools("hi", **options)

    assert (caught.value.field, backend.opened) == (field, 0)


async def test_a_chat_knows_no_options_of_runs() -> None:
    async with Client(backend=ScriptedBackend([says()])) as client:
        with pytest.raises(InvalidRequestError, match="max_rounds"):
            await client.chat("hi", max_rounds=1)  # type: ignore[call-arg]


# -- streams -----------------------------------------------------------------------------------------------------


async def test_a_stream_tells_all_rounds_and_what_becomes_of_the_calls() -> None:
    backend = ScriptedBackend([wants(("add", {"a": 1, "b": 2}), ("nothing", {}), text="let me"), says("don", USAGE)])

    async with Client(backend=backend) as client:
        async with client.stream_tools("hi", tools=[add]) as stream:
            events = [event async for event in stream]
        run = await client.run_tools("hi", tools=[add])

    assert [event.text for event in events if isinstance(event, TextDelta)] == ["let me", "don"]
    assert [event.call.name for event in events if isinstance(event, ToolStarted)] == ["add", "nothing"]
    ended = [event.result for event in events if isinstance(event, ToolEnded)]
    assert sorted(result.content for result in ended) == [
        "3", "Error: there is no tool named 'nothing'; the tools are add"
    ]  # fmt: skip
    assert (stream.run.text, stream.run.rounds, stream.run.stopped) == ("don", 2, "answer")
    assert run.text == "don"


async def test_results_come_as_they_are_there() -> None:
    later = asyncio.Event()

    async def wait() -> str:
        await later.wait()
        return "late"

    async def go() -> str:
        return "soon"

    order: list[str] = []
    async with Client(backend=ScriptedBackend([wants(("wait", {}), ("go", {})), says()])) as client:
        async with client.stream_tools("hi", tools=[wait, go]) as stream:
            async for event in stream:
                if isinstance(event, ToolEnded):
                    order.append(event.result.value)
                    later.set()

    assert order == ["soon", "late"]
    assert [result.value for result in stream.run.results] == ["late", "soon"]


async def test_leaving_a_stream_stops_its_tools() -> None:
    stopped = asyncio.Event()

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    backend = ScriptedBackend([wants(("wait", {}), ("add", {"a": 1, "b": 2})), says()])

    async with Client(backend=backend) as client:
        async with client.stream_tools("hi", tools=[wait, add]) as stream:
            async for event in stream:
                if isinstance(event, ToolEnded):
                    break

    assert stopped.is_set()
    assert backend.opened == backend.closed == 1
    assert (stream.run.rounds, stream.run.stopped) == (1, None)


async def test_leaving_a_stream_stops_the_model() -> None:
    backend = ScriptedBackend([wants(("add", {"a": 1, "b": 2})), [TextDelta("x"), Stall()]])

    async with Client(backend=backend) as client:
        async with client.stream_tools("hi", tools=[add]) as stream:
            async for event in stream:
                if isinstance(event, TextDelta):
                    break
            assert (stream.run.text, stream.run.rounds) == ("x", 1)

    assert backend.opened == backend.closed == 2


async def test_a_cancelled_stream_stops_its_tools() -> None:
    began, stopped = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async def read(client: Client) -> None:
        async with client.stream_tools("hi", tools=[wait]) as stream:
            async for _ in stream:
                pass

    async with Client(backend=ScriptedBackend([wants(("wait", {})), says()])) as client:
        task = asyncio.create_task(read(client))
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert stopped.is_set()


async def test_a_stream_raises_what_the_tools_and_the_model_raise_and_keeps_what_there_was() -> None:
    async with Client(backend=ScriptedBackend([wants(("fails", {"text": "x"}))])) as client:
        with pytest.raises(LookupError):
            async with client.stream_tools("hi", tools=[fails], on_tool_error="raise") as stream:
                async for _ in stream:
                    pass
        with pytest.raises(MaxRoundsExceededError):
            async with client.stream_tools("hi", tools=[fails], max_rounds=1, at_max_rounds="raise") as stream:
                async for _ in stream:
                    pass
    backend = ScriptedBackend([wants(("add", {"a": 1, "b": 2})), [TextDelta("x")]])
    async with Client(backend=backend) as client:
        with pytest.raises(StreamInterrupted):
            async with client.stream_tools("hi", tools=[add]) as stream:
                async for _ in stream:
                    pass

    assert [result.value for result in stream.run.results] == [3]
    assert backend.opened == backend.closed == 2


async def test_a_stream_of_tools_is_iterated_inside_its_block() -> None:
    async with Client(backend=ScriptedBackend([says()])) as client:
        with pytest.raises(TypeError, match="stream_tools"):
            aiter(client.stream_tools("hi", tools=[add]))


async def test_results_say_how_long_their_functions_took_and_show_nothing_private() -> None:
    backend = ScriptedBackend([wants(("nap", {"canary": "x"})), says("canary")])

    def nap(canary: str) -> str:
        return f"canary{canary}"

    async with Client(backend=backend) as client:
        run = await client.run_tools("canary", tools=[nap])

    assert run.results[0].duration_s > 0
    assert "canary" not in repr(run)
