"""Answers that are held to a form, adapters, tools, vectors and crowds, on real engines of vLLM."""

from __future__ import annotations

import asyncio
import json
import math
import re
import resource
import shutil
import struct
import zlib
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import asyncllm
from asyncllm import (
    Choice,
    Client,
    Grammar,
    ImagePart,
    JsonSchema,
    Message,
    Regex,
    Response,
    TextPart,
    Tool,
)
from asyncllm.events import ReasoningDelta, TextDelta, ToolCallDelta
from asyncllm_vllm.engine import Engine
from bench.models import models_folder, tiny_adapter, tiny_blip2
from sdk_talks import have_tools_called_by_openai
from served import served
from vllm_engines import QUICK, chat_ids, client_of, held, naked, no_white_space, stands_still, tiny, until

pytest_plugins = ["vllm_fixtures"]

SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "size": {"enum": ["small", "large"]}},
    "required": ["ok", "size"],
    "additionalProperties": False,
}
WEATHER = Tool(
    "get_weather",
    "Weather of a city",
    {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Rome"]}, "days": {"enum": [1, 2, 3]}},
        "required": ["city", "days"],
        "additionalProperties": False,
    },
)
CLOCK = Tool("get_time", "Time of day", {"type": "object", "properties": {}, "additionalProperties": False})
SAYS = "The adapter is speaking."


@pytest.fixture
async def client(tiny_engine: Engine) -> AsyncGenerator[Client]:
    async with client_of(tiny_engine) as client:
        yield client
    assert tiny_engine.core.unfinished == 0


async def both(client: Client, prompt: str, **options: Any) -> tuple[Response, Response, list[Any]]:
    """The answer whole and streamed, and the events of the latter."""
    whole = await client.chat(prompt, **options)
    async with client.stream(prompt, **options) as stream:
        events = [event async for event in stream]
    return whole, stream.response, events


# -- images ------------------------------------------------------------------------------------------------------


def _square(red: int, green: int, blue: int) -> ImagePart:
    """A PNG of one colour."""
    rows = b"".join(b"\0" + bytes((red, green, blue)) * 32 for _ in range(32))
    head = struct.pack(">IIBBBBB", 32, 32, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    framed = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return ImagePart(data=b"\x89PNG\r\n\x1a\n" + b"".join(framed))


async def test_a_model_that_sees_answers_by_what_it_sees() -> None:
    model = tiny_blip2(models_folder() / "tiny-blip2", Path(tiny()))
    async with Client(model=f"vllm:{model}", options=QUICK, retry=None, env={}) as client:

        async def ask(*parts: ImagePart) -> Response:
            messages = [Message("user", [TextPart("What is it?"), *parts])]
            return await client.chat(messages, max_tokens=12, temperature=0)

        nothing, red, green = await ask(), await ask(_square(255, 0, 0)), await ask(_square(0, 255, 0))
        again = await ask(_square(255, 0, 0))
        checked = await client.check_prompt([Message("user", [TextPart("What is it?"), _square(255, 0, 0)])])

    assert red.text == again.text != green.text
    assert (red.usage.input_tokens or 0) - (nothing.usage.input_tokens or 0) == 4
    assert checked.tokens == red.usage.input_tokens


# -- constraints -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("constraint", "is_held"),
    [
        (JsonSchema(SCHEMA), lambda text: set(json.loads(text)) == {"ok", "size"}),
        (Regex(r"\d{4}-(0[1-9]|1[0-2])"), lambda text: re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", text)),
        (Choice(["red", 'a "quoted" one', "日本"]), lambda text: text in ("red", 'a "quoted" one', "日本")),
        (Grammar('root ::= "q" "." item\nitem ::= "a" | "b"'), lambda text: text in ("q.a", "q.b")),
    ],
    ids=["schema", "regex", "choice", "grammar"],
)
async def test_an_answer_has_the_form_that_was_asked_for(client: Client, constraint: Any, is_held: Any) -> None:
    ends = set()
    for seed in range(3):
        whole, streamed, _ = await both(client, "Answer.", constraint=constraint, max_tokens=100, seed=seed)
        complete = await client.complete("Answer:", constraint=constraint, max_tokens=100, seed=seed)
        for reply in (whole, streamed, complete):
            assert reply.finish_reason == "length" or is_held(reply.text)
            ends.add(reply.finish_reason)
        assert whole.text == streamed.text
    assert "stop" in ends


async def test_an_answer_is_decoded_to_the_type_that_was_asked_for(client: Client) -> None:
    class Fit(msgspec.Struct):
        ok: bool

    reply = await client.chat("Does it fit?", output_type=Fit, max_tokens=200)
    assert isinstance(reply.parsed, Fit)


# -- tools and thinking ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def calling() -> Generator[Engine]:
    """The tiny model, of which it is known how it writes tool calls."""
    with held(tiny(), {**QUICK, "tool_call_parser": "hermes"}) as engine:
        yield engine


@pytest.mark.parametrize("choice", ["required", "get_weather"])
async def test_a_tool_is_called_with_arguments_of_its_schema(calling: Engine, choice: str) -> None:
    async with client_of(calling) as client:
        tools = [WEATHER] if choice == "get_weather" else [WEATHER, CLOCK]
        for seed in range(3):
            whole, streamed, events = await both(
                client,
                "What is the weather?",
                tools=tools,
                tool_choice=choice,
                max_tokens=300,
                seed=seed,
                logit_bias=no_white_space(calling),
            )
            for reply in (whole, streamed):
                assert reply.finish_reason == "tool_calls"
                for call in reply.tool_calls:
                    if call.name == "get_weather":
                        arguments = json.loads(call.arguments)
                        assert set(arguments) == {"city", "days"}
                        assert arguments["city"] in ("Paris", "Rome")
                        assert arguments["days"] in (1, 2, 3)
            assert [(call.name, json.loads(call.arguments)) for call in whole.tool_calls] == [
                (call.name, json.loads(call.arguments)) for call in streamed.tool_calls
            ]
            assert sum(isinstance(event, ToolCallDelta) for event in events) > 2
            assert all(call.id for reply in (whole, streamed) for call in reply.tool_calls)
    assert calling.core.unfinished == 0


async def test_a_tool_is_called_through_our_server(calling: Engine) -> None:
    async with client_of(calling) as client, served(client, models={"m": ""}) as url:
        bias = no_white_space(calling)
        await have_tools_called_by_openai(url, [], tool_choice="required", max_tokens=300, seed=1, logit_bias=bias)
    assert calling.core.unfinished == 0


async def test_tools_that_may_be_called_and_are_not_leave_a_plain_answer(calling: Engine) -> None:
    async with client_of(calling) as client:
        whole, streamed, _ = await both(client, "Hello.", tools=[WEATHER], max_tokens=20, temperature=0)
        assert whole.text == streamed.text != ""
        assert whole.tool_calls == streamed.tool_calls == ()
        assert whole.finish_reason == streamed.finish_reason == "length"


async def test_the_result_of_a_tool_goes_back_to_the_model(calling: Engine) -> None:
    async with client_of(calling) as client:
        call = asyncllm.ToolCall("call-1", "get_weather", '{"city": "Rome", "days": 1}')
        asked = [asyncllm.Message("user", "Weather?"), asyncllm.Message("assistant", tool_calls=(call,))]
        answered = [*asked, asyncllm.Message("tool", "It rains.", tool_call_id="call-1")]
        first = await client.chat(asked[:1], tools=[WEATHER], max_tokens=5)
        last = await client.chat(answered, tools=[WEATHER], max_tokens=5)
        assert (last.usage.input_tokens or 0) > (first.usage.input_tokens or 0) + 10


def test_thinking_is_told_from_what_is_said() -> None:
    thinks = tiny_adapter(models_folder() / "tiny-thinks", Path(tiny()), says="<think>Hm.</think>So be it.")
    options = {**QUICK, "reasoning_parser": "qwen3", "enable_lora": True, "max_lora_rank": 8}
    with held(tiny(), options) as engine:
        asyncio.run(_thinks(engine, str(thinks)))


async def _thinks(engine: Engine, adapter: str) -> None:
    async with client_of(engine) as client:
        whole, streamed, events = await both(
            client, "What is the capital of France?", max_tokens=60, temperature=0, extra={"lora": adapter}
        )
    for reply in (whole, streamed):
        assert (reply.reasoning or "").strip() == "Hm."
        assert reply.text.strip() == "So be it."
        assert reply.finish_reason == "stop"
    assert any(isinstance(event, ReasoningDelta) for event in events)
    assert any(isinstance(event, TextDelta) for event in events)


# -- adapters ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def adapter() -> Path:
    return tiny_adapter(models_folder() / "tiny-adapter", Path(tiny()), says=SAYS)


@pytest.fixture(scope="module")
def adapting(adapter: Path) -> Generator[Engine]:
    options = {
        **QUICK,
        "enable_lora": True,
        "max_lora_rank": 8,
        "max_loras": 2,
        "lora_modules": {"speaks": str(adapter)},
    }
    with held(tiny(), options) as engine:
        yield engine


async def test_base_and_adapter_answer_side_by_side(adapting: Engine, adapter: Path) -> None:
    async with client_of(adapting) as client:
        core = await adapting.ready()
        question = "What is the capital of France?"
        base = (await naked(core, chat_ids(core, question), temperature=0, max_tokens=30)).outputs[0].text
        ways: list[Any] = [{}, {"extra": {"lora": "speaks"}}, {"extra": {"lora": str(adapter)}}] * 4
        replies = await asyncio.gather(
            *(client.chat(question, temperature=0, max_tokens=30, **options) for options in ways)
        )
        assert [reply.text for reply in replies] == [base, SAYS, SAYS] * 4
        streamed = [text async for text in client.stream_text(question, temperature=0, **ways[1])]
        assert "".join(streamed) == SAYS


async def test_an_adapter_that_cannot_be_loaded_harms_nobody(adapting: Engine, adapter: Path, tmp_path: Path) -> None:
    corrupt = tmp_path / "corrupt"
    shutil.copytree(adapter, corrupt)
    (corrupt / "adapter_model.safetensors").write_bytes(b"\0" * 64)
    empty = tmp_path / "empty"
    empty.mkdir()
    garbled = tmp_path / "garbled"
    shutil.copytree(adapter, garbled)
    (garbled / "adapter_config.json").write_text("{")
    async with client_of(adapting) as client:
        others = [asyncio.create_task(client.chat("x", max_tokens=60, ignore_eos=True)) for _ in range(4)]
        for bad in (tmp_path / "nowhere", empty, corrupt, garbled):
            calls = [client.chat("x", extra={"lora": str(bad)}) for _ in range(2)]
            for error in await asyncio.gather(*calls, return_exceptions=True):
                assert isinstance(error, asyncllm.InvalidRequestError), error
                assert error.field == "lora"
        assert {reply.usage.output_tokens for reply in await asyncio.gather(*others)} == {60}
        assert (await client.chat("x", temperature=0, max_tokens=30, extra={"lora": "speaks"})).text == SAYS
        # One that is mended is loaded after all.
        shutil.copyfile(adapter / "adapter_model.safetensors", corrupt / "adapter_model.safetensors")
        assert (await client.chat("x", temperature=0, max_tokens=30, extra={"lora": str(corrupt)})).text == SAYS


async def test_a_caller_who_leaves_while_an_adapter_loads_leaves_it_to_the_others(
    adapting: Engine, adapter: Path, tmp_path: Path
) -> None:
    fresh = tmp_path / "fresh"
    shutil.copytree(adapter, fresh)
    async with client_of(adapting) as client:
        await client.chat("x", max_tokens=1)
        options: Any = {"temperature": 0, "max_tokens": 30, "extra": {"lora": str(fresh)}}
        hasty, patient = (asyncio.create_task(client.chat("x", **options)) for _ in range(2))
        await asyncio.sleep(0.001)
        hasty.cancel()
        assert (await patient).text == SAYS
        assert await asyncio.gather(hasty, return_exceptions=True)
    assert adapting.core.unfinished == 0


# -- vectors -----------------------------------------------------------------------------------------------------


def test_texts_are_embedded_in_order_and_such_an_engine_writes_nothing() -> None:
    texts = [f"{word} and {word}" for word in ("river", "stone", "garden", "music", "bridge")]
    with held(tiny(), {**QUICK, "runner": "pooling", "convert": "embed"}) as engine:
        asyncio.run(_embeds(engine, texts))


async def _embeds(engine: Engine, texts: list[str]) -> None:
    async with client_of(engine) as client:
        together = await client.embed([*texts, texts[0]])
        alone = [(await client.embed(text)).vectors[0] for text in texts]

        assert {len(vector) for vector in together} == {64}
        for vector in together:
            assert math.isclose(math.hypot(*vector), 1, abs_tol=1e-3)
        for one, other in zip([*alone, alone[0]], together, strict=True):
            assert math.dist(one, other) < 1e-3
        assert math.dist(together.vectors[0], together.vectors[1]) > 1e-2
        tokenizer: Any = engine.core._engine.get_tokenizer()
        assert together.usage.input_tokens == sum(len(tokenizer(text).input_ids) for text in [*texts, texts[0]])
        for call in (client.chat("x"), client.stream("x").whole(), client.complete("x")):
            with pytest.raises(asyncllm.UnsupportedError) as caught:
                await call
            assert caught.value.field == "runner"
        with pytest.raises(asyncllm.ContextLengthExceededError) as refused:
            await client.embed(["x", "zanzibar " * 2000])
        assert "zanzibar" not in repr(refused.value)
        with pytest.raises(asyncllm.InvalidRequestError):
            await client.embed("x", extra={"unknown": 1})
        leaving = asyncio.create_task(client.embed([f"{number} " * 50 for number in range(200)]))
        await asyncio.sleep(0.02)
        leaving.cancel()
        await asyncio.wait([leaving])
        assert leaving.cancelled()
        assert engine.core.unfinished == 0


# -- crowds ------------------------------------------------------------------------------------------------------


async def test_two_thousand_calls_at_once_are_all_answered_in_bounded_memory(client: Client) -> None:
    await client.chat("x", max_tokens=4)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    calls = [client.chat(f"Number {number}.", max_tokens=4, ignore_eos=True) for number in range(2000)]
    replies = await asyncio.gather(*calls)
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before

    assert [reply.usage.output_tokens for reply in replies] == [4] * 2000
    assert len({reply.request_id for reply in replies}) == 2000
    assert grown_kib < 200 * 1024  # 100 KiB a call that waits


async def test_a_crowd_that_is_left_leaves_the_engine_idle(client: Client, tiny_engine: Engine) -> None:
    calls = [asyncio.create_task(client.chat(f"{number}", max_tokens=500, ignore_eos=True)) for number in range(600)]
    await until(lambda: tiny_engine.core.unfinished == 600, 60)
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    assert all(call.cancelled() for call in calls)
    assert await stands_still(tiny_engine.core)
