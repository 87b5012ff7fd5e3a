"""Vendors' SDKs talk to our server with vLLM in this process behind it; a client that goes ends the engine's work."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import openai
import pytest

from asyncllm_vllm.engine import Engine
from sdk_talks import PLAIN, talk_to_anthropic_api, talk_to_openai_api
from served import served
from vllm_engines import client_of, no_white_space, stands_still, until

pytest_plugins = ["vllm_fixtures"]


@pytest.fixture
async def url(tiny_engine: Engine) -> AsyncGenerator[str]:
    async with client_of(tiny_engine) as client, served(client, models={"m": f"vllm:{tiny_engine.model}"}) as url:
        yield url


async def test_openai_s_sdk_talks_to_vllm(url: str, tiny_engine: Engine) -> None:
    await talk_to_openai_api(url, logit_bias=no_white_space(tiny_engine))


async def test_anthropic_s_sdk_talks_to_vllm(url: str) -> None:
    await talk_to_anthropic_api(url)


async def test_a_stream_that_is_left_ends_in_the_engine(url: str, tiny_engine: Engine) -> None:
    core = tiny_engine.core
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as sdk:
        long = {**PLAIN, "max_tokens": 900, "extra_body": {"ignore_eos": True}}
        stream = await sdk.chat.completions.create(**long, stream=True)
        async for _ in stream:
            break
        assert core.unfinished == 1
        made = core.generated
        await stream.close()
        await until(lambda: core.unfinished == 0)

    assert await stands_still(core)
    assert core.generated - made < 900
