"""The vendors' own SDKs and ours, against the same server: they send the same request and read the same reply."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import msgspec
import pytest
from mistralai.client import Mistral
from openai import AsyncAzureOpenAI, AsyncOpenAI, NotFoundError, RateLimitError

import asyncllm
from asyncllm import Client, JsonSchema, Message, ToolCall, Usage
from asyncllm.testing import FaultyServer, SeenRequest, Sse, Status, openai_chunks, openai_reply
from asyncllm.testing.ops import Op
from azure_server import KEY, Resource, refusal

USAGE = Usage(input_tokens=8, output_tokens=34, cached_tokens=4, reasoning_tokens=2)
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "look_up", "description": "Looks up.", "parameters": {"type": "object", "properties": {}}},
}
TURNS: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "What is it?"}]},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "abcdefghi", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}],
    },
    {"role": "tool", "tool_call_id": "abcdefghi", "content": "a cat"},
]
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}
Theirs: TypeAlias = Any
"""An SDK of theirs, whose types ask for TypedDicts of theirs."""
SAME_HEADERS = ("authorization", "api-key", "content-type")


def same_request(server: FaultyServer) -> None:
    """Of the two requests that came, the second is the first one."""
    first, second = server.requests
    assert (first.method, first.path) == (second.method, second.path)
    assert {name: first.headers.get(name) for name in SAME_HEADERS} == {
        name: second.headers.get(name) for name in SAME_HEADERS
    }
    assert (first.json() if first.body else None) == (second.json() if second.body else None)


def with_calls(*calls: dict[str, Any]) -> bytes:
    document = msgspec.json.decode(openai_reply("", finish="tool_calls", usage=USAGE))
    document["choices"][0]["message"] = {"role": "assistant", "content": None, "tool_calls": list(calls)}
    return msgspec.json.encode(document)


@asynccontextmanager
async def openai_pair(*ops: Op) -> AsyncIterator[tuple[FaultyServer, Theirs, Client]]:
    async with (
        FaultyServer(list(ops)) as server,
        AsyncOpenAI(base_url=f"{server.url}/v1", api_key="sk-1", max_retries=0) as theirs,
        Client(model="openai:gpt-x", base_url=f"{server.url}/v1", api_key="sk-1", retry=None) as ours,
    ):
        yield server, theirs, ours


@asynccontextmanager
async def azure_pair(
    scripts: Callable[[SeenRequest], Sequence[Op]] | Sequence[Op], **options: Any
) -> AsyncIterator[tuple[FaultyServer, Theirs, Client]]:
    async with (
        FaultyServer(scripts) as server,
        AsyncAzureOpenAI(azure_endpoint=server.url, api_key=KEY, api_version="2024-10-21", max_retries=0) as theirs,
        Client(model="azure:gpt-4o", base_url=server.url, api_key=KEY, options=options, retry=None, env={}) as ours,
    ):
        yield server, theirs, ours


# -- openai ------------------------------------------------------------------------------------------------------


async def test_openai_chat() -> None:
    async with openai_pair(Status(body=openai_reply("hello", usage=USAGE))) as (server, theirs, ours):
        one = await theirs.chat.completions.create(
            model="gpt-x",
            messages=TURNS,
            temperature=0.5,
            max_tokens=7,
            top_p=0.9,
            stop=["x"],
            seed=3,
            n=1,
            tools=[TOOL],
            tool_choice={"type": "function", "function": {"name": "look_up"}},
            parallel_tool_calls=False,
            extra_body={"user": "u"},
        )
        two = await ours.chat(
            TURNS,
            temperature=0.5,
            max_tokens=7,
            top_p=0.9,
            stop=["x"],
            seed=3,
            n=1,
            tools=[TOOL],
            tool_choice="look_up",
            parallel_tool_calls=False,
            extra={"user": "u"},
        )

    same_request(server)
    assert one.choices[0].message.content == two.text == "hello"
    assert one.choices[0].finish_reason == two.finish_reason == "stop"
    assert one.usage is not None
    assert one.usage.prompt_tokens_details is not None
    assert one.usage.completion_tokens_details is not None
    assert (two.usage.input_tokens, two.usage.output_tokens) == (one.usage.prompt_tokens, one.usage.completion_tokens)
    assert two.usage.cached_tokens == one.usage.prompt_tokens_details.cached_tokens == 4
    assert two.usage.reasoning_tokens == one.usage.completion_tokens_details.reasoning_tokens == 2
    assert (two.request_id, two.model) == (one.id, one.model)


async def test_openai_tool_calls() -> None:
    calls = [
        {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": '{"a":1}'}},
        {"id": "c2", "type": "function", "function": {"name": "look_up", "arguments": "{}"}},
    ]
    async with openai_pair(Status(body=with_calls(*calls))) as (server, theirs, ours):
        one = await theirs.chat.completions.create(
            model="gpt-x",
            messages=[{"role": "user", "content": "hi"}],
            tools=[TOOL],
            tool_choice="required",
        )
        two = await ours.chat("hi", tools=[TOOL], tool_choice="required")

    same_request(server)
    assert two.finish_reason == one.choices[0].finish_reason == "tool_calls"
    assert [(call.id, call.name, call.arguments) for call in two.tool_calls] == [
        (call.id, call.function.name, call.function.arguments) for call in one.choices[0].message.tool_calls or ()
    ]


async def test_openai_stream() -> None:
    chunks = openai_chunks(["hel", "lo ✓"], usage=USAGE)
    async with openai_pair(Sse(chunks)) as (server, theirs, ours):
        stream = await theirs.chat.completions.create(
            model="gpt-x",
            messages=[{"role": "user", "content": "hi"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        one = [chunk async for chunk in stream]
        async with ours.stream("hi") as events:
            texts = [event.text async for event in events if isinstance(event, asyncllm.TextDelta)]
        two = events.response

    same_request(server)
    assert texts == [text for chunk in one for choice in chunk.choices if (text := choice.delta.content)]
    assert one[-1].usage is not None
    assert two.usage.total_tokens == one[-1].usage.total_tokens == 42


async def test_openai_streamed_tool_calls() -> None:
    def chunk(finish: str | None = None, **delta: Any) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return {"id": "r", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}

    chunks = [
        chunk(
            tool_calls=[{"index": 0, "id": "c1", "type": "function", "function": {"name": "look_up", "arguments": ""}}]
        ),
        chunk(tool_calls=[{"index": 0, "function": {"arguments": '{"a"'}}]),
        chunk(tool_calls=[{"index": 0, "function": {"arguments": ":1}"}}]),
        chunk("tool_calls"),
    ]
    async with openai_pair(Sse(chunks)) as (server, theirs, ours):
        async with theirs.chat.completions.stream(
            model="gpt-x",
            messages=[{"role": "user", "content": "hi"}],
            tools=[TOOL],
            stream_options={"include_usage": True},
        ) as stream:
            await stream.until_done()
            one = (await stream.get_final_completion()).choices[0].message.tool_calls or []
        async with ours.stream("hi", tools=[TOOL]) as events:
            async for _ in events:
                pass

    same_request(server)
    assert events.response.tool_calls == (ToolCall("c1", "look_up", '{"a":1}'),)
    assert [(call.id, call.function.name, call.function.arguments) for call in one] == [("c1", "look_up", '{"a":1}')]


async def test_openai_structured_output() -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}
    async with openai_pair(Status(body=openai_reply('{"a":"b"}'))) as (server, theirs, ours):
        await theirs.chat.completions.create(
            model="gpt-x", messages=[{"role": "user", "content": "hi"}], response_format=form
        )
        await ours.chat("hi", constraint=JsonSchema(SCHEMA, strict=True))

    same_request(server)


async def test_openai_completion() -> None:
    choice = {"index": 0, "text": "lo", "finish_reason": "length", "logprobs": None}
    body = msgspec.json.encode({"id": "r", "model": "m", "object": "text_completion", "choices": [choice]})
    async with openai_pair(Status(body=body)) as (server, theirs, ours):
        one = await theirs.completions.create(model="gpt-x", prompt="hel", max_tokens=1, logprobs=2)
        two = await ours.complete("hel", max_tokens=1, top_logprobs=2)

    same_request(server)
    assert one.choices[0].text == two.text == "lo"
    assert one.choices[0].finish_reason == two.finish_reason == "length"


@pytest.mark.parametrize("form", ["base64", "decimals"])
async def test_openai_embeddings(form: str) -> None:
    rows: list[Any] = ["AACAPwAAAEA=", "AABAQAAAgEA="] if form == "base64" else [[1.0, 2.0], [3.0, 4.0]]
    data = [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)]
    body = {"object": "list", "data": data, "model": "e", "usage": {"prompt_tokens": 5, "total_tokens": 5}}
    async with openai_pair(Status(body=msgspec.json.encode(body))) as (server, theirs, ours):
        one = await theirs.embeddings.create(model="e", input=["a", "b"], dimensions=2)
        two = await ours.embed(["a", "b"], model="openai:e", dimensions=2)

    same_request(server)
    assert [list(vector) for vector in two] == [row.embedding for row in one.data] == [[1.0, 2.0], [3.0, 4.0]]
    assert two.usage.input_tokens == one.usage.prompt_tokens == 5


async def test_openai_models() -> None:
    body = b'{"object":"list","data":[{"id":"m","object":"model","created":1,"owned_by":"o"}]}'
    async with openai_pair(Status(body=body)) as (server, theirs, ours):
        one = (await theirs.models.list()).data
        two = await ours.list_models()

    assert [(request.method, request.path) for request in server.requests] == [("GET", "/v1/models")] * 2
    assert [(model.id, model.owned_by) for model in two] == [(model.id, model.owned_by) for model in one]


async def test_openai_rate_limit() -> None:
    error = {"message": "slow down", "type": "requests", "param": None, "code": "rate_limit_exceeded"}
    headers = {"x-request-id": "req-1", "retry-after": "3"}
    async with openai_pair(Status(429, headers, msgspec.json.encode({"error": error}))) as (_, theirs, ours):
        with pytest.raises(RateLimitError) as one:
            await theirs.chat.completions.create(model="gpt-x", messages=[{"role": "user", "content": "hi"}])
        with pytest.raises(asyncllm.RateLimitError) as two:
            await ours.chat("hi")

    assert (two.value.status, two.value.code) == (one.value.status_code, one.value.code)
    assert two.value.request_id == one.value.request_id == "req-1"
    assert two.value.retry_after_s == 3


# -- azure -------------------------------------------------------------------------------------------------------


async def test_azure_chat() -> None:
    async with azure_pair(Resource()) as (server, theirs, ours):
        one = await theirs.chat.completions.create(
            model="gpt-4o", messages=[{"role": "user", "content": "hi"}], max_completion_tokens=5
        )
        two = await ours.chat("hi", max_tokens=5)

    same_request(server)
    assert one.choices[0].message.content == two.text == "hello"
    assert one.usage is not None
    assert two.usage.total_tokens == one.usage.total_tokens


async def test_azure_stream() -> None:
    async with azure_pair(Resource()) as (server, theirs, ours):
        stream = await theirs.chat.completions.create(
            model="gpt-4o",
            messages=[{"role": "user", "content": "hi"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        one = [choice.delta.content async for chunk in stream for choice in chunk.choices if choice.delta.content]
        two = [text async for text in ours.stream_text("hi")]

    same_request(server)
    assert one == two == ["hel", "lo"]


async def test_azure_embeddings() -> None:
    async with azure_pair(Resource("e")) as (server, theirs, ours):
        one = await theirs.embeddings.create(model="e", input=["a", "bc"])
        two = await ours.embed(["a", "bc"], model="azure:e")

    same_request(server)
    assert {row.index: row.embedding for row in one.data} == {0: [1.0], 1: [2.0]}
    assert [list(vector) for vector in two] == [[1.0], [2.0]]


async def test_azure_models() -> None:
    async with azure_pair(Resource()) as (server, theirs, ours):
        one = [model.id for model in (await theirs.models.list()).data]
        two = [model.id for model in await ours.list_models()]

    first, second = server.requests
    assert (first.path, first.headers["api-key"]) == (second.path, second.headers["api-key"])
    assert one == two


async def test_azure_token() -> None:
    async def provider() -> str:
        return "token-1"

    async with FaultyServer(Resource(tokens=["token-1"])) as server:
        async with (
            AsyncAzureOpenAI(
                azure_endpoint=server.url, azure_ad_token_provider=provider, api_version="2024-10-21", max_retries=0
            ) as theirs,
            Client(model="azure:gpt-4o", base_url=server.url, options={"token_provider": provider}, env={}) as ours,
        ):
            await theirs.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "hi"}])
            await ours.chat("hi")

    same_request(server)


async def test_azure_v1() -> None:
    """By Azure's own advice, its v1 surface is called with the plain client."""
    async with FaultyServer(Resource(tokens=[KEY])) as server:
        async with (
            AsyncOpenAI(base_url=f"{server.url}/openai/v1/", api_key=KEY, max_retries=0) as theirs,
            Client(model="azure:gpt-4o", base_url=f"{server.url}/openai/v1/", api_key=KEY, env={}) as ours,
        ):
            await theirs.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "hi"}])
            await ours.chat("hi")

    first, second = server.requests
    assert (first.path, first.json()) == (second.path, second.json())
    assert (first.headers["authorization"], second.headers["api-key"]) == (f"Bearer {KEY}", KEY)


async def test_azure_unknown_deployment() -> None:
    script = refusal(404, "DeploymentNotFound", "The API deployment for this resource does not exist.")
    async with azure_pair(script) as (server, theirs, ours):
        with pytest.raises(NotFoundError) as one:
            await theirs.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "hi"}])
        with pytest.raises(asyncllm.NotFoundError) as two:
            await ours.chat("hi")

    same_request(server)
    assert one.value.code == two.value.code == "DeploymentNotFound"


# -- mistral -----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def mistral_pair(*ops: Op) -> AsyncIterator[tuple[FaultyServer, Theirs, Client]]:
    async with FaultyServer(list(ops)) as server:
        async with (
            Mistral(api_key="k", server_url=server.url) as theirs,
            Client(model="mistral:m", base_url=f"{server.url}/v1", api_key="k", retry=None) as ours,
        ):
            yield server, theirs, ours


def without_defaults(request: SeenRequest, **defaults: object) -> dict[str, Any]:
    """The body without what that SDK spells out and the service does anyway."""
    body: dict[str, Any] = request.json()
    return {name: value for name, value in body.items() if name not in defaults or value != defaults[name]}


async def test_mistral_chat_with_tools_and_thoughts() -> None:
    content = [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}, {"type": "text", "text": "42"}]
    document = msgspec.json.decode(openai_reply("", usage=Usage(input_tokens=1, output_tokens=2)))
    document["choices"][0]["message"]["content"] = content
    async with mistral_pair(Status(body=msgspec.json.encode(document))) as (server, theirs, ours):
        one = await theirs.chat.complete_async(
            model="m",
            messages=[
                {"role": "user", "content": "hi"},
                {"role": "assistant", "content": "", "tool_calls": TURNS[2]["tool_calls"]},
                {"role": "tool", "tool_call_id": "abcdefghi", "content": "a cat"},
            ],
            max_tokens=5,
            random_seed=7,
            tools=[TOOL],
            tool_choice="any",
        )
        two = await ours.chat(
            [Message("user", "hi"), Message("assistant", "", (ToolCall("abcdefghi", "look_up", "{}"),)), TURNS[3]],
            max_tokens=5,
            seed=7,
            tools=[TOOL],
            tool_choice="required",
        )

    first, second = server.requests
    assert first.path == second.path == "/v1/chat/completions"
    assert first.headers["authorization"] == second.headers["authorization"] == "Bearer k"
    assert _plain(without_defaults(first, stream=False)) == _plain(second.json())
    assert two.text == "42"
    assert two.reasoning == "Hm."
    assert [part.type for part in one.choices[0].message.content] == ["thinking", "text"]


def _plain(value: Any) -> Any:
    """The document without the members that Mistral's SDK fills with their defaults."""
    if isinstance(value, dict):
        usual = {"prefix": False, "index": 0, "strict": False, "safe_prompt": False}
        return {name: _plain(item) for name, item in value.items() if name not in usual or item != usual[name]}
    return [_plain(item) for item in value] if isinstance(value, list) else value


async def test_mistral_stream() -> None:
    chunks = openai_chunks(["hel", "lo"])
    async with mistral_pair(Sse(chunks)) as (server, theirs, ours):
        one = []
        async with await theirs.chat.stream_async(
            model="m",
            messages=[{"role": "user", "content": "hi"}],
        ) as stream:
            async for event in stream:
                one += [text for choice in event.data.choices if (text := choice.delta.content)]
        two = [text async for text in ours.stream_text("hi")]

    first, second = server.requests
    assert first.path.removesuffix("#stream") == second.path
    assert _plain(first.json()) == _plain(second.json())
    assert one == two == ["hel", "lo"]


async def test_mistral_embeddings() -> None:
    data = [{"object": "embedding", "index": 0, "embedding": [1.0, 2.0]}]
    usage = {"prompt_tokens": 5, "total_tokens": 5, "completion_tokens": 0}
    body = {"id": "e", "object": "list", "data": data, "model": "m", "usage": usage}
    async with mistral_pair(Status(body=msgspec.json.encode(body))) as (server, theirs, ours):
        one = await theirs.embeddings.create_async(
            model="m", inputs=["a"], output_dimension=2, encoding_format="base64"
        )
        two = await ours.embed(["a"], dimensions=2)

    first, second = server.requests
    assert (first.path, first.json()) == (second.path, second.json())
    assert one.data[0].embedding == list(two[0])
