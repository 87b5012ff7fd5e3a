"""Row 44: one file of a batch is run here, by one process and by several, and comes out the same."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from asyncllm import Client
from asyncllm.batch.formats import find_format
from asyncllm.batch.formats.protocol import Reading
from asyncllm.types import Request
from worker_backend import Call, calls, installed

# The first take longest, so that what ends first is last in the file.
PROMPTS = [f"wait {0.3 - 0.02 * number:.2f} {number}" for number in range(12)]


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    installed(tmp_path, monkeypatch)
    return tmp_path / "log"


def client_of(log: Path) -> Client:
    return Client(model="obedient:m", options={"log": str(log)}, retry=None)


def written(folder: Path, prompts: list[str]) -> Path:
    """A file of LLM Engine's first version."""
    file = folder / "input.json"
    file.write_text(json.dumps({"prompts": prompts, "max_new_tokens": 8, "temperature": 0.0}), "utf-8")
    return file


async def ran(log: Path, prompts: list[str], **options: Any) -> list[str]:
    """What is in the output file, less the number of the process that has said it."""
    folder = log.parent
    output = folder / "output.json"
    async with client_of(log) as client:
        report = await client.run_batch(
            written(folder, prompts), output, store=folder / "store", reserve_bytes=0, **options
        )
    assert report.done == len(prompts)
    return [item["text"].partition(" ")[2] for item in json.loads(output.read_text("utf-8"))]


def most_at_once(done: list[Call]) -> int:
    under_way = most = 0
    for call in done:
        under_way += {"begin": 1, "end": -1}.get(call.what, 0)
        most = max(most, under_way)
    return most


async def test_row_044_a_file_is_executed_by_a_fan_out_in_memory(log: Path) -> None:
    content = written(log.parent, PROMPTS).read_bytes()

    async def pieces() -> AsyncIterator[bytes]:
        yield content

    rows = find_format(None, "input.json", content).read(pieces(), Reading(name="input.json"))
    asked = [row.request async for row in rows]
    async with client_of(log) as client:
        results = [
            result async for result in client.batch([one for one in asked if isinstance(one, Request)], concurrency=5)
        ]

    said = [result.response.text.partition(" ")[2] for result in results if result.response is not None]
    assert said == PROMPTS
    assert most_at_once(calls(log)) == 5


async def test_row_044_a_file_is_executed_with_no_more_calls_at_once_than_were_asked_for(log: Path) -> None:
    assert await ran(log, PROMPTS, concurrency=3) == PROMPTS
    assert {call.pid for call in calls(log)} == {os.getpid()}
    assert most_at_once(calls(log)) == 3


async def test_row_044_a_file_is_split_over_workers_and_merged_in_its_order(log: Path) -> None:
    assert await ran(log, PROMPTS, concurrency=4, data_parallelism=2) == PROMPTS
    pids = {call.pid for call in calls(log)}
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert most_at_once(calls(log)) <= 4


@pytest.mark.parametrize("prompts", [["wait 0.1 a"], ["wait 0.1 a", "wait 0.1 b"]])
async def test_row_044_fewer_prompts_than_workers_are_each_asked_once(log: Path, prompts: list[str]) -> None:
    assert await ran(log, prompts, data_parallelism=8) == prompts
    done = calls(log)
    assert sorted(call.prompt for call in done if call.what == "begin") == prompts
    assert len({call.pid for call in done}) <= len(prompts)
