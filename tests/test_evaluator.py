"""The code evaluator: what a transcript comes to, what it costs, and what it refuses."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from asyncllm.batch.evaluator import ToolConfig, evaluate, require_sandbox
from asyncllm.errors import ConfigError, InvalidRequestError
from asyncllm.sandbox import Ran, Sandbox
from asyncllm.types import Response, TokenLogprob
from sandbox_scripts import ScriptedModel, ScriptedSandbox, failed, printed, reply

CONFIG = ToolConfig(name="code_evaluator")
ADD = "I add.\n```python\nprint(1 + 1)\n```\n3, I think"
ADDED = "I add.\n```python\nprint(1 + 1)\n```\n2\n>>>\n"
DONE = "So it is 2."


async def run(model: ScriptedModel, sandbox: Sandbox | None, **options: Any) -> Response:
    given = {"config": CONFIG, "max_tokens": 1000, **options}
    return await evaluate("Q", complete=model, sandbox=sandbox, **given)


# -- the transcript ----------------------------------------------------------------------------------------------


async def test_output_takes_the_place_of_what_the_model_thought() -> None:
    model, sandbox = ScriptedModel(ADD, DONE), ScriptedSandbox(printed("2\n"))

    answer = await run(model, sandbox)

    assert answer.text == ADDED + DONE
    assert sandbox.ran == ["print(1 + 1)"]
    assert [asked.prompt for asked in model.asked] == ["Q", "Q" + ADDED]


async def test_the_end_marker_is_a_stop_text_of_every_call_once() -> None:
    stop = ["END"]
    model = ScriptedModel(ADD, ADD, DONE)

    await run(model, ScriptedSandbox(printed("2\n")), stop=stop)

    assert [asked.stop for asked in model.asked] == [("END", "\n>>>\n")] * 3
    assert stop == ["END"]


async def test_code_is_what_follows_the_last_beginning_and_output_the_first_end() -> None:
    text = "```python\na\n```\nx\n```python\nb\n```\ny"
    sandbox = ScriptedSandbox(printed("out"))

    answer = await run(ScriptedModel(text, DONE), sandbox)

    assert sandbox.ran == ["b"]
    assert answer.text == "```python\na\n```\nout\n>>>\n" + DONE


@pytest.mark.parametrize(
    "text", ["no code", "```python\nprint(1)", "```\nprint(1)\n```\n", "```python\nprint(1)\n```", "```py\n1\n```\n2"]
)
async def test_text_without_both_markers_ends_it(text: str) -> None:
    model, sandbox = ScriptedModel(text), ScriptedSandbox(printed("never"))

    answer = await run(model, sandbox)

    assert (answer.text, len(model.asked), sandbox.ran) == (text, 1, [])


async def test_an_empty_reply_ends_it() -> None:
    model = ScriptedModel(ADD, "")

    answer = await run(model, ScriptedSandbox(printed("2")))

    assert (answer.text, len(model.asked)) == (ADDED, 2)


async def test_text_that_ends_in_the_marker_by_itself_goes_on() -> None:
    model = ScriptedModel("as in\n>>>\n", DONE)

    answer = await run(model, ScriptedSandbox(printed("")))

    assert answer.text == "as in\n>>>\n" + DONE


async def test_iterations_are_bounded() -> None:
    model = ScriptedModel(ADD)

    answer = await run(model, ScriptedSandbox(printed("2")), config=ToolConfig(name="code_evaluator", max_iterations=3))

    assert len(model.asked) == 3
    assert answer.text == ADDED * 3


async def test_where_nothing_is_printed_the_last_line_is() -> None:
    sandbox = ScriptedSandbox(printed(""), printed("2\n"))

    answer = await run(ScriptedModel("```python\nx = 1\nx + 1\n```\n", DONE), sandbox)

    assert sandbox.ran == ["x = 1\nx + 1", "x = 1\nprint(x + 1)"]
    assert answer.text == "```python\nx = 1\nx + 1\n```\n2\n>>>\n" + DONE


async def test_a_last_line_that_prints_is_not_run_again() -> None:
    sandbox = ScriptedSandbox(printed(""))

    await run(ScriptedModel("```python\nprint('', end='')\n```\n", DONE), sandbox)

    assert len(sandbox.ran) == 1


async def test_a_last_line_that_is_no_expression_prints_nothing() -> None:
    sandbox = ScriptedSandbox(printed(""), failed("TypeError: 'x' is an invalid keyword argument for print()"))

    answer = await run(ScriptedModel("```python\nx = 1\n```\n", DONE), sandbox)

    assert answer.text == "```python\nx = 1\n```\n\n>>>\n" + DONE


# -- errors ------------------------------------------------------------------------------------------------------


async def test_an_error_is_the_output() -> None:
    model = ScriptedModel(ADD, DONE)

    answer = await run(model, ScriptedSandbox(failed("ZeroDivisionError: division by zero")))

    assert answer.text.startswith("I add.\n```python\nprint(1 + 1)\n```\nfailed with error: Traceback")
    assert answer.text.endswith("ZeroDivisionError: division by zero\n>>>\n" + DONE)


async def test_time_that_is_up_is_the_output() -> None:
    answer = await run(ScriptedModel(ADD, DONE), ScriptedSandbox(Ran(status="timeout", elapsed_s=60)))

    assert "```\nfailed with error: timed out after 60 seconds\n>>>\n" in answer.text


async def test_a_limit_that_was_passed_is_the_output() -> None:
    answer = await run(ScriptedModel(ADD, DONE), ScriptedSandbox(Ran(status="killed")))

    assert "```\nfailed with error: ended by the limits of the sandbox\n>>>\n" in answer.text


async def test_a_status_is_the_output_where_there_is_no_error() -> None:
    answer = await run(ScriptedModel(ADD, DONE), ScriptedSandbox(Ran(status="error", exit_code=3)))

    assert "```\nfailed with error: exit status 3\n>>>\n" in answer.text


UNDEFINED_X = failed("NameError: name 'x' is not defined")
UNDEFINED_MATH = failed("NameError: name 'math' is not defined. Did you forget to import 'math'?")


async def test_an_undefined_name_is_looked_for_in_earlier_blocks() -> None:
    first = "```python\nx = 3\nprint(x)\n```\n"
    second = "```python\nprint(x + 1)\n```\n"
    sandbox = ScriptedSandbox(printed("3\n"), UNDEFINED_X, printed("4\n"))

    answer = await run(ScriptedModel(first, second, DONE), sandbox)

    assert sandbox.ran[1:] == ["print(x + 1)", "x = 3\nprint(x + 1)"]
    assert answer.text == f"{first}3\n>>>\n{second}4\n>>>\n{DONE}"


async def test_a_name_that_everybody_imports_is_imported() -> None:
    sandbox = ScriptedSandbox(UNDEFINED_MATH, printed("3\n"))

    await run(ScriptedModel("```python\nprint(math.floor(3.5))\n```\n", DONE), sandbox)

    assert sandbox.ran[1] == "import math\nprint(math.floor(3.5))"


async def test_it_is_tried_three_times_with_earlier_blocks_first() -> None:
    sandbox = ScriptedSandbox(printed("3\n"), UNDEFINED_X, UNDEFINED_MATH, UNDEFINED_MATH)
    model = ScriptedModel("```python\nx = 3\n1\n```\n", "```python\nprint(math.sqrt(x))\n```\n", DONE)

    answer = await run(model, sandbox)

    assert sandbox.ran[1:] == [
        "print(math.sqrt(x))",
        "x = 3\n1\nprint(math.sqrt(x))",
        "import math\nx = 3\n1\nprint(math.sqrt(x))",
    ]
    assert "name 'math' is not defined" in answer.text


@pytest.mark.parametrize(
    ("error", "config"),
    [
        ("NameError: name 'unheard_of' is not defined", CONFIG),
        ("KeyError: \"NameError: name 'math' is not defined\"", CONFIG),
        (
            "NameError: name 'math' is not defined",
            ToolConfig(name="code_evaluator", should_retry_on_error=False),
        ),
    ],
)
async def test_what_cannot_or_shall_not_be_mended_is_run_once(error: str, config: ToolConfig) -> None:
    sandbox = ScriptedSandbox(failed(error))

    answer = await run(ScriptedModel(ADD, DONE), sandbox, config=config)

    assert len(sandbox.ran) == 1
    assert error in answer.text


async def test_all_attempts_share_one_time() -> None:
    sandbox = ScriptedSandbox(
        failed("NameError: name 'math' is not defined", elapsed_s=20.0), printed("", elapsed_s=15.0), printed("3\n")
    )

    await run(ScriptedModel("```python\nmath.floor(3.5)\n```\n", DONE), sandbox)

    assert sandbox.timeouts == [60, 40, 25]


async def test_with_no_time_left_nothing_is_tried_again() -> None:
    sandbox = ScriptedSandbox(failed("NameError: name 'math' is not defined", elapsed_s=60.0))

    await run(ScriptedModel(ADD, DONE), sandbox)

    assert len(sandbox.ran) == 1


# -- tokens ------------------------------------------------------------------------------------------------------


async def count_words(text: str) -> int:
    return len(text.split())


async def test_completions_and_output_are_charged() -> None:
    model = ScriptedModel(reply("```python\nprint(9)\n```\n"), reply("end", tokens=7))

    answer = await run(model, ScriptedSandbox(printed("1 2 3\n")), max_tokens=100, count=count_words)

    # 10 of the first completion, and four words more: 1, 2, 3 and >>>.
    assert [asked.max_tokens for asked in model.asked] == [100, 86]
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (5, 21)


async def test_output_that_is_shorter_than_the_guess_gives_nothing_back() -> None:
    model = ScriptedModel(reply(f"```python\nprint(9)\n```\n{'x ' * 50}"), "end")

    await run(model, ScriptedSandbox(printed("1")), max_tokens=100, count=count_words)

    assert model.asked[1].max_tokens == 90


async def test_without_a_count_four_characters_are_a_token() -> None:
    model = ScriptedModel(reply("```python\nprint(9)\n```\n", tokens=None), "end")

    await run(model, ScriptedSandbox(printed("a" * 40)), max_tokens=100)

    # 23 characters are 6 tokens, and with 40 of output and 5 of the marker 68, 17 tokens.
    assert model.asked[1].max_tokens == 100 - 6 - 11


@pytest.mark.parametrize("tokens", [10, 11])
async def test_no_tokens_left_ends_it(tokens: int) -> None:
    model = ScriptedModel(reply(ADD, tokens=tokens))

    answer = await run(model, ScriptedSandbox(printed("2")), max_tokens=10)

    assert (len(model.asked), answer.text, answer.finish_reason) == (1, ADDED, "length")


async def test_much_output_ends_it() -> None:
    model = ScriptedModel(ADD)

    answer = await run(model, ScriptedSandbox(printed("x" * 60_000)))

    assert len(model.asked) == 1
    assert answer.usage.output_tokens is not None
    assert answer.usage.output_tokens > 1000


async def test_the_reply_carries_costs_and_probabilities_of_all_calls() -> None:
    logprob = TokenLogprob("a", -0.5)
    first = msgspec.structs.replace(reply(ADD), cost_usd=0.25)
    choice = msgspec.structs.replace(first.choices[0], logprobs=(logprob,))
    first = msgspec.structs.replace(first, choices=(choice,))
    last = msgspec.structs.replace(reply(DONE), cost_usd=0.5, body=b"{}")
    last = msgspec.structs.replace(last, choices=(msgspec.structs.replace(last.choices[0], logprobs=(logprob,)),))

    answer = await run(ScriptedModel(first, last), ScriptedSandbox(printed("2")))

    assert (answer.cost_usd, answer.logprobs, answer.body, answer.model) == (0.75, (logprob, logprob), None, "m")
    assert answer.finish_reason == "stop"


async def test_prompts_go_their_own_way_at_once() -> None:
    both = asyncio.Barrier(2)

    async def complete(prompt: str, /, *, stop: tuple[str, ...], max_tokens: int) -> Response:
        await both.wait()  # neither goes on before the other has asked
        return reply(f"```python\n{prompt[0]}\n```\n" if len(prompt) == 1 else f"{prompt[0]}!")

    sandbox = ScriptedSandbox(lambda code: printed(code * 2))

    answers = await asyncio.gather(
        *(evaluate(one, config=CONFIG, complete=complete, sandbox=sandbox, max_tokens=1000) for one in "ab")
    )

    assert [answer.text for answer in answers] == [f"```python\n{c}\n```\n{c}{c}\n>>>\n{c}!" for c in "ab"]


# -- refusals ----------------------------------------------------------------------------------------------------


async def test_without_a_sandbox_nothing_is_asked() -> None:
    model = ScriptedModel(ADD)

    with pytest.raises(ConfigError) as caught:
        await run(model, None)

    assert (caught.value.code, caught.value.field) == ("code_execution_disabled", "sandbox")
    assert model.asked == []


def test_a_sandbox_that_is_there_is_taken() -> None:
    sandbox = ScriptedSandbox()

    assert require_sandbox(sandbox) is sandbox


@pytest.mark.parametrize("name", ["", "search", "CODE_EVALUATOR"])
def test_another_tool_is_refused_in_the_services_words(name: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        ToolConfig(name=name)

    assert caught.value.message == "Only code_evaluator tool is supported for batch completions."
    assert caught.value.field == "tool_config.name"


@pytest.mark.parametrize(
    ("field", "value"),
    [("max_iterations", 0), ("max_iterations", 1.5), ("max_iterations", True), ("execution_timeout_seconds", 0),
     ("execution_timeout_seconds", 3601), ("execution_timeout_seconds", "60"), ("should_retry_on_error", 1)],
)  # fmt: skip
def test_a_setting_that_cannot_be_right_is_named(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        ToolConfig(**{"name": "code_evaluator", field: value})

    assert caught.value.field == f"tool_config.{field}"


def test_a_setting_that_there_is_not_is_an_error() -> None:
    with pytest.raises(msgspec.ValidationError, match="sandboxed"):
        msgspec.convert({"name": "code_evaluator", "sandboxed": False}, ToolConfig)


@pytest.mark.parametrize("max_tokens", [0, -1, True, 1.5])
async def test_a_budget_that_cannot_be_right_is_named(max_tokens: Any) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await run(ScriptedModel(ADD), ScriptedSandbox(printed("")), max_tokens=max_tokens)

    assert caught.value.field == "max_tokens"
