"""Rows 45 and 46: the code evaluator of LLM Engine's batches, with code that is really run, in the sandbox."""

from __future__ import annotations

import asyncio

import pytest

from asyncllm.batch.evaluator import ToolConfig, evaluate
from asyncllm.errors import ConfigError, InvalidRequestError
from asyncllm.sandbox import Sandbox, open_sandbox
from asyncllm.types import Response
from sandbox_scripts import ScriptedModel, reply

DONE = "That is it."


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    return asyncio.run(open_sandbox())


def block(code: str, guess: str = "a guess") -> str:
    return f"```python\n{code}\n```\n{guess}"


def shown(code: str, output: str) -> str:
    return f"```python\n{code}\n```\n{output}\n>>>\n"


async def run(
    model: ScriptedModel, sandbox: Sandbox | None, *, config: ToolConfig | None = None, max_tokens: int = 1000
) -> Response:
    config = config or ToolConfig(name="code_evaluator")
    return await evaluate("How much?\n", config=config, complete=model, sandbox=sandbox, max_tokens=max_tokens)


async def test_row_045_output_stands_before_the_marker_and_generation_resumes(sandbox: Sandbox) -> None:
    model = ScriptedModel(block("print(6 * 7)", "41"), DONE)

    answer = await run(model, sandbox)

    assert answer.text == shown("print(6 * 7)", "42") + DONE
    assert model.asked[0].stop == ("\n>>>\n",)
    assert model.asked[1].prompt == "How much?\n" + shown("print(6 * 7)", "42")


async def test_row_045_a_value_on_the_last_line_is_shown_without_print(sandbox: Sandbox) -> None:
    answer = await run(ScriptedModel(block("x = 6\nx * 7"), DONE), sandbox)

    assert answer.text == shown("x = 6\nx * 7", "42") + DONE


async def test_row_045_the_budget_shrinks_by_completions_and_output(sandbox: Sandbox) -> None:
    code = "print('x' * 400)"
    model = ScriptedModel(reply(block(code, ""), tokens=30), reply(DONE, tokens=4))

    answer = await run(model, sandbox, max_tokens=500)

    longer = -(-len(shown(code, "x" * 400)) // 4) - -(-len(block(code, "")) // 4)
    assert [asked.max_tokens for asked in model.asked] == [500, 470 - longer]
    assert answer.usage.output_tokens == 34 + longer


async def test_row_045_a_spent_budget_ends_the_prompt(sandbox: Sandbox) -> None:
    model = ScriptedModel(reply(block("print(1)"), tokens=50))

    answer = await run(model, sandbox, max_tokens=50)

    assert len(model.asked) == 1
    assert answer.text == shown("print(1)", "1")


async def test_row_046_the_text_of_an_error_is_inserted_and_the_model_goes_on(sandbox: Sandbox) -> None:
    model = ScriptedModel(block("print(1 / 0)"), block("print(1)"), DONE)

    answer = await run(model, sandbox)

    error = (
        'failed with error: Traceback (most recent call last):\n  File "<string>", line 1, in <module>\n'
        "ZeroDivisionError: division by zero"
    )
    assert answer.text == shown("print(1 / 0)", error) + shown("print(1)", "1") + DONE


async def test_row_046_time_that_is_up_is_inserted(sandbox: Sandbox) -> None:
    model = ScriptedModel(block("while True: pass"), DONE)

    answer = await run(model, sandbox, config=ToolConfig(name="code_evaluator", execution_timeout_seconds=1))

    assert answer.text == shown("while True: pass", "failed with error: timed out after 1 seconds") + DONE


async def test_row_046_earlier_blocks_are_replayed_without_their_prints(sandbox: Sandbox) -> None:
    first, second = "x = 20\nprint(x)", "print(x + 22)"
    model = ScriptedModel(block(first), block(second), DONE)

    answer = await run(model, sandbox)

    assert answer.text == shown(first, "20") + shown(second, "42") + DONE


async def test_row_046_a_usual_import_that_is_missing_is_added(sandbox: Sandbox) -> None:
    first, second = "x = 16\nprint(x)", "print(math.isqrt(x))"
    model = ScriptedModel(block(first), block(second), DONE)

    answer = await run(model, sandbox)

    assert answer.text == shown(first, "16") + shown(second, "4") + DONE


async def test_row_046_without_retries_the_undefined_name_is_inserted(sandbox: Sandbox) -> None:
    config = ToolConfig(name="code_evaluator", should_retry_on_error=False)

    answer = await run(ScriptedModel(block("print(math.pi)"), DONE), sandbox, config=config)

    assert "NameError: name 'math' is not defined" in answer.text
    assert answer.text.endswith(DONE)


async def test_row_046_max_iterations_stops(sandbox: Sandbox) -> None:
    model = ScriptedModel(block("print(1)"))

    answer = await run(model, sandbox, config=ToolConfig(name="code_evaluator", max_iterations=2))

    assert answer.text == shown("print(1)", "1") * 2


def test_row_046_an_unknown_tool_is_rejected() -> None:
    with pytest.raises(InvalidRequestError, match="^Only code_evaluator tool is supported for batch completions.$"):
        ToolConfig(name="web_search")


async def test_row_046_no_code_is_run_unless_a_sandbox_is_given() -> None:
    with pytest.raises(ConfigError) as caught:
        await run(ScriptedModel(block("print(1)")), None)

    assert caught.value.code == "code_execution_disabled"
