"""Rows of llmax about Claude, by Anthropic's API and on Bedrock."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from anthropic_server import FRAMED, call, framed, message, repeat, sse, start, stop, streamed, text, whole
from asyncllm import Client, Message, Response, Tool, ToolCall, ToolCallDelta
from asyncllm.testing import FaultyServer, Op, SeenRequest, Status
from aws_signature import is_signed, scope

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
TOOL = Tool("look_up", "Look a word up.", {"type": "object", "properties": {"word": {"type": "string"}}})
WORD = {"type": "tool_use", "id": "t1", "name": "look_up", "input": {"word": "tea"}}
MIXED = [*text(0, "Wait."), *call(1, "t1", "look_up", '{"word":', '"tea"}'), *call(2, "t2", "look_up", "{}")]
WAYS = ["anthropic", "bedrock"]


@asynccontextmanager
async def serving(
    way: str, script: Sequence[Op] | Callable[[SeenRequest], Sequence[Op]] = repeat
) -> AsyncIterator[tuple[FaultyServer, Client]]:
    """A service, and a client by either way to it."""
    keys: dict[str, Any] = {"api_key": "sk-ant-0123456789"}
    if way == "bedrock":
        keys = {"options": {"region": "eu-west-1", "access_key_id": "AKIDEXAMPLE", "secret_access_key": SECRET}}
    async with (
        FaultyServer(script) as server,
        Client(model=f"{way}:m", base_url=server.url, retry=None, env={}, **keys) as client,
    ):
        yield server, client


def streams(*events: dict[str, Any]) -> Callable[[SeenRequest], Sequence[Op]]:
    """A service that streams `events`, in the framing of whoever asks."""
    return lambda seen: streamed(framed(*events), FRAMED) if seen.path.endswith("-stream") else streamed(sse(*events))


async def read(client: Client, **options: Any) -> Response:
    """The answer to a streamed call."""
    async with client.stream("?", **options) as stream:
        async for _ in stream:
            pass
    return stream.response


@pytest.mark.parametrize("way", WAYS)
async def test_row_071_the_system_text_is_sent_once_and_the_callers_list_is_unchanged(way: str) -> None:
    messages = [Message("user", "Hello")]
    before = list(messages)
    async with serving(way) as (server, client):
        for _ in range(2):
            reply = await client.chat(messages, system="Be brief.")
            assert messages == before
            messages += [reply.choices[0].message, Message("user", "So?")]
            before = list(messages)

    for seen in server.requests:
        assert seen.json()["system"] == "Be brief."
        assert "system" not in {turn["role"] for turn in seen.json()["messages"]}


@pytest.mark.parametrize("way", WAYS)
async def test_row_077_system_limit_and_tools_are_in_the_form_of_the_service(way: str) -> None:
    async with serving(way) as (server, client):
        await client.chat([Message("system", "Be brief."), Message("user", "Hello")], tools=[TOOL])

    asked = server.requests[0].json()
    assert asked["system"] == "Be brief."
    assert asked["messages"] == [{"role": "user", "content": "Hello"}]
    assert asked["max_tokens"] == 10_000
    assert asked["tools"] == [{"name": "look_up", "description": "Look a word up.", "input_schema": TOOL.parameters}]


@pytest.mark.parametrize("way", WAYS)
async def test_row_077_a_stream_is_read_with_its_end_and_its_counts(way: str) -> None:
    counts = {"input_tokens": 5, "cache_read_input_tokens": 10, "output_tokens": 1}
    events = [start(usage=counts), *text(0, "Hel", "lo"), *stop("max_tokens", {"output_tokens": 7})]
    async with serving(way, streams(*events)) as (_, client):
        reply = await read(client)

    assert (reply.text, reply.finish_reason) == ("Hello", "length")
    assert (reply.usage.input_tokens, reply.usage.cached_tokens, reply.usage.output_tokens) == (15, 10, 7)


async def test_row_077_calls_of_bedrock_are_signed() -> None:
    async with serving("bedrock") as (server, client):
        await client.chat("Hello")
        await read(client)

    assert [seen.path for seen in server.requests] == ["/model/m/invoke", "/model/m/invoke-with-response-stream"]
    for seen in server.requests:
        assert scope(seen) == ("AKIDEXAMPLE", "eu-west-1", "bedrock")
        assert is_signed(seen, SECRET)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("stream", [True, False])
async def test_row_080_text_and_tool_calls_of_claude_are_one_answer(way: str, stream: bool) -> None:
    whole_ = whole(
        message({"type": "text", "text": "Wait."}, WORD, {**WORD, "id": "t2", "input": {}}, reason="tool_use")
    )
    async with serving(way, streams(start(), *MIXED, *stop("tool_use")) if stream else whole_) as (_, client):
        reply = await (read(client, tools=[TOOL]) if stream else client.chat("?", tools=[TOOL]))

    assert len(reply.choices) == 1
    assert (reply.text, reply.finish_reason) == ("Wait.", "tool_calls")
    assert reply.tool_calls == (ToolCall("t1", "look_up", '{"word":"tea"}'), ToolCall("t2", "look_up", "{}"))


async def test_row_080_text_and_tool_calls_come_together() -> None:
    calls = [{"id": "t1", "type": "function", "function": {"name": "look_up", "arguments": '{"word":"tea"}'}}]
    answer = {"role": "assistant", "content": "Wait.", "tool_calls": calls}
    body = {"id": "r", "model": "m", "choices": [{"index": 0, "message": answer, "finish_reason": "tool_calls"}]}
    async with (
        FaultyServer([Status(body=msgspec.json.encode(body))]) as server,
        Client(model="openai:m", base_url=server.url, retry=None, env={}) as client,
    ):
        reply = await client.chat("?", tools=[TOOL])

    assert (reply.text, reply.tool_calls) == ("Wait.", (ToolCall("t1", "look_up", '{"word":"tea"}'),))


@pytest.mark.parametrize("way", WAYS)
async def test_row_082_pieces_of_arguments_are_merged_by_their_place(way: str) -> None:
    first, second = call(0, "t1", "look_up", '{"wo', 'rd": 1}'), call(1, "t2", "look_up", '{"n"', ": 2}")
    in_turns = [event for pair in zip(first, second, strict=True) for event in pair]
    async with serving(way, streams(start(), *in_turns, *stop("tool_use"))) as (_, client):
        async with client.stream("?", tools=[TOOL]) as stream:
            pieces = [event async for event in stream if isinstance(event, ToolCallDelta)]

    assert [piece.position for piece in pieces] == [0, 1] * 3
    assert [one.parse_arguments() for one in stream.response.tool_calls] == [{"word": 1}, {"n": 2}]
