"""OpenAI's Responses API as we serve it, to OpenAI's own SDK, to our client and on the wire."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import openai
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import ResponseStreamEvent

from asyncllm import Client, InternalServerError, InvalidRequestError, UnsupportedError
from asyncllm.collect import collect
from asyncllm.dialect.responses import ResponseStream
from asyncllm.errors import AsyncLLMError, RateLimitError
from asyncllm.events import (
    Event,
    Finished,
    LogprobsDelta,
    ReasoningBlockDelta,
    ReasoningDelta,
    RefusalDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    UsageReport,
)
from asyncllm.server import ServerSettings
from asyncllm.server.responses.answers import write_head
from asyncllm.server.responses.events import ResponseWriter
from asyncllm.server.responses.served import read_responses_request
from asyncllm.testing import FaultyServer, Op, ScriptedBackend, SeenRequest, Stall
from asyncllm.testing.scripted_backend import Script
from asyncllm.types import (
    AudioPart,
    FilePart,
    ImagePart,
    JsonSchema,
    Message,
    ReasoningBlock,
    Request,
    Response,
    TextPart,
    TokenLogprob,
    Tool,
    ToolCall,
    Usage,
)
from responses_server import answering, event, response, streamed
from served import served, server_of

TOOL: Any = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}, "strict": False}
USAGE = UsageReport(Usage(input_tokens=7, output_tokens=5, cached_tokens=2, reasoning_tokens=1))
SEALED = {"type": "reasoning", "id": "rs_9", "summary": [], "encrypted_content": "c2VhbGVk"}
ANSWER: list[Event] = [
    Started("upstream's name"), ReasoningDelta("It "), ReasoningDelta("rains."),
    TextDelta("Let me"), TextDelta(" see."),
    ToolCallDelta(0, "call_1", "weather"), ToolCallDelta(0, arguments='{"city": '),
    ToolCallDelta(1, "call_2", "weather", "{}"), ToolCallDelta(0, arguments='"Oslo"}'), USAGE, Finished("tool_calls"),
]  # fmt: skip


@asynccontextmanager
async def sdk_of(url: str) -> AsyncGenerator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{url}/v1", api_key="k", max_retries=0, _strict_response_validation=True
    ) as sdk:
        yield sdk


@asynccontextmanager
async def playing(*script: Script, **settings: Any) -> AsyncGenerator[tuple[openai.AsyncOpenAI, ScriptedBackend]]:
    """OpenAI's SDK before a server whose backend plays scripts."""
    backend = ScriptedBackend(script)
    async with Client(model="scripted:m", backend=backend, retry=None) as client:
        async with served(client, models={"m": "scripted:m"}, **settings) as url, sdk_of(url) as sdk:
            yield sdk, backend


async def test_a_text_is_answered() -> None:
    async with server_of("echo:x") as url, sdk_of(url) as sdk:
        reply = await sdk.responses.create(
            model="echo:x",
            input="one two three",
            instructions="Be brief",
            max_output_tokens=2,
            metadata={"a": "b"},
            store=True,
        )

    assert (reply.output_text, reply.status, reply.model) == ("one two", "incomplete", "echo:x")
    assert reply.incomplete_details is not None
    assert reply.incomplete_details.reason == "max_output_tokens"
    assert (reply.instructions, reply.metadata, reply.max_output_tokens) == ("Be brief", {"a": "b"}, 2)
    assert reply.model_dump()["store"] is False
    assert reply.usage is not None
    assert (reply.usage.output_tokens, reply._request_id) == (2, reply.id.removeprefix("resp_"))


async def test_thinking_words_and_calls_are_items() -> None:
    async with playing(ANSWER) as (sdk, backend):
        reply = await sdk.responses.create(
            model="m", input="Rain?", tools=[TOOL], tool_choice={"type": "function", "name": "weather"},
            parallel_tool_calls=False, reasoning={"effort": "low"}, top_p=0.5,
        )  # fmt: skip

    assert [item.type for item in reply.output] == ["reasoning", "message", "function_call", "function_call"]
    thought, said, call, _ = reply.output
    assert thought.type == "reasoning"
    assert thought.content is not None
    assert thought.content[0].text == "It rains."
    assert said.type == "message"
    assert reply.output_text == "Let me see."
    assert call.type == "function_call"
    assert (call.call_id, call.name, call.arguments) == ("call_1", "weather", '{"city": "Oslo"}')
    assert reply.usage is not None
    assert (reply.usage.total_tokens, reply.usage.input_tokens_details.cached_tokens) == (12, 2)
    (asked,) = backend.requests
    assert (asked.tools[0].name, asked.tool_choice, asked.parallel_tool_calls) == ("weather", "weather", False)
    assert (asked.sampling.reasoning_effort, asked.sampling.top_p) == ("low", 0.5)


async def test_every_step_of_a_streamed_answer_is_told() -> None:
    async with playing(ANSWER) as (sdk, _):
        stream = await sdk.responses.create(model="m", input="Rain?", stream=True)
        events = [one async for one in stream]
        async with sdk.responses.stream(model="m", input="Rain?") as accumulated:
            whole = await accumulated.get_final_response()

    call = ["output_item.added", "function_call_arguments.delta"]
    assert [one.type.removeprefix("response.") for one in events] == [
        "created", "in_progress",
        "output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.delta",
        "reasoning_text.done", "content_part.done", "output_item.done",
        "output_item.added", "content_part.added", "output_text.delta", "output_text.delta", "output_text.done",
        "content_part.done", "output_item.done",
        *call, *call, "function_call_arguments.delta",
        *["function_call_arguments.done", "output_item.done"] * 2,
        "completed",
    ]  # fmt: skip
    assert [one.sequence_number for one in events] == list(range(len(events)))
    assert [item.arguments for item in whole.output if item.type == "function_call"] == ['{"city": "Oslo"}', "{}"]
    assert whole.output_text == "Let me see."
    assert whole.usage is not None
    assert whole.usage.total_tokens == 12


class City(pydantic.BaseModel):
    name: str


async def test_an_answer_to_a_schema_is_parsed() -> None:
    async with playing([TextDelta('{"name": "Oslo"}'), Finished("stop")]) as (sdk, backend):
        reply = await sdk.responses.parse(model="m", input="Where?", text_format=City)
        async with sdk.responses.stream(model="m", input="Where?", text_format=City) as stream:
            whole = await stream.get_final_response()

    assert reply.output_parsed == whole.output_parsed == City(name="Oslo")
    constraint = backend.requests[0].constraint
    assert isinstance(constraint, JsonSchema)
    assert (constraint.name, constraint.strict, constraint.schema["type"]) == ("City", True, "object")


async def test_a_refusal_is_a_part_of_its_own() -> None:
    async with playing([TextDelta("Hm. "), RefusalDelta("I "), RefusalDelta("won't"), Finished("stop")]) as (sdk, _):
        async with sdk.responses.stream(model="m", input="Do it") as stream:
            kinds = [one.type async for one in stream]
            whole = await stream.get_final_response()
        reply = await sdk.responses.create(model="m", input="Do it")

    both: list[Any] = [whole, reply]
    for one in both:
        (item,) = one.output
        assert item.type == "message"
        assert item.content[1].type == "refusal"
        assert item.content[1].refusal == "I won't"
    assert kinds.count("response.refusal.delta") == 2
    assert "response.refusal.done" in kinds


async def test_log_probabilities_stand_with_their_text() -> None:
    token = TokenLogprob("Hi", -0.5, top=(TokenLogprob("Hi", -0.5),))
    async with playing([TextDelta("Hi"), LogprobsDelta((token,)), Finished("stop")]) as (sdk, backend):
        asked: Any = {"model": "m", "input": "Hey", "include": ["message.output_text.logprobs"], "top_logprobs": 1}
        reply = await sdk.responses.create(**asked)
        async with sdk.responses.stream(**asked) as stream:
            whole = await stream.get_final_response()

    both: list[Any] = [reply, whole]
    for one in both:
        (item,) = one.output
        assert item.type == "message"
        assert item.content[0].type == "output_text"
        (told,) = item.content[0].logprobs
        assert (told.token, told.bytes, told.top_logprobs[0].logprob) == ("Hi", [72, 105], -0.5)
    assert (backend.requests[0].sampling.logprobs, backend.requests[0].sampling.top_logprobs) == (True, 1)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (RateLimitError("slower", status=429), 429, "rate_limit_exceeded"),
        (InternalServerError("it broke", status=500), 500, "server_error"),
    ],
)
async def test_a_failure_is_a_status_before_the_first_word_and_two_events_after_it(
    error: AsyncLLMError, status: int, code: str
) -> None:
    async with playing(error, [TextDelta("one"), error]) as (sdk, _):
        with pytest.raises(openai.APIStatusError) as before:
            await sdk.responses.create(model="m", input="Hi")
        seen: list[Any] = []
        with pytest.raises(openai.APIError) as after:
            async for one in await sdk.responses.create(model="m", input="Hi", stream=True):
                seen.append(one)  # noqa: PERF401  # what came before the error counts

    assert before.value.status_code == status
    assert error.message in after.value.message
    assert seen[-1].type == "response.failed"
    assert seen[-1].response.error.code == code
    assert seen[-1].response.output_text == "one"


async def test_our_own_client_reads_what_we_serve() -> None:
    options = {"api": "responses"}
    async with playing(ANSWER) as (sdk, _):
        url = str(sdk.base_url)
        async with Client(model="openai:m", base_url=url, api_key="k", options=options, retry=None) as client:
            whole = await client.chat("Rain?")
            async with client.stream("Rain?") as stream:
                assert [one async for one in stream]

    for reply in (whole, stream.response):
        assert (reply.text, reply.usage.total_tokens, reply.finish_reason) == ("Let me see.", 12, "tool_calls")
        assert [(call.id, call.arguments) for call in reply.tool_calls] == [
            ("call_1", '{"city": "Oslo"}'), ("call_2", "{}")
        ]  # fmt: skip
        assert reply.choices[0].message.reasoning == "It rains."


async def test_sealed_thinking_goes_through_to_the_service_behind_and_back() -> None:
    items: list[Any] = [
        {**SEALED, "summary": [{"type": "summary_text", "text": "Think."}]},
        {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "weather", "arguments": "{}"},
    ]
    events = [
        event("response.created", response=response(status="in_progress")),
        event("response.reasoning_summary_text.delta", output_index=0, summary_index=0, delta="Think."),
        *(event("response.output_item.done", output_index=at, item=item) for at, item in enumerate(items)),
        event("response.completed", response=response(*items)),
    ]

    def service(request: SeenRequest) -> Sequence[Op]:
        return streamed(events) if request.json().get("stream") else answering(request)

    async with FaultyServer(service) as upstream:
        options = {"api": "responses"}
        async with (
            Client(model="openai:m", base_url=f"{upstream.url}/v1", api_key="k", options=options, retry=None) as client,
            served(client) as url,
            sdk_of(url) as sdk,
        ):
            name = (await sdk.models.list()).data[0].id
            async with sdk.responses.stream(model=name, input="Rain?", tools=[TOOL]) as stream:
                first = await stream.get_final_response()
            turns: list[Any] = [{"role": "user", "content": "Rain?"}]
            turns += [item.model_dump(exclude_none=True, exclude={"parsed_arguments"}) for item in first.output]
            turns += [
                {"type": "function_call_output", "call_id": "call_1", "output": "dry"},
                {"role": "user", "content": "So?"},
            ]
            await sdk.responses.create(model=name, input=turns)

    sent = upstream.requests[1].json()["input"]
    assert [item for item in sent if item.get("type") == "reasoning"] == [items[0]]
    assert [item.get("type") or item["role"] for item in sent] == [
        "user", "reasoning", "function_call", "function_call_output", "user"
    ]  # fmt: skip


# -- what is asked -----------------------------------------------------------------------------------------------


def read(**body: Any) -> Request:
    return read_responses_request(json.dumps({"model": "m", **body}).encode(), ServerSettings(max_messages=3))


def test_items_become_turns() -> None:
    png = f"data:image/png;base64,{base64.b64encode(b'png').decode()}"
    data = base64.b64encode(b"pdf").decode()
    asked = read(
        instructions="Be brief",
        input=[
            {"role": "developer", "content": "In verse"},
            {
                "type": "message",
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "look"},
                    {"type": "input_image", "image_url": png, "detail": "low"},
                    {"type": "input_file", "file_data": f"data:application/pdf;base64,{data}", "filename": "a.pdf"},
                    {"type": "input_audio", "input_audio": {"data": data, "format": "mp3"}},
                ],
            },
            {"role": "assistant", "content": "I see"},
        ],
        tools=[TOOL],
        text={"format": {"type": "json_object"}},
        truncation="auto",
        user="u",
    )

    assert asked.messages == (
        Message("system", "Be brief"),
        Message("developer", "In verse"),
        Message(
            "user",
            (
                TextPart("look"),
                ImagePart(url=png, detail="low"),
                FilePart(data=b"pdf", filename="a.pdf", media_type="application/pdf"),
                AudioPart(b"pdf", "mp3"),
            ),
        ),
        Message("assistant", "I see"),
    )
    assert asked.tools == (Tool("weather", parameters=TOOL["parameters"], strict=False),)
    assert asked.extra["response_format"] == {"type": "json_object"}


def test_what_a_model_did_is_one_turn_and_its_thinking_goes_with_it() -> None:
    output = [{"type": "output_text", "text": "Let me see.", "annotations": []}, {"type": "refusal", "refusal": "No"}]
    thought = {"type": "reasoning", "id": "rs_made_1", "content": [{"type": "reasoning_text", "text": "hm"}]}
    settings = ServerSettings()

    asked = read_responses_request(
        json.dumps(
            {
                "input": [
                    thought,
                    SEALED,
                    {"type": "message", "role": "assistant", "id": "msg_1", "content": output},
                    {**SEALED, "id": "rs_10"},
                    {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
                    {"type": "function_call", "call_id": "c2", "name": "f", "arguments": "{}"},
                    {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "a"}]},
                    {"type": "function_call_output", "call_id": "c2", "output": "b"},
                    {"role": "assistant", "content": "One"},
                    {"role": "assistant", "content": "Two"},
                ]
            }
        ).encode(),
        settings,
    )

    assert asked.messages == (
        Message(
            "assistant",
            "Let me see.",
            (ToolCall("c1", "f", "{}", "rs_10"), ToolCall("c2", "f", "{}")),
            reasoning="hm",
            refusal="No",
            reasoning_blocks=(ReasoningBlock("openai", SEALED), ReasoningBlock("openai", {**SEALED, "id": "rs_10"})),
        ),
        Message("tool", "a", tool_call_id="c1"),
        Message("tool", "b", tool_call_id="c2"),
        Message("assistant", "One"),
        Message("assistant", "Two"),
    )


USER = {"role": "user", "content": "Hi"}


def user(part: Any) -> list[Any]:
    return [{"role": "user", "content": [part]}]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": [SEALED]}, "input"),
        ({"input": [USER] * 4}, "input"),
        ({"input": ["Hi"]}, "input[0]"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
        ({"input": [USER, {"role": "user"}]}, "input[1].content"),
        ({"input": [{"role": "assistant", "content": 5}]}, "input[0].content"),
        ({"input": [{"role": "assistant", "content": [{"type": "refusal"}]}]}, "input[0].content[0].refusal"),
        ({"input": [{"type": "web_search_call"}]}, "input[0].type"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]"),
        ({"input": [{"type": "function_call", "call_id": "c", "name": "f"}]}, "input[0].arguments"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0].call_id"),
        ({"input": [{"type": "function_call_output", "call_id": "c"}]}, "input[0].output"),
        ({"input": [{"type": "reasoning", "content": "x"}]}, "input[0].content"),
        ({"input": [{"type": "reasoning", "content": ["x"]}]}, "input[0].content[0]"),
        ({"input": user("x")}, "input[0].content[0]"),
        ({"input": user({"type": "smell"})}, "input[0].content[0]"),
        ({"input": user({"type": "input_text"})}, "input[0].content[0].text"),
        ({"input": user({"type": "input_image", "image_url": "https://x/y.png"})}, "input[0].content[0]"),
        ({"input": user({"type": "input_image", "file_id": "file_1"})}, "input[0].content[0]"),
        ({"input": user({"type": "input_file", "file_url": "https://x"})}, "input[0].content[0].file_url"),
        ({"input": user({"type": "input_file", "file_data": "x"})}, "input[0].content[0].file_data"),
        ({"input": user({"type": "input_audio"})}, "input[0].content[0].input_audio"),
        (
            {"input": user({"type": "input_audio", "input_audio": {"data": "?", "format": "wav"}})},
            "input[0].content[0].input_audio.data",
        ),
        ({"input": "x", "previous_response_id": "resp_1"}, "previous_response_id"),
        ({"input": "x", "conversation": {"id": "c"}}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"input": "x", "background": True}, "background"),
        ({"input": "x", "truncation": "some"}, "truncation"),
        ({"input": "x", "metadata": {"a": 1}}, "metadata"),
        ({"input": "x", "metadata": {str(one): "" for one in range(17)}}, "metadata"),
        ({"input": "x", "tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"input": "x", "tools": [{"type": "function"}]}, "tools[0].name"),
        ({"input": "x", "tool_choice": "perhaps"}, "tool_choice"),
        ({"input": "x", "tool_choice": {"type": "function"}}, "tool_choice.name"),
        ({"input": "x", "tool_choice": {"type": "web_search"}}, "tool_choice.type"),
        ({"input": "x", "text": {"format": {"type": "yaml"}}}, "text.format.type"),
        ({"input": "x", "text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
        ({"input": "x", "reasoning": {"effort": 5}}, "reasoning.effort"),
        ({"input": "x", "max_output_tokens": 0}, "max_output_tokens"),
        ({"input": "x", "temperature": -1}, "temperature"),
        ({"input": "x", "top_logprobs": -1}, "top_logprobs"),
        ({"input": "x", "stream": "yes"}, "stream"),
    ],
)  # fmt: skip
def test_what_cannot_be_right_is_named(body: Any, field: str) -> None:
    with pytest.raises((InvalidRequestError, UnsupportedError)) as caught:
        read(**body)

    assert caught.value.field == field


async def test_a_body_that_cannot_be_right_is_refused_with_the_name_of_its_field() -> None:
    async with server_of("echo:x") as url, aiohttp.ClientSession() as http:
        async with http.post(f"{url}/v1/responses", json={"input": "x", "previous_response_id": "resp_1"}) as reply:
            told = (await reply.json())["error"]

    assert (reply.status, told["param"], told["type"]) == (400, "previous_response_id", "invalid_request_error")


# -- how it is streamed ------------------------------------------------------------------------------------------


async def test_a_silence_is_broken_by_an_event_that_every_reader_knows() -> None:
    script: Script = [TextDelta("one"), 0.2, TextDelta(" two"), Finished("stop")]
    async with playing(script, keep_alive_s=0.02) as (sdk, _):
        async with sdk.responses.stream(model="m", input="Hi") as stream:
            kinds = [one.type async for one in stream]
            whole = await stream.get_final_response()

    assert kinds.count("response.in_progress") > 2
    assert whole.output_text == "one two"


async def test_the_work_ends_when_the_client_goes() -> None:
    async with playing([TextDelta("one"), Stall()]) as (sdk, backend):
        stream = await sdk.responses.create(model="m", input="Hi", stream=True)
        async for one in stream:
            if one.type == "response.output_text.delta":
                break
        await stream.close()
        async with asyncio.timeout(10):
            while backend.closed < 1:  # noqa: ASYNC110  # it tells nobody
                await asyncio.sleep(0.01)

    assert backend.opened == backend.closed == 1


def test_an_item_of_thinking_that_is_told_again_stands_once_in_the_end() -> None:
    block = ReasoningBlock("openai", {**SEALED, "summary": [{"type": "summary_text", "text": "hm"}]})
    writer = made()

    events = documents(writer.write([ReasoningDelta("hm"), ReasoningBlockDelta(block), TextDelta("Hi")]) + writer.end())

    assert [item["id"] for item in events[-1]["response"]["output"]] == ["rs_9", "msg_r_2"]


def test_calls_of_one_id_are_told_apart() -> None:
    calls: list[Event] = [
        ToolCallDelta(0, "c", "f", "{}"),
        ToolCallDelta(1, "c", "g", "{}"),
        ToolCallDelta(2, None, "h"),
    ]
    writer = made()

    output = documents(writer.write(calls) + writer.end())[-1]["response"]["output"]

    assert [(item["call_id"], item["name"]) for item in output] == [("c", "f"), ("c_2", "g"), ("call_2", "h")]


def made() -> ResponseWriter:
    return ResponseWriter(write_head(b'{"input": "x"}', id_="resp_r", model="m", created=1), id_="r")


def documents(written: bytes) -> list[Any]:
    events = written.decode().split("\n\n")
    assert events.pop() == ""
    read = [json.loads(event.partition("\ndata: ")[2]) for event in events]
    assert [event.partition("\n")[0] for event in events] == [f"event: {one['type']}" for one in read]
    assert [one["sequence_number"] for one in read] == list(range(len(read)))
    return read


words = st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=5)
deltas = st.one_of(
    st.builds(TextDelta, words),
    st.builds(TextDelta, words),
    st.builds(RefusalDelta, words),
    st.builds(ReasoningDelta, words),
    st.builds(LogprobsDelta, st.just((TokenLogprob("a", -0.5),))),
    st.builds(
        ToolCallDelta,
        st.none() | st.integers(0, 2),
        st.none() | st.sampled_from(["c1", "c2", "c3"]),
        st.none() | st.sampled_from(["f", "g"]),
        words,
    ),
    st.builds(UsageReport, st.builds(Usage, input_tokens=st.integers(0, 9), output_tokens=st.integers(0, 9))),
    st.just(TextDelta("of another choice", 1)),
)  # fmt: skip
batches = st.lists(st.lists(deltas, max_size=6), max_size=5)
endings = st.sampled_from(["stop", "tool_calls", "length", "content_filter", None])
_EVENT: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(ResponseStreamEvent)


def by_sdk(events: Sequence[Any]) -> Any:
    """What OpenAI's SDK puts together, each event strictly as its types say."""
    state: ResponseStreamState[None] = ResponseStreamState(input_tools=openai.omit, text_format=openai.omit)
    parsed = [_EVENT.validate_python(one) for one in events]
    fired: list[Any] = [out for one in parsed for out in state.handle_event(one)]
    return fired[-1].response


def calls_of(response: Response) -> list[tuple[str, str]]:
    return sorted((call.name, call.arguments) for call in response.tool_calls)


@given(batches, endings)
def test_any_answer_is_the_same_to_the_sdk_and_to_our_client(given_: list[list[Event]], reason: Any) -> None:
    events: list[Event] = [*(event for batch in given_ for event in batch), Finished(reason)]
    folded = collect(event for event in events if getattr(event, "index", 0) == 0)
    writer = made()

    written = b"".join(writer.write(batch) for batch in given_) + writer.write([Finished(reason)]) + writer.end()

    whole = by_sdk(documents(written))
    said = [part for item in whole.output if item.type == "message" for part in item.content]
    told = [item for item in whole.output if item.type == "function_call"]
    assert whole.output_text == folded.text
    assert "".join(part.refusal for part in said if part.type == "refusal") == (folded.choices[0].message.refusal or "")
    assert sorted((call.name, call.arguments) for call in told) == calls_of(folded)
    assert len({call.call_id for call in told}) == len(told)
    ids = [call.id for call in folded.tool_calls]
    if len(set(ids)) == len(ids):
        assert sorted(call.call_id for call in told) == sorted(ids)
    assert (whole.usage.input_tokens if whole.usage else None) == folded.usage.input_tokens

    stream = ResponseStream()
    again = collect([*stream.feed(written), *stream.close()])
    assert stream.error is None
    assert (again.text, calls_of(again)) == (folded.text, calls_of(folded))
    thought = (again.choices[0].message.reasoning or "").replace("\n\n", "")
    assert thought == (folded.choices[0].message.reasoning or "")
