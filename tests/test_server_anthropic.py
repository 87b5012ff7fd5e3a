"""Anthropic's API as we serve it, to Anthropic's own SDK and on the wire."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import anthropic
import pytest

from asyncllm import Client, InvalidRequestError
from asyncllm.events import Event, Finished, ReasoningBlockDelta, ReasoningDelta, TextDelta, ToolCallDelta, UsageReport
from asyncllm.server.anthropic.answers import EventWriter
from asyncllm.server.anthropic.served import read_messages_request
from asyncllm.testing import FaultyServer, Op, SeenRequest, Sse, Status
from asyncllm.types import FilePart, ImagePart, JsonSchema, Message, ReasoningBlock, TextPart, ToolCall, Usage
from served import served, server_of

ASKED: list[Any] = [{"role": "user", "content": "one two three"}]
TOOL: Any = {"name": "weather", "description": "d", "input_schema": {"type": "object", "properties": {}}}


@asynccontextmanager
async def sdk_of(url: str) -> AsyncGenerator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(
        base_url=url, api_key="k", max_retries=0, _strict_response_validation=True
    ) as sdk:
        yield sdk


@asynccontextmanager
async def echo(**settings: Any) -> AsyncGenerator[anthropic.AsyncAnthropic]:
    async with server_of("echo:x", settings) as url, sdk_of(url) as sdk:
        yield sdk


@asynccontextmanager
async def behind(*ops: Op) -> AsyncGenerator[tuple[str, list[dict[str, Any]]]]:
    """A server before a service in OpenAI's API, and what that is asked."""
    asked: list[dict[str, Any]] = []

    def upstream(request: SeenRequest) -> Sequence[Op]:
        asked.append(request.json())
        return ops

    async with (
        FaultyServer(upstream) as server,
        Client(model="openai:m", base_url=f"{server.url}/v1", api_key="the-server-s", retry=None) as client,
        served(client, models={"m": "openai:m"}) as url,
    ):
        yield url, asked


async def test_a_conversation_is_answered() -> None:
    async with echo() as sdk:
        reply = await sdk.messages.create(model="echo:x", max_tokens=2, messages=ASKED)

    assert [block.text for block in reply.content if block.type == "text"] == ["one two"]
    assert (reply.stop_reason, reply.model, reply.role) == ("max_tokens", "echo:x", "assistant")
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (3, 2)
    assert reply._request_id


async def test_a_conversation_is_streamed() -> None:
    async with echo() as sdk:
        async with sdk.messages.stream(model="echo:x", max_tokens=50, messages=ASKED) as stream:
            texts = [text async for text in stream.text_stream]
            whole = await stream.get_final_message()

    assert texts == ["one", " two", " three"]
    assert (whole.stop_reason, whole.usage.output_tokens) == ("end_turn", 3)


async def test_calls_of_tools_are_passed_on_and_come_back() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
    choice = {"index": 0, "message": {"content": None, "tool_calls": [call]}, "finish_reason": "tool_calls"}
    async with behind(Status(body=json.dumps({"choices": [choice]}).encode())) as (url, asked), sdk_of(url) as sdk:
        reply = await sdk.messages.create(
            model="m", max_tokens=50, messages=ASKED, tools=[TOOL], tool_choice={"type": "any"}, system="Be brief"
        )

    (used,) = reply.content
    assert used.type == "tool_use"
    assert (used.id, used.name, used.input) == ("call_1", "weather", {"city": "Paris"})
    assert reply.stop_reason == "tool_use"
    assert asked[0]["messages"][0] == {"role": "system", "content": "Be brief"}
    assert (asked[0]["tools"][0]["function"]["name"], asked[0]["tool_choice"]) == ("weather", "required")


async def test_streamed_calls_of_tools_are_put_together() -> None:
    pieces = [
        {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"city": '}},
        {"index": 0, "function": {"arguments": '"Paris"}'}},
        {"index": 1, "id": "call_2", "type": "function", "function": {"name": "weather", "arguments": "{}"}},
    ]
    chunks: list[Any] = [{"choices": [{"index": 0, "delta": {"content": "Let me see."}}]}]
    chunks += [{"choices": [{"index": 0, "delta": {"tool_calls": [piece]}}]} for piece in pieces]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]})
    async with behind(Sse([*chunks, b"[DONE]"], "end")) as (url, _), sdk_of(url) as sdk:
        async with sdk.messages.stream(model="m", max_tokens=50, messages=ASKED, tools=[TOOL]) as stream:
            whole = await stream.get_final_message()

    assert [block.type for block in whole.content] == ["text", "tool_use", "tool_use"]
    assert [block.input for block in whole.content if block.type == "tool_use"] == [{"city": "Paris"}, {}]
    assert whole.stop_reason == "tool_use"


@pytest.mark.parametrize(
    ("status", "told", "kind"),
    [
        (400, 400, "invalid_request_error"),
        (401, 502, "api_error"),
        (429, 429, "rate_limit_error"),
        (503, 503, "overloaded_error"),
    ],
)
async def test_a_failure_before_the_first_word_is_a_status(status: int, told: int, kind: str) -> None:
    async with behind(Status(status, body=b'{"error": {"message": "no"}}')) as (url, _), sdk_of(url) as sdk:
        with pytest.raises(anthropic.APIStatusError) as caught:
            await sdk.messages.create(model="m", max_tokens=5, messages=ASKED)

    assert caught.value.status_code == told
    body: Any = caught.value.body
    assert (body["type"], body["error"]["type"]) == ("error", kind)


async def test_a_failure_after_the_first_word_is_an_event() -> None:
    broken: list[Any] = [{"choices": [{"index": 0, "delta": {"content": "one"}}]}, {"error": {"message": "it broke"}}]
    async with behind(Sse(broken, "end")) as (url, _), sdk_of(url) as sdk:
        with pytest.raises(anthropic.APIError, match="it broke"):
            async with sdk.messages.stream(model="m", max_tokens=50, messages=ASKED) as stream:
                await stream.get_final_message()


async def test_tokens_are_counted_by_the_model_s_tokenizer() -> None:
    async with server_of("llamacpp:smollm2") as url, sdk_of(url) as sdk:
        few = await sdk.messages.count_tokens(model="llamacpp:smollm2", messages=[{"role": "user", "content": "Hi"}])
        more = await sdk.messages.count_tokens(model="llamacpp:smollm2", messages=ASKED * 5)

    assert 0 < few.input_tokens < more.input_tokens


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"messages": ASKED}, "max_tokens"),
        ({"messages": [], "max_tokens": 5}, "messages"),
        ({"max_tokens": 5}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}], "max_tokens": 5}, "messages[0].role"),
        ({"messages": ASKED, "max_tokens": "many"}, "max_tokens"),
        ({"messages": ASKED, "max_tokens": 0}, "max_tokens"),
        ({"messages": ASKED, "max_tokens": 5, "temperature": -1}, "temperature"),
        ({"messages": [{"role": "user", "content": [{"type": "smell"}]}], "max_tokens": 5}, "messages[0].content[0]"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}], "max_tokens": 5},
            "messages[0].content[0].text",
        ),
        ({"messages": ASKED, "max_tokens": 5, "tool_choice": {"type": "tool"}}, "tool_choice.name"),
    ],
)
def test_what_cannot_be_right_is_named(body: Any, field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        read_messages_request(json.dumps(body).encode())

    assert caught.value.field == field


async def test_a_body_that_cannot_be_right_is_refused_in_this_api_s_form() -> None:
    async with server_of("echo:x") as url, aiohttp.ClientSession() as http:
        async with http.post(f"{url}/v1/messages", json={"messages": ASKED}) as reply:
            told = await reply.json()

    assert (reply.status, told["error"]["type"]) == (400, "invalid_request_error")
    assert told["request_id"] == reply.headers["request-id"]
    assert "max_tokens" in told["error"]["message"]


def test_every_kind_of_block_has_its_place() -> None:
    data = base64.b64encode(b"png").decode()
    blocks: list[Any] = [
        {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "sunny"}]},
        {"type": "text", "text": "look"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}},
        {
            "type": "document",
            "title": "a.pdf",
            "source": {"type": "base64", "media_type": "application/pdf", "data": data},
        },
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "words"}},
    ]
    said: list[Any] = [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "text", "text": "I see"},
        {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Paris"}},
    ]
    body = {
        "max_tokens": 5,
        "system": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
        "messages": [{"role": "assistant", "content": said}, {"role": "user", "content": blocks}],
        "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}},
        "metadata": {"user_id": "u"},
    }

    asked = read_messages_request(json.dumps(body).encode())

    assert asked.messages == (
        Message("system", "a\nb"),
        Message(
            "assistant",
            "I see",
            tool_calls=(ToolCall("t1", "weather", '{"city":"Paris"}'),),
            reasoning_blocks=(ReasoningBlock("anthropic", said[0]),),
        ),
        Message("tool", "sunny", tool_call_id="t1"),
        Message(
            "user",
            (
                TextPart("look"),
                ImagePart(data=b"png", media_type="image/png"),
                FilePart(data=b"png", filename="a.pdf", media_type="application/pdf"),
                TextPart("words"),
            ),
        ),
    )
    assert asked.constraint == JsonSchema({"type": "object"})


def test_thinking_is_a_block_before_what_is_said() -> None:
    block = ReasoningBlock("anthropic", {"type": "thinking", "thinking": "hm", "signature": "sig"})
    events: list[Event] = [
        ReasoningDelta("h"), ReasoningDelta("m"), ReasoningBlockDelta(block), TextDelta("hi"),
        ToolCallDelta(id="t", name="f"), Finished("stop"),
        UsageReport(Usage(input_tokens=5, output_tokens=2, cached_tokens=3)),
    ]  # fmt: skip
    writer = EventWriter(id_="msg_1", model="m", request_id="r")

    written = (writer.write(events) + writer.end()).decode().split("\n\n")[:-1]

    named = [(event.partition("\n")[0][7:], json.loads(event.partition("data: ")[2])) for event in written]
    assert [name for name, _ in named] == [
        "message_start", "content_block_start", "content_block_delta", "content_block_delta", "content_block_delta",
        "content_block_stop", "content_block_start", "content_block_delta", "content_block_stop",
        "content_block_start", "content_block_stop", "message_delta", "message_stop",
    ]  # fmt: skip
    assert all(name == data["type"] for name, data in named)
    assert named[4][1]["delta"] == {"type": "signature_delta", "signature": "sig"}
    assert named[-2][1]["delta"]["stop_reason"] == "tool_use"
    assert named[-2][1]["usage"] == {"input_tokens": 2, "output_tokens": 2, "cache_read_input_tokens": 3}
