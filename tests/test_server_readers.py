"""Every reader of OpenAI's streams that is known to be particular reads ours alike, however the bytes arrive."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import aiohttp
import httpx
import huggingface_hub
import openai
import pytest
from httpx_sse import aconnect_sse

from asyncllm import APIError, Client, Finished, TextDelta, ToolCallDelta
from asyncllm.errors import StreamInterrupted
from asyncllm.events import UsageReport
from asyncllm.testing import ScriptedBackend
from asyncllm.testing.ops import Pause
from asyncllm.types import Usage
from served import served
from slicing_proxy import sliced

PIECES = [
    " one", " two\n", "\r\n", "a\u2028b", "\u2029", "\x85", " ", "\x0b\x0c\x1c\x1d\x1e", "data: x\n\n", ": ping",
    "é\U0001f600",
    '"quoted"\\', "[DONE]", "\ufeff", " end ",
]  # fmt: skip
ASKED: Any = [{"role": "user", "content": "x"}]
USAGE = UsageReport(Usage(input_tokens=3, output_tokens=2))
END = [USAGE, Finished("stop")]
CALLS = [
    ToolCallDelta(0, "call_1", "weather", '{"city": '), ToolCallDelta(0, arguments='"\u2028 Paris"}'),
    ToolCallDelta(1, "call_2", "weather", "{}"), USAGE, Finished("tool_calls"),
]  # fmt: skip


class Heard(Exception):  # noqa: N818  # it is no fault of the test
    """An error that a reader was told of."""


def body_of(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": ASKED, "stream": True, "stream_options": {"include_usage": True}, **fields}


def pieces_of(document: dict[str, Any]) -> list[str]:
    if "error" in document:
        raise Heard(document["error"]["message"])
    return [choice["delta"]["content"] for choice in document["choices"] if choice["delta"].get("content")]


async def by_openai(url: str) -> list[str]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as sdk:
        stream = await sdk.chat.completions.create(**body_of())
        try:
            chunks = [chunk async for chunk in stream]
        except openai.APIError as error:
            raise Heard from error
    assert chunks[-1].usage is not None
    return [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]


async def by_lines(url: str) -> list[str]:
    """As guidellm and many others read."""
    found: list[str] = []
    async with httpx.AsyncClient() as http, http.stream("POST", f"{url}/v1/chat/completions", json=body_of()) as reply:
        async for line in reply.aiter_lines():
            if line.strip():
                assert line.startswith("data: ")
                if line != "data: [DONE]":
                    found += pieces_of(json.loads(line.removeprefix("data: ")))
    return found


async def by_httpx_sse(url: str) -> list[str]:
    found: list[str] = []
    async with (
        httpx.AsyncClient() as http,
        aconnect_sse(http, "POST", f"{url}/v1/chat/completions", json=body_of()) as source,
    ):
        async for event in source.aiter_sse():
            assert event.event == "message"
            if event.data != "[DONE]":
                found += pieces_of(json.loads(event.data))
    return found


async def by_huggingface(url: str) -> list[str]:
    async with huggingface_hub.AsyncInferenceClient(base_url=f"{url}/v1", api_key="k") as client:
        stream: Any = await client.chat_completion(ASKED, model="m", stream=True)
        try:
            return [chunk.choices[0].delta.content async for chunk in stream if chunk.choices[0].delta.content]
        except huggingface_hub.errors.TextGenerationError as error:
            raise Heard from error


def vllm_reader() -> ModuleType:
    """The reader of vLLM's benchmarks without the rest of vLLM, which takes seconds to load."""
    name = "vllm_endpoint_request_func"
    if name not in sys.modules:
        found = importlib.util.find_spec("vllm")
        assert found is not None
        assert found.origin is not None
        path = Path(found.origin).parent / "benchmarks/lib/endpoint_request_func.py"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


async def by_vllm(url: str) -> list[str]:
    handler = vllm_reader().StreamedResponseHandler()
    found: list[str] = []
    async with aiohttp.ClientSession() as http, http.post(f"{url}/v1/chat/completions", json=body_of()) as reply:
        async for data in reply.content.iter_any():
            for message in handler.add_chunk(data):
                if message != "data: [DONE]":
                    found += pieces_of(json.loads(message.removeprefix("data: ")))
    assert not handler.buffer
    return found


async def by_us(url: str) -> list[str]:
    async with Client(model="openai:m", base_url=f"{url}/v1", api_key="k", retry=None) as client:
        try:
            async with client.stream("x") as stream:
                return [event.text async for event in stream if isinstance(event, TextDelta)]
        except APIError as error:
            raise Heard from error


Reader = Callable[[str], Awaitable[list[str]]]
READERS: list[Reader] = [by_openai, by_lines, by_httpx_sse, by_huggingface, by_us]
if importlib.util.find_spec("vllm"):
    READERS.append(by_vllm)
every_reader = pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)


async def heard(read: Callable[[str], Awaitable[Any]], script: list[Any], size: int | None = 0, **settings: Any) -> Any:
    """What a reader makes of a scripted answer, `size` bytes at a time, all at once, or with 0 as it is sent."""
    async with AsyncExitStack() as opened:
        client = await opened.enter_async_context(Client(backend=ScriptedBackend([script])))
        url = await opened.enter_async_context(served(client, models={"m": ""}, **settings))
        if size != 0:
            url = await opened.enter_async_context(sliced(url, size))
        return await read(url)


@pytest.mark.parametrize("size", [0, None, 1, 7], ids=["as sent", "at once", "bytes", "sevens"])
@every_reader
async def test_every_piece_arrives_once_and_whole(read: Reader, size: int | None) -> None:
    assert await heard(read, [*map(TextDelta, PIECES), *END], size) == PIECES


@every_reader
async def test_a_silence_adds_nothing(read: Reader) -> None:
    script = [TextDelta(" one"), Pause(0.15), TextDelta(" two"), Pause(0.1), *END]

    assert await heard(read, script, keep_alive_s=0.02) == [" one", " two"]


@pytest.mark.parametrize("size", [None, 1], ids=["at once", "bytes"])
@every_reader
async def test_an_error_in_the_middle_is_told_and_not_taken_for_the_end(read: Reader, size: int | None) -> None:
    script = [TextDelta(" one"), StreamInterrupted("it broke")]

    with pytest.raises(Heard):
        await heard(read, script, size)


@every_reader
async def test_an_answer_of_nothing_is_one(read: Reader) -> None:
    assert await heard(read, list(END)) == []


@pytest.mark.parametrize("size", [0, None, 1], ids=["as sent", "at once", "bytes"])
async def test_calls_of_tools_and_usage_arrive(size: int | None) -> None:
    async def by_sdk(url: str) -> Any:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as sdk:
            tools: Any = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
            asked: Any = {"model": "m", "messages": ASKED, "tools": tools, "stream_options": {"include_usage": True}}
            async with sdk.chat.completions.stream(**asked) as stream:
                return await stream.get_final_completion()

    whole = await heard(by_sdk, list(CALLS), size)

    calls = whole.choices[0].message.tool_calls
    assert [(call.id, call.function.name) for call in calls] == [("call_1", "weather"), ("call_2", "weather")]
    assert [json.loads(call.function.arguments) for call in calls] == [{"city": "\u2028 Paris"}, {}]
    assert (whole.choices[0].finish_reason, whole.usage.total_tokens) == ("tool_calls", 5)


@pytest.mark.skipif(not importlib.util.find_spec("vllm"), reason="needs vLLM")
@pytest.mark.parametrize("size", [0, None], ids=["as sent", "at once"])
async def test_vllm_s_own_benchmark_reads_an_answer(size: int | None) -> None:
    async def measure(url: str) -> Any:
        module = vllm_reader()
        asked = module.RequestFuncInput(
            prompt="x", api_url=f"{url}/v1/chat/completions", prompt_len=1, output_len=20, model="m", ignore_eos=True
        )
        async with aiohttp.ClientSession() as http:
            return await module.async_request_openai_chat_completions(asked, http)

    measured = await heard(measure, [*map(TextDelta, PIECES), *END], size)

    assert (measured.success, measured.error) == (True, "")
    assert (measured.generated_text, measured.output_tokens) == ("".join(PIECES), 2)


PEERS = ["any_llm", "guidellm", "langchain_openai", "litellm", "llama_index", "pydantic_ai"]


@pytest.mark.slow
@pytest.mark.skipif("PEERS_PYTHON" not in os.environ, reason="PEERS_PYTHON is an interpreter that has them installed")
@pytest.mark.parametrize("size", [0, None, 1], ids=["as sent", "at once", "bytes"])
@pytest.mark.parametrize("peer", PEERS)
async def test_frameworks_read_an_answer(peer: str, size: int | None) -> None:
    async def run(url: str) -> Any:
        script = Path(__file__).with_name("peer_readers.py")
        process = await asyncio.create_subprocess_exec(
            os.environ["PEERS_PYTHON"], script, url, peer, stdout=-1, env={"PATH": os.environ["PATH"]}
        )
        said, _ = await process.communicate()
        return json.loads(said.splitlines()[-1])

    read = await heard(run, [*map(TextDelta, PIECES), *END], size)

    assert read["text"] == "".join(PIECES)
    assert read["pieces"] in (len(PIECES), len(PIECES) - 1)  # some join the first two
