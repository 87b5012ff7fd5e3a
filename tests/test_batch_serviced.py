"""A durable batch whose rows a service works off: parts, ends of the process at every step, and stopping."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import asyncllm
from anthropic_batch_server import AnthropicBatchServer
from asyncllm import BatchReport, Client, RunProgress
from asyncllm.testing import FaultyServer, ManualClock
from asyncllm.workspace.batches import BatchStore
from asyncllm.workspace.points import KILLED
from batch_talks import results, write_input
from openai_batch_server import OpenAIBatchServer

PROMPTS = ("one", "refuse", "three", "late", "five", "six", "seven")
QUICK: dict[str, Any] = {"part_items": 3, "interval_s": 0.01, "longest_s": 0.02, "patience_s": 0.05}


EXPECTED = [
    (0, "one", True), (1, None, False), (2, "three", True), (3, None, False), (4, "five", True), (5, "six", True),
    (6, "seven", True),
]  # fmt: skip


async def run(folder: Path, url: str, model: str = "openai:m", **options: Any) -> BatchReport:
    named = {"via": "vendor", "vendor": QUICK, **options}
    async with Client(model=model, base_url=url, api_key="sk-key") as client:
        return await client.run_batch(write_input(folder, PROMPTS), folder / "out.jsonl", **named)


async def test_rows_go_in_parts_and_come_back_in_order(tmp_path: Path) -> None:
    service = OpenAIBatchServer()
    seen: list[RunProgress] = []
    async with FaultyServer(service) as server:
        report = await run(tmp_path, server.url + "/v1", progress=seen.append, labels={"team": "a"})

    assert (report.status, report.done, report.failed, report.left) == ("completed_with_errors", 5, 2, 0)
    assert results(tmp_path) == EXPECTED
    assert service.created == 3
    assert all(batch["metadata"]["team"] == "a" for batch in service.batches)
    assert seen[-1].total == 7


POINTS = [
    "part.open:1", "part.open:3", "part.name:1", "part.name:2", "part.close:1", "part.close:2", "row.finish:1",
    "row.finish:5", "row.finish.within:3", "commit.before:4", "commit.after:6", "export.written", "lease.taken",
]  # fmt: skip

SCRIPT = """
import asyncio, json, sys
from asyncllm import Client

async def main(source, sink, url, model, vendor):
    async with Client(model=model, base_url=url, api_key="sk-key") as client:
        await client.run_batch(source, sink, via="vendor", vendor=json.loads(vendor))

asyncio.run(main(*sys.argv[1:]))
"""


def killed_at(point: str, folder: Path, url: str, model: str = "openai:m") -> int:
    told = [str(write_input(folder, PROMPTS)), str(folder / "out.jsonl"), url, model, json.dumps(QUICK)]
    env = {**os.environ, "ASYNCLLM_CRASH": point}
    return subprocess.run([sys.executable, "-c", SCRIPT, *told], env=env, timeout=60).returncode


@pytest.mark.parametrize("point", POINTS)
async def test_a_run_that_is_killed_makes_no_batch_twice(tmp_path: Path, point: str) -> None:
    service = OpenAIBatchServer()
    async with FaultyServer(service) as server:
        assert await asyncio.to_thread(killed_at, point, tmp_path, server.url + "/v1") == KILLED

        report = await run(tmp_path, server.url + "/v1")

    assert service.created == 3
    assert (report.done, report.failed, report.left) == (5, 2, 0)
    assert results(tmp_path) == EXPECTED


async def test_a_batch_that_cannot_be_looked_for_is_made_again_only_where_that_is_asked_for(tmp_path: Path) -> None:
    service = AnthropicBatchServer()
    async with FaultyServer(service) as server:
        # The service has made a batch, and its answer was not written down.
        assert await asyncio.to_thread(killed_at, "part.name:1", tmp_path, server.url, "anthropic:m") == KILLED
        made = len(service.batches)
        with pytest.raises(asyncllm.UnsupportedError, match="may_repeat") as caught:
            await run(tmp_path, server.url, "anthropic:m")
        assert (caught.value.maybe_billed, len(service.batches)) == (True, made)

        report = await run(tmp_path, server.url, "anthropic:m", vendor={**QUICK, "may_repeat": True})

    assert (report.total, report.left) == (7, 0)
    assert len(service.batches) > 3


async def two_batches(service: OpenAIBatchServer) -> None:
    """Wait until two batches are with the service."""
    async with asyncio.timeout(30):
        while len(service.batches) < 2:  # noqa: ASYNC110  # it is another process's, as far as the client knows
            await asyncio.sleep(0.01)


async def test_cancelling_ends_what_is_with_the_service(tmp_path: Path) -> None:
    service = OpenAIBatchServer(steps=["in_progress"] * 10_000)
    async with FaultyServer(service) as server:
        running = asyncio.create_task(run(tmp_path, server.url + "/v1"))
        await two_batches(service)
        async with BatchStore(tmp_path / "out.jsonl.batch") as store:
            (record,) = await store.batches()
            await store.cancel(record.id)
        report = await running

    assert report.status == "cancelled"
    assert {batch["status"] for batch in service.batches} == {"cancelled"}
    assert report.total == 7
    assert report.left > 0


async def test_a_cancelled_task_leaves_the_batch_with_the_service_for_the_next_run(tmp_path: Path) -> None:
    service = OpenAIBatchServer(steps=["in_progress"] * 10_000)
    async with FaultyServer(service) as server:
        running = asyncio.create_task(run(tmp_path, server.url + "/v1"))
        await two_batches(service)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert {batch["status"] for batch in service.batches} == {"in_progress"}
        service.end()
        service.steps = ("validating", "completed")

        report = await run(tmp_path, server.url + "/v1")

    assert (report.status, service.created) == ("completed_with_errors", 3)
    assert results(tmp_path) == EXPECTED


async def test_what_does_not_go_together_is_named_before_anything_is_sent(tmp_path: Path) -> None:
    service = OpenAIBatchServer()
    async with FaultyServer(service) as server:
        url = server.url + "/v1"
        with pytest.raises(asyncllm.UnsupportedError, match="echo"):
            async with Client(model="echo:x") as client:
                await client.run_batch(write_input(tmp_path, PROMPTS), tmp_path / "out.jsonl", via="vendor")
        for wrong in (
            {"via": "post"},
            {"vendor": {"in_flight": 0}},
            {"vendor": {"speed": 1}},
            {"model": ["openai:m", "openai:n"]},
        ):
            with pytest.raises(asyncllm.InvalidRequestError):
                await run(tmp_path, url, **wrong)

    assert not server.requests


async def test_a_clock_of_the_caller_decides_how_long_looks_are_apart(tmp_path: Path) -> None:
    service = OpenAIBatchServer()
    async with (
        FaultyServer(service) as server,
        Client(model="openai:m", base_url=server.url + "/v1", api_key="k", clock=ManualClock(instant=True)) as client,
    ):
        report = await client.run_batch(write_input(tmp_path, PROMPTS), tmp_path / "out.jsonl", via="vendor")

    assert (report.left, service.created) == (0, 1)
