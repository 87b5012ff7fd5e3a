"""A batch of LLM Engine whose model has code run: from its file to its output."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import asyncllm
from asyncllm import Client, Request
from asyncllm.backend import Backend
from asyncllm.events import Event, Events, Finished, Started, TextDelta, UsageReport
from asyncllm.sandbox import Sandbox, open_sandbox
from asyncllm.types import Usage

TOOL: dict[str, Any] = {"name": "code_evaluator", "max_iterations": 3}


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    return asyncio.run(open_sandbox())


class Reckoner:
    """Writes code that doubles the number it was asked for, and then says what came out."""

    def __init__(self) -> None:
        self.keys: list[str | None] = []

    @asynccontextmanager
    async def open(self, request: Request, /) -> AsyncGenerator[Events]:
        self.keys.append(request.idempotency_key)
        yield self._events(str(request.prompt))

    async def _events(self, prompt: str) -> AsyncGenerator[Event]:
        output = prompt.rpartition("\n>>>\n")[0].rpartition("\n")[2]
        yield Started("reckoner")
        yield TextDelta(f"It is {output}." if output else f"```python\nprint(2 * {prompt})\n```\n")
        yield UsageReport(Usage(input_tokens=3, output_tokens=9))
        yield Finished("stop")

    async def aclose(self) -> None: ...


def a_client(backend: Backend) -> Client:
    return Client(model="openai:reckoner", backend=backend)


def prompts(folder: Path, **options: Any) -> Path:
    path = folder / "in.json"
    path.write_text(json.dumps({"prompts": ["4", "21"], "max_new_tokens": 100, "temperature": 0, **options}))
    return path


async def test_every_row_is_a_transcript_with_the_output_of_its_code(tmp_path: Path, sandbox: Sandbox) -> None:
    backend = Reckoner()
    async with a_client(backend) as client:
        report = await client.run_batch(prompts(tmp_path), tmp_path / "out.json", tool_config=TOOL, sandbox=sandbox)

    assert (report.status, report.done) == ("completed", 2)
    assert [row["text"] for row in json.loads((tmp_path / "out.json").read_bytes())] == [
        "```python\nprint(2 * 4)\n```\n8\n>>>\nIt is 8.",
        "```python\nprint(2 * 21)\n```\n42\n>>>\nIt is 42.",
    ]
    assert len(set(backend.keys)) == 4


async def test_without_a_sandbox_nothing_is_run_and_nothing_asked(tmp_path: Path) -> None:
    backend = Reckoner()
    async with a_client(backend) as client:
        with pytest.raises(asyncllm.ConfigError) as caught:
            await client.run_batch(prompts(tmp_path), tmp_path / "out.json", tool_config=TOOL)

    assert caught.value.code == "code_execution_disabled"
    assert backend.keys == []


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"name": "browser"}, "tool_config.name"),
        ({"name": "code_evaluator", "max_iterations": 0}, "tool_config.max_iterations"),
        ({"name": "code_evaluator", "max_iterations": "2"}, "tool_config.max_iterations"),
        ({"name": "code_evaluator", "retries": 2}, "tool_config.retries"),
    ],
)
async def test_a_tool_config_that_cannot_be_right_is_named(
    tmp_path: Path, sandbox: Sandbox, config: dict[str, Any], field: str
) -> None:
    async with a_client(Reckoner()) as client:
        with pytest.raises(asyncllm.InvalidRequestError) as caught:
            await client.run_batch(prompts(tmp_path), tmp_path / "out.json", tool_config=config, sandbox=sandbox)

    assert caught.value.field == field


async def test_a_chat_is_refused_by_its_line(tmp_path: Path, sandbox: Sandbox) -> None:
    (tmp_path / "in.json").write_text('[{"messages": [{"role": "user", "content": "4"}], "max_tokens": 9}]')
    async with a_client(Reckoner()) as client:
        with pytest.raises(asyncllm.InputError, match=r"in\.json, \[0\]: with tool_config"):
            await client.run_batch(tmp_path / "in.json", tmp_path / "out.json", tool_config=TOOL, sandbox=sandbox)
