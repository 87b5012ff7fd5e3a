"""The llmengine backend over real sockets: what it sends, what it refuses, and what it makes of the replies."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import asyncllm
from asyncllm import (
    APIError,
    Choice,
    Client,
    ConfigError,
    Grammar,
    InvalidRequestError,
    JsonSchema,
    Regex,
    ResponseValidationError,
    StreamInterrupted,
    UnsupportedError,
)
from asyncllm.backend import HttpCall
from asyncllm.errors import AsyncLLMError
from asyncllm.testing import FaultyServer, Named, Op, Sse, Status
from asyncllm_llmengine.replies import CompletionStream
from llmengine_server import REQUEST_ID, completion, failure, frame, gateway, refusal, streamed

KEY = "scale-key-1f"
PROMPT = "my canary is blue"
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
OPTIONS: dict[str, Any] = {
    "max_tokens": 7, "temperature": 0.5, "stop": ["x", "y"], "logprobs": True, "presence_penalty": 0.1,
    "frequency_penalty": 0.2, "top_k": 5, "top_p": 0.9, "include_stop_str_in_output": True,
}  # fmt: skip


@asynccontextmanager
async def serving(*ops: Op, path: str = "", key: str | None = KEY, **options: Any) -> AsyncIterator[Any]:
    """A gateway that answers every request with `ops`, or as `gateway` does, and a client of it that tries once."""
    async with (
        FaultyServer(list(ops) if ops else gateway) as server,
        Client(
            model="llmengine:m", base_url=server.url + path, api_key=key, retry=None, options=options, env={}
        ) as client,
    ):
        yield server, client


async def test_a_completion_sends_what_was_given_and_the_two_fields_that_it_must() -> None:
    async with serving() as (server, client):
        await client.complete(PROMPT)
        await client.complete(PROMPT, **OPTIONS, extra={"skip_special_tokens": False})

    plain, full = (request.json() for request in server.requests)
    assert plain == {"prompt": PROMPT, "max_new_tokens": 20, "temperature": 0.2}
    assert full == {
        "prompt": PROMPT, "max_new_tokens": 7, "temperature": 0.5, "stop_sequences": ["x", "y"],
        "return_token_log_probs": True, "presence_penalty": 0.1, "frequency_penalty": 0.2, "top_k": 5, "top_p": 0.9,
        "include_stop_str_in_output": True, "skip_special_tokens": False,
    }  # fmt: skip


async def test_the_defaults_of_a_completion_are_options() -> None:
    async with serving(max_new_tokens=300, temperature=0) as (server, client):
        await client.complete(PROMPT)

    assert server.requests[0].json() == {"prompt": PROMPT, "max_new_tokens": 300, "temperature": 0}


@pytest.mark.parametrize(("field", "value"), [("top_k", 5), ("top_p", 0.5)])
async def test_a_default_by_which_nothing_is_drawn_is_checked_as_that_of_a_call(field: str, value: float) -> None:
    async with serving(temperature=0) as (server, client):
        with pytest.raises(InvalidRequestError) as caught:
            await client.complete(PROMPT, **{field: value})
        await client.complete(PROMPT, temperature=0.5, **{field: value})

    assert caught.value.field == field
    assert len(server.requests) == 1


async def test_one_text_that_stops_goes_out_as_a_list() -> None:
    async with serving() as (server, client):
        await client.complete(PROMPT, stop="x")

    assert server.requests[0].json()["stop_sequences"] == ["x"]


@pytest.mark.parametrize("path", ["/llm-engine", "/llm-engine/"])
async def test_the_last_segment_of_the_address_stays_with_a_slash_or_without(path: str) -> None:
    async with serving(path=path) as (server, client):
        await client.complete(PROMPT)
        async with client.stream_complete(PROMPT) as stream:
            assert [event async for event in stream]

    paths = [request.path for request in server.requests]
    assert paths == [f"/llm-engine/v1/llm/completions-{kind}?model_endpoint_name=m" for kind in ("sync", "stream")]


async def test_a_bearer_token_stands_in_for_the_basic_one_by_option() -> None:
    async with serving(auth="bearer") as (server, client):
        await client.complete(PROMPT)

    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"


async def test_there_is_no_default_key() -> None:
    async with serving(key=None) as (server, client):
        with pytest.raises(ConfigError, match="SCALE_API_KEY"):
            await client.complete(PROMPT)

    assert not server.requests


async def test_address_and_key_come_from_the_environment() -> None:
    async with FaultyServer(gateway) as server:
        env = {"SCALE_API_KEY": "from-env", "LLM_ENGINE_BASE_PATH": f"{server.url}/x/"}
        async with Client(model="llmengine:m", env=env) as client:
            await client.complete(PROMPT)

    (seen,) = server.requests
    assert (seen.path.partition("?")[0], seen.headers["x-api-key"]) == ("/x/v1/llm/completions-sync", "from-env")


async def test_completions_go_to_v2_by_option_where_token_ids_are_taken() -> None:
    async with serving(Status(body=b'{"choices":[{"text":"a","finish_reason":"stop"}]}'), completions="v2") as (
        server,
        client,
    ):
        reply = await client.complete([1, 2, 3], seed=7)

    (seen,) = server.requests
    assert (seen.path, seen.json()) == ("/v2/completions", {"model": "m", "prompt": [1, 2, 3], "seed": 7})
    assert reply.text == "a"


async def test_token_ids_are_refused_by_v1() -> None:
    async with serving() as (server, client):
        with pytest.raises(UnsupportedError, match="token ids") as caught:
            await client.complete([1, 2, 3])

    assert caught.value.field == "prompt"
    assert not server.requests


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "temperature above 1": ({"temperature": 1.5}, "temperature"),
    "a negative penalty": ({"presence_penalty": -0.5}, "presence_penalty"),
    "the other negative penalty": ({"frequency_penalty": -1}, "frequency_penalty"),
    "top_p of nothing": ({"top_p": 0}, "top_p"),
    "top_k of nothing": ({"top_k": 0}, "top_k"),
    "top_k where nothing is drawn": ({"top_k": 5, "temperature": 0}, "top_k"),
    "top_p where nothing is drawn": ({"top_p": 0.5, "temperature": 0}, "top_p"),
    "two guides in extra": ({"extra": {"guided_json": {}, "guided_regex": ""}}, "guided_regex"),
    "a constraint and a guide": ({"constraint": Regex("a"), "extra": {"guided_json": {}}}, "guided_json"),
    "the same guide twice": ({"constraint": Regex("a"), "extra": {"guided_regex": "b"}}, "guided_regex"),
}


@pytest.mark.parametrize("name", WRONG)
async def test_what_the_server_would_refuse_is_refused_here_by_name(name: str) -> None:
    options, field = WRONG[name]
    async with serving() as (server, client):
        for call in (client.complete, client.stream_complete):
            with pytest.raises(InvalidRequestError) as caught:
                reply = call(PROMPT, **options)
                await (reply if call == client.complete else reply.__aenter__())

    assert caught.value.field == field
    assert field in caught.value.message
    assert not server.requests


async def test_greedy_sampling_may_name_what_it_does_not_narrow() -> None:
    async with serving() as (server, client):
        await client.complete(PROMPT, temperature=0, top_k=-1, top_p=1)

    assert len(server.requests) == 1


LACKING: list[tuple[str, dict[str, Any], str]] = [
    ("text_generation_inference", {"constraint": Regex("a")}, "Regex"),
    ("lightllm", {"extra": {"guided_json": {}}}, "guided_json"),
    ("text_generation_inference", {"presence_penalty": 0.5}, "presence_penalty"),
    ("text_generation_inference", {"frequency_penalty": 0}, "frequency_penalty"),
    ("deepspeed", {"top_p": 0.5}, "top_p"),
    ("deepspeed", {"stop": ["a", "b"]}, "stop"),
    ("tensorrt_llm", {"logprobs": True}, "logprobs"),
    ("lightllm", {"include_stop_str_in_output": True}, "include_stop_str_in_output"),
]


@pytest.mark.parametrize(("framework", "options", "field"), LACKING)
async def test_what_a_framework_lacks_is_refused_where_the_framework_is_known(
    framework: str, options: dict[str, Any], field: str
) -> None:
    async with serving(framework=framework) as (server, client), serving() as (other, anybody):
        with pytest.raises(UnsupportedError) as caught:
            await client.complete(PROMPT, **options)
        await anybody.complete(PROMPT, **options)

    assert caught.value.field == field
    assert framework in caught.value.message
    assert (len(server.requests), len(other.requests)) == (0, 1)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"auth": "digest"}, "auth"), ({"completions": "v3"}, "completions"), ({"framework": "x"}, "framework"),
        ({"health": "/"}, "health"), ({"max_new_tokens": 0}, "max_new_tokens"), ({"temperature": 2}, "temperature"),
        ({"temperature": True}, "temperature"), ({"unknown": 1}, "unknown"),
    ],
)  # fmt: skip
async def test_an_option_that_cannot_be_right_is_named(options: dict[str, Any], field: str) -> None:
    async with serving(**options) as (_, client):
        with pytest.raises(ConfigError) as caught:
            await client.complete(PROMPT)

    assert caught.value.field == field


GUIDED = {
    "guided_json": (JsonSchema(SCHEMA), SCHEMA),
    "guided_regex": (Regex("a+"), "a+"),
    "guided_choice": (Choice(("a", "b")), ["a", "b"]),
    "guided_grammar": (Grammar("root ::= 'a'"), "root ::= 'a'"),
}


@pytest.mark.parametrize("name", GUIDED)
async def test_a_chat_is_guided_as_a_completion_is(name: str) -> None:
    constraint, value = GUIDED[name]
    async with serving() as (server, client):
        await client.chat(PROMPT, constraint=constraint)

    assert server.requests[0].json() == {"model": "m", "messages": [{"role": "user", "content": PROMPT}], name: value}


async def test_a_chat_has_the_reason_that_its_server_gives() -> None:
    async with serving() as (_, client):
        reply = await client.chat("one two three", max_tokens=2)

    assert (reply.text, reply.finish_reason) == ("one two", "length")


@pytest.mark.parametrize(("limit", "reason"), [(2, "length"), (3, "length"), (4, "stop")])
async def test_the_reason_of_an_end_is_known_by_the_count(limit: int, reason: str) -> None:
    async with serving() as (_, client):
        whole = await client.complete("one two three", max_tokens=limit)
        async with client.stream_complete("one two three", max_tokens=limit) as stream:
            assert [event async for event in stream]

    assert whole.finish_reason == stream.response.finish_reason == reason


async def test_the_reason_of_an_end_that_nobody_counted_is_not_made_up() -> None:
    async with serving(Status(body=msgspec.json.encode(completion("a")))) as (_, client):
        assert (await client.complete(PROMPT)).finish_reason is None


async def test_a_stream_names_the_call() -> None:
    async with serving(*streamed(frame("a", made=1), frame(" b", made=2, finished=True))) as (_, client):
        async with client.stream_complete(PROMPT) as stream:
            assert [event async for event in stream]

    assert (stream.response.request_id, stream.response.model) == (REQUEST_ID, "m")


ODD: dict[str, Any] = {
    "a count that is none": frame("a", made=1, finished=True, num_prompt_tokens="NaN"),
    "a token that is none": frame("a", made=1, finished=True, token={"token": 7, "log_prob": None}),
    "fields that nobody knows": {**frame("a", made=1, finished=True), "trace": [1]},
}


@pytest.mark.parametrize("name", ODD)
async def test_what_stands_beside_an_answer_costs_no_answer(name: str) -> None:
    async with serving(*streamed(ODD[name])) as (_, client):
        async with client.stream_complete(PROMPT) as stream:
            assert [event async for event in stream]

    assert stream.response.text == "a"


@pytest.mark.parametrize("ending", [[], [frame("a")], [frame("a"), frame(None)], ["[DONE]"], [frame(None), "[DONE]"]])
async def test_a_stream_that_does_not_say_that_it_has_finished_is_interrupted(ending: list[Any]) -> None:
    async with serving(*streamed(*ending)) as (_, client):
        with pytest.raises(StreamInterrupted):
            await _read(client)


async def test_a_stream_of_tensorrt_ends_where_it_is_closed() -> None:
    async with serving(*streamed(frame("a"), frame("b")), framework="tensorrt_llm") as (_, client):
        assert await _read(client) == "ab"


async def test_done_is_an_end_where_something_on_the_way_adds_it() -> None:
    async with serving(Sse([frame("a")], "done")) as (_, client):
        assert await _read(client) == "a"


@pytest.mark.parametrize(
    "item", ["nonsense", "[]", "7", {"request_id": "r", "output": 7}, {"output": {"finished": True}}]
)
async def test_a_frame_that_is_none_is_no_answer(item: Any) -> None:
    async with serving(*streamed(item)) as (_, client):
        with pytest.raises(ResponseValidationError):
            await _read(client)


async def test_an_error_event_of_any_type_ends_the_stream() -> None:
    async with serving(Sse([frame("a"), Named("error", {"detail": "broken"})], "end")) as (_, client):
        with pytest.raises(asyncllm.InternalServerError, match="broken"):
            await _read(client)


async def test_an_error_frame_has_the_id_of_its_call_and_what_was_said_before_it() -> None:
    async with serving(*streamed(frame("a"), failure(429, f"no more of {PROMPT}"))) as (_, client):
        with pytest.raises(asyncllm.RateLimitError) as caught:
            await _read(client)

    error = caught.value
    assert (error.status, error.request_id, error.message) == (429, REQUEST_ID, "no more of …")
    assert error.partial is not None
    assert error.partial.text == "a"


@pytest.mark.parametrize("body", [b"{}", b'{"output":null}', b'{"output":{"text":null}}', b"[]", b"<html>"])
async def test_a_reply_without_a_text_is_no_answer(body: bytes) -> None:
    async with serving(Status(200, {"Content-Type": "application/json"}, body)) as (_, client):
        with pytest.raises(ResponseValidationError):
            await client.complete(PROMPT)


async def test_an_error_under_status_200_is_the_error() -> None:
    async with serving(refusal(200, "Upstream service error")) as (_, client):
        with pytest.raises(APIError, match="Upstream"):
            await client.complete(PROMPT)


async def test_a_key_stands_in_no_error() -> None:
    coded = base64.b64encode(f"{KEY}:".encode()).decode()
    async with serving(refusal(401, f"Could not authenticate user {KEY} by {coded}")) as (_, client):
        with pytest.raises(asyncllm.AuthenticationError) as caught:
            await client.complete(PROMPT)

    assert caught.value.message == "Could not authenticate user *** by ***"


async def test_endpoints_are_listed_by_the_names_that_calls_take() -> None:
    async with serving() as (_, client):
        listed = await client.list_models()
        found = await client.get_model("llmengine:llama-2-7b")
        with pytest.raises(asyncllm.NotFoundError):
            await client.get_model("llmengine:none")

    assert [one.id for one in listed] == ["llama-2-7b", "llama-2-7b.my-suffix"]
    assert (found.id, found.owned_by) == ("llama-2-7b", "somebody")


@pytest.mark.parametrize("health", ["healthz", "readyz"])
async def test_the_gateway_is_asked_whether_it_is_alive(health: str) -> None:
    async with serving(health=health) as (server, client), serving(Status(503), health=health) as (_, dead):
        assert await client.is_alive()
        assert not await dead.is_alive()

    assert server.requests[0].path == f"/{health}"


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_no_bytes_make_a_stream_raise_anything_else(pieces: list[bytes]) -> None:
    stream = CompletionStream(model="m", limit=None, call=HttpCall(url="http://h"))
    for piece in pieces:
        stream.feed(b'data: {"output":' + piece + b"\n\n")

    assert stream.error is None or isinstance(stream.error, AsyncLLMError)


async def _read(client: Client) -> str:
    async with client.stream_complete(PROMPT) as stream:
        async for _ in stream:
            pass
    return stream.response.text
