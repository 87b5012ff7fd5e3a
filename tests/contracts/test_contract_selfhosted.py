"""The TGI and vLLM clients of LLM Clients (001), row by row, and LLM Engine's constraints as vLLM takes them (002).

Where those clients have a flag `chat_completion_enabled`, ours has two calls: `chat` is the flag set, `complete` is the
flag not set.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, cast

import pytest

import asyncllm
from asyncllm import Choice, Client, Grammar, InvalidRequestError, JsonSchema, Message, Regex, Sampling, TextDelta
from asyncllm.testing import (
    FaultyServer,
    Op,
    ScriptedReply,
    ScriptedTransport,
    SeenRequest,
    Sse,
    Stall,
    Status,
    run_virtual,
)
from talks import talking
from tgi_server import END, INFO, event, failed, generated, served, streamed, tgi, token
from vllm_wire import LIMIT, vllm

MODELS = {"tgi": "tgi:some-model", "vllm": "vllm-server:some-model"}
SCRIPTS: dict[str, Callable[[SeenRequest], Sequence[Op]]] = {"tgi": tgi, "vllm": vllm}
BOTH = pytest.mark.parametrize("system", MODELS)
TURNS = [Message("system", "Be brief"), Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "And?")]


def serving(
    system: str,
    script: Callable[[SeenRequest], Sequence[Op]] | Sequence[Op] | None = None,
    *,
    model: str | None = None,
    **options: Any,
) -> AbstractAsyncContextManager[tuple[FaultyServer, Client]]:
    """A server of `system`, and a client of it that tries once."""
    return talking(script or SCRIPTS[system], model or MODELS[system], **options)


async def test_row_013_a_text_is_generated_by_tgis_own_route() -> None:
    async with serving("tgi") as (server, client):
        reply = await client.complete("Once upon a time", max_tokens=100)

    (seen,) = server.requests
    assert (seen.method, seen.path) == ("POST", "/generate")
    assert seen.json()["inputs"] == "Once upon a time"
    assert seen.json()["parameters"]["max_new_tokens"] == 100
    assert reply.text == "Once upon a time"


@BOTH
async def test_row_014_a_text_in_a_chat_is_one_user_message(system: str) -> None:
    async with serving(system) as (server, client):
        await client.chat("Hello")

    (seen,) = server.requests
    assert seen.path == "/v1/chat/completions"
    assert seen.json()["messages"] == [{"role": "user", "content": "Hello"}]


@BOTH
async def test_row_015_all_roles_reach_the_server_in_order(system: str) -> None:
    async with serving(system) as (server, client):
        await client.chat(TURNS)

    messages = server.requests[0].json()["messages"]
    assert messages == [{"role": turn.role, "content": turn.content} for turn in TURNS]


@BOTH
async def test_row_016_a_conversation_is_no_text_to_complete(system: str) -> None:
    async with serving(system) as (server, client):
        with pytest.raises(InvalidRequestError) as caught:
            await client.complete(cast("Any", TURNS))

    assert caught.value.field == "prompt"
    assert not server.requests


async def test_row_017_a_chat_and_a_text_have_a_route_each_and_defaults_are_merged() -> None:
    usual = Sampling(max_tokens=100, temperature=0)
    async with serving("vllm") as (server, client):
        await client.chat("Hello", sampling=usual)
        await client.complete("Hello", sampling=usual, max_tokens=5, seed=1)

    chat, text = server.requests
    assert (chat.path, text.path) == ("/v1/chat/completions", "/v1/completions")
    assert (chat.json()["max_tokens"], chat.json()["temperature"]) == (100, 0)
    assert text.json()["prompt"] == "Hello"
    assert [text.json()[name] for name in ("max_tokens", "temperature", "seed")] == [5, 0, 1]


@BOTH
async def test_row_018_a_model_that_is_served_passes_and_is_looked_for_late(system: str) -> None:
    async with serving(system, verify_model=True) as (server, client):
        assert not server.requests
        reply = await client.chat("Hello")

    # Of vLLM's models it is the second one.
    assert server.requests[0].path == {"tgi": "/info", "vllm": "/v1/models"}[system]
    assert reply.text == "Hello"


@BOTH
async def test_row_018_a_model_that_is_not_served_is_an_error(system: str) -> None:
    absent = f"{MODELS[system].partition(':')[0]}:absent"
    async with serving(system, verify_model=True, model=absent) as (server, client):
        with pytest.raises(asyncllm.NotFoundError, match="'some-model'") as caught:
            await client.chat("Hello")

    assert caught.value.model == "absent"
    assert len(server.requests) == 1


@BOTH
@pytest.mark.parametrize(("status", "alive"), [(200, True), (503, False), (401, False), (500, False)])
async def test_row_019_a_server_is_alive_by_its_own_word(system: str, status: int, alive: bool) -> None:
    async with serving(system, [Status(status)]) as (server, client):
        assert await client.is_alive() is alive

    assert [seen.path for seen in server.requests] == ["/health"]


@BOTH
async def test_row_019_a_server_that_is_not_there_is_not_alive(system: str) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and not listening
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        async with Client(model=MODELS[system], base_url=url, env={}) as client:
            assert await client.is_alive() is False


@BOTH
def test_row_019_a_server_that_does_not_answer_is_not_alive(system: str) -> None:
    async def ask() -> bool:
        transport = ScriptedTransport([ScriptedReply(body=[Stall()])])
        async with Client(model=MODELS[system], base_url="http://127.0.0.1:9", transport=transport, env={}) as client:
            return await client.is_alive()

    assert run_virtual(ask()) is False


@BOTH
async def test_row_020_a_prompt_is_counted_by_the_server(system: str) -> None:
    async with serving(system) as (server, client):
        text = await client.check_prompt("one two three", max_tokens=10)
        turns = await client.check_prompt(TURNS)
        long = await client.check_prompt("word " * 1500)

    limit = {"tgi": INFO["max_total_tokens"], "vllm": LIMIT}[system]
    assert text
    assert (text.tokens, text.limit, text.max_tokens) == (3, limit, 10)
    assert turns
    assert not long
    asked = {seen.path for seen in server.requests}
    assert asked == {"tgi": {"/info", "/chat_tokenize"}, "vllm": {"/tokenize"}}[system]


@pytest.mark.parametrize("name", ["max_input_tokens", "max_input_length"])
async def test_row_021_the_limit_is_found_under_either_name(name: str) -> None:
    info = {key: value for key, value in INFO.items() if key != "max_input_tokens"} | {name: 2}

    def script(request: SeenRequest) -> Sequence[Op]:
        return served(info) if request.path == "/info" else tgi(request)

    async with serving("tgi", script) as (_, client):
        assert await client.check_prompt("one two")
        check = await client.check_prompt("one two three")

    assert not check
    assert (check.tokens, check.limit) == (3, 2)


@pytest.mark.parametrize(
    ("status", "kind", "error_class", "retryable"),
    [
        (422, "validation", asyncllm.UnprocessableEntityError, False),
        (422, "template_error", asyncllm.UnprocessableEntityError, False),
        (424, "generation", asyncllm.APIStatusError, False),
        (429, "overloaded", asyncllm.OverloadedError, True),
        (500, "incomplete_generation", asyncllm.InternalServerError, True),
    ],
)
async def test_row_022_an_error_keeps_its_text_and_its_type(
    status: int, kind: str, error_class: type[asyncllm.APIStatusError], retryable: bool
) -> None:
    async with serving("tgi", failed(status, kind, "it broke")) as (_, client):
        with pytest.raises(error_class) as caught:
            await client.complete("Hello")

    error = caught.value
    assert (error.status, error.code, error.message, error.retryable) == (status, kind, "it broke", retryable)


async def test_row_023_tokens_come_in_order_and_the_last_event_ends_them() -> None:
    script = streamed(
        event({"token": token("<s>", special=True)}),
        event({"token": token("The")}),
        event({"token": token(" sea")}),
        event(generated("The sea", reason="eos_token", count=3, length=5, last=END)),
    )
    async with serving("tgi", script) as (server, client):
        async with client.stream_complete("Hello") as stream:
            texts = [one.text async for one in stream if isinstance(one, TextDelta)]

    assert server.requests[0].path == "/generate_stream"
    assert texts == ["The", " sea"]
    reply = stream.response
    assert (reply.text, reply.finish_reason) == ("The sea", "stop")
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (5, 3)


async def test_row_023_an_error_in_a_stream_raises() -> None:
    script = streamed(event({"token": token("The")}), event({"error": "it broke", "error_type": "generation"}))
    async with serving("tgi", script) as (_, client):
        with pytest.raises(asyncllm.APIStatusError) as caught:
            async with client.stream_complete("Hello") as stream:
                async for _ in stream:
                    pass

    assert (caught.value.status, caught.value.code) == (424, "generation")


async def test_row_024_a_stream_of_vllm_has_deltas_usage_and_an_end() -> None:
    chunks: list[dict[str, Any]] = [
        {"choices": [], "model": "some-model"},  # before anything else, as Azure sends it
        {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]},
        {"choices": [{"index": 0, "delta": {"content": "The"}}]},
        {"choices": [{"index": 0, "delta": {"content": " sea"}, "finish_reason": "stop"}]},
        {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 3}},
    ]
    async with serving("vllm", [Sse(chunks)]) as (server, client):
        async with client.stream("Hello") as stream:
            texts = [one.text async for one in stream if isinstance(one, TextDelta)]

    assert server.requests[0].json()["stream_options"] == {"include_usage": True}
    assert texts == ["The", " sea"]
    assert (stream.response.usage.input_tokens, stream.response.usage.output_tokens) == (5, 3)
    assert stream.response.finish_reason == "stop"


async def test_row_024_an_error_in_a_stream_of_vllm_raises() -> None:
    broken = {"error": {"message": "engine died", "type": "InternalServerError", "param": None, "code": 500}}
    async with serving("vllm", [Sse([{"choices": [{"index": 0, "delta": {"content": "The"}}]}, broken])]) as (
        _,
        client,
    ):
        with pytest.raises(asyncllm.InternalServerError, match="engine died") as caught:
            async with client.stream("Hello") as stream:
                async for _ in stream:
                    pass

    assert caught.value.partial is not None
    assert caught.value.partial.text == "The"


SCHEMA = {"type": "object", "properties": {"a": {"type": "boolean"}}}


@pytest.mark.parametrize(
    "extra",
    [
        {"guided_json": SCHEMA, "guided_regex": "yes"},
        {"guided_choice": ["yes"], "guided_grammar": 'root ::= "yes"'},
        {"structured_outputs": {"regex": "yes", "choice": ["yes"]}},
    ],
)
@pytest.mark.parametrize("spelling", ["structured_outputs", "guided"])
async def test_row_033_two_constraints_are_an_error_before_http(extra: dict[str, Any], spelling: str) -> None:
    async with serving("vllm", structured_outputs=spelling) as (server, client):
        with pytest.raises(InvalidRequestError):
            await client.chat("Hello", extra=extra)

    assert not server.requests


@pytest.mark.parametrize(
    ("constraint", "field", "value"),
    [
        (Regex("yes|no"), "structured_outputs", {"regex": "yes|no"}),
        (Choice(["yes", "no"]), "structured_outputs", {"choice": ["yes", "no"]}),
        (Grammar('root ::= "yes"'), "structured_outputs", {"grammar": 'root ::= "yes"'}),
        (
            JsonSchema(SCHEMA),
            "response_format",
            {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}},
        ),
    ],
)
async def test_row_033_one_constraint_is_translated_for_vllm(
    constraint: Any, field: str, value: dict[str, Any]
) -> None:
    async with serving("vllm") as (server, client):
        await client.chat("Hello", constraint=constraint)

    sent = server.requests[0].json()
    assert sent[field] == value
    assert not any(name.startswith("guided_") for name in sent)
