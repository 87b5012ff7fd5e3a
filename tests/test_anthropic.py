"""The anthropic backend over real sockets: what it sends to the Messages API, and what it makes of what comes back."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import asyncllm
from anthropic_server import (
    MESSAGE_ID,
    MODEL,
    REQUEST_ID,
    block,
    call,
    error,
    event,
    message,
    repeat,
    sse,
    start,
    stop,
    streamed,
    text,
    thinking,
    whole,
)
from asyncllm import (
    APIError,
    AudioPart,
    Choice,
    Client,
    ConfigError,
    Event,
    FilePart,
    Finished,
    Grammar,
    ImagePart,
    InvalidRequestError,
    JsonSchema,
    Message,
    ReasoningBlock,
    ReasoningBlockDelta,
    ReasoningDelta,
    Regex,
    Response,
    ResponseValidationError,
    Started,
    StreamInterrupted,
    TextDelta,
    TextPart,
    Tool,
    ToolCall,
    ToolCallDelta,
    UnsupportedError,
    Usage,
    UsageReport,
)
from asyncllm.testing import FaultyServer, Op, SeenRequest, Status
from asyncllm.testing.wire import sse_event
from asyncllm_anthropic.streams import MessageStream

KEY = "sk-ant-0123456789"
PROMPT = "my canary is blue"
PNG = b"\x89PNG bytes"
SCHEMA = {"type": "object", "properties": {"word": {"type": "string"}}}
TOOL = Tool("look_up", "Look a word up.", SCHEMA)
MARK = {"type": "ephemeral"}


@asynccontextmanager
async def serving(
    script: Sequence[Op] | Callable[[SeenRequest], Sequence[Op]] = repeat, **options: Any
) -> AsyncIterator[tuple[FaultyServer, Client]]:
    """A service, and a client of it that tries once."""
    async with (
        FaultyServer(script) as server,
        Client(model="anthropic:m", base_url=server.url, api_key=KEY, retry=None, options=options, env={}) as client,
    ):
        yield server, client


async def sent(prompt: Any = PROMPT, *, options: dict[str, Any] | None = None, **call_options: Any) -> dict[str, Any]:
    """The body of a call."""
    async with serving(**options or {}) as (server, client):
        await client.chat(prompt, **call_options)
    (seen,) = server.requests
    document: dict[str, Any] = seen.json()
    return document


async def refusal(prompt: Any = PROMPT, **call_options: Any) -> asyncllm.AsyncLLMError:
    """The error for a call that is not sent."""
    async with serving() as (server, client):
        with pytest.raises(asyncllm.AsyncLLMError) as caught:
            await client.chat(prompt, **call_options)
    assert not server.requests
    return caught.value


async def heard(*events: dict[str, Any], **chat: Any) -> list[Event]:
    """What a stream is read as."""
    async with serving(streamed(sse(*events))) as (_, client), client.stream(PROMPT, **chat) as stream:
        return [one async for one in stream]


async def failure(script: Sequence[Op], *, stream: bool = True) -> APIError:
    """What a call to such a service ends in."""
    async with serving(script) as (_, client):
        with pytest.raises(APIError) as caught:
            if not stream:
                await client.chat(PROMPT)
            async with client.stream(PROMPT) as events:
                async for _ in events:
                    pass
    assert PROMPT not in str(caught.value)
    assert KEY not in str(caught.value)
    return caught.value


async def replied(document: dict[str, Any]) -> Response:
    """What a whole reply is read as."""
    async with serving(whole(document)) as (_, client):
        return await client.chat(PROMPT)


# -- addresses, keys and headers ----------------------------------------------------------------------------------


async def test_a_call_goes_to_messages_with_its_key_and_version() -> None:
    async with serving() as (server, client):
        await client.chat(PROMPT)

    (seen,) = server.requests
    assert (seen.method, seen.path) == ("POST", "/v1/messages")
    assert seen.headers["x-api-key"] == KEY
    assert seen.headers["anthropic-version"] == "2023-06-01"
    assert not {"authorization", "anthropic-beta"} & seen.headers.keys()


async def test_a_stream_is_asked_for_as_one() -> None:
    async with serving() as (server, client), client.stream(PROMPT) as stream:
        async for _ in stream:
            pass

    (seen,) = server.requests
    assert seen.json()["stream"] is True
    assert seen.headers["accept"] == "text/event-stream"


@pytest.mark.parametrize(
    ("env", "header", "value"),
    [
        ({"ANTHROPIC_API_KEY": "sk-env"}, "x-api-key", "sk-env"),
        ({"ANTHROPIC_AUTH_TOKEN": "token-env"}, "authorization", "Bearer token-env"),
        ({"ANTHROPIC_AUTH_TOKEN": "token-env", "ANTHROPIC_API_KEY": "sk-env"}, "x-api-key", "sk-env"),
    ],
)
async def test_keys_and_the_address_come_from_the_environment(env: dict[str, str], header: str, value: str) -> None:
    async with FaultyServer(repeat) as server:
        async with Client(model="anthropic:m", env={**env, "ANTHROPIC_BASE_URL": server.url}) as client:
            await client.chat(PROMPT)

    (seen,) = server.requests
    assert seen.headers[header] == value
    assert not ({"x-api-key", "authorization"} - {header}) & seen.headers.keys()


async def test_a_gateway_may_want_the_key_as_a_bearer_token() -> None:
    async with serving(bearer=True) as (server, client):
        await client.chat(PROMPT)

    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"


async def test_options_name_features_and_the_version() -> None:
    async with serving(beta=["a-1", "b-2"], version="2024-01-01") as (server, client):
        await client.chat(PROMPT)

    headers = server.requests[0].headers
    assert (headers["anthropic-beta"], headers["anthropic-version"]) == ("a-1,b-2", "2024-01-01")


async def test_an_address_may_end_in_the_version_of_its_paths() -> None:
    async with FaultyServer(repeat) as server:
        async with Client(model="anthropic:m", base_url=f"{server.url}/v1/", env={}) as client:
            await client.chat(PROMPT)

    assert server.requests[0].path == "/v1/messages"


async def test_the_services_own_address_needs_a_key_and_another_one_does_not() -> None:
    async with Client(model="anthropic:m", env={}) as client:
        with pytest.raises(ConfigError, match="ANTHROPIC_API_KEY") as caught:
            await client.chat(PROMPT)
    assert caught.value.field == "api_key"

    async with FaultyServer(repeat) as server, Client(model="anthropic:m", base_url=server.url, env={}) as client:
        assert (await client.chat(PROMPT)).text == PROMPT


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cache", "always"),
        ("max_tokens", 0),
        ("max_tokens", "9"),
        ("beta", 7),
        ("beta", [7]),
        ("bearer", "yes"),
        ("x", 1),
    ],
)
async def test_an_option_that_is_wrong_is_refused_by_name(field: str, value: object) -> None:
    async with Client(model="anthropic:m", api_key=KEY, options={field: value}, env={}) as client:
        with pytest.raises(ConfigError) as caught:
            await client.chat(PROMPT)

    assert caught.value.field == field


# -- what is sent -------------------------------------------------------------------------------------------------


async def test_a_plain_call_is_a_model_a_limit_and_a_text() -> None:
    assert await sent() == {
        "model": "m",
        "max_tokens": 10_000,
        "messages": [{"role": "user", "content": PROMPT}],
    }


async def test_the_limit_of_a_call_is_its_own_or_that_of_the_option() -> None:
    assert (await sent(max_tokens=7, options={"max_tokens": 99}))["max_tokens"] == 7
    assert (await sent(options={"max_tokens": 99}))["max_tokens"] == 99


async def test_sampling_options_have_their_own_names() -> None:
    body = await sent(temperature=0.5, top_p=0.9, top_k=5, stop=["a", "b"], extra={"metadata": {"user_id": "u"}})

    assert (body["temperature"], body["top_p"], body["top_k"]) == (0.5, 0.9, 5)
    assert body["stop_sequences"] == ["a", "b"]
    assert body["metadata"] == {"user_id": "u"}


async def test_one_stop_text_is_a_list_of_one() -> None:
    assert (await sent(stop="zebra"))["stop_sequences"] == ["zebra"]


@pytest.mark.parametrize(("option", "value"), [("temperature", 1.5), ("top_k", -1), ("reasoning_effort", "minimal")])
async def test_a_value_out_of_range_is_refused_before_it_is_sent(option: str, value: Any) -> None:
    error_ = await refusal(**{option: value})

    assert isinstance(error_, InvalidRequestError)
    assert error_.field == option


async def test_effort_goes_into_the_configuration_of_the_output() -> None:
    assert (await sent(reasoning_effort="xhigh"))["output_config"] == {"effort": "xhigh"}


async def test_a_schema_is_the_format_of_the_output_beside_what_the_caller_adds_there() -> None:
    body = await sent(constraint=JsonSchema(SCHEMA), extra={"output_config": {"effort": "low"}})

    assert body["output_config"] == {"format": {"type": "json_schema", "schema": SCHEMA}, "effort": "low"}


async def test_what_only_the_service_knows_travels_as_it_is() -> None:
    thought = {"type": "enabled", "budget_tokens": 2048}

    assert (await sent(extra={"thinking": thought}))["thinking"] == thought


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("n", {"n": 2}),
        ("seed", {"seed": 1}),
        ("presence_penalty", {"presence_penalty": 0.1}),
        ("frequency_penalty", {"frequency_penalty": 0.1}),
        ("logprobs", {"logprobs": True}),
        ("logit_bias", {"logit_bias": {"1": 1.0}}),
        ("min_p", {"min_p": 0.1}),
        ("Regex", {"constraint": Regex("a")}),
        ("Choice", {"constraint": Choice(["a"])}),
        ("Grammar", {"constraint": Grammar("a")}),
    ],
)
async def test_what_the_service_has_no_place_for_is_refused_by_name(field: str, options: dict[str, Any]) -> None:
    error_ = await refusal(**options)

    assert isinstance(error_, UnsupportedError)
    assert (error_.field, error_.backend) == (field, "anthropic")


@pytest.mark.parametrize("option", ["temperature", "top_p", "top_k"])
async def test_a_version_without_sampling_options_refuses_them_by_name(option: str) -> None:
    options: dict[str, Any] = {option: 1}
    async with serving(version="2026-10-21") as (server, client):
        assert (await client.chat(PROMPT)).text == PROMPT
        with pytest.raises(UnsupportedError) as caught:
            await client.chat(PROMPT, **options)

    assert caught.value.field == option
    assert len(server.requests) == 1


async def test_a_text_completion_is_refused() -> None:
    async with serving() as (server, client):
        with pytest.raises(UnsupportedError, match="complete"):
            await client.complete("Once")
    assert not server.requests


# -- the conversation ---------------------------------------------------------------------------------------------


async def test_system_and_developer_messages_are_the_system_text() -> None:
    body = await sent([Message("system", "Be brief."), Message("user", "Hi"), Message("developer", "In French.")])

    assert body["system"] == [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "In French."}]
    assert body["messages"] == [{"role": "user", "content": "Hi"}]


async def test_one_system_message_is_a_text() -> None:
    assert (await sent("Hi", system="Be brief."))["system"] == "Be brief."


async def test_neighbours_of_one_role_are_one_turn() -> None:
    body = await sent([Message("user", "a"), Message("user", "b"), Message("assistant", "c"), Message("user", "d")])

    assert body["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": "d"},
    ]


async def test_an_assistant_that_said_nothing_has_no_turn() -> None:
    body = await sent([Message("user", "a"), Message("assistant", ""), Message("user", "b")])

    assert [turn["role"] for turn in body["messages"]] == ["user"]


async def test_results_of_one_round_are_one_turn_of_the_user() -> None:
    calls = (ToolCall("t1", "look_up", '{"word": "tea"}'), ToolCall("t2", "look_up", ""))
    body = await sent(
        [
            Message("user", "?"),
            Message("assistant", "Wait.", calls),
            Message("tool", "a drink", tool_call_id="t1", name="look_up"),
            Message("tool", [TextPart("see"), ImagePart(data=PNG)], tool_call_id="t2"),
            Message("user", "So?"),
        ]
    )

    image = {"type": "base64", "media_type": "image/png", "data": b64encode(PNG).decode()}
    assert body["messages"][1:] == [
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "Wait."},
                {"type": "tool_use", "id": "t1", "name": "look_up", "input": {"word": "tea"}},
                {"type": "tool_use", "id": "t2", "name": "look_up", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": "a drink"},
                {
                    "type": "tool_result",
                    "tool_use_id": "t2",
                    "content": [{"type": "text", "text": "see"}, {"type": "image", "source": image}],
                },
                {"type": "text", "text": "So?"},
            ],
        },
    ]


@pytest.mark.parametrize("arguments", ['{"word": ', "[1]", '"x"', "\ud800"])
async def test_arguments_that_are_no_object_cannot_go_back(arguments: str) -> None:
    error_ = await refusal([Message("user", "?"), Message("assistant", "", (ToolCall("t", "look_up", arguments),))])

    assert isinstance(error_, InvalidRequestError)
    assert error_.field == "messages[1].tool_calls[0].arguments"


async def test_a_result_names_its_call() -> None:
    assert (await refusal([Message("tool", "x")])).field == "messages[0].tool_call_id"


async def test_a_system_text_alone_is_no_conversation() -> None:
    assert (await refusal([Message("system", "Be brief.")])).field == "messages"


async def test_a_name_is_refused() -> None:
    assert (await refusal([Message("user", "x", name="Ann")])).field == "name"


async def test_a_system_message_is_text() -> None:
    error_ = await refusal([Message("system", [ImagePart(data=PNG)]), Message("user", "x")])

    assert error_.field == "messages[0].content"


async def test_thinking_goes_back_as_it_came_before_the_calls_it_led_to() -> None:
    blocks = (
        {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
        {"type": "redacted_thinking", "data": "c2VhbGVk"},
    )
    turn = Message(
        "assistant",
        "Wait.",
        (ToolCall("t1", "look_up", "{}"),),
        reasoning="Hm.",
        reasoning_blocks=(*(ReasoningBlock("anthropic", one) for one in blocks), ReasoningBlock("other", {"x": 1})),
    )
    body = await sent([Message("user", "?"), turn, Message("tool", "x", tool_call_id="t1")])

    assert [one["type"] for one in body["messages"][1]["content"]] == [
        "thinking", "redacted_thinking", "text", "tool_use"
    ]  # fmt: skip
    assert body["messages"][1]["content"][:2] == list(blocks)


# -- images, documents, tools -------------------------------------------------------------------------------------

DATA = b64encode(PNG).decode()


@pytest.mark.parametrize(
    ("part", "block_"),
    [
        (ImagePart(url="https://x/y.png"), {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}}),
        (
            ImagePart(url=f"data:image/webp;base64,{DATA}"),
            {"type": "image", "source": {"type": "base64", "media_type": "image/webp", "data": DATA}},
        ),
        (
            ImagePart(data=PNG, media_type="image/jpeg"),
            {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": DATA}},
        ),
        (
            FilePart(data=PNG, filename="a.pdf"),
            {
                "type": "document",
                "source": {"type": "base64", "media_type": "application/pdf", "data": DATA},
                "title": "a.pdf",
            },
        ),
        (
            FilePart(data="caf\u00e9".encode(), media_type="text/plain"),
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "caf\u00e9"}},
        ),
        (FilePart(file_id="file_1"), {"type": "document", "source": {"type": "file", "file_id": "file_1"}}),
    ],
)
async def test_parts_are_blocks(part: ImagePart | FilePart, block_: dict[str, Any]) -> None:
    body = await sent([Message("user", [part, TextPart("What?"), TextPart("")])])

    assert body["messages"][0]["content"] == [block_, {"type": "text", "text": "What?"}]


@pytest.mark.parametrize(
    ("part", "field"),
    [
        (ImagePart(data=PNG, media_type="image/bmp"), "media_type"),
        (ImagePart(data=PNG, detail="low"), "detail"),
        (ImagePart(url="data:image/png,x"), "url"),
        (FilePart(data=PNG, media_type="application/zip"), "media_type"),
        (FilePart(data=b"\xff", media_type="text/plain"), "data"),
        (AudioPart(b"x"), "audio parts"),
    ],
)
async def test_a_part_that_the_service_does_not_take_is_refused(part: Any, field: str) -> None:
    assert (await refusal([Message("user", [part])])).field == field


async def test_a_tool_is_its_name_description_and_schema() -> None:
    body = await sent(tools=[TOOL, Tool("now", strict=True)])

    assert body["tools"] == [
        {"name": "look_up", "description": "Look a word up.", "input_schema": SCHEMA},
        {"name": "now", "input_schema": {"type": "object", "properties": {}}, "strict": True},
    ]
    assert "tool_choice" not in body


async def test_tools_of_the_service_stand_beside_those_of_the_caller() -> None:
    search = {"type": "web_search_20250305", "name": "web_search"}

    assert (await sent(tools=[TOOL], extra={"tools": [search]}))["tools"][1] == search


@pytest.mark.parametrize(
    ("options", "choice"),
    [
        ({"tool_choice": "auto"}, {"type": "auto"}),
        ({"tool_choice": "required"}, {"type": "any"}),
        ({"tool_choice": "none"}, {"type": "none"}),
        ({"tool_choice": "look_up"}, {"type": "tool", "name": "look_up"}),
        ({"parallel_tool_calls": False}, {"type": "auto", "disable_parallel_tool_use": True}),
        (
            {"tool_choice": "required", "parallel_tool_calls": True},
            {"type": "any", "disable_parallel_tool_use": False},
        ),
        ({"tool_choice": "none", "parallel_tool_calls": False}, {"type": "none"}),
    ],
)
async def test_which_tool_is_to_be_called(options: dict[str, Any], choice: dict[str, Any]) -> None:
    assert (await sent(tools=[TOOL], **options))["tool_choice"] == choice


# -- caching ------------------------------------------------------------------------------------------------------


async def test_nothing_is_marked_unless_the_option_says_so() -> None:
    assert "cache_control" not in str(await sent("Hi", system="Be brief.", tools=[TOOL]))


async def test_the_option_marks_the_tools_the_system_text_and_the_users_last_turns() -> None:
    turns = [Message(role, text_) for role, text_ in (("user", "a"), ("assistant", "b")) * 3]  # type: ignore[arg-type]
    body = await sent(
        [*turns, Message("user", [TextPart("c"), TextPart("d")])],
        system="Be brief.",
        tools=[Tool("now"), TOOL],
        options={"cache": "auto"},
    )

    assert body["system"] == [{"type": "text", "text": "Be brief.", "cache_control": MARK}]
    assert [tool.get("cache_control") for tool in body["tools"]] == [None, MARK]
    users = [turn["content"] for turn in body["messages"] if turn["role"] == "user"]
    assert users == [
        "a",
        "a",
        [{"type": "text", "text": "a", "cache_control": MARK}],
        [{"type": "text", "text": "c"}, {"type": "text", "text": "d", "cache_control": MARK}],
    ]
    assert str(body).count("cache_control") == 4


# -- whole replies ------------------------------------------------------------------------------------------------


async def test_a_reply_is_its_blocks_in_one_choice() -> None:
    reply = await replied(
        message(
            {"type": "thinking", "thinking": "Hm.", "signature": "c2ln", "new": 1},
            {"type": "redacted_thinking", "data": "c2VhbGVk"},
            {"type": "text", "text": "Wait"},
            {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
            {"type": "text", "text": ".", "citations": [{"type": "char_location"}]},
            {"type": "tool_use", "id": "t1", "name": "look_up", "input": {"word": "tea"}},
            {"type": "tool_use", "id": "t2", "name": "now", "input": {}},
            reason="tool_use",
        )
    )

    (choice,) = reply.choices
    assert (reply.text, reply.reasoning, reply.finish_reason) == ("Wait.", "Hm.", "tool_calls")
    assert reply.tool_calls == (ToolCall("t1", "look_up", '{"word":"tea"}'), ToolCall("t2", "now", "{}"))
    assert [one.data for one in choice.message.reasoning_blocks] == [
        {"type": "thinking", "thinking": "Hm.", "signature": "c2ln", "new": 1},
        {"type": "redacted_thinking", "data": "c2VhbGVk"},
    ]
    assert (reply.model, reply.request_id) == (MODEL, REQUEST_ID)


async def test_a_conversation_goes_on_from_a_reply() -> None:
    """What came back goes back: thinking, text and calls, in blocks like those that came."""
    content: list[dict[str, Any]] = [
        {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
        {"type": "text", "text": "Wait."},
        {"type": "tool_use", "id": "t1", "name": "look_up", "input": {"n": [1, 2.5], "word": "caf\u00e9"}},
    ]
    reply = await replied(message(*content, reason="tool_use"))

    body = await sent(
        [Message("user", "?"), reply.choices[0].message, Message("tool", "x", tool_call_id="t1")], tools=[TOOL]
    )

    assert body["messages"][1] == {"role": "assistant", "content": content}


async def test_usage_counts_what_was_read_from_a_cache_and_written_to_it_as_input() -> None:
    usage = {
        "input_tokens": 5, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 20, "output_tokens": 9,
        "output_tokens_details": {"thinking_tokens": 4}, "service_tier": "standard",
    }  # fmt: skip
    reply = await replied(message({"type": "text", "text": "Hi"}, usage=usage))

    assert reply.usage == Usage(
        input_tokens=125, output_tokens=9, cached_tokens=100, cache_write_tokens=20, reasoning_tokens=4
    )


REASONS = [
    ("end_turn", "stop"),
    ("stop_sequence", "stop"),
    ("max_tokens", "length"),
    ("model_context_window_exceeded", "length"),
    ("tool_use", "tool_calls"),
    ("refusal", "content_filter"),
    ("pause_turn", None),
    ("a_new_one", None),
]


@pytest.mark.parametrize(("word", "reason"), REASONS)
async def test_why_an_answer_ended_is_told_truly_streamed_or_not(word: str, reason: str | None) -> None:
    reply = await replied(message({"type": "text", "text": "Hi"}, reason=word))
    events = await heard(start(), *text(0, "Hi"), *stop(word))

    assert (reply.finish_reason, reply.choices[0].finish_reason_raw) == (reason, word)
    assert events[-1] == Finished(reason, word)  # type: ignore[arg-type]


async def test_what_the_service_says_of_a_refusal_is_told_streamed_or_not() -> None:
    details = {"type": "refusal", "category": "bio", "explanation": "Not this."}
    reply = await replied(message(reason="refusal", stop_details=details))
    events = await heard(start(), *stop("refusal", stop_details=details))

    assert (reply.refusal, reply.finish_reason) == ("Not this.", "content_filter")
    assert events[-2:] == [asyncllm.RefusalDelta("Not this."), Finished("content_filter", "refusal")]


@pytest.mark.parametrize(
    "content",
    [
        {"type": "text"},
        {"type": "text", "text": 7},
        {"type": "thinking", "signature": "x"},
        {"type": "redacted_thinking"},
        {"type": "tool_use", "id": "t", "name": "look_up"},
        {"type": "tool_use", "id": "t", "name": "look_up", "input": "{}"},
        {"type": "tool_use", "id": "t", "input": {}},
        {"text": "no type"},
    ],
)
async def test_a_known_block_that_cannot_be_read_is_an_error(content: dict[str, Any]) -> None:
    assert isinstance(await failure(whole(message(content)), stream=False), ResponseValidationError)


async def test_an_odd_count_costs_no_answer() -> None:
    reply = await replied(message({"type": "text", "text": "Hi"}, usage={"input_tokens": "many", "output_tokens": 3}))

    assert reply.text == "Hi"


# -- streams ------------------------------------------------------------------------------------------------------


async def test_a_stream_is_read_event_by_event() -> None:
    usage = {"input_tokens": 5, "cache_read_input_tokens": 10, "output_tokens": 1}
    events = await heard(
        start(usage=usage),
        event("ping"),
        *thinking(0, "c2ln", "H", "m."),
        *block(1, {"type": "redacted_thinking", "data": "c2VhbGVk"}),
        *text(2, "Wa", "it."),
        *call(3, "t1", "look_up", "", '{"word": ', '"tea"}'),
        *call(4, "t2", "now"),
        *stop("tool_use", {"output_tokens": 30}),
    )

    assert events == [
        Started(MODEL, REQUEST_ID),
        UsageReport(Usage(input_tokens=15, cached_tokens=10, output_tokens=1)),
        ReasoningDelta("H"),
        ReasoningDelta("m."),
        ReasoningBlockDelta(ReasoningBlock("anthropic", {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"})),
        ReasoningBlockDelta(ReasoningBlock("anthropic", {"type": "redacted_thinking", "data": "c2VhbGVk"})),
        TextDelta("Wa"),
        TextDelta("it."),
        ToolCallDelta(0, "t1", "look_up"),
        ToolCallDelta(0, arguments='{"word": '),
        ToolCallDelta(0, arguments='"tea"}'),
        ToolCallDelta(1, "t2", "now"),
        ToolCallDelta(1, arguments="{}"),
        UsageReport(Usage(input_tokens=15, cached_tokens=10, output_tokens=30)),
        Finished("tool_calls", "tool_use"),
    ]


async def test_a_call_whose_arguments_come_with_its_beginning_has_them() -> None:
    first = {"type": "tool_use", "id": "t", "name": "look_up", "input": {"word": "tea"}}
    events = await heard(start(), *block(0, first), *stop("tool_use"))

    assert events[1:3] == [ToolCallDelta(0, "t", "look_up"), ToolCallDelta(0, arguments='{"word":"tea"}')]


async def test_what_nobody_knows_yet_is_passed_over() -> None:
    query = {"type": "input_json_delta", "partial_json": '{"query"'}
    events = await heard(
        start(),
        event("a_new_event", text="ghost"),
        *block(0, {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}, query),
        *block(1, {"type": "a_new_block"}, {"type": "text_delta", "text": "ghost"}),
        *block(
            2,
            {"type": "text", "text": ""},
            {"type": "citations_delta", "citation": {"type": "char_location"}},
            {"type": "a_new_delta"},
            {"type": "text_delta", "text": "Hi"},
        ),
        *stop(),
    )

    assert [one for one in events if not isinstance(one, UsageReport)] == [
        Started(MODEL, REQUEST_ID), TextDelta("Hi"), Finished("stop", "end_turn")
    ]  # fmt: skip


async def test_thinking_that_was_not_ended_is_kept_all_the_same() -> None:
    events = await heard(start(), *thinking(0, "c2ln", "Hm.")[:-1], *stop())

    block_ = ReasoningBlock("anthropic", {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"})
    assert ReasoningBlockDelta(block_) in events


async def test_a_call_that_begins_without_arguments_has_none() -> None:
    first = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": None}
    events = await heard(start(), *block(0, first), *stop("tool_use"))

    assert [one.arguments for one in events if isinstance(one, ToolCallDelta)] == ["", "{}"]


@pytest.mark.parametrize("odd", [{"name": None}, {"input": "north"}])
async def test_a_call_that_begins_as_none_is_refused(odd: dict[str, Any]) -> None:
    first = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}, **odd}
    error_ = await failure(streamed(sse(start(), *block(0, first), *stop("tool_use"))))

    assert type(error_) is ResponseValidationError


async def test_an_odd_field_does_not_cost_the_call_beside_it() -> None:
    look = {"type": "tool_use", "id": 7, "name": "look", "input": {"where": "north"}}
    reply = await replied(message(look, reason="tool_use", usage={"input_tokens": "many"}))
    events = await heard(start(usage={"input_tokens": "many"}), *block(0, look), *stop("tool_use"))

    assert [(one.id, one.name, one.parse_arguments()) for one in reply.tool_calls] == [("7", "look", look["input"])]
    assert [one.id for one in events if isinstance(one, ToolCallDelta)] == ["7", None]


async def test_an_event_may_be_known_by_its_name_alone() -> None:
    body = sse(start(), *text(0, "Hi"), *stop()[:1]) + sse_event("{}").replace(b"data", b"event: message_stop\ndata")
    async with serving(streamed(body)) as (_, client), client.stream(PROMPT) as stream:
        events = [one async for one in stream]

    assert events[-1] == Finished("stop", "end_turn")


@pytest.mark.parametrize("ping", [b"event: ping\ndata: \n\n", b"event: ping\ndata: ping\n\n", b"data:\n\n"])
async def test_a_ping_says_nothing_in_whatever_form(ping: bytes) -> None:
    body = sse(start()) + ping + sse(*text(0, "Hi"), *stop())
    async with serving(streamed(body)) as (_, client):
        assert [piece async for piece in client.stream_text(PROMPT)] == ["Hi"]


async def test_a_reply_that_is_told_without_a_header_has_the_id_of_the_message() -> None:
    script = [Status(200, {"Content-Type": "text/event-stream"}, sse(start(), *stop()))]
    async with serving(script) as (_, client), client.stream(PROMPT) as stream:
        async for _ in stream:
            pass

    assert stream.response.request_id == MESSAGE_ID


BROKEN: dict[str, list[dict[str, Any]]] = {
    "a beginning without a message": [event("message_start")],
    "a part before the beginning": [*text(0, "Hi")],
    "an end before the beginning": [event("message_stop")],
    "a block without content": [start(), event("content_block_start", index=0)],
    "a piece of no block": [start(), text(0, "Hi")[1]],
    "a piece without a type": [start(), text(0)[0], event("content_block_delta", index=0, delta={"text": "Hi"})],
    "text in a call": [
        start(),
        *block(0, {"type": "tool_use", "id": "t", "name": "f", "input": {}}, {"type": "text_delta", "text": "x"}),
    ],
    "text without text": [start(), *block(0, {"type": "text", "text": ""}, {"type": "text_delta"})],
    "arguments without text": [
        start(), *block(0, {"type": "tool_use", "id": "t", "name": "f", "input": {}}, {"type": "input_json_delta"})
    ],
    "thinking that lost its text": [start(), *block(0, {"type": "thinking", "signature": "x"})],
    "text that is a number": [
        start(), text(0)[0], event("content_block_delta", index=0, delta={"type": "text_delta", "text": 7})
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
async def test_a_stream_that_cannot_be_read_is_an_error(name: str) -> None:
    error_ = await failure(streamed(sse(*BROKEN[name], *stop())))

    assert isinstance(error_, ResponseValidationError)
    assert error_.maybe_billed


@pytest.mark.parametrize("count", range(1, 7))
async def test_a_stream_without_its_last_event_is_interrupted_with_what_had_come(count: int) -> None:
    events = [start(), *text(0, "Hel", "lo"), *stop()]
    error_ = await failure(streamed(sse(*events[:count])))

    assert isinstance(error_, StreamInterrupted)
    assert (error_.partial.text if error_.partial else "") == ("", "", "", "Hel", "Hello", "Hello", "Hello")[count]


FAILURES = [
    ("overloaded_error", asyncllm.OverloadedError, True),
    ("rate_limit_error", asyncllm.RateLimitError, True),
    ("api_error", asyncllm.InternalServerError, True),
    ("invalid_request_error", asyncllm.BadRequestError, False),
    ("authentication_error", asyncllm.AuthenticationError, False),
    ("permission_error", asyncllm.PermissionDeniedError, False),
    ("not_found_error", asyncllm.NotFoundError, False),
    ("billing_error", asyncllm.QuotaExceededError, False),
]


@pytest.mark.parametrize(("kind", "class_", "retryable"), FAILURES)
async def test_an_error_in_a_stream_is_typed_and_has_what_had_come(
    kind: str, class_: type[APIError], retryable: bool
) -> None:
    error_ = await failure(streamed(sse(start(), *text(0, "Hel")[:2], error(kind, f"no {PROMPT} {KEY}"), *stop())))

    assert type(error_) is class_
    assert (error_.code, error_.retryable, error_.request_id) == (kind, retryable, REQUEST_ID)
    assert error_.partial is not None
    assert error_.partial.text == "Hel"


async def test_an_error_without_a_header_has_the_id_in_its_document() -> None:
    document = error("overloaded_error")
    events = [Status(200, {"Content-Type": "text/event-stream"}, sse(document))]
    reply = [Status(200, {"Content-Type": "application/json"}, msgspec.json.encode(document))]
    errors = [await failure(events), await failure(reply, stream=False)]

    assert [one.request_id for one in errors] == [REQUEST_ID] * 2


@pytest.mark.parametrize("document", [error("overloaded_error"), {"error": {"type": "overloaded_error"}}])
async def test_an_error_in_place_of_a_reply_is_the_error_it_means(document: dict[str, Any]) -> None:
    errors = [await failure(whole(document), stream=stream) for stream in (True, False)]
    errors.append(await failure(streamed(sse_event(document))))

    assert [type(one) for one in errors] == [asyncllm.OverloadedError] * 3


@pytest.mark.parametrize(
    ("status", "kind", "class_", "retryable"),
    [
        (400, "invalid_request_error", asyncllm.BadRequestError, False),
        (401, "authentication_error", asyncllm.AuthenticationError, False),
        (402, "billing_error", asyncllm.QuotaExceededError, False),
        (403, "permission_error", asyncllm.PermissionDeniedError, False),
        (404, "not_found_error", asyncllm.NotFoundError, False),
        (413, "request_too_large", asyncllm.APIStatusError, False),
        (429, "rate_limit_error", asyncllm.RateLimitError, True),
        (500, "api_error", asyncllm.InternalServerError, True),
        (529, "overloaded_error", asyncllm.OverloadedError, True),
    ],
)
async def test_a_status_is_its_error_with_the_facts_of_the_service(
    status: int, kind: str, class_: type[APIError], retryable: bool
) -> None:
    error_ = await failure(whole(error(kind, "slow down"), status, headers={"retry-after": "7"}))

    assert type(error_) is class_
    assert (error_.status, error_.code, error_.retryable) == (status, kind, retryable)
    assert (error_.message, error_.request_id, error_.retry_after_s) == ("slow down", REQUEST_ID, 7)


async def test_an_error_may_name_the_features_that_were_asked_for() -> None:
    script = whole(error("invalid_request_error", "unknown beta a-feature-of-nobody"), 400)
    async with serving(script, beta="a-feature-of-nobody") as (_, client):
        with pytest.raises(asyncllm.BadRequestError, match="a-feature-of-nobody"):
            await client.chat(PROMPT)


WHOLE_STREAM = sse(
    start(),
    *thinking(0, "c2ln", "Hm."),
    *text(1, "caf\u00e9 \U0001f30a"),
    *call(2, "t", "f", '{"a"', ": 1}"),
    *stop(),
)


@given(st.lists(st.integers(0, len(WHOLE_STREAM)), max_size=6))
def test_a_stream_reads_the_same_wherever_it_is_cut(cuts: list[int]) -> None:
    def read(*places: int) -> list[Event]:
        stream = MessageStream(request_id=None, sent=b"", secrets=())
        edges = [0, *sorted(places), len(WHOLE_STREAM)]
        found = [stream.feed(WHOLE_STREAM[a:b]) for a, b in pairwise(edges)]
        assert stream.error is None
        assert stream.done
        return [one for some in found for one in some]

    assert read(*cuts) == read()


@given(st.binary(max_size=60))
def test_no_bytes_make_a_stream_raise_where_it_is_fed(data: bytes) -> None:
    stream = MessageStream(request_id=None, sent=b"", secrets=())

    stream.feed(sse(start()) + b"data: " + data + b"\n\n")

    assert stream.error is None or isinstance(stream.error, asyncllm.AsyncLLMError)


# -- other calls --------------------------------------------------------------------------------------------------


async def test_a_prompt_is_counted_without_what_is_no_prompt() -> None:
    async with serving() as (server, client):
        check = await client.check_prompt(
            "one two three", system="Be brief.", tools=[TOOL], max_tokens=7, temperature=0.5, stop="x",
            extra={"thinking": {"type": "adaptive"}, "metadata": {"user_id": "u"}},
        )  # fmt: skip

    (seen,) = server.requests
    assert seen.path == "/v1/messages/count_tokens"
    assert seen.json().keys() == {"model", "messages", "system", "tools", "thinking"}
    assert (check.tokens, check.limit, check.max_tokens) == (3, None, 7)


async def test_models_are_listed_page_after_page() -> None:
    def answer(request: SeenRequest) -> Sequence[Op]:
        if request.path.endswith("after_id=b/1") or "after_id=b%2F1" in request.path:
            return whole({"data": [{"id": "c", "max_input_tokens": 1000}], "has_more": False, "last_id": "c"})
        return whole({"data": [{"id": "a"}, {"id": "b/1"}], "has_more": True, "last_id": "b/1"})

    async with serving(answer) as (server, client):
        models = await client.list_models()

    assert [(model.id, model.context_tokens) for model in models] == [("a", None), ("b/1", None), ("c", 1000)]
    assert [seen.method for seen in server.requests] == ["GET", "GET"]
    assert server.requests[0].path == "/v1/models?limit=1000"


async def test_a_list_that_repeats_itself_ends() -> None:
    async with serving(whole({"data": [{"id": "a"}], "has_more": True, "last_id": "a"})) as (server, client):
        assert [model.id for model in await client.list_models()] == ["a"]

    assert len(server.requests) == 2


async def test_a_service_that_takes_the_key_is_alive_and_another_is_not() -> None:
    async with serving() as (server, client):
        assert await client.is_alive()
    assert server.requests[0].path == "/v1/models?limit=1"

    async with serving(whole(error("authentication_error"), 401)) as (_, client):
        assert not await client.is_alive()
