"""Gemini by its OpenAI-compatible API: thought signatures are kept and sent back, errors come in a list."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

import asyncllm
from asyncllm import Client, Message, ToolCall
from asyncllm.testing import FaultyServer, Sse, Status

CALL = {
    "id": "call-1",
    "type": "function",
    "function": {"name": "f", "arguments": "{}"},
    "extra_content": {"google": {"thought_signature": "c2lnbmVk"}},
}
SECOND = {"id": "call-2", "type": "function", "function": {"name": "g", "arguments": "{}"}}
SEALED = {"google": {"thought_signature": "bWVzc2FnZQ=="}}


def whole(message: Mapping[str, Any]) -> Status:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", **message}}
    return Status(body=msgspec.json.encode({"id": "r", "model": "m", "choices": [choice]}))


def chunk(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"id": "r", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def client_of(server: FaultyServer) -> Client:
    return Client(model="gemini:m", base_url=f"{server.url}/v1beta/openai", api_key="k", retry=None)


async def test_the_signature_of_a_tool_call_goes_back_with_it() -> None:
    async with (
        FaultyServer([whole({"content": None, "tool_calls": [CALL, SECOND]})]) as server,
        client_of(server) as client,
    ):
        reply = await client.chat("hi")
        said = reply.choices[0].message
        results = [Message("tool", "1", tool_call_id="call-1"), Message("tool", "2", tool_call_id="call-2")]
        await client.chat([Message("user", "hi"), said, *results])

    assert [call.signature for call in reply.tool_calls] == ["c2lnbmVk", None]
    assert server.requests[1].path == "/v1beta/openai/chat/completions"
    assert server.requests[1].json()["messages"][1] == {
        "role": "assistant",
        "content": None,
        "tool_calls": [CALL, SECOND],
    }


async def test_a_streamed_signature_is_kept_where_the_call_has_no_index() -> None:
    chunks = [chunk(role="assistant", tool_calls=[CALL]), chunk("stop", tool_calls=[SECOND])]
    async with FaultyServer([Sse(chunks)]) as server, client_of(server) as client, client.stream("hi") as stream:
        async for _ in stream:
            pass
        reply = stream.response

    assert reply.tool_calls == (ToolCall("call-1", "f", "{}", "c2lnbmVk"), ToolCall("call-2", "g", "{}"))


async def test_the_signature_of_a_message_goes_back_with_it() -> None:
    async with FaultyServer([whole({"content": "42", "extra_content": SEALED})]) as server, client_of(server) as client:
        said = (await client.chat("hi")).choices[0].message
        await client.chat([Message("user", "hi"), said, Message("user", "and?")])

    assert server.requests[1].json()["messages"][1] == {"role": "assistant", "content": "42", "extra_content": SEALED}


async def test_the_signature_of_a_streamed_message_is_in_its_last_chunk() -> None:
    chunks = [chunk(content="4"), chunk(content="2"), chunk("stop", content="", extra_content=SEALED)]
    async with FaultyServer([Sse(chunks)]) as server, client_of(server) as client, client.stream("hi") as stream:
        async for _ in stream:
            pass
        reply = stream.response

    (block,) = reply.choices[0].message.reasoning_blocks
    assert (reply.text, block.data) == ("42", SEALED)


async def test_no_other_server_is_sent_a_signature() -> None:
    said = Message("assistant", "", (ToolCall("call-1", "f", "{}", "c2lnbmVk"),))
    async with (
        FaultyServer([whole({"content": "x"})]) as server,
        Client(model="groq:m", base_url=server.url, api_key="k") as client,
    ):
        await client.chat([Message("user", "hi"), said, Message("tool", "1", tool_call_id="call-1")])

    assert b"signature" not in server.requests[0].body


async def test_a_signature_of_another_type_costs_no_answer() -> None:
    odd = {**CALL, "extra_content": {"google": {"thought_signature": [1]}}}
    async with FaultyServer([whole({"content": None, "tool_calls": [odd]})]) as server, client_of(server) as client:
        assert (await client.chat("hi")).tool_calls == (ToolCall("call-1", "f", "{}"),)


async def test_signatures_show_in_no_repr() -> None:
    async with FaultyServer([whole({"content": "", "tool_calls": [CALL], "extra_content": SEALED})]) as server:
        async with client_of(server) as client:
            reply = await client.chat("hi")

    assert "c2lnbmVk" not in repr(reply)
    assert "bWVzc2FnZQ" not in repr(reply)


@pytest.mark.parametrize("effort", ["none", "minimal", "low", "medium", "high"])
async def test_the_effort_is_sent_as_given_because_the_service_maps_it(effort: str) -> None:
    async with FaultyServer([whole({"content": "x"})]) as server, client_of(server) as client:
        await client.chat("hi", reasoning_effort=effort)

    assert server.requests[0].json()["reasoning_effort"] == effort


async def test_thinking_is_configured_through_extra() -> None:
    google = {"extra_body": {"google": {"thinking_config": {"include_thoughts": True}}}}
    async with FaultyServer([whole({"content": "x"})]) as server, client_of(server) as client:
        await client.chat("hi", extra=google)

    assert server.requests[0].json()["extra_body"] == google["extra_body"]


ERROR = {"error": {"code": 429, "message": "Quota exceeded", "status": "RESOURCE_EXHAUSTED"}}


async def test_an_error_that_comes_in_a_list_is_read() -> None:
    async with FaultyServer([Status(429, {}, msgspec.json.encode([ERROR]))]) as server, client_of(server) as client:
        with pytest.raises(asyncllm.RateLimitError) as caught:
            await client.chat("hi")

    assert (caught.value.message, caught.value.code) == ("Quota exceeded", "429")


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
async def test_an_error_that_comes_in_a_list_in_place_of_a_stream_is_read(kind: str) -> None:
    body = msgspec.json.encode([ERROR])
    body = body if kind == "application/json" else b"data: %b\n\n" % body
    async with FaultyServer([Status(200, {"Content-Type": kind}, body)]) as server, client_of(server) as client:
        with pytest.raises(asyncllm.RateLimitError, match="Quota exceeded"):
            async with client.stream("hi"):
                pass
