"""OpenRouter: its reasoning, sent back as it came; what it charges; its errors in the middle of a stream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import asyncllm
from asyncllm import APIError, Client, Event, FinishReason, Message, Price, ReasoningBlock, ReasoningBlockDelta
from asyncllm.dialect import ReplyStream
from asyncllm.testing import Comment, FaultyServer, SeenRequest, Sse, Status
from asyncllm.testing.ops import Op
from chunks import HELLO, HELLO_EVENTS, sse

TEXT = {
    "type": "reasoning.text",
    "text": "Let me think.",
    "signature": "sig",
    "format": "anthropic-claude-v1",
    "index": 0,
}
SEALED = {"type": "reasoning.encrypted", "data": "c2VhbGVk", "id": "r1", "index": 1}


def whole(message: Mapping[str, Any], **fields: Any) -> bytes:
    choice = {"index": 0, "finish_reason": "stop", "native_finish_reason": "STOP", "message": message}
    return msgspec.json.encode({"id": "gen-1", "provider": "P", "model": "a/m", "choices": [choice], **fields})


def chunk(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "gen-1", "provider": "P", "model": "a/m", "choices": [choice]}


@asynccontextmanager
async def serving(*ops: Op) -> AsyncIterator[tuple[FaultyServer, Client]]:
    async with (
        FaultyServer(list(ops)) as server,
        Client(model="openrouter:a/m", base_url=f"{server.url}/api/v1", api_key="k", retry=None) as client,
    ):
        yield server, client


async def streamed(*chunks: Mapping[str, Any] | Comment) -> asyncllm.Response:
    async with serving(Sse(chunks)) as (_, client), client.stream("hi") as stream:
        async for _event in stream:
            pass
        return stream.response


async def test_usage_is_asked_for_with_its_cost_and_the_cost_is_the_services_own() -> None:
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "cost": 0.00125,
        "cost_details": {"upstream_inference_cost": None},
    }
    async with serving(Status(body=whole({"content": "hello"}, usage=usage))) as (server, client):
        reply = await client.chat("hi")

    assert server.requests[0].json()["usage"] == {"include": True}
    assert (reply.usage.cost_usd, reply.cost_usd) == (0.00125, 0.00125)


async def test_what_the_service_charges_wins_over_a_price_of_ones_own() -> None:
    body = whole({"content": "hello"}, usage={"prompt_tokens": 1_000_000, "completion_tokens": 0, "cost": 0})
    prices = {"openrouter:a/m": Price(input_usd=3, output_usd=3)}
    async with (
        FaultyServer([Status(body=body)]) as server,
        Client(model="openrouter:a/m", base_url=server.url, api_key="k", prices=prices) as client,
    ):
        reply = await client.chat("hi")

    assert reply.cost_usd == 0


async def test_a_budget_counts_what_the_service_charges() -> None:
    body = whole({"content": "hello"}, usage={"prompt_tokens": 1, "completion_tokens": 1, "cost": 0.5})
    budget = asyncllm.budget(usd=10)
    async with (
        FaultyServer([Status(body=body)]) as server,
        Client(
            model="openrouter:a/m",
            base_url=server.url,
            api_key="k",
            budget=budget,
            prices={"openrouter:a/m": Price(input_usd=1, output_usd=1)},
        ) as client,
    ):
        await client.chat("hi", max_tokens=1)

    assert budget.usd == 0.5


async def test_the_cost_of_a_stream_is_in_its_last_chunk() -> None:
    reply = await streamed(
        chunk(content="hello"),
        chunk("stop"),
        {"id": "gen-1", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 1, "cost": 0.002}},
    )

    assert (reply.text, reply.cost_usd) == ("hello", 0.002)


async def test_a_cost_of_another_type_costs_no_answer() -> None:
    async with serving(Status(body=whole({"content": "x"}, usage={"cost": {"total": 1}, "prompt_tokens": 3}))) as (
        _,
        client,
    ):
        reply = await client.chat("hi")

    assert (reply.text, reply.usage.input_tokens, reply.cost_usd) == ("x", 3, None)


async def test_effort_and_routing_go_where_the_service_looks_for_them() -> None:
    routing = {"order": ["anthropic"], "allow_fallbacks": False}
    async with serving(Status(body=whole({"content": "x"}))) as (server, client):
        await client.chat("hi", reasoning_effort="high", extra={"provider": routing, "models": ["a/m", "b/m"]})
        await client.chat("hi", extra={"reasoning": {"max_tokens": 2000}})

    first, second = (request.json() for request in server.requests)
    assert first["reasoning"] == {"effort": "high"}
    assert "reasoning_effort" not in first
    assert (first["provider"], first["models"]) == (routing, ["a/m", "b/m"])
    assert second["reasoning"] == {"max_tokens": 2000}


async def test_blocks_of_reasoning_are_kept_whole_and_go_back_unchanged() -> None:
    message = {"content": "42", "reasoning": "Let me think.", "reasoning_details": [TEXT, SEALED]}
    async with serving(Status(body=whole(message))) as (server, client):
        reply = await client.chat("hi")
        said = reply.choices[0].message
        await client.chat([Message("user", "hi"), said, Message("user", "and?")])

    assert reply.reasoning == "Let me think."
    assert said.reasoning_blocks == (ReasoningBlock("openrouter", TEXT), ReasoningBlock("openrouter", SEALED))
    assert server.requests[1].json()["messages"][1] == {
        "role": "assistant",
        "content": "42",
        "reasoning_details": [TEXT, SEALED],
    }


async def test_reasoning_without_blocks_goes_back_as_text() -> None:
    async with serving(Status(body=whole({"content": "42"}))) as (server, client):
        await client.chat([Message("user", "hi"), Message("assistant", "42", reasoning="why"), Message("user", "and?")])

    assert server.requests[0].json()["messages"][1] == {"role": "assistant", "content": "42", "reasoning": "why"}


async def test_blocks_of_another_dialect_are_not_sent() -> None:
    foreign = Message("assistant", "42", reasoning_blocks=(ReasoningBlock("anthropic", {"type": "thinking"}),))
    async with serving(Status(body=whole({"content": "42"}))) as (server, client):
        await client.chat([Message("user", "hi"), foreign, Message("user", "and?")])

    assert server.requests[0].json()["messages"][1] == {"role": "assistant", "content": "42"}


async def test_blocks_that_are_streamed_in_pieces_are_put_together() -> None:
    def piece(text: str, **more: Any) -> dict[str, Any]:
        detail = {"type": "reasoning.text", "text": text, "index": 0, "format": "anthropic-claude-v1", **more}
        return chunk(content="", reasoning=text or None, reasoning_details=[detail])

    reply = await streamed(
        Comment("OPENROUTER PROCESSING"),
        piece("Let me "),
        piece("think."),
        piece("", signature="sig"),
        chunk(content="", reasoning_details=[SEALED]),
        chunk(content="", reasoning_details=[{**SEALED, "data": "bW9yZQ=="}]),
        chunk(content="42"),
        chunk("stop"),
    )

    assert (reply.reasoning, reply.text) == ("Let me think.", "42")
    assert [block.data for block in reply.choices[0].message.reasoning_blocks] == [
        TEXT,
        SEALED,
        {**SEALED, "data": "bW9yZQ=="},
    ]


@given(st.lists(st.text()), st.lists(st.tuples(st.booleans(), st.text()), max_size=8))
def test_pieces_of_blocks_are_the_blocks_wherever_they_are_cut(cuts: list[str], blocks: list[tuple[bool, str]]) -> None:
    stream, whole = ReplyStream(extended=True), []
    events: list[Event] = []
    for index, (is_summary, text) in enumerate(blocks):
        kind, field = ("reasoning.summary", "summary") if is_summary else ("reasoning.text", "text")
        pieces = [text, *cuts]
        for piece in pieces:
            events += stream.feed(sse(chunk(reasoning_details=[{"type": kind, "index": index, field: piece}])))
        whole.append({"type": kind, "index": index, field: "".join(pieces)})
    events += stream.feed(sse(chunk("stop"), "[DONE]"))

    assert stream.error is None
    assert [event.block.data for event in events if isinstance(event, ReasoningBlockDelta)] == whole


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "text", "thinking", "index", "summary", "google", "thought_signature", "code"]),
            inner,
        )
    ),
    max_leaves=8,
)
FIELDS = ("content", "reasoning", "reasoning_details", "extra_content", "tool_calls")


@given(st.lists(st.dictionaries(st.sampled_from(FIELDS), JSON), max_size=4), JSON, JSON)
def test_whatever_a_service_adds_is_read_or_is_an_error_of_ours(
    deltas: list[dict[str, Any]], error: object, cost: object
) -> None:
    stream = ReplyStream(extended=True)
    documents = [chunk(**delta) for delta in deltas]
    documents.append({"choices": [{"index": 0, "finish_reason": "stop", "error": error}], "usage": {"cost": cost}})
    stream.feed(sse(*documents, "[DONE]"))

    assert stream.done or isinstance(stream.error, asyncllm.AsyncLLMError)


async def test_text_beside_a_block_is_text() -> None:
    reply = await streamed(chunk(content="4", reasoning_details=[SEALED]), chunk("stop", content="2"))

    assert reply.text == "42"
    assert len(reply.choices[0].message.reasoning_blocks) == 1


MID_STREAM = {**chunk("error", content=""), "error": {"code": "server_error", "message": "Provider disconnected"}}


@pytest.mark.parametrize(
    ("error", "kind", "status"),
    [
        ({"code": "server_error", "message": "gone"}, asyncllm.InternalServerError, None),
        ({"code": 502, "message": "gone", "metadata": {"provider_name": "P"}}, asyncllm.InternalServerError, 502),
        ({"code": 429, "message": "gone"}, asyncllm.RateLimitError, 429),
        ({"code": 402, "message": "gone"}, asyncllm.QuotaExceededError, 402),
    ],
)
async def test_an_error_in_the_middle_of_a_stream_raises_with_what_had_come(
    error: dict[str, Any], kind: type[APIError], status: int | None
) -> None:
    with pytest.raises(kind) as caught:
        await streamed(chunk(content="par"), chunk(content="tial"), {**chunk("error", content=""), "error": error})

    assert (caught.value.message, caught.value.status) == ("gone", status)
    assert caught.value.partial is not None
    assert caught.value.partial.text == "partial"


async def test_an_error_beside_a_choice_raises() -> None:
    choice = {
        "index": 0,
        "finish_reason": "error",
        "message": {"content": "par"},
        "error": {"code": 503, "message": "gone"},
    }
    async with serving(Status(body=msgspec.json.encode({"id": "g", "choices": [choice]}))) as (_, client):
        with pytest.raises(asyncllm.OverloadedError, match="gone"):
            await client.chat("hi")


async def test_an_error_beside_a_streamed_choice_raises() -> None:
    broken = chunk("error", content="")
    broken["choices"][0]["error"] = {"code": 503, "message": "gone"}

    with pytest.raises(asyncllm.OverloadedError, match="gone"):
        await streamed(chunk(content="par"), broken)


async def test_an_account_without_credit_is_told_apart_from_a_rate_limit() -> None:
    body = msgspec.json.encode({"error": {"code": 402, "message": "Insufficient credits"}})
    async with serving(Status(402, body=body)) as (_, client):
        with pytest.raises(asyncllm.QuotaExceededError) as caught:
            await client.chat("hi")

    assert not caught.value.retryable


async def test_whether_it_is_alive_is_asked_of_the_key_because_models_are_public() -> None:
    def answer(request: SeenRequest) -> Sequence[Op]:
        good = request.headers["authorization"] == "Bearer k"
        return [Status(200 if good or request.path == "/api/v1/models" else 401, body=b'{"data":{}}')]

    async with FaultyServer(answer) as server:
        for key, alive in (("k", True), ("wrong", False)):
            async with Client(model="openrouter:m", base_url=f"{server.url}/api/v1", api_key=key) as client:
                assert await client.is_alive() is alive

    assert {request.path for request in server.requests} == {"/api/v1/key"}


async def test_its_own_word_for_the_end_is_kept_apart() -> None:
    reply = await streamed(chunk(content="x"), chunk("length"))
    wanted: FinishReason = "length"

    assert reply.finish_reason == wanted


def test_plain_chunks_are_the_same_events_to_who_looks_for_more() -> None:
    stream = ReplyStream(extended=True)

    assert stream.feed(HELLO) == HELLO_EVENTS
