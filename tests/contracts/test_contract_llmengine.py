"""Rows 26 to 35 and 63 to 66: Scale's LLM Engine."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl

import pytest

import asyncllm
from asyncllm import (
    Choice,
    Client,
    Grammar,
    InvalidRequestError,
    JsonSchema,
    Regex,
    Retry,
    TextDelta,
    Timeouts,
    UsageReport,
)
from asyncllm.testing import Comment, FaultyServer, Op, SeenRequest, Sse, Stall, Status
from llmengine_server import REQUEST_ID, failure, frame, gateway, refusal, streamed

KEY = "scale-key"


@asynccontextmanager
async def serving(*ops: Op, retry: Retry | None = None, **options: Any) -> AsyncIterator[Any]:
    async with (
        FaultyServer(list(ops) if ops else gateway) as server,
        Client(
            model="llmengine:llama-2-7b", base_url=server.url, api_key=KEY, retry=retry, options=options, env={}
        ) as client,
    ):
        yield server, client


async def test_row_026_a_completion_is_created_with_all_its_fields() -> None:
    async with serving() as (server, client):
        reply = await client.complete(
            "one two", model="llmengine:org/llama 2&7b", max_tokens=10, temperature=0.2, stop=["."], logprobs=True,
            presence_penalty=0, frequency_penalty=0, top_k=-1, top_p=1.0, include_stop_str_in_output=False,
            extra={"skip_special_tokens": True},
        )  # fmt: skip

    (seen,) = server.requests
    assert seen.method == "POST"
    path, _, query = seen.path.partition("?")
    assert path == "/v1/llm/completions-sync"
    assert parse_qsl(query, strict_parsing=True) == [("model_endpoint_name", "org/llama 2&7b")]
    assert seen.json() == {
        "prompt": "one two", "max_new_tokens": 10, "temperature": 0.2, "stop_sequences": ["."],
        "return_token_log_probs": True, "presence_penalty": 0, "frequency_penalty": 0, "top_k": -1, "top_p": 1.0,
        "include_stop_str_in_output": False, "skip_special_tokens": True,
    }  # fmt: skip
    assert (reply.request_id, reply.text) == (REQUEST_ID, "one two")
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (8, 2)


async def test_row_027_the_same_call_without_an_event_loop() -> None:
    def call(url: str) -> str:
        with asyncllm.sync.Client(model="llmengine:m", base_url=url, api_key=KEY, env={}) as client:
            return client.complete("one two").text

    async with FaultyServer(gateway) as server:
        assert await asyncio.to_thread(call, server.url) == "one two"


async def test_row_028_both_forms_of_the_key_go_along_and_headers_override() -> None:
    async with (
        serving() as (plain, client),
        serving(headers={"X-Api-Key": "mine", "x-trace": "7"}) as (own, other),
    ):
        await client.complete("a")
        await other.complete("a")

    basic = f"Basic {b64encode(f'{KEY}:'.encode()).decode()}"
    assert (plain.requests[0].headers["x-api-key"], plain.requests[0].headers["authorization"]) == (KEY, basic)
    headers = own.requests[0].headers
    assert (headers["x-api-key"], headers["x-trace"], headers["authorization"]) == ("mine", "7", basic)


async def test_row_029_log_probabilities_of_the_tokens() -> None:
    async with serving() as (_, client):
        whole = await client.complete("one two", logprobs=True)
        async with client.stream_complete("one two", logprobs=True) as stream:
            assert [event async for event in stream]

    for reply in (whole, stream.response):
        assert [(one.token, one.logprob) for one in reply.logprobs or ()] == [("one", -0.5), (" two", -0.5)]


async def test_row_030_a_stream_comes_in_pieces_and_ends_where_it_is_closed() -> None:
    frames = [frame("a", made=1), frame(" b", made=2), frame(" c", made=3, finished=True)]
    async with serving(*streamed(*frames)) as (_, client):  # CRLF, a ping before each frame, no [DONE]
        async with client.stream_complete("x", max_tokens=9) as stream:
            events = [event async for event in stream]

    assert [event.text for event in events if isinstance(event, TextDelta)] == ["a", " b", " c"]
    assert [event.usage.output_tokens for event in events if isinstance(event, UsageReport)] == [1, 2, 3]
    assert stream.response.finish_reason == "stop"


async def test_row_031_errors_before_the_stream_are_raised_on_entering() -> None:
    async with serving(refusal(400, "wrong endpoint type")) as (_, client):
        with pytest.raises(asyncllm.BadRequestError, match="wrong endpoint type"):
            await client.stream_complete("x").__aenter__()


async def test_row_031_errors_in_the_stream_are_raised_with_their_status() -> None:
    async with serving(*streamed(frame("a"), failure(503, "no workers"))) as (_, client):
        async with client.stream_complete("x") as stream:
            with pytest.raises(asyncllm.OverloadedError, match="no workers") as caught:
                async for _ in stream:
                    pass

    assert caught.value.status == 503


async def test_row_032_leaving_a_stream_closes_its_connection() -> None:
    async with serving(Sse([frame("a")], "stall")) as (server, client):
        async with client.stream_complete("x") as stream:
            async for _ in stream:
                break
        (left,) = await server.aborted()

    assert left.path.startswith("/v1/llm/completions-stream")


async def test_row_033_two_guides_are_refused_before_they_are_sent() -> None:
    async with serving() as (server, client):
        with pytest.raises(InvalidRequestError, match="only one of"):
            await client.complete("x", extra={"guided_json": {}, "guided_choice": ["a"]})

    assert not server.requests


@pytest.mark.parametrize(
    ("constraint", "kind", "value"),
    [
        (JsonSchema({"type": "object"}), "json", {"type": "object"}),
        (Regex("a+"), "regex", "a+"),
        (Choice(("a", "b")), "choice", ["a", "b"]),
        (Grammar("root ::= 'a'"), "grammar", "root ::= 'a'"),
    ],
)
async def test_row_033_each_guide_passes_and_is_translated_for_vllm(constraint: Any, kind: str, value: Any) -> None:
    async with serving() as (v1, client), serving(structured_outputs=True) as (vllm, other):
        await client.complete("x", constraint=constraint)
        await other.chat("x", constraint=constraint)

    assert v1.requests[0].json()[f"guided_{kind}"] == value
    assert vllm.requests[0].json()["structured_outputs"] == {kind: value}


@pytest.mark.parametrize(
    "options",
    [{"temperature": 1.1}, {"presence_penalty": -0.1}, {"top_p": 0}, {"top_k": 0}, {"top_k": 2, "temperature": 0}],
)
async def test_row_034_values_out_of_range_are_refused_here(options: dict[str, Any]) -> None:
    async with serving() as (server, client):
        with pytest.raises(InvalidRequestError):
            await client.complete("x", **options)

    assert not server.requests


@pytest.mark.virtual_time
async def test_row_035_a_slow_server_is_a_timeout_at_the_given_seconds() -> None:
    async with serving(Stall()) as (_, client):
        started = asyncio.get_running_loop().time()
        with pytest.raises(asyncllm.TotalTimeoutError) as caught:
            await client.complete("x", timeouts=Timeouts(total_s=42, first_event_s=None))

    assert caught.value.elapsed_s == pytest.approx(42, abs=0.5)
    assert asyncio.get_running_loop().time() - started == pytest.approx(42, abs=1)


CLASSES = {
    400: asyncllm.BadRequestError,
    401: asyncllm.AuthenticationError,
    403: asyncllm.PermissionDeniedError,
    404: asyncllm.NotFoundError,
    409: asyncllm.ConflictError,
    410: asyncllm.NotFoundError,
    422: asyncllm.UnprocessableEntityError,
    429: asyncllm.RateLimitError,
    500: asyncllm.InternalServerError,
    503: asyncllm.OverloadedError,
}


@pytest.mark.parametrize("status", CLASSES)
async def test_row_063_each_status_has_its_class(status: int) -> None:
    async with serving(refusal(status, "so it is")) as (_, client):
        for call in (client.complete, client.chat):
            with pytest.raises(CLASSES[status], match="so it is") as caught:
                await call("x")
            assert caught.value.status == status


BODIES = {
    "a list": (b'{"detail":[{"loc":["body","top_k"],"msg":"too small","type":"value"}]}', "body.top_k: too small"),
    "the middleware": (b'{"error":"Too many requests","timestamp":"t","request_id":"r-7"}', "Too many requests"),
    "a page": (b"<html><title>Bad gateway</title></html>", "Bad gateway"),
    "nothing": (b"", "no reason"),
}


@pytest.mark.parametrize("name", BODIES)
async def test_row_063_every_shape_of_body_is_read(name: str) -> None:
    body, told = BODIES[name]
    async with serving(Status(422, {}, body)) as (_, client):
        with pytest.raises(asyncllm.UnprocessableEntityError, match=told) as caught:
            await client.complete("x")

    assert caught.value.request_id == ("r-7" if name == "the middleware" else None)


async def test_row_064_a_throttled_call_is_made_again_after_the_wait_that_was_asked_for(
    instant_retries: list[float],
) -> None:
    def answer(request: SeenRequest) -> Any:
        refused = len(server.requests) == 1
        return [Status(429, {"Retry-After": "3"}, b'{"error":"Too many requests"}')] if refused else gateway(request)

    async with (
        FaultyServer(answer) as server,
        Client(model="llmengine:m", base_url=server.url, api_key=KEY, env={}) as client,
    ):
        assert (await client.complete("one")).text == "one"

    assert len(server.requests) == 2
    assert sum(instant_retries) == pytest.approx(3, abs=0.31)  # the three seconds, and up to a tenth of them


async def test_row_064_attempts_are_bounded_and_waits_are_drawn(instant_retries: list[float]) -> None:
    async with serving(refusal(429, "Too many requests"), retry=Retry(attempts=4)) as (server, client):
        with pytest.raises(asyncllm.RateLimitError) as caught:
            await client.complete("one")

    assert len(server.requests) == len(caught.value.attempts) == 4
    assert len(set(instant_retries)) > 1


async def test_row_065_a_chat_is_openais_and_its_stream_needs_no_done() -> None:
    async with serving() as (server, client):
        whole = await client.chat("one two", system="Be brief.", temperature=1.5, tools=[asyncllm.Tool("f")])
        async with client.stream("one two") as stream:
            texts = [event.text async for event in stream if isinstance(event, TextDelta)]

    first, second = server.requests
    assert first.path == second.path == "/v2/chat/completions"
    assert first.json()["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (first.json()["temperature"], first.json()["tools"][0]["function"]["name"]) == (1.5, "f")
    assert whole.text == "one two"
    assert texts == ["one", " two"]
    assert stream.response.usage.output_tokens == 2


async def test_row_065_a_stream_that_ends_before_its_choice_does_is_interrupted() -> None:
    chunk = {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]}
    async with serving(Sse([chunk, Comment()], "end")) as (_, client):
        async with client.stream("x") as stream:
            with pytest.raises(asyncllm.StreamInterrupted):
                async for _ in stream:
                    pass


async def test_row_065_an_error_frame_of_a_chat_is_raised() -> None:
    error = {"error": {"status_code": 500, "content": {"error": "upstream died", "timestamp": "t"}}}
    async with serving(Sse([error], "end")) as (_, client):
        with pytest.raises(asyncllm.InternalServerError, match="upstream died"):
            await client.stream("x").__aenter__()


def test_row_066_importing_makes_no_network_call() -> None:
    script = (
        "import sys\n"
        "seen = []\n"
        "sys.addaudithook(lambda event, args: seen.append(event) if event.startswith('socket.') else None)\n"
        "import asyncllm_llmengine, asyncllm\n"
        "print(seen)\n"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
