"""The Responses API: what is sent, what is read, whole and event by event, and the same as the vendor's own SDK."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import msgspec
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

import asyncllm
from asyncllm import (
    APIError,
    Client,
    ConfigError,
    FilePart,
    Finished,
    ImagePart,
    InvalidRequestError,
    JsonSchema,
    Message,
    ReasoningBlock,
    Request,
    Response,
    ResponseValidationError,
    Sampling,
    StreamInterrupted,
    TextPart,
    Tool,
    ToolCall,
    UnsupportedError,
    Usage,
)
from asyncllm.collect import collect
from asyncllm.dialect.responses import ResponseStream, read_response, write_response
from asyncllm.events import Event, Skipped
from asyncllm.testing import FaultyServer, SeenRequest, Status
from asyncllm.testing.ops import Op
from responses_server import ResponsesDialect, answering, call_item, event, message_item, response, streamed

CALL = ToolCall("call_1", "look_up", '{"word": "tea"}')
TOOL = Tool("look_up", "Look a word up.", {"type": "object", "properties": {"word": {"type": "string"}}}, strict=False)
REASONING = {
    "type": "reasoning",
    "id": "rs_1",
    "summary": [{"type": "summary_text", "text": "Think."}, {"type": "summary_text", "text": "Again."}],
    "encrypted_content": "c2VhbGVk",
}
USAGE = Usage(input_tokens=21, output_tokens=9, cached_tokens=16, cache_write_tokens=2, reasoning_tokens=4)
SAY = ResponsesDialect()


def body_of(*messages: Message, **options: Any) -> dict[str, Any]:
    """What is sent for `messages`."""
    body: dict[str, Any] = msgspec.json.decode(write_response(Request(model="m", messages=messages, **options)))
    return body


def input_of(*messages: Message) -> list[Any]:
    items: list[Any] = body_of(*messages)["input"]
    return items


def read_stream(*frames: bytes, **options: Any) -> list[Event]:
    """Events of a stream that must be whole."""
    stream = ResponseStream(**options)
    events = [one for frame in frames for one in stream.feed(frame)]
    if stream.error is not None:
        raise stream.error
    return events + stream.close()


def folded(*frames: bytes) -> Response:
    return collect(read_stream(*frames))


def read_whole(*output: dict[str, Any], **fields: Any) -> Response:
    return collect(read_response(msgspec.json.encode(response(*output, **fields))))


def without_body(reply: Response) -> Response:
    return msgspec.structs.replace(reply, body=None)


@asynccontextmanager
async def serving(script: Any = answering, **options: Any) -> AsyncIterator[tuple[FaultyServer, Client]]:
    async with (
        FaultyServer(script) as server,
        Client(
            model="openai:m", base_url=f"{server.url}/v1", api_key="sk-1234", retry=None,
            options={"api": "responses", **options},
        ) as client,
    ):  # fmt: skip
        yield server, client


# -- what is sent ------------------------------------------------------------------------------------------------


async def test_the_option_sends_calls_to_the_responses_api() -> None:
    async with serving() as (server, client):
        reply = await client.chat("Hello there", max_tokens=20, temperature=0.5, top_p=0.9)

    (seen,) = server.requests
    assert (seen.method, seen.path) == ("POST", "/v1/responses")
    assert seen.headers["authorization"] == "Bearer sk-1234"
    assert seen.json() == {
        "model": "m",
        "input": [{"role": "user", "content": "Hello there"}],
        "store": False,
        "max_output_tokens": 20,
        "temperature": 0.5,
        "top_p": 0.9,
    }
    assert (reply.text, reply.finish_reason, reply.model, reply.request_id) == (
        "Hello there", "stop", "fake-model", "resp_fake"
    )  # fmt: skip


def test_system_messages_keep_their_places() -> None:
    roles = ("system", "user", "assistant", "developer", "user")

    items = input_of(*(Message(role, f"as {role}") for role in roles))  # type: ignore[arg-type]

    assert items == [{"role": role, "content": f"as {role}"} for role in roles]


def test_parts_of_a_user_are_input_parts() -> None:
    (item,) = input_of(
        Message(
            "user",
            (
                TextPart("What is this?"),
                ImagePart(url="https://example.com/a.png"),
                ImagePart(data=b"png", detail="low"),
                FilePart(file_id="file_1"),
                FilePart(data=b"pdf", filename="a.pdf"),
            ),
        )
    )

    assert item["content"] == [
        {"type": "input_text", "text": "What is this?"},
        {"type": "input_image", "image_url": "https://example.com/a.png", "detail": "auto"},
        {"type": "input_image", "image_url": "data:image/png;base64,cG5n", "detail": "low"},
        {"type": "input_file", "file_id": "file_1"},
        {"type": "input_file", "file_data": "data:application/pdf;base64,cGRm", "filename": "a.pdf"},
    ]


def test_a_tool_call_and_its_result_are_items_of_their_own() -> None:
    items = input_of(
        Message("user", "What is tea?"),
        Message("assistant", "Let me see.", (CALL,)),
        Message("tool", "a drink", tool_call_id="call_1"),
    )

    assert items[1:] == [
        {"role": "assistant", "content": "Let me see."},
        {"type": "function_call", "call_id": "call_1", "name": "look_up", "arguments": '{"word": "tea"}'},
        {"type": "function_call_output", "call_id": "call_1", "output": "a drink"},
    ]


def test_a_result_in_parts_stays_in_parts() -> None:
    (item,) = input_of(Message("tool", (TextPart("a drink"), ImagePart(data=b"png")), tool_call_id="call_1"))

    assert [part["type"] for part in item["output"]] == ["input_text", "input_image"]


def test_an_assistants_refusal_is_a_part_of_its_own() -> None:
    (item,) = input_of(Message("assistant", "Well,", refusal="no."))

    assert item["content"] == [{"type": "output_text", "text": "Well,"}, {"type": "refusal", "refusal": "no."}]


def test_thinking_goes_back_unchanged_and_before_what_followed_from_it() -> None:
    second = {**REASONING, "id": "rs_2", "encrypted_content": "YW5vdGhlcg=="}
    later = ToolCall("call_2", "look_up", "{}")
    output = [REASONING, call_item(CALL), second, call_item(later, identity="fc_2")]

    message = read_whole(*output).choices[0].message
    items = input_of(message)

    assert [item.get("call_id", item.get("id")) for item in items] == ["rs_1", "call_1", "rs_2", "call_2"]
    assert items[0] == REASONING


def test_thinking_that_was_not_sealed_goes_back_only_where_it_is_stored() -> None:
    unsealed: dict[str, Any] = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": None}
    spoken = {**unsealed, "id": "rs_2", "content": [{"type": "reasoning_text", "text": "Think."}]}
    blocks = (ReasoningBlock("openai", unsealed), ReasoningBlock("openai", spoken))
    message = Message("assistant", "Hi.", reasoning_blocks=blocks)

    said = {"role": "assistant", "content": "Hi."}
    assert input_of(message) == [spoken, said]
    assert body_of(message, extra={"store": True})["input"] == [unsealed, spoken, said]


@pytest.mark.parametrize("odd", [{"delta": {"a": 1}}, {"arguments": {"a": 1}}, {"part": "x"}, {"response": "x"}])
def test_events_of_types_that_are_not_read_may_have_fields_of_any_type(odd: dict[str, Any]) -> None:
    reply = folded(SAY.start(), event("response.mcp_call_arguments.delta", **odd), SAY.text("Hi."), SAY.end())

    assert reply.text == "Hi."


def test_an_event_that_is_read_has_fields_of_its_types() -> None:
    with pytest.raises(ResponseValidationError, match="delta"):
        folded(SAY.start(), event("response.function_call_arguments.delta", delta={"a": 1}), SAY.end())


def test_thinking_in_another_providers_form_stays_at_home() -> None:
    blocks = (ReasoningBlock("anthropic", {"type": "thinking"}), ReasoningBlock("openai", REASONING))

    items = input_of(Message("assistant", "Hi.", reasoning_blocks=blocks))

    assert items == [REASONING, {"role": "assistant", "content": "Hi."}]


def test_tools_are_flat() -> None:
    body = body_of(Message("user", "?"), tools=(TOOL,), tool_choice="look_up", parallel_tool_calls=False)

    assert body["tools"] == [
        {
            "type": "function",
            "name": "look_up",
            "description": "Look a word up.",
            "parameters": TOOL.parameters,
            "strict": False,
        }
    ]
    assert body["tool_choice"] == {"type": "function", "name": "look_up"}
    assert body["parallel_tool_calls"] is False


def test_the_words_for_choosing_a_tool_are_sent_as_they_are() -> None:
    assert body_of(Message("user", "?"), tools=(TOOL,), tool_choice="required")["tool_choice"] == "required"


def test_a_schema_is_a_format_of_text() -> None:
    body = body_of(Message("user", "?"), constraint=JsonSchema({"type": "object"}, name="point", strict=True))

    assert body["text"] == {
        "format": {"type": "json_schema", "name": "point", "schema": {"type": "object"}, "strict": True}
    }


def test_probabilities_are_asked_for_by_name() -> None:
    one = body_of(Message("user", "?"), sampling=Sampling(logprobs=True))
    two = body_of(Message("user", "?"), sampling=Sampling(top_logprobs=3))

    assert (one["include"], one.get("top_logprobs")) == (["message.output_text.logprobs"], None)
    assert (two["include"], two["top_logprobs"]) == (["message.output_text.logprobs"], 3)


def test_thinking_is_asked_for_sealed_where_nothing_is_stored() -> None:
    effort = Sampling(reasoning_effort="low")

    closed = body_of(Message("user", "?"), sampling=effort)
    stored = body_of(Message("user", "?"), sampling=effort, extra={"store": True})

    assert (closed["reasoning"], closed["include"]) == ({"effort": "low"}, ["reasoning.encrypted_content"])
    assert (stored["store"], "include" in stored) == (True, False)


def test_extra_goes_on_top_and_into_what_the_options_have_put_there() -> None:
    extra = {
        "previous_response_id": "resp_0",
        "instructions": "Be brief.",
        "reasoning": {"summary": "auto"},
        "text": {"verbosity": "low"},
        "include": ["file_search_call.results"],
    }

    body = body_of(
        Message("user", "?"),
        sampling=Sampling(reasoning_effort="high", logprobs=True),
        constraint=JsonSchema({"type": "object"}),
        extra=extra,
    )

    assert (body["previous_response_id"], body["instructions"]) == ("resp_0", "Be brief.")
    assert body["reasoning"] == {"effort": "high", "summary": "auto"}
    assert body["text"]["verbosity"] == "low"
    assert body["text"]["format"]["type"] == "json_schema"
    assert set(body["include"]) == {
        "message.output_text.logprobs", "file_search_call.results", "reasoning.encrypted_content"
    }  # fmt: skip


@pytest.mark.parametrize(
    "option",
    [{"n": 2}, {"stop": "x"}, {"seed": 1}, {"presence_penalty": 1}, {"frequency_penalty": 1}, {"logit_bias": {"1": 1}}],
)
async def test_an_option_without_a_place_is_refused_by_name(option: Any) -> None:
    async with serving() as (server, client):
        with pytest.raises(UnsupportedError) as caught:
            await client.chat("hi", **option)

    assert caught.value.field == next(iter(option))
    assert not server.requests


async def test_a_text_completion_is_refused_by_name() -> None:
    async with serving() as (server, client):
        with pytest.raises(UnsupportedError) as caught:
            await client.complete("Once")

    assert caught.value.field == "complete"
    assert not server.requests


@pytest.mark.parametrize(
    ("message", "kind", "field"),
    [
        (Message("user", "hi", name="ada"), UnsupportedError, "name"),
        (Message("tool", "4"), InvalidRequestError, "messages[0].tool_call_id"),
        (Message("assistant", (ImagePart(data=b"png"),)), InvalidRequestError, "messages[0].content"),
    ],
)
def test_a_message_without_a_place_is_refused_by_name(message: Message, kind: type[Exception], field: str) -> None:
    with pytest.raises(kind) as caught:
        body_of(message)

    assert caught.value.field == field  # type: ignore[attr-defined]


@pytest.mark.parametrize("option", ["delta_mode", "include_usage", "max_tokens_field"])
async def test_options_of_chats_are_none_of_responses(option: str) -> None:
    async with serving(**{option: "x"}) as (_, client):
        with pytest.raises(ConfigError) as caught:
            await client.chat("hi")

    assert caught.value.field == option


# -- whole responses ---------------------------------------------------------------------------------------------


def test_usage_has_all_its_shares() -> None:
    assert read_whole(message_item("hi"), usage=USAGE).usage == USAGE


def test_the_text_of_a_response_is_that_of_all_its_messages() -> None:
    reply = read_whole(message_item("One. "), {"type": "web_search_call", "id": "ws_1"}, message_item("Two."))

    assert (reply.text, reply.finish_reason, reply.choices[0].finish_reason_raw) == ("One. Two.", "stop", "completed")


def test_calls_are_read_and_are_the_reason_for_the_end() -> None:
    reply = read_whole(message_item("Wait."), call_item(CALL))

    assert (reply.tool_calls, reply.finish_reason) == ((CALL,), "tool_calls")


def test_arguments_that_come_decoded_are_json_again() -> None:
    reply = read_whole({**call_item(CALL), "arguments": {"word": "tea"}})

    assert reply.tool_calls[0].parse_arguments() == {"word": "tea"}


def test_a_refusal_is_no_text() -> None:
    item = {**message_item(""), "content": [{"type": "refusal", "refusal": "I will not."}]}

    reply = read_whole(item)

    assert (reply.text, reply.refusal) == ("", "I will not.")


def test_thinking_is_read_in_paragraphs_and_kept_as_it_came() -> None:
    reply = read_whole(REASONING, message_item("Hi."))

    assert reply.reasoning == "Think.\n\nAgain."
    assert reply.choices[0].message.reasoning_blocks == (ReasoningBlock("openai", REASONING),)


@pytest.mark.parametrize(
    ("why", "reason"), [("max_output_tokens", "length"), ("content_filter", "content_filter"), ("steered", None)]
)
def test_an_incomplete_response_says_why(why: str, reason: str | None) -> None:
    reply = read_whole(message_item("Hi"), call_item(CALL), status="incomplete", incomplete_details={"reason": why})

    assert (reply.finish_reason, reply.choices[0].finish_reason_raw) == (reason, why)


@pytest.mark.parametrize("status", ["queued", "in_progress", "cancelled"])
def test_a_response_that_has_not_ended_is_no_answer(status: str) -> None:
    with pytest.raises(ResponseValidationError, match=status):
        read_whole(status=status)


FAILURES: list[tuple[str, type[APIError], bool]] = [
    ("server_error", asyncllm.InternalServerError, True),
    ("rate_limit_exceeded", asyncllm.RateLimitError, True),
    ("invalid_prompt", asyncllm.BadRequestError, False),
    ("image_too_large", asyncllm.BadRequestError, False),
    ("image_content_policy_violation", asyncllm.ContentFilterError, False),
]


@pytest.mark.parametrize(("code", "kind", "retryable"), FAILURES)
def test_a_response_that_failed_is_its_error(code: str, kind: type[APIError], retryable: bool) -> None:
    failed = response(status="failed", error={"code": code, "message": "it broke"})
    stream = ResponseStream()

    with pytest.raises(APIError) as whole:
        read_response(msgspec.json.encode(failed))
    stream.feed(SAY.start() + event("response.failed", response=failed))

    for error in (whole.value, stream.error):
        assert type(error) is kind
        assert (error.code, error.message, error.retryable) == (code, "it broke", retryable)


def test_odd_fields_beside_an_answer_do_not_cost_it() -> None:
    odd = {"input_tokens": "many", "output_tokens": 3, "output_tokens_details": []}
    item = message_item("Hi.", logprobs=[{"token": "Hi.", "logprob": None}])

    reply = collect(read_response(msgspec.json.encode({**response(item), "usage": odd, "id": 7})))

    assert (reply.text, reply.usage, reply.request_id) == ("Hi.", Usage(output_tokens=3), "7")


# -- streams -----------------------------------------------------------------------------------------------------


def delta(text: str, number: int | None = None, **place: Any) -> bytes:
    numbered = {} if number is None else {"sequence_number": number}
    at = {"item_id": "msg_1", "output_index": 0, "content_index": 0, **place}
    return event("response.output_text.delta", delta=text, **at, **numbered)


def done(text: str) -> bytes:
    return event("response.output_text.done", item_id="msg_1", output_index=0, content_index=0, text=text)


def full_stream() -> list[bytes]:
    """A stream with everything in it, numbered and said several times over, as the service does."""
    place = {"item_id": "rs_1", "output_index": 0}
    told: list[tuple[str, dict[str, Any]]] = [
        ("response.created", {"response": response(status="in_progress")}),
        ("response.output_item.added", {"output_index": 0, "item": {**REASONING, "summary": []}}),
    ]
    for index, part in enumerate(REASONING["summary"]):
        text: str = part["text"]  # type: ignore[index]
        told += [
            ("response.reasoning_summary_part.added", {**place, "summary_index": index, "part": part}),
            ("response.reasoning_summary_text.delta", {**place, "summary_index": index, "delta": text[:3]}),
            ("response.reasoning_summary_text.delta", {**place, "summary_index": index, "delta": text[3:]}),
            ("response.reasoning_summary_text.done", {**place, "summary_index": index, "text": text}),
        ]
    message = message_item("Caf\u00e9 \U0001f30a.")
    at = {"item_id": "msg_1", "output_index": 1, "content_index": 0}
    call = {"item_id": "fc_1", "output_index": 2}
    told += [
        ("response.output_item.done", {"output_index": 0, "item": REASONING}),
        ("response.output_item.added", {"output_index": 1, "item": {**message, "content": []}}),
        ("response.content_part.added", {**at, "part": {"type": "output_text", "text": ""}}),
        ("response.output_text.delta", {**at, "delta": "Caf\u00e9 ", "logprobs": []}),
        ("response.output_text.delta", {**at, "delta": "\U0001f30a."}),
        ("response.output_text.done", {**at, "text": "Caf\u00e9 \U0001f30a."}),
        ("response.content_part.done", {**at, "part": message["content"][0]}),
        ("response.output_item.done", {"output_index": 1, "item": message}),
        ("response.output_item.added", {"output_index": 2, "item": {**call_item(CALL), "arguments": ""}}),
        ("response.function_call_arguments.delta", {**call, "delta": CALL.arguments[:5]}),
        ("response.function_call_arguments.delta", {**call, "delta": CALL.arguments[5:]}),
        ("response.function_call_arguments.done", {**call, "arguments": CALL.arguments}),
        ("response.output_item.done", {"output_index": 2, "item": call_item(CALL)}),
        ("response.completed", {"response": response(REASONING, message, call_item(CALL), usage=USAGE)}),
    ]
    return [event(kind, **fields, sequence_number=number) for number, (kind, fields) in enumerate(told)]


FULL = full_stream()
WHOLE = without_body(read_whole(REASONING, message_item("Caf\u00e9 \U0001f30a."), call_item(CALL), usage=USAGE))


def test_a_stream_amounts_to_the_whole_response() -> None:
    assert folded(*FULL) == WHOLE


@given(st.lists(st.integers(0, sum(map(len, FULL))), max_size=8))
def test_any_split_of_the_bytes_gives_the_same_events(cuts: list[int]) -> None:
    body = b"".join(FULL)
    edges = [0, *sorted(cuts), len(body)]

    assert read_stream(*(body[start:end] for start, end in pairwise(edges))) == read_stream(body)


LAST = len(FULL) - 1
DELTAS = [number for number, frame in enumerate(FULL) if b".delta" in frame]
_LOSSES = st.sets(st.integers(1, LAST - 1))


@given(_LOSSES)
def test_events_that_are_lost_lose_and_double_nothing_or_end_the_call(lost: set[int]) -> None:
    try:
        reply = folded(*(frame for number, frame in enumerate(FULL) if number not in lost))
    except ResponseValidationError:
        assert lost & set(DELTAS)
        return

    assert (reply.text, reply.usage, reply.finish_reason) == (WHOLE.text, WHOLE.usage, WHOLE.finish_reason)
    assert [(call.id, call.name, call.arguments) for call in reply.tool_calls] == [
        ("call_1", "look_up", '{"word": "tea"}')
    ]
    assert reply.choices[0].message.reasoning_blocks == WHOLE.choices[0].message.reasoning_blocks


@given(st.lists(st.integers(0, LAST - 1), max_size=6))
def test_numbered_events_that_are_repeated_count_once(repeated: list[int]) -> None:
    frames = FULL.copy()
    for number in sorted(repeated, reverse=True):
        frames.insert(max(number + 1, 2), FULL[number])  # once the server is seen to count

    assert folded(*frames) == WHOLE


@given(st.lists(st.binary(max_size=40) | st.sampled_from(FULL), max_size=12))
def test_no_bytes_raise_anything_but_errors_of_the_tree(pieces: list[bytes]) -> None:
    stream = ResponseStream()
    for piece in pieces:
        stream.feed(piece)
        if stream.error is not None:
            assert isinstance(stream.error, APIError)
            return
    if not stream.done:
        with pytest.raises(APIError):
            stream.close()


_FIELDS = st.sampled_from(
    ["output", "type", "content", "text", "summary", "arguments", "usage", "status", "error", "id"]
)
_LEAVES = st.none() | st.booleans() | st.integers() | st.sampled_from(["message", "reasoning", "function_call", "x"])
_JSON = st.recursive(_LEAVES, lambda inner: st.lists(inner) | st.dictionaries(_FIELDS, inner))


@given(st.dictionaries(_FIELDS, _JSON) | _JSON)
def test_no_document_raises_anything_but_errors_of_the_tree(document: Any) -> None:
    try:
        read_response(msgspec.json.encode(document))
    except APIError:
        pass


def test_one_number_for_every_event_is_no_repeat() -> None:
    assert folded(SAY.start(), delta("a", 0), delta("a", 0), SAY.end()).text == "aa"


def test_a_text_that_only_its_end_tells_is_told() -> None:
    assert folded(SAY.start(), delta("Hel"), done("Hello"), SAY.end()).text == "Hello"


def test_a_response_that_only_its_end_tells_is_told() -> None:
    end = event("response.completed", response=response(REASONING, message_item("Hi."), call_item(CALL)))

    assert folded(end) == without_body(read_whole(REASONING, message_item("Hi."), call_item(CALL)))


def test_items_that_are_numbered_otherwise_at_the_end_are_not_doubled() -> None:
    end = event("response.completed", response=response(message_item("Hi.", identity="x"), call_item(CALL)))
    frames = [SAY.start(), delta("Hi.", output_index=3), SAY.call(6, call_id="call_1", name="look_up"), end]

    reply = folded(*frames)

    assert (reply.text, reply.tool_calls) == ("Hi.", (CALL,))


def test_a_second_item_under_one_index_begins_anew() -> None:
    first, second = (message_item(text, identity=text) for text in ("One.", "Two."))
    frames = [SAY.start()]
    for item in (first, second):
        frames.append(event("response.output_item.added", output_index=0, item={**item, "content": []}))
        frames += [delta(item["id"]), event("response.output_item.done", output_index=0, item=item)]

    assert folded(*frames, event("response.completed", response=response(first, second))).text == "One.Two."


def test_a_piece_that_was_lost_in_the_middle_is_an_error() -> None:
    stream = ResponseStream()
    events = stream.feed(SAY.start() + delta("a") + delta("c") + done("abc"))

    assert isinstance(stream.error, ResponseValidationError)
    assert collect(events).text == "ac"
    assert stream.error.maybe_billed
    assert "abc" not in str(stream.error)


def test_a_text_that_is_trimmed_at_its_end_is_the_same_text() -> None:
    assert folded(SAY.start(), delta(" Hi.\n"), done("Hi."), SAY.end()).text == " Hi.\n"


def test_pieces_of_a_call_may_come_before_its_name() -> None:
    frames = [
        SAY.call(0, arguments='{"word"'),
        SAY.call(0, call_id="call_1", name="look_up"),
        SAY.call(0, arguments=': "tea"}'),
    ]

    assert folded(SAY.start(), *frames, SAY.end()).tool_calls == (CALL,)


def test_thinking_in_the_open_is_told_as_it_comes() -> None:
    place = {"item_id": "rs_1", "output_index": 0, "content_index": 0}
    frames = [event("response.reasoning_text.delta", **place, delta=text) for text in ("So ", "then.")]

    reply = folded(SAY.start(), *frames, event("response.reasoning_text.done", **place, text="So then."), SAY.end())

    assert reply.reasoning == "So then."


def test_refusals_are_told_as_they_come() -> None:
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    frames = [
        event("response.refusal.delta", **place, delta="I will"),
        event("response.refusal.done", **place, refusal="I will not."),
    ]

    assert folded(SAY.start(), *frames, SAY.end()).refusal == "I will not."


def test_events_of_types_that_are_not_read_are_passed_over() -> None:
    frames = [event("response.web_search_call.searching", item_id="ws_1"), event("moon.phase"), b"data: ping\n\n"]

    assert folded(SAY.start(), *frames, delta("Hi."), *frames, SAY.end()).text == "Hi."


def test_an_incomplete_stream_is_an_end_with_its_reason() -> None:
    cut = response(status="incomplete", incomplete_details={"reason": "max_output_tokens"})

    events = read_stream(SAY.start(), delta("Hi"), event("response.incomplete", response=cut))

    assert events[-1] == Finished("length", "max_output_tokens")


@pytest.mark.parametrize("end", [b"", b"data: [DONE]\n\n", event("response.output_item.done", output_index=0)])
def test_a_body_that_ends_without_a_terminal_event_is_interrupted(end: bytes) -> None:
    with pytest.raises(StreamInterrupted):
        read_stream(SAY.start(), delta("Hi"), end)


@pytest.mark.parametrize(
    "frame",
    [
        event("error", code="rate_limit_exceeded", message="slow down", param=None, sequence_number=3),
        b'data: {"type":"error","error":{"code":"rate_limit_exceeded","message":"slow down"}}\n\n',
        b'data: {"error":{"code":"rate_limit_exceeded","message":"slow down"}}\n\n',
    ],
)
def test_an_error_in_a_stream_is_typed(frame: bytes) -> None:
    stream = ResponseStream()
    events = stream.feed(SAY.start() + delta("Hi") + frame)

    assert type(stream.error) is asyncllm.RateLimitError
    assert stream.error.message == "slow down"
    assert collect(events).text == "Hi"


async def test_a_stream_that_fails_keeps_what_had_come() -> None:
    failed = event("response.failed", response=response(status="failed", error={"code": "server_error"}))
    async with serving(streamed([SAY.start(), delta("Hi"), failed])) as (_, client):
        with pytest.raises(asyncllm.InternalServerError) as caught:
            async with client.stream("hi") as stream:
                async for _ in stream:
                    pass

    assert caught.value.partial is not None
    assert caught.value.partial.text == "Hi"


async def test_a_bad_event_is_left_out_where_the_option_says_so() -> None:
    bad = b'event: response.output_text.delta\ndata: {"type"\n\n'
    async with serving(streamed([SAY.start(), bad, delta("Hi"), SAY.end()]), on_bad_event="skip") as (_, client):
        async with client.stream("hi") as stream:
            events = [one async for one in stream]

    assert [one for one in events if isinstance(one, Skipped)] == [Skipped(1)]
    assert stream.response.text == "Hi"


def test_a_bad_event_ends_the_call_by_its_place() -> None:
    stream = ResponseStream()
    stream.feed(SAY.start() + b'data: {"type"\n\n')

    assert isinstance(stream.error, ResponseValidationError)
    assert "event 1" in stream.error.message


# -- the vendor's own SDK ----------------------------------------------------------------------------------------

SCHEMA = {"type": "object", "properties": {"answer": {"type": "boolean"}}}
ASKED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a text": ({"prompt": "Hello there"}, {"input": [{"role": "user", "content": "Hello there"}]}),
    "a system and limits": (
        {"prompt": "Hi", "system": "Be brief.", "max_tokens": 32, "temperature": 0.2, "top_p": 0.5},
        {
            "input": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
            "max_output_tokens": 32,
            "temperature": 0.2,
            "top_p": 0.5,
        },
    ),
    "tools": (
        {"prompt": "Hi", "tools": [TOOL], "tool_choice": "look_up", "parallel_tool_calls": False},
        {
            "input": [{"role": "user", "content": "Hi"}],
            "tools": [
                {
                    "type": "function",
                    "name": "look_up",
                    "description": "Look a word up.",
                    "parameters": TOOL.parameters,
                    "strict": False,
                }
            ],
            "tool_choice": {"type": "function", "name": "look_up"},
            "parallel_tool_calls": False,
        },
    ),
    "a schema": (
        {"prompt": "Hi", "constraint": JsonSchema(SCHEMA, strict=True)},
        {
            "input": [{"role": "user", "content": "Hi"}],
            "text": {"format": {"type": "json_schema", "name": "answer", "schema": SCHEMA, "strict": True}},
        },
    ),
    "probabilities and effort": (
        {"prompt": "Hi", "top_logprobs": 2, "reasoning_effort": "low"},
        {
            "input": [{"role": "user", "content": "Hi"}],
            "top_logprobs": 2,
            "include": ["message.output_text.logprobs", "reasoning.encrypted_content"],
            "reasoning": {"effort": "low"},
        },
    ),
    "a result": (
        {
            "prompt": [
                Message("user", "What is tea?"),
                Message("assistant", "", (CALL,)),
                Message("tool", "a drink", tool_call_id="call_1"),
                Message("user", (TextPart("and "), ImagePart(url="https://example.com/a.png"))),
            ],
            "extra": {"previous_response_id": "resp_0", "store": True},
        },
        {
            "input": [
                {"role": "user", "content": "What is tea?"},
                {"type": "function_call", "call_id": "call_1", "name": "look_up", "arguments": '{"word": "tea"}'},
                {"type": "function_call_output", "call_id": "call_1", "output": "a drink"},
                {
                    "role": "user",
                    "content": [
                        {"type": "input_text", "text": "and "},
                        {"type": "input_image", "image_url": "https://example.com/a.png", "detail": "auto"},
                    ],
                },
            ],
            "previous_response_id": "resp_0",
            "store": True,
        },
    ),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("what", ASKED)
async def test_the_vendors_sdk_sends_the_same_request(what: str, stream: bool) -> None:
    ours, theirs = ASKED[what]
    async with serving() as (server, client):
        prompt, options = ours["prompt"], {name: value for name, value in ours.items() if name != "prompt"}
        if stream:
            async with client.stream(prompt, **options) as events:
                assert [one async for one in events]
        else:
            await client.chat(prompt, **options)
        streaming = {"stream": True} if stream else {}
        async with openai.AsyncOpenAI(api_key="sk-1234", base_url=f"{server.url}/v1", max_retries=0) as sdk:
            reply: Any = await sdk.responses.create(**{"model": "m", "store": False, **theirs, **streaming})
            if stream:
                assert [one async for one in reply]
        mine, vendors = server.requests

    assert mine.json() == vendors.json()
    assert (mine.method, mine.path) == (vendors.method, vendors.path)
    assert mine.headers["authorization"] == vendors.headers["authorization"]


async def test_the_vendors_sdk_reads_the_same_reply() -> None:
    def full(request: SeenRequest) -> Sequence[Op]:
        whole = response(REASONING, message_item("Caf\u00e9 \U0001f30a."), call_item(CALL), usage=USAGE)
        return streamed(FULL) if request.json().get("stream") else [Status(body=msgspec.json.encode(whole))]

    async with serving(full) as (server, client):
        reply = await client.chat("hi")
        async with client.stream("hi") as stream:
            async for _ in stream:
                pass
        async with openai.AsyncOpenAI(api_key="sk-1234", base_url=f"{server.url}/v1", max_retries=0) as sdk:
            whole = await sdk.responses.create(model="m", input="hi")
            async with sdk.responses.stream(model="m", input="hi") as events:
                async for _ in events:
                    pass
                final = await events.get_final_response()

    for one, other in ((reply, whole), (stream.response, final)):
        (call,) = [item for item in other.output if item.type == "function_call"]
        assert other.usage is not None
        assert (one.text, one.request_id, one.model) == (other.output_text, other.id, other.model)
        assert one.tool_calls == (ToolCall(call.call_id, call.name, call.arguments),)
        assert one.usage == Usage(
            input_tokens=other.usage.input_tokens,
            output_tokens=other.usage.output_tokens,
            cached_tokens=other.usage.input_tokens_details.cached_tokens,
            cache_write_tokens=other.usage.input_tokens_details.cache_write_tokens,
            reasoning_tokens=other.usage.output_tokens_details.reasoning_tokens,
        )
