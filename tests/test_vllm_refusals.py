"""What vLLM cannot do is a typed error, at once, that names what is wrong and repeats no word of the prompt."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

import asyncllm
from asyncllm import Choice, Client, Grammar, JsonSchema, Regex
from asyncllm_vllm.backend import VLLM
from asyncllm_vllm.engine import Engine
from vllm_engines import QUICK, client_of, tiny

pytest_plugins = ["vllm_fixtures"]

SECRET = "zanzibar"


@pytest.fixture
async def client(tiny_engine: Engine) -> AsyncGenerator[Client]:
    async with client_of(tiny_engine) as client:
        yield client
        assert (await client.chat("x", max_tokens=2, ignore_eos=True)).usage.output_tokens == 2  # the engine lives on
    assert tiny_engine.core.unfinished == 0


def shown(error: BaseException) -> str:
    """All that a log of `error` would have."""
    return "".join(traceback.format_exception(error)) + repr(error)


async def refused(client: Client, prompt: Any = SECRET, **options: Any) -> asyncllm.AsyncLLMError:
    """The one error by which a call is refused, streamed or not."""
    calls = [client.chat(prompt, **options), client.stream(prompt, **options).whole()]
    errors = await asyncio.gather(*calls, return_exceptions=True)
    for error in errors:
        assert isinstance(error, asyncllm.AsyncLLMError), error
        assert SECRET not in shown(error)
        assert not error.retryable
    first, second = errors
    assert isinstance(first, asyncllm.AsyncLLMError)
    assert (type(first), str(first)) == (type(second), str(second))
    return first


# -- engines that cannot start -----------------------------------------------------------------------------------


async def not_started(model: str, /, **options: Any) -> asyncllm.ConfigError:
    async with Client(model=f"vllm:{model}", options={**QUICK, **options}, retry=None, env={}) as client:
        async with asyncio.timeout(60):
            with pytest.raises(asyncllm.ConfigError) as caught:
                await client.chat(SECRET)
        assert SECRET not in shown(caught.value)
        with pytest.raises(asyncllm.ConfigError):  # nor does it hang the second time
            await client.chat(SECRET)
    return caught.value


async def test_a_model_that_does_not_exist_is_named(tmp_path: Path) -> None:
    error = await not_started(str(tmp_path / "nowhere"))
    assert error.field == "model"
    assert "nowhere" in str(error)
    error = await not_started(str(tmp_path))
    assert error.field == "model"


async def test_an_engine_argument_that_nobody_knows_is_named_with_the_one_that_was_meant() -> None:
    error = await not_started(tiny(), max_model_length=1024)
    assert error.field == "max_model_length"
    assert "'max_model_len'" in str(error)


async def test_a_context_longer_than_the_models_is_refused() -> None:
    error = await not_started(tiny(), max_model_len=10**6)
    assert error.field == "max_model_len"


async def test_a_value_of_the_wrong_kind_is_refused() -> None:
    await not_started(tiny(), max_num_seqs="many")
    await not_started(tiny(), dtype="float13")


@pytest.mark.parametrize("cache_bytes", [1 << 50, 4096], ids=["more than there is", "too little for one sequence"])
async def test_memory_that_does_not_suffice_is_said(cache_bytes: int) -> None:
    error = await not_started(tiny(), kv_cache_memory_bytes=cache_bytes)
    assert "kv_cache_memory_bytes" in str(error)


async def test_options_that_need_each_other_are_refused_before_anything_starts() -> None:
    for options, field in (
        ({"lora_modules": {"a": "/nowhere"}}, "lora_modules"),
        ({"start_s": 0}, "start_s"),
        ({"shutdown_s": -1}, "shutdown_s"),
        ({"model": "other"}, "model"),
        ({"restart": "maybe"}, "restart"),
    ):
        error = await not_started(tiny(), **options)
        assert error.field == field
    with pytest.raises(asyncllm.ConfigError, match="runs in this process"):
        await Client(model=f"vllm:{tiny()}", base_url="http://127.0.0.1:9", env={}).chat("x")


# -- calls that cannot be made -----------------------------------------------------------------------------------


async def test_a_prompt_that_is_too_long_is_refused_as_such(client: Client) -> None:
    error = await refused(client, f"{SECRET} " * 2000)
    assert type(error) is asyncllm.ContextLengthExceededError
    with pytest.raises(asyncllm.ContextLengthExceededError):
        await client.complete([5] * 1024)
    with pytest.raises(asyncllm.ContextLengthExceededError):
        await client.complete(f"{SECRET} " * 2000)


async def test_a_token_that_the_model_does_not_have_is_refused(client: Client) -> None:
    for tokens in ([10**6], [-1]):
        with pytest.raises(asyncllm.AsyncLLMError) as caught:
            await client.complete(tokens)
        assert isinstance(caught.value, asyncllm.BadRequestError | asyncllm.InvalidRequestError)


@pytest.mark.parametrize(
    ("extra", "field"),
    [
        ({"an_option_of_nobody": 1}, "an_option_of_nobody"),
        ({"priority": "high"}, "priority"),
        ({"lora": "x"}, "lora"),
        ({"bad_words": [1]}, "bad_words"),
    ],
)
async def test_an_extra_that_is_unknown_or_of_the_wrong_kind_is_named(
    client: Client, extra: dict[str, Any], field: str
) -> None:
    error = await refused(client, extra=extra)
    assert isinstance(error, asyncllm.InvalidRequestError)
    assert field in str(error)


@pytest.mark.parametrize(
    "options",
    [
        {"min_tokens": 50, "max_tokens": 2},
        {"logit_bias": {"99999999": 1.0}},
        {"top_logprobs": 20000},
        {"extra": {"allowed_token_ids": []}},
        {"extra": {"allowed_token_ids": [10**7]}},
        {"extra": {"prompt_logprobs": -7}},
    ],
    ids=str,
)
async def test_an_impossible_option_is_refused_and_harms_nobody(client: Client, options: dict[str, Any]) -> None:
    others = [asyncio.create_task(client.chat("x", max_tokens=20, ignore_eos=True)) for _ in range(3)]
    error = await refused(client, **options)
    assert isinstance(error, asyncllm.BadRequestError | asyncllm.InvalidRequestError)
    assert {reply.usage.output_tokens for reply in await asyncio.gather(*others)} == {20}


@pytest.mark.parametrize(
    "constraint",
    [
        JsonSchema({"type": "string", "pattern": f"({SECRET}"}),
        JsonSchema({"$ref": "#/nowhere"}),
        Regex(f"({SECRET}"),
        Regex(rf"(?={SECRET})\1"),
        Grammar(f'root ::= "{SECRET}" undefined_{SECRET}'),
        Grammar(f"{SECRET} ::="),
    ],
    ids=["schema", "reference", "regex", "back reference", "undefined rule", "no root"],
)
async def test_a_constraint_that_is_none_is_refused_without_a_word_of_it(client: Client, constraint: Any) -> None:
    error = await refused(client, "x", constraint=constraint, max_tokens=5)
    assert isinstance(error, asyncllm.BadRequestError | asyncllm.InvalidRequestError | asyncllm.UnsupportedError)


async def test_what_the_engine_was_not_started_for_is_refused_by_name(client: Client) -> None:
    tool = asyncllm.Tool("look_up", "", {"type": "object"})
    error = await refused(client, tools=[tool])
    assert (type(error), error.field) == (asyncllm.UnsupportedError, "tools")
    with pytest.raises(asyncllm.UnsupportedError) as caught:
        await client.embed("x")
    assert caught.value.field == "runner"
    error = await refused(client, tools=[tool], constraint=Choice(["a"]))
    assert type(error) is asyncllm.UnsupportedError
    image = asyncllm.Message("user", [asyncllm.ImagePart(data=b"\x89PNG\r\n\x1a\n", media_type="image/png")])
    error = await refused(client, [image])
    assert isinstance(error, asyncllm.BadRequestError | asyncllm.UnsupportedError)


async def test_sleep_needs_an_engine_that_was_started_for_it(tiny_engine: Engine) -> None:
    backend = VLLM("vllm", tiny_engine.options)
    for told in (backend.sleep, backend.wake_up):
        with pytest.raises(asyncllm.UnsupportedError, match="enable_sleep_mode") as caught:
            await told(tiny_engine.model)
        assert caught.value.field == "enable_sleep_mode"
    await backend.aclose()
