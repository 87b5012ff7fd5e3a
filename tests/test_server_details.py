"""What clients of both APIs take for granted beside the answer itself, and what is refused rather than dropped."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import anthropic
import pytest

import test_server_openai as openai_side
from anthropic_server import repeat, sse, start, stop, text
from asyncllm import Client
from asyncllm.testing import FaultyServer, Op, SeenRequest, Sse, Status
from served import served, server_of
from test_server_openai import ASKED, behind

CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}


async def post(url: str, path: str, body: dict[str, Any], **headers: str) -> tuple[int, dict[str, Any]]:
    async with aiohttp.ClientSession() as http, http.post(f"{url}{path}", json=body, headers=headers) as reply:
        return reply.status, await reply.json()


async def chunks_of(url: str, body: dict[str, Any], path: str = "/v1/chat/completions") -> list[dict[str, Any]]:
    async with aiohttp.ClientSession() as http, http.post(f"{url}{path}", json={**body, "stream": True}) as reply:
        lines = (await reply.text()).split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


def answer(**choice: Any) -> Status:
    choice = {"index": 0, "message": {"content": "hi"}, "finish_reason": "stop", **choice}
    return Status(body=json.dumps({"choices": [choice]}).encode())


def piece(index: int = 0, reason: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": delta, "finish_reason": reason}]}


# -- OpenAI's API ------------------------------------------------------------------------------------------------------


async def test_an_answer_goes_back_as_the_sdk_dumps_it() -> None:
    message = {"content": None, "tool_calls": [CALL], "reasoning_content": "hm"}
    called = answer(message=message, finish_reason="tool_calls")
    async with behind(called) as (url, upstream, _), openai_side.sdk_of(url) as sdk:
        reply = await sdk.chat.completions.create(model="m", messages=ASKED)
        said: Any = reply.choices[0].message.model_dump()
        result: Any = {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "sunny"}]}
        await sdk.chat.completions.create(model="m", messages=[*ASKED, said, result])
        refused: Any = {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}
        told: Any = {"role": "developer", "content": "Be brief"}
        await sdk.chat.completions.create(model="m", messages=[told, *ASKED, refused, *ASKED])

    assert upstream.asked[1]["messages"][1]["tool_calls"] == [CALL]
    assert [one["role"] for one in upstream.asked[1]["messages"]] == ["user", "assistant", "tool"]
    assert [one["role"] for one in upstream.asked[2]["messages"]] == ["developer", "user", "assistant", "user"]
    assert upstream.asked[2]["messages"][2]["refusal"] == "no"


@pytest.mark.parametrize(
    ("path", "field", "value"),
    [
        ("/v1/chat/completions", "functions", [{"name": "weather", "parameters": {}}]),
        ("/v1/chat/completions", "function_call", {"name": "weather"}),
        ("/v1/chat/completions", "audio", {"voice": "alloy", "format": "wav"}),
        ("/v1/chat/completions", "web_search_options", {"search_context_size": "low"}),
        ("/v1/chat/completions", "structured_outputs", {"json_object": True}),
        ("/v1/chat/completions", "modalities", ["text", "audio"]),
        ("/v1/completions", "best_of", 3),
        ("/v1/completions", "echo", True),
        ("/v1/completions", "suffix", "the end"),
        ("/v1/messages", "mcp_servers", [{"type": "url", "url": "http://127.0.0.1", "name": "n"}]),
        ("/v1/messages", "container", "c"),
    ],
)
async def test_what_asks_for_another_answer_is_refused_by_name(path: str, field: str, value: Any) -> None:
    async with server_of("echo:x") as url:
        asked = {"messages": ASKED, "prompt": "x", "max_tokens": 5, field: value}
        status, told = await post(url, path, asked)

    assert status == 400
    assert field in told["error"]["message"]
    assert told["error"].get("param", field) == field


async def test_an_empty_text_to_embed_is_named_by_its_place() -> None:
    async with server_of("echo:x") as url:
        status, told = await post(url, "/v1/embeddings", {"input": ["a", ""]})

    assert (status, told["error"]["param"]) == (400, "input[1]")


async def test_what_says_nothing_is_no_option() -> None:
    nothing: dict[str, Any] = {
        "stop": None, "logit_bias": {}, "tools": [], "tool_choice": None, "response_format": {"type": "text"},
        "functions": None, "user": "u", "service_tier": "auto", "metadata": {"a": "b"}, "store": False,
        "structured_outputs": None, "n": None, "logprobs": None, "stream_options": None, "parallel_tool_calls": None,
        "modalities": ["text"],
    }  # fmt: skip
    async with server_of("echo:x") as url:
        status, told = await post(url, "/v1/chat/completions", {"messages": ASKED, **nothing})
        again, _ = await post(url, "/v1/chat/completions", {"messages": ASKED, "stop": [], "seed": None})
        whole, _ = await post(url, "/v1/completions", {"prompt": "x", "echo": False, "suffix": None, "best_of": 1})

    assert (status, again, whole) == (200, 200, 200)
    assert told["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ({"guided_json": SCHEMA}, {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}),
        (
            {"structured_outputs": {"json": SCHEMA}},
            {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}},
        ),
        ({"response_format": {"type": "json_object"}}, {"type": "json_object"}),
    ],
    ids=["guided", "structured", "object"],
)
async def test_every_way_to_ask_for_json_reaches_the_model(asked: dict[str, Any], sent: dict[str, Any]) -> None:
    async with behind(answer()) as (url, upstream, _):
        status, _ = await post(url, "/v1/chat/completions", {"messages": ASKED, **asked})

    assert (status, upstream.asked[0]["response_format"]) == (200, sent)


async def test_thinking_goes_to_models_that_take_it_and_is_refused_by_name_for_others() -> None:
    thinking = {"type": "enabled", "budget_tokens": 1024}
    async with behind(answer()) as (url, upstream, _):
        await post(url, "/v1/chat/completions", {"messages": ASKED, "thinking": thinking})
        await post(url, "/v1/messages", {"messages": ASKED, "max_tokens": 2000, "thinking": thinking})
    async with server_of("echo:x") as url:
        status, told = await post(url, "/v1/chat/completions", {"messages": ASKED, "thinking": thinking})
    async with server_of("echo:x", {"passed_fields": frozenset()}) as url:
        left_out, _ = await post(url, "/v1/chat/completions", {"messages": ASKED, "thinking": thinking})

    assert [asked["thinking"] for asked in upstream.asked] == [thinking, thinking]
    assert (status, told["error"]["param"], left_out) == (400, "thinking", 200)


async def test_the_stop_text_that_ended_an_answer_is_told_as_vllm_tells_it() -> None:
    ended = piece(reason="stop")
    ended["choices"][0]["stop_reason"] = "END"
    async with behind(answer(stop_reason="END")) as (url, _, _):
        _, whole = await post(url, "/v1/chat/completions", {"messages": ASKED})
        _, message = await post(url, "/v1/messages", {"messages": ASKED, "max_tokens": 5})
    async with behind(Sse([piece(content="hi"), ended, b"[DONE]"], "end")) as (url, _, _):
        chunks = await chunks_of(url, {"messages": ASKED})

    assert whole["choices"][0]["stop_reason"] == chunks[-1]["choices"][0]["stop_reason"] == "END"
    assert "stop_reason" not in chunks[0]["choices"][0]
    assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", "END")


async def test_several_answers_come_in_turns_each_under_its_index() -> None:
    pieces: list[Any] = [piece(at, content=word) for word in ("a", "b") for at in (0, 1)]
    pieces += [piece(1, "stop"), piece(0, "length"), b"[DONE]"]
    async with behind(Sse(pieces, "end")) as (url, _, _):
        chunks = await chunks_of(url, {"messages": ASKED, "n": 2})

    told = [chunk["choices"][0] for chunk in chunks]
    assert [one["delta"].get("content") for one in told] == ["a", "a", "b", "b", None, None]
    assert [one["index"] for one in told[:4]] == [0, 1, 0, 1]
    assert {one["index"]: one["finish_reason"] for one in told[4:]} == {0: "length", 1: "stop"}


async def test_usage_comes_in_a_chunk_without_a_choice_or_with_every_chunk() -> None:
    usage = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}
    ops = Sse([piece(content="hi"), piece(reason="stop"), usage, b"[DONE]"], "end")
    async with behind(ops) as (url, _, _):
        last = await chunks_of(url, {"messages": ASKED, "stream_options": {"include_usage": True}})
        every = await chunks_of(
            url, {"messages": ASKED, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
        )
        none = await chunks_of(url, {"messages": ASKED})

    assert [chunk["usage"] for chunk in last[:-1]] == [None] * (len(last) - 1)
    assert (last[-1]["choices"], last[-1]["usage"]["total_tokens"]) == ([], 4)
    assert all("usage" in chunk for chunk in every)
    assert all("usage" not in chunk for chunk in none)


async def test_a_tool_call_is_named_once_and_its_arguments_come_in_pieces() -> None:
    head = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""}}
    parts: list[Any] = [piece(tool_calls=[head])]
    parts += [piece(tool_calls=[{"index": 0, "function": {"arguments": more}}]) for more in ('{"city": ', '"Paris"}')]
    async with behind(Sse([*parts, piece(reason="tool_calls"), b"[DONE]"], "end")) as (url, _, _):
        tool = {"type": "function", "function": {"name": "weather"}}
        chunks = await chunks_of(url, {"messages": ASKED, "tools": [tool]})

    calls = [call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls", ())]
    assert calls == [
        head,
        {"index": 0, "function": {"arguments": '{"city": '}},
        {"index": 0, "function": {"arguments": '"Paris"}'}},
    ]
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_probabilities_have_the_form_of_their_route() -> None:
    top = {"token": "hi", "logprob": -0.5, "bytes": [104, 105]}
    content = [{**top, "top_logprobs": [top]}]
    async with behind(answer(logprobs={"content": content})) as (url, _, _):
        _, chat = await post(url, "/v1/chat/completions", {"messages": ASKED, "logprobs": True, "top_logprobs": 1})
    lists = {"tokens": ["hi"], "token_logprobs": [-0.5], "top_logprobs": [{"hi": -0.5}], "text_offset": [0]}
    async with behind(answer(text="hi", logprobs=lists)) as (url, upstream, _):
        _, text_ = await post(url, "/v1/completions", {"prompt": "x", "logprobs": 1})

    assert chat["choices"][0]["logprobs"] == {"content": content, "refusal": None}
    assert text_["choices"][0]["logprobs"] == lists
    assert upstream.asked[0]["logprobs"] == 1


# -- Anthropic's API ---------------------------------------------------------------------------------------------------


@asynccontextmanager
async def claude(*ops: Op) -> AsyncGenerator[tuple[str, list[dict[str, Any]]]]:
    """A server before a service in Anthropic's API, and what that is asked."""
    asked: list[dict[str, Any]] = []

    def upstream(request: SeenRequest) -> Sequence[Op]:
        asked.append(request.json())
        return ops or repeat(request)

    async with (
        FaultyServer(upstream) as server,
        Client(model="anthropic:m", base_url=server.url, api_key="the-server-s", retry=None) as client,
        served(client, models={"m": "anthropic:m"}) as url,
    ):
        yield url, asked


async def test_a_failed_call_and_what_is_asked_of_thinking_reach_claude() -> None:
    used = {"type": "tool_use", "id": "t1", "name": "weather", "input": {}}
    failed = {"type": "tool_result", "tool_use_id": "t1", "content": "no such city", "is_error": True}
    messages: list[Any] = [*ASKED, {"role": "assistant", "content": [used]}, {"role": "user", "content": [failed]}]
    thinking: Any = {"type": "adaptive"}
    async with claude() as (url, asked), anthropic.AsyncAnthropic(base_url=url, api_key="k") as sdk:
        await sdk.messages.create(model="m", max_tokens=50, messages=messages, thinking=thinking)

    assert asked[0]["messages"][2]["content"] == [failed]
    assert asked[0]["thinking"] == thinking


async def test_the_stop_text_that_ended_an_answer_is_told() -> None:
    begun = start(usage={"input_tokens": 1, "output_tokens": 0})
    said = sse(begun, *text(0, "one"), *stop("stop_sequence", stop_sequence="END"))
    async with (
        claude(Status(200, {"Content-Type": "text/event-stream"}, said)) as (url, _),
        anthropic.AsyncAnthropic(base_url=url, api_key="k") as sdk,
    ):
        async with sdk.messages.stream(model="m", max_tokens=50, messages=ASKED, stop_sequences=["END"]) as stream:
            whole = await stream.get_final_message()

    assert (whole.stop_reason, whole.stop_sequence) == ("stop_sequence", "END")


@pytest.mark.parametrize(
    ("thinking", "field"),
    [
        ({"type": "on"}, "thinking.type"),
        ({"type": "enabled"}, "thinking.budget_tokens"),
        ({"type": "enabled", "budget_tokens": 50}, "thinking.budget_tokens"),
        (5, "thinking"),
    ],
)
async def test_thinking_that_cannot_be_is_refused_by_name(thinking: Any, field: str) -> None:
    async with server_of("echo:x") as url:
        status, told = await post(url, "/v1/messages", {"messages": ASKED, "max_tokens": 50, "thinking": thinking})

    assert (status, told["error"]["type"]) == (400, "invalid_request_error")
    assert field in told["error"]["message"]


async def test_a_silence_is_broken_by_pings() -> None:
    async with openai_side.behind(Sse([piece(content="one")], "stall"), keep_alive_s=0.02) as (url, _, _):
        async with aiohttp.ClientSession() as http:
            body = {"messages": ASKED, "max_tokens": 50, "stream": True}
            async with http.post(f"{url}/v1/messages", json=body) as reply:
                seen = b""
                while seen.count(b"event: ping\n") < 3:
                    seen += await reply.content.readany()

    assert b'event: ping\ndata: {"type":"ping"}\n\n' in seen
