"""What both vendors' SDKs do with a server: for servers with a real model behind them."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import openai
import pytest

__all__ = [
    "have_tools_called_by_anthropic",
    "have_tools_called_by_openai",
    "talk_to_anthropic_api",
    "talk_to_openai_api",
]

SAID: Any = [{"role": "user", "content": "Say hello."}]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {"name": "weather", "description": "Weather of a city", "parameters": SCHEMA}
QUESTION: Any = {"role": "user", "content": "What is the weather in Rome?"}
PLAIN: dict[str, Any] = {"model": "m", "messages": SAID, "max_tokens": 8, "temperature": 0}


async def talk_to_openai_api(url: str, **held: Any) -> None:
    """Chat in every way, complete, hold an answer to a schema with the options `held`, list and fail."""
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as sdk:
        create = sdk.chat.completions.create
        whole = await create(**PLAIN, logprobs=True, top_logprobs=2)
        stream = await create(**PLAIN, stream=True, stream_options={"include_usage": True}, logprobs=True)
        chunks = [chunk async for chunk in stream]
        deltas = [chunk.choices[0] for chunk in chunks if chunk.choices]
        text = "".join(one.delta.content or "" for one in deltas)
        assert text == whole.choices[0].message.content
        assert deltas[-1].finish_reason == whole.choices[0].finish_reason == "length"
        assert whole.usage is not None
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == 8
        assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens > 0
        told = whole.choices[0].logprobs
        assert told is not None
        assert told.content is not None
        assert [len(token.top_logprobs) for token in told.content] == [2] * 8
        assert sum(len(one.logprobs.content) for one in deltas if one.logprobs and one.logprobs.content) == 8

        several = await create(**{**PLAIN, "temperature": 1.0}, n=2, seed=1)
        assert [choice.index for choice in several.choices] == [0, 1]
        cut = text[2:5]
        stopped = await create(**PLAIN, stop=[cut])
        assert stopped.choices[0].finish_reason == "stop"
        assert stopped.choices[0].message.content == text.partition(cut)[0]
        continued = await sdk.completions.create(model="m", prompt="Once upon a time", max_tokens=4, temperature=0)
        assert continued.usage is not None
        assert (continued.choices[0].finish_reason, continued.usage.completion_tokens) == ("length", 4)

        form: Any = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA}}
        formed = await create(**{**PLAIN, "max_tokens": 60, **held}, response_format=form)
        assert json.loads(formed.choices[0].message.content or "")["city"] in ("Paris", "Rome")

        assert [model.id async for model in sdk.models.list()] == ["m"]
        assert (await sdk.models.retrieve("m")).id == "m"
        with pytest.raises(openai.NotFoundError):
            await create(**{**PLAIN, "model": "another"})
        with pytest.raises(openai.BadRequestError) as caught:
            await create(**{**PLAIN, "temperature": -1})
        assert caught.value.param == "temperature"
        with pytest.raises(openai.BadRequestError) as long:
            await create(**{**PLAIN, "messages": [{"role": "user", "content": "one two three " * 3000}]})
        assert long.value.code == "context_length_exceeded"


async def talk_to_anthropic_api(url: str) -> None:
    """The same by Anthropic's SDK, with its counting of tokens."""
    cold: Any = {"extra_body": {"temperature": 0}}  # which this SDK has no name for
    plain: Any = {"model": "m", "messages": SAID, "max_tokens": 8, "system": "Be brief."}
    async with anthropic.AsyncAnthropic(base_url=url, api_key="k", max_retries=0) as sdk:
        whole = await sdk.messages.create(**plain, **cold)
        async with sdk.messages.stream(**plain, **cold) as stream:
            streamed = await stream.get_final_message()
        first: Any = whole.content[0]
        again: Any = streamed.content[0]
        assert first.text == again.text != ""
        assert (streamed.stop_reason, whole.stop_reason) == ("max_tokens", "max_tokens")
        assert streamed.usage.output_tokens == whole.usage.output_tokens == 8
        counted = await sdk.messages.count_tokens(model="m", messages=SAID, system="Be brief.")
        assert counted.input_tokens == whole.usage.input_tokens + (whole.usage.cache_read_input_tokens or 0)
        with pytest.raises(anthropic.BadRequestError, match="temperature"):
            await sdk.messages.create(**plain, extra_body={"temperature": -1})
        with pytest.raises(anthropic.NotFoundError):
            await sdk.messages.create(**{**plain, "model": "another"})


async def have_tools_called_by_openai(url: str, shown: list[tuple[str, str]], **options: Any) -> None:
    """Ask for the weather, whole and streamed. `shown` are rounds to go by: a city and its weather."""
    turns: Any = [turn for number, one in enumerate(shown) for turn in _round(f"c{number}", *one)[0]]
    tools = [{"type": "function", "function": TOOL}]
    asked: Any = {**PLAIN, "messages": [*turns, QUESTION], "tools": tools, "max_tokens": 60, **options}
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as sdk:
        whole = await sdk.chat.completions.create(**asked)
        async with sdk.chat.completions.stream(**asked) as stream:
            streamed = await stream.get_final_completion()
    for one in (whole.choices[0], streamed.choices[0]):
        call = (one.message.tool_calls or [])[0]
        assert call.type == "function"
        assert (call.function.name, one.finish_reason) == ("weather", "tool_calls")
        assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome")
        assert call.id


async def have_tools_called_by_anthropic(url: str, shown: list[tuple[str, str]]) -> None:
    """The same by Anthropic's SDK."""
    turns: Any = [turn for number, one in enumerate(shown) for turn in _round(f"c{number}", *one)[1]]
    tool: Any = {"name": TOOL["name"], "description": TOOL["description"], "input_schema": SCHEMA}
    asked: Any = {"model": "m", "max_tokens": 60, "messages": [*turns, QUESTION], "tools": [tool]}
    cold: Any = {"extra_body": {"temperature": 0}}
    async with anthropic.AsyncAnthropic(base_url=url, api_key="k", max_retries=0) as sdk:
        whole = await sdk.messages.create(**asked, **cold)
        async with sdk.messages.stream(**asked, **cold) as stream:
            streamed = await stream.get_final_message()
    for message in (whole, streamed):
        used: Any = next(block for block in message.content if block.type == "tool_use")
        assert (used.name, message.stop_reason) == ("weather", "tool_use")
        assert used.input["city"] in ("Paris", "Rome")


def _round(id_: str, city: str, weather: str) -> tuple[list[Any], list[Any]]:
    """A call of the tool and what came of it, as turns of OpenAI's API and of Anthropic's."""
    ask = {"role": "user", "content": f"What is the weather in {city}?"}
    told = {"role": "assistant", "content": f"It is {weather} in {city}."}
    call = {"id": id_, "type": "function", "function": {"name": "weather", "arguments": json.dumps({"city": city})}}
    used = {"type": "tool_use", "id": id_, "name": "weather", "input": {"city": city}}
    result = {"type": "tool_result", "tool_use_id": id_, "content": weather}
    return (
        [
            ask,
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": id_, "content": weather},
            told,
        ],
        [ask, {"role": "assistant", "content": [used]}, {"role": "user", "content": [result]}, told],
    )
