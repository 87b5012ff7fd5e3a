"""Rows 71 and 80 to 82: the system text, tools asked for once, in a loop and in a stream, in OpenAI's wire format."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from asyncllm import (
    Client,
    FinalResult,
    FunctionTool,
    Message,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    ToolEnded,
    Usage,
)
from asyncllm.testing import FaultyServer, Sse, Status
from asyncllm.testing.ops import Op
from chunks import delta

USAGE = {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30}


def call(number: int, name: str, arguments: str) -> dict[str, Any]:
    return {"id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": arguments}}


def reply(content: str | None, *calls: dict[str, Any]) -> list[Op]:
    """A chat in one piece."""
    message = {"role": "assistant", "content": content, **({"tool_calls": list(calls)} if calls else {})}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if calls else "stop"}
    body = {"id": "r", "object": "chat.completion", "model": "m", "choices": [choice], "usage": USAGE}
    return [Status(200, {"Content-Type": "application/json"}, msgspec.json.encode(body))]


def piece(index: int, **fields: Any) -> dict[str, Any]:
    """A chunk with a piece of one tool call."""
    head = {name: fields[name] for name in ("id",) if name in fields}
    function = {name: fields[name] for name in ("name", "arguments") if name in fields}
    return delta(tool_calls=[{"index": index, **head, "function": function}])


@asynccontextmanager
async def serving(*scripts: list[Op]) -> AsyncIterator[tuple[FaultyServer, Client]]:
    async with FaultyServer(list(scripts)) as server:
        async with Client(model="openai:m", base_url=server.url, api_key="k", retry=None) as client:
            yield server, client


async def weather(city: str) -> dict[str, Any]:
    """The weather of a city."""
    if city == "Atlantis":
        raise LookupError("it has sunk")
    return {"city": city, "degrees": len(city)}


def sent(server: FaultyServer) -> list[dict[str, Any]]:
    return [request.json() for request in server.requests]


async def test_row_071_the_system_text_goes_first_and_once_a_round_and_the_callers_list_is_not_changed() -> None:
    prompt = [{"role": "user", "content": "Weather in Rome?"}]
    asks = reply(None, call(1, "weather", '{"city":"Rome"}'))

    async with serving(asks, asks, reply("Fine.")) as (server, client):
        run = await client.run_tools(prompt, system="Be brief.", tools=[weather])
        await client.chat(prompt, system="Be brief.")

    assert prompt == [{"role": "user", "content": "Weather in Rome?"}]
    assert [[message["role"] for message in body["messages"]] for body in sent(server)] == [
        ["system", "user"],
        ["system", "user", "assistant", "tool"],
        ["system", "user", "assistant", "tool", "assistant", "tool"],
        ["system", "user"],
    ]
    assert [message.role for message in run.messages].count("system") == 1


async def test_row_080_text_and_tool_calls_come_together() -> None:
    asks = reply("Let me see.", call(1, "weather", '{"city":"Rome"}'), call(2, "weather", '{"city":"Oslo"}'))

    async with serving(asks) as (server, client):
        got = await client.chat("Weather?", tools=[weather])

    assert (got.text, got.finish_reason) == ("Let me see.", "tool_calls")
    assert [one.parse_arguments() for one in got.tool_calls] == [{"city": "Rome"}, {"city": "Oslo"}]
    (body,) = sent(server)
    assert body["tools"] == [
        {
            "type": "function",
            "function": {
                "name": "weather",
                "description": "The weather of a city.",
                "parameters": {
                    "type": "object",
                    "properties": {"city": {"type": "string"}},
                    "required": ["city"],
                    "additionalProperties": False,
                },
            },
        }
    ]


async def test_row_081_tools_run_at_once_and_results_go_back_in_the_services_format_and_in_order() -> None:
    both = asyncio.Barrier(2)

    async def meet(city: str) -> dict[str, str]:
        await both.wait()
        return {"met in": city}

    calls = call(1, "meet", '{"city":"Rome"}'), call(2, "meet", '{"city":"Oslo"}')

    async with serving(reply("Let me see.", *calls), reply("Fine.")) as (server, client):
        run = await client.run_tools("Weather?", tools=[meet])

    assert run.text == "Fine."
    assert sent(server)[1]["messages"] == [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "Let me see.", "tool_calls": list(calls)},
        {"role": "tool", "content": '{"met in":"Rome"}', "tool_call_id": "call_1"},
        {"role": "tool", "content": '{"met in":"Oslo"}', "tool_call_id": "call_2"},
    ]
    assert run.usage == Usage(input_tokens=40, output_tokens=20)


async def test_row_081_a_tools_exception_is_told_to_the_model() -> None:
    asks = reply(None, call(1, "weather", '{"city":"Atlantis"}'), call(2, "wether", "{}"))

    async with serving(asks, reply("It has sunk.")) as (server, client):
        run = await client.run_tools("Weather?", tools=[weather])

    assert [message["content"] for message in sent(server)[1]["messages"][2:]] == [
        "Error: LookupError: it has sunk",
        "Error: there is no tool named 'wether'; the tools are weather",
    ]
    assert run.text == "It has sunk."


async def test_row_081_there_are_no_more_rounds_than_allowed_and_the_run_says_so() -> None:
    async with serving(reply(None, call(1, "weather", '{"city":"Rome"}'))) as (server, client):
        run = await client.run_tools("Weather?", tools=[weather], max_rounds=3)

    assert len(server.requests) == run.rounds == 3
    assert run.stopped == "max_rounds"
    assert run.open_calls == (ToolCall("call_1", "weather", '{"city":"Rome"}'),)


async def test_row_082_pieces_of_arguments_are_merged_by_their_index() -> None:
    asks: list[Op] = [
        Sse(
            [
                delta(role="assistant", content="Let me see."),
                piece(0, id="a", name="weather", arguments=""),
                piece(1, id="b", name="weather", arguments='{"ci'),
                piece(0, arguments='{"city":'),
                piece(1, arguments='ty":"Oslo"}'),
                piece(0, arguments='"Rome"}'),
                delta(finish="tool_calls"),
            ]
        )
    ]

    async with serving(asks, [Sse([delta(content="Fine."), delta(finish="stop")])]) as (server, client):
        async with client.stream_tools("Weather?", tools=[weather]) as stream:
            events = [event async for event in stream]

    assert [event.text for event in events if isinstance(event, TextDelta)] == ["Let me see.", "Fine."]
    assert sum(isinstance(event, ToolCallDelta) for event in events) == 5
    assert sum(isinstance(event, ToolEnded) for event in events) == 2
    _, _, rome, oslo = sent(server)[1]["messages"]
    assert (rome["tool_call_id"], rome["content"]) == ("a", '{"city":"Rome","degrees":4}')
    assert (oslo["tool_call_id"], oslo["content"]) == ("b", '{"city":"Oslo","degrees":4}')
    assert stream.run.text == "Fine."


async def test_row_082_a_tool_decides_whether_the_model_is_asked_again() -> None:
    asks: list[Op] = [Sse([piece(0, id="a", name="show", arguments="{}"), delta(finish="tool_calls")])]
    async with serving(asks, [Sse([delta(content="Done."), delta(finish="stop")])], asks) as (server, client):
        for result in ("shown", FinalResult("shown")):
            show = FunctionTool.of(lambda result=result: result, name="show", parameters={"type": "object"})
            async with client.stream_tools("Show me.", tools=[show]) as stream:
                async for _ in stream:
                    pass

    assert len(server.requests) == 3
    assert (stream.run.stopped, stream.run.results[0].value) == ("final_result", "shown")
    assert stream.run.messages[-1] == Message("tool", "shown", tool_call_id="a")


async def test_row_082_over_the_cap_of_tokens_tools_are_disabled() -> None:
    usage = {"id": "r", "model": "m", "choices": [], "usage": USAGE}
    asks: list[Op] = [
        Sse([piece(0, id="a", name="weather", arguments='{"city":"Rome"}'), delta(finish="tool_calls"), usage])
    ]

    async with serving(asks, asks, [Sse([delta(content="Fine."), delta(finish="stop"), usage])]) as (server, client):
        async with client.stream_tools("Weather?", tools=[weather], max_tokens_total=50) as stream:
            async for _ in stream:
                pass

    assert [body.get("tool_choice") for body in sent(server)] == [None, None, "none"]
    assert (stream.run.text, stream.run.stopped) == ("Fine.", "max_tokens_total")
    assert stream.run.usage.total_tokens == 90
