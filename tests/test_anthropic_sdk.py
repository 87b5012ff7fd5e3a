"""The vendor's own SDK and ours, against one service: they send the same and read the same."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

import pytest

from anthropic_server import FRAMED, call, framed, message, sse, start, stop, streamed, text, thinking, whole
from asyncllm import (
    Client,
    FilePart,
    ImagePart,
    JsonSchema,
    Message,
    ReasoningBlock,
    Response,
    TextPart,
    Tool,
    ToolCall,
)
from asyncllm.testing import FaultyServer, Op, SeenRequest
from aws_signature import is_signed, scope

KEY, MODEL_ID = "sk-ant-0123456789", "anthropic.claude-sonnet-4-20250514-v1:0"
ARN = "arn:aws:bedrock:eu-west-1:123456789012:inference-profile/eu.anthropic.claude-sonnet-4-20250514-v1:0"
ID, SECRET, TOKEN = "AKIDEXAMPLE0001", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "IQoJb3JpZ2luX2VjEXAMPLETOKEN=="
PNG = b"\x89PNG bytes"
DATA = b64encode(PNG).decode()
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]}
THOUGHT = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
SEALED = {"type": "redacted_thinking", "data": "c2VhbGVk"}
USE = {"type": "tool_use", "id": "t1", "name": "look_up", "input": {"word": "tea"}}
BUDGET = {"type": "enabled", "budget_tokens": 2048}

CASES: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "chat": (
        "Hello",
        {"max_tokens": 9},
        {"max_tokens": 9, "messages": [{"role": "user", "content": "Hello"}]},
    ),
    "options": (
        [Message("system", "Be brief."), Message("user", "Hello"), Message("assistant", "Hi."), Message("user", "So?")],
        {
            "max_tokens": 9, "stop": ["x"], "temperature": 0.5, "top_p": 0.9, "top_k": 5, "reasoning_effort": "low",
            "constraint": JsonSchema(SCHEMA), "extra": {"metadata": {"user_id": "u"}},
        },
        {
            "max_tokens": 9,
            "system": "Be brief.",
            "messages": [
                {"role": "user", "content": "Hello"},
                {"role": "assistant", "content": "Hi."},
                {"role": "user", "content": "So?"},
            ],
            "stop_sequences": ["x"],
            "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}},
            "metadata": {"user_id": "u"},
            "extra_body": {"temperature": 0.5, "top_p": 0.9, "top_k": 5},
        },
    ),
    "tools": (
        "What is tea?",
        {
            "max_tokens": 9,
            "tools": [Tool("look_up", "Look a word up.", SCHEMA, strict=True)],
            "tool_choice": "required",
            "parallel_tool_calls": False,
        },
        {
            "max_tokens": 9,
            "messages": [{"role": "user", "content": "What is tea?"}],
            "tools": [{"name": "look_up", "description": "Look a word up.", "input_schema": SCHEMA, "strict": True}],
            "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        },
    ),
    "thinking and the results of tools": (
        [
            Message("user", "What is tea?"),
            Message(
                "assistant",
                "Wait.",
                (ToolCall("t1", "look_up", '{"word": "tea"}'), ToolCall("t2", "look_up", "{}")),
                reasoning_blocks=(ReasoningBlock("anthropic", THOUGHT), ReasoningBlock("anthropic", SEALED)),
            ),
            Message("tool", "a drink", tool_call_id="t1"),
            Message("tool", "nothing", tool_call_id="t2"),
        ],
        {"max_tokens": 4096, "tools": [Tool("look_up", parameters=SCHEMA)], "extra": {"thinking": BUDGET}},
        {
            "max_tokens": 4096,
            "messages": [
                {"role": "user", "content": "What is tea?"},
                {
                    "role": "assistant",
                    "content": [
                        THOUGHT,
                        SEALED,
                        {"type": "text", "text": "Wait."},
                        USE,
                        {"type": "tool_use", "id": "t2", "name": "look_up", "input": {}},
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": "t1", "content": "a drink"},
                        {"type": "tool_result", "tool_use_id": "t2", "content": "nothing"},
                    ],
                },
            ],
            "tools": [{"name": "look_up", "input_schema": SCHEMA}],
            "thinking": BUDGET,
        },
    ),
    "images and documents": (
        [
            Message(
                "user",
                [
                    ImagePart(data=PNG),
                    ImagePart(url="https://x/y.png"),
                    FilePart(data=PNG, filename="a.pdf"),
                    FilePart(file_id="file_1"),
                    TextPart("What is this?"),
                ],
            )
        ],
        {"max_tokens": 9},
        {
            "max_tokens": 9,
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": DATA}},
                        {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}},
                        {
                            "type": "document",
                            "source": {"type": "base64", "media_type": "application/pdf", "data": DATA},
                            "title": "a.pdf",
                        },
                        {"type": "document", "source": {"type": "file", "file_id": "file_1"}},
                        {"type": "text", "text": "What is this?"},
                    ],
                }
            ],
        },
    ),
}  # fmt: skip

COUNTS = {
    "input_tokens": 5, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 20, "output_tokens": 30,
    "output_tokens_details": {"thinking_tokens": 4},
}  # fmt: skip
CONTENT: list[dict[str, Any]] = [
    THOUGHT,
    SEALED,
    {"type": "text", "text": "Wait, caf\u00e9."},
    USE,
    {**USE, "id": "t2", "input": {}},
]
REPLY = message(*CONTENT, reason="tool_use", usage=COUNTS)
EVENTS = [
    start(usage={**COUNTS, "output_tokens": 1}),
    *thinking(0, "c2ln", "H", "m."),
    {"type": "ping"},
    {"type": "content_block_start", "index": 1, "content_block": SEALED},
    {"type": "content_block_stop", "index": 1},
    *text(2, "Wait, ", "caf\u00e9."),
    *call(3, "t1", "look_up", "", '{"wo', 'rd": "tea"}'),
    *call(4, "t2", "look_up"),
    *stop("tool_use", {"output_tokens": 30, "output_tokens_details": {"thinking_tokens": 4}}),
]


@asynccontextmanager
async def service() -> AsyncIterator[FaultyServer]:
    """A service with one answer, whole or streamed, by either address."""

    def answer(request: SeenRequest) -> Sequence[Op]:
        if request.path.endswith("-stream"):
            return streamed(framed(*EVENTS), FRAMED)
        return streamed(sse(*EVENTS)) if b'"stream":true' in request.body else whole(REPLY)

    async with FaultyServer(answer) as server:
        yield server


async def vendors(client: Any, wanted: dict[str, Any], *, stream: bool) -> dict[str, Any]:
    """What the vendor's SDK reads, in the words of its own."""
    async with client:
        if stream:
            async with client.messages.stream(**wanted) as events:
                reply = await events.get_final_message()
        else:
            reply = await client.messages.create(**wanted)
    document: dict[str, Any] = json.loads(reply.model_dump_json(exclude_none=True))
    return document


async def ours(client: Client, prompt: Any, options: dict[str, Any], *, stream: bool) -> Response:
    async with client:
        if not stream:
            return await client.chat(prompt, **options)
        async with client.stream(prompt, **options) as events:
            async for _ in events:
                pass
        return events.response


def agree(reply: Response, theirs: dict[str, Any]) -> None:
    """Assert that both have read the same."""
    usage = theirs["usage"]
    blocks: dict[str, list[Any]] = {}
    for block in theirs["content"]:
        blocks.setdefault(block["type"], []).append(block)
    assert reply.text == "".join(block["text"] for block in blocks["text"])
    assert reply.reasoning == "".join(block["thinking"] for block in blocks["thinking"])
    assert [one.data for one in reply.choices[0].message.reasoning_blocks] == [
        *blocks["thinking"],
        *blocks["redacted_thinking"],
    ]
    assert [(one.id, one.name, one.parse_arguments()) for one in reply.tool_calls] == [
        (block["id"], block["name"], block["input"]) for block in blocks["tool_use"]
    ]
    assert (reply.model, reply.choices[0].finish_reason_raw) == (theirs["model"], theirs["stop_reason"])
    assert reply.usage.output_tokens == usage["output_tokens"]
    assert (reply.usage.cached_tokens, reply.usage.cache_write_tokens, reply.usage.reasoning_tokens) == (
        usage["cache_read_input_tokens"],
        usage["cache_creation_input_tokens"],
        usage["output_tokens_details"]["thinking_tokens"],
    )
    assert reply.usage.input_tokens == sum(
        usage[name] for name in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    )


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", CASES)
async def test_anthropics_sdk_sends_and_reads_the_same(name: str, stream: bool) -> None:
    prompt, options, wanted = CASES[name]
    sdk: Any = import_module("anthropic")
    async with service() as server:
        version = {"anthropic-version": "2023-06-01"}
        client = sdk.AsyncAnthropic(api_key=KEY, base_url=server.url, max_retries=0, default_headers=version)
        theirs = await vendors(client, {"model": "m", **wanted}, stream=stream)
        # Since its second major version the SDK sends a key as a bearer token; the service takes both.
        client = Client(model="anthropic:m", base_url=server.url, api_key=KEY, options={"bearer": True}, env={})
        reply = await ours(client, prompt, options, stream=stream)

    first, second = server.requests
    assert (second.method, second.path, second.json()) == (first.method, first.path, first.json())
    for header in ("authorization", "anthropic-version", "content-type"):
        assert second.headers[header] == first.headers[header]
    agree(reply, theirs)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", [MODEL_ID, ARN])
@pytest.mark.parametrize("name", CASES)
async def test_its_client_for_bedrock_sends_signs_and_reads_the_same(name: str, model: str, stream: bool) -> None:
    prompt, options, wanted = CASES[name]
    sdk: Any = import_module("anthropic")
    async with service() as server:
        client = sdk.AsyncAnthropicBedrock(
            aws_access_key=ID, aws_secret_key=SECRET, aws_session_token=TOKEN, aws_region="eu-west-1",
            base_url=server.url, max_retries=0,
        )  # fmt: skip
        extra = {"anthropic_version": "bedrock-2023-05-31", **wanted.get("extra_body", {})}
        theirs = await vendors(client, {"model": model, **wanted, "extra_body": extra}, stream=stream)
        keys = {"access_key_id": ID, "secret_access_key": SECRET, "session_token": TOKEN, "region": "eu-west-1"}
        client = Client(model=f"bedrock:{model}", base_url=server.url, options=keys, env={})
        reply = await ours(client, prompt, options, stream=stream)

    first, second = server.requests
    assert (second.method, second.path, second.json()) == (first.method, first.path, first.json())
    for seen in (first, second):
        assert scope(seen) == (ID, "eu-west-1", "bedrock")
        assert is_signed(seen, SECRET)
        assert seen.headers["x-amz-security-token"] == TOKEN
    agree(reply, theirs)


async def test_the_version_that_the_sdk_has_by_default_is_an_option_of_ours() -> None:
    sdk: Any = import_module("anthropic")
    async with service() as server:
        client = sdk.AsyncAnthropic(api_key=KEY, base_url=server.url, max_retries=0)
        theirs = await vendors(client, {"model": "m", **CASES["chat"][2]}, stream=False)
        options = {"version": "2026-10-21", "bearer": True}
        client = Client(model="anthropic:m", base_url=server.url, api_key=KEY, options=options, env={})
        reply = await ours(client, "Hello", {"max_tokens": 9}, stream=False)

    first, second = server.requests
    assert second.headers["anthropic-version"] == first.headers["anthropic-version"]
    agree(reply, theirs)


async def test_both_send_a_key_of_bedrock_as_a_bearer_token() -> None:
    sdk: Any = import_module("anthropic")
    async with service() as server:
        client = sdk.AsyncAnthropicBedrock(api_key="bedrock-1", aws_region="x-1", base_url=server.url, max_retries=0)
        await vendors(client, {"model": MODEL_ID, **CASES["chat"][2]}, stream=False)
        async with Client(model=f"bedrock:{MODEL_ID}", base_url=server.url, api_key="bedrock-1", env={}) as client:
            await client.chat("Hello")

    first, second = server.requests
    assert second.headers["authorization"] == first.headers["authorization"] == "Bearer bedrock-1"


async def test_both_count_a_prompt_by_the_same_request() -> None:
    sdk: Any = import_module("anthropic")
    async with FaultyServer(whole({"input_tokens": 12})) as server:
        async with sdk.AsyncAnthropic(api_key=KEY, base_url=server.url, max_retries=0) as client:
            counted = await client.messages.count_tokens(
                model="m", messages=[{"role": "user", "content": "Hello"}], system="Be brief."
            )
        async with Client(model="anthropic:m", base_url=server.url, api_key=KEY, env={}) as client:
            check = await client.check_prompt("Hello", system="Be brief.", max_tokens=5)

    first, second = server.requests
    assert (second.method, second.path, second.json()) == (first.method, first.path, first.json())
    assert check.tokens == counted.input_tokens
