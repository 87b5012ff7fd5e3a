"""What the page of the backends for Claude shows is what happens."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import asyncllm_anthropic
from anthropic_server import message, repeat, whole
from asyncllm.backend import Config
from asyncllm.testing import FaultyServer, Op, SeenRequest
from asyncllm_anthropic.options import Options

PAGE = Path(asyncllm_anthropic.__file__).with_name("README.md").read_text("utf-8")
SOURCES = dict(re.findall(r"```python\n# (\w+\.py)[^\n]*\n(.*?)```", PAGE, re.DOTALL))
THOUGHT = {"type": "thinking", "thinking": "Look it up.", "signature": "c2ln"}
CALL = {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Paris"}}


async def run(name: str, url: str) -> str:
    """What an example prints."""
    env = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        "ANTHROPIC_API_KEY": "sk-page",
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_BEDROCK_BASE_URL": url,
        "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-c", SOURCES[name]),
        env=env,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert (process.returncode, errors) == (0, b"")
    return output.decode()


async def test_the_first_example_streams() -> None:
    async with FaultyServer(repeat) as server:
        assert await run("chat.py", server.url) == "Why is the sky blue?"


async def test_the_example_for_bedrock_is_signed_for_its_region() -> None:
    async with FaultyServer(repeat) as server:
        assert await run("bedrock.py", server.url) == "Why is the sky blue?\n"

    assert "/eu-west-1/bedrock/" in server.requests[0].headers["authorization"]


async def test_the_example_with_tools_sends_the_thinking_back() -> None:
    def answer(request: SeenRequest) -> Sequence[Op]:
        if len(request.json()["messages"]) == 1:
            return whole(message(THOUGHT, CALL, reason="tool_use"))
        return whole(message({"type": "text", "text": "It is."}))

    async with FaultyServer(answer) as server:
        assert await run("tools.py", server.url) == "It is.\n"

    _, turn, results = server.requests[1].json()["messages"]
    assert turn["content"] == [THOUGHT, CALL]
    assert [block["tool_use_id"] for block in results["content"]] == ["t1"]


def test_the_page_names_every_option_and_its_default() -> None:
    usual = Options.of(Config(backend="anthropic"), version="2023-06-01")

    assert f"| `max_tokens` | {usual.max_tokens} |" in PAGE
    assert f"| `version` | `{usual.version}`" in PAGE
    assert not usual.cache
    for name in asyncllm_anthropic.options.SHARED:
        assert f"| `{name}` |" in PAGE
