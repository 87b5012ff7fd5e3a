"""vLLM's own server with a tiny random model, driven by the backend that is made for it and by plain `openai`."""

from __future__ import annotations

import json
import math
import re
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

import asyncllm
from asyncllm import (
    Choice,
    Client,
    Finished,
    Grammar,
    JsonSchema,
    Regex,
    TextDelta,
    Tool,
    UnsupportedError,
    UsageReport,
)
from asyncllm_vllm.machine import is_for_processors
from bench.ways import Server, open_server
from vllm_engines import QUICK, tiny

pytest_plugins = ["live_servers"]

LIMIT = 1024
SCHEMA = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
# Strict, or vLLM holds the arguments to be JSON and no more.
TOOL = Tool("weather", "Weather of a city", {**SCHEMA, "additionalProperties": False}, strict=True)
CONSTRAINTS: dict[str, tuple[Any, Any]] = {
    "schema": (JsonSchema(SCHEMA), lambda text: type(json.loads(text)["ok"]) is bool),
    "regex": (Regex(r"\d{4}-(0[1-9]|1[0-2])"), lambda text: re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", text)),
    "choice": (Choice(["red", 'a "quoted" one']), lambda text: text in ("red", 'a "quoted" one')),
    "grammar": (Grammar('root ::= "q" "." item\nitem ::= "a" | "b"'), lambda text: text in ("q.a", "q.b")),
}


@pytest.fixture(params=["vllm-server", "openai"])
async def client(vllm_server: Server, request: pytest.FixtureRequest) -> AsyncGenerator[Client]:
    async with client_of(vllm_server, request.param) as client:
        yield client


@pytest.fixture
async def own(vllm_server: Server) -> AsyncGenerator[Client]:
    """A client of the backend that is made for it."""
    async with client_of(vllm_server, "vllm-server") as client:
        yield client


def no_space() -> dict[str, float]:
    """A bias against white space, of which JSON allows any amount and a random model finds no end."""
    vocabulary = json.loads(Path(tiny(), "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    return {str(number): -100.0 for token, number in vocabulary.items() if not token.strip("ĠĊĉč")}


def client_of(server: Server, backend: str, **options: Any) -> Client:
    return Client(
        model=f"{backend}:{server.model}", base_url=server.url, retry=None, options=options, env={"OPENAI_API_KEY": "k"}
    )


async def test_a_chat_whole_and_streamed_is_one_answer(client: Client) -> None:
    whole = await client.chat("Tell me of the river.", max_tokens=20, temperature=0)
    async with client.stream("Tell me of the river.", max_tokens=20, temperature=0) as stream:
        events = [event async for event in stream]

    assert whole.text
    assert stream.response.text == whole.text
    assert sum(isinstance(event, TextDelta) for event in events) > 5
    assert [type(event) for event in events[-2:]] == [UsageReport, Finished]
    for reply in (whole, stream.response):
        assert (reply.finish_reason, reply.usage.output_tokens, reply.model) == ("length", 20, "served")


async def test_a_text_is_continued_from_text_and_from_token_ids(client: Client) -> None:
    text = await client.complete("The river", max_tokens=6, temperature=0, logprobs=True)
    ids = await client.complete([1, 2, 3], max_tokens=6, temperature=0)

    assert (text.usage.output_tokens, ids.usage.input_tokens, ids.usage.output_tokens) == (6, 3, 6)
    assert len(text.logprobs or ()) == 6


async def test_vllms_own_sampling_is_taken(client: Client) -> None:
    one = await client.chat(
        "Hello", max_tokens=8, seed=3, temperature=1, top_k=1, min_p=0.1, repetition_penalty=1.01, min_tokens=8
    )
    greedy = await client.chat("Hello", max_tokens=8, temperature=0, repetition_penalty=1.01, min_tokens=8)

    assert one.text == greedy.text
    assert one.usage.output_tokens == 8


@pytest.mark.parametrize("choice", ["required", "weather"])
async def test_a_tool_is_called_with_arguments_of_its_schema(client: Client, choice: str) -> None:
    options: Any = {
        "tools": [TOOL],
        "tool_choice": choice,
        "max_tokens": 300,
        "temperature": 0,
        "logit_bias": no_space(),
    }
    whole = await client.chat("How is it?", **options)
    async with client.stream("How is it?", **options) as stream:
        async for _ in stream:
            pass

    for reply in (whole, stream.response):
        (call,) = reply.tool_calls
        assert call.name == "weather"
        assert type(call.parse_arguments()["ok"]) is bool


@pytest.mark.parametrize("name", CONSTRAINTS)
async def test_an_answer_has_the_form_that_was_asked_for(own: Client, name: str) -> None:
    constraint, is_held = CONSTRAINTS[name]
    whole = await own.chat("Answer.", constraint=constraint, max_tokens=100)
    async with own.stream("Answer.", constraint=constraint, max_tokens=100) as stream:
        async for _ in stream:
            pass
    text = await own.complete("Answer:", constraint=constraint, max_tokens=100)

    for reply in (whole, stream.response, text):
        assert reply.finish_reason == "stop"
        assert is_held(reply.text)


async def test_plain_openai_holds_an_answer_to_a_schema_and_refuses_what_others_would_ignore(
    vllm_server: Server,
) -> None:
    async with client_of(vllm_server, "openai") as client:
        reply = await client.chat("Answer.", constraint=JsonSchema(SCHEMA), max_tokens=100)
        choice = await client.chat("Answer.", extra={"structured_outputs": {"choice": ["red"]}}, max_tokens=100)
        with pytest.raises(UnsupportedError) as caught:
            await client.chat("Answer.", constraint=Choice(["red"]))

    assert type(json.loads(reply.text)["ok"]) is bool
    assert choice.text == "red"
    assert caught.value.field == "Choice"


async def test_the_older_spelling_is_what_this_server_ignores(vllm_server: Server) -> None:
    async with client_of(vllm_server, "vllm-server", structured_outputs="guided") as client:
        reply = await client.chat("Answer.", constraint=Choice(["red", "blue"]), max_tokens=8, temperature=0)

    assert reply.text not in ("red", "blue")  # which is why the spelling is an option, and the newer one its default


async def test_a_prompt_is_counted_as_the_server_will_read_it(own: Client) -> None:
    plain = await own.check_prompt("Hello", max_tokens=8)
    thinking = await own.check_prompt("Hello", extra={"chat_template_kwargs": {"enable_thinking": False}})
    tools = await own.check_prompt("Hello", system="Be brief", tools=[TOOL])
    reply = await own.chat("Hello", max_tokens=8)
    with_tools = await own.chat("Hello", system="Be brief", tools=[TOOL], max_tokens=2)

    assert (plain.tokens, plain.limit, plain.max_tokens) == (reply.usage.input_tokens, LIMIT, 8)
    assert tools.tokens == with_tools.usage.input_tokens
    assert thinking.tokens > plain.tokens
    assert plain
    assert not await own.check_prompt("Hello", max_tokens=LIMIT)


async def test_a_prompt_of_several_roles_is_counted_whole(own: Client) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    check = await own.check_prompt(turns)
    reply = await own.chat(turns, max_tokens=1)

    assert check.tokens == reply.usage.input_tokens


async def test_a_model_is_listed_with_the_tokens_that_it_takes(client: Client) -> None:
    (model,) = await client.list_models()

    assert (model.id, model.owned_by, model.context_tokens) == ("served", "vllm", LIMIT)
    assert await client.is_alive()


async def test_a_model_that_is_served_passes_and_another_is_named(vllm_server: Server) -> None:
    async with client_of(vllm_server, "vllm-server", verify_model=True) as client:
        assert (await client.chat("Hello", max_tokens=1)).usage.output_tokens == 1
        with pytest.raises(asyncllm.NotFoundError, match="it serves 'served'"):
            await client.chat("Hello", model="vllm-server:absent")


async def test_a_model_that_is_not_there_is_not_found(client: Client) -> None:
    with pytest.raises(asyncllm.NotFoundError) as caught:
        await client.chat("Hello", model=f"{(await client.chat('x', max_tokens=1)).backend}:absent")

    assert (caught.value.status, caught.value.param, caught.value.retryable) == (404, "model", False)


async def test_a_prompt_that_is_too_long_is_told_as_that(client: Client) -> None:
    for stream in (False, True):
        with pytest.raises(asyncllm.ContextLengthExceededError) as caught:
            if stream:
                async with client.stream("river " * 2000):
                    pass
            else:
                await client.chat("river " * 2000)

        assert (caught.value.status, caught.value.retryable) == (400, False)


async def test_an_option_that_vllm_refuses_is_an_error_that_names_it(client: Client) -> None:
    with pytest.raises(asyncllm.BadRequestError) as caught:
        await client.chat("Hello", extra={"structured_outputs": {}})

    assert caught.value.status == 400


async def test_a_server_of_a_model_that_writes_does_not_embed(client: Client) -> None:
    with pytest.raises(asyncllm.NotFoundError):
        await client.embed("Hello")


@pytest.mark.slow
async def test_a_server_that_was_started_to_embed_embeds() -> None:
    with open_server(tiny(), {**QUICK, "runner": "pooling"}, on_cpu=is_for_processors()) as server:
        for backend in ("vllm-server", "openai"):
            async with client_of(server, backend) as client:
                first, second, third = await client.embed(["a river", "a stone bridge", "a river"])

                assert len(first) == len(second) > 0
                assert math.dist(first, third) < math.dist(first, second)
