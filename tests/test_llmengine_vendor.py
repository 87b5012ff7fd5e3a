"""Durable batches that LLM Engine works off, and whose outcomes it writes to files: in an object store and a folder."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

import asyncllm
from asyncllm import BatchReport, Client, InputError, InvalidRequestError, Message, ResponseValidationError
from asyncllm.testing import FaultyServer, ManualClock
from asyncllm.types import Request
from asyncllm.workspace.points import KILLED
from batch_talks import results, serving, write_input
from llmengine_server import Jobs

if TYPE_CHECKING:
    from s3_server import S3Server

pytest_plugins = ["s3_server"]

PROMPTS = ("one", "refuse two", "three", "four", "five")
QUICK: dict[str, Any] = {"part_items": 2, "interval_s": 0.01, "longest_s": 0.02, "patience_s": 0.05}


EXPECTED = [(0, "one", True), (1, None, False), (2, "three", True), (3, "four", True), (4, "five", True)]


def put(address: str, content: bytes) -> None:
    """Write a file, as a service that shares a disk does."""
    Path(address).write_bytes(content)


async def run(folder: Path, url: str, output: str | None = None, **options: Any) -> BatchReport:
    vendor = {**QUICK, "output": output or str(folder), **options.pop("vendor", {})}
    async with Client(model="llmengine:m", base_url=url, api_key="key") as client:
        return await client.run_batch(
            write_input(folder, PROMPTS), folder / "out.jsonl", via="vendor", vendor=vendor, **options
        )


async def test_outcomes_are_fetched_from_an_object_store(tmp_path: Path, s3_server: S3Server) -> None:
    folder = uuid.uuid4().hex

    def upload(address: str, content: bytes) -> None:
        s3_server.put(address.removeprefix(f"s3://{s3_server.bucket}/"), content)

    jobs = Jobs(put=upload)
    async with FaultyServer(jobs) as server:
        output = f"s3://{s3_server.bucket}/{folder}/"
        report = await run(tmp_path, server.url, output, place_options=s3_server.options(), labels={"team": "a"})

    assert (report.status, report.done, report.failed) == ("completed_with_errors", 4, 1)
    assert results(tmp_path) == EXPECTED
    assert jobs.created == 3
    assert sorted(f"s3://{s3_server.bucket}/{key}" for key in s3_server.keys(folder)) == sorted(
        job["output_data_path"] for job in jobs.jobs.values()
    )


async def test_prompts_go_to_the_first_version_with_their_options(tmp_path: Path) -> None:
    source = tmp_path / "in.json"
    source.write_text(json.dumps({"prompts": ["one two", "three"], "max_new_tokens": 1, "temperature": 0.0}))
    async with (
        FaultyServer(Jobs(put=put)) as server,
        Client(model="llmengine:m", base_url=server.url, api_key="key") as client,
    ):
        vendor = {**QUICK, "output": str(tmp_path)}
        report = await client.run_batch(source, tmp_path / "out.json", via="vendor", vendor=vendor)

    assert report.status == "completed"
    assert [one["text"] for one in json.loads((tmp_path / "out.json").read_text())] == ["one", "three"]
    assert server.requests[0].path == "/v1/llm/batch-completions"


SCRIPT = """
import asyncio, json, sys
from asyncllm import Client

async def main(source, sink, url, vendor):
    async with Client(model="llmengine:m", base_url=url, api_key="key") as client:
        await client.run_batch(source, sink, via="vendor", vendor=json.loads(vendor))

asyncio.run(main(*sys.argv[1:]))
"""


def killed_at(point: str, folder: Path, url: str) -> int:
    # One part at a time: of another that was being made, nobody could say whether it is there.
    vendor = json.dumps({**QUICK, "output": str(folder), "in_flight": 1})
    told = [str(write_input(folder, PROMPTS)), str(folder / "out.jsonl"), url, vendor]
    env = {**os.environ, "ASYNCLLM_CRASH": point}
    return subprocess.run([sys.executable, "-c", SCRIPT, *told], env=env, timeout=60).returncode


@pytest.mark.parametrize("point", ["part.close:1", "part.close:2", "row.finish:1", "row.finish:4", "export.written"])
async def test_a_run_that_is_killed_goes_on_with_the_jobs_that_there_are(tmp_path: Path, point: str) -> None:
    jobs = Jobs(put=put)
    async with FaultyServer(jobs) as server:
        assert await asyncio.to_thread(killed_at, point, tmp_path, server.url) == KILLED

        report = await run(tmp_path, server.url)

    assert (jobs.created, report.left) == (3, 0)
    assert results(tmp_path) == EXPECTED


async def test_a_file_that_is_not_there_ends_the_run_and_the_next_one_reads_it(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    held: dict[str, bytes] = {}

    def late(address: str, content: bytes) -> None:
        (put if disk.is_dir() else held.__setitem__)(address, content)

    jobs = Jobs(put=late)
    async with FaultyServer(jobs) as server:
        with pytest.raises(InputError, match=r"asyncllm-\w+\.json cannot be read: nothing is there"):
            await run(tmp_path, server.url, str(disk))
        disk.mkdir()
        for address, content in held.items():
            put(address, content)

        report = await run(tmp_path, server.url, str(disk))

    assert (jobs.created, report.left) == (3, 0)
    assert results(tmp_path) == EXPECTED


async def test_the_items_of_a_job_that_failed_have_its_error(tmp_path: Path) -> None:
    async with FaultyServer(Jobs("queued", "failed", put=put)) as server:
        report = await run(tmp_path, server.url)

    assert (report.done, report.failed, report.errors) == (0, 5, {"JobFailedError": 5})


async def test_a_file_of_another_number_of_items_is_nobodys(tmp_path: Path) -> None:
    def shortened(address: str, content: bytes) -> None:
        put(address, msgspec.json.encode(msgspec.json.decode(content)[:-1]))

    async with FaultyServer(Jobs(put=shortened)) as server:
        report = await run(tmp_path, server.url)

    assert (report.done, report.errors) == (0, {"ResponseValidationError": 5})


@pytest.mark.parametrize("vendor", [{"output": None}, {"output": "out"}, {"output": "http://host/x"}, {"output": 5}])
async def test_a_folder_that_cannot_be_right_is_named_before_anything_is_sent(tmp_path: Path, vendor: Any) -> None:
    async with FaultyServer(Jobs(put=put)) as server:
        with pytest.raises(asyncllm.ConfigError) as caught:
            await run(tmp_path, server.url, vendor=vendor)

    assert caught.value.field in ("output", "location")
    assert not server.requests


async def test_a_service_that_gives_outcomes_itself_takes_no_folder(tmp_path: Path) -> None:
    async with FaultyServer(Jobs()) as server, Client(model="openai:m", base_url=server.url, api_key="k") as client:
        with pytest.raises(InvalidRequestError, match="leave output out"):
            await client.run_batch(
                write_input(tmp_path, PROMPTS), tmp_path / "out.jsonl", via="vendor", vendor={"output": str(tmp_path)}
            )

    assert not server.requests


async def test_prices_and_clock_are_the_client_s(tmp_path: Path) -> None:
    async with (
        FaultyServer(Jobs(put=put)) as server,
        Client(model="llmengine:m", base_url=server.url, api_key="k", clock=ManualClock(instant=True)) as client,
    ):
        report = await client.run_batch(
            write_input(tmp_path, PROMPTS), tmp_path / "out.jsonl", via="vendor", vendor={"output": str(tmp_path)}
        )

    assert (report.left, report.output_tokens) == (0, 4)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1", b"\xff", b"[{}, {}]"])
async def test_a_content_that_is_no_file_of_outcomes_is_refused_as_a_whole(content: bytes) -> None:
    asked = {"row-0": Request(model="m", messages=(Message("user", "hi"),))}
    async with serving(Jobs(), "llmengine") as (_, backend):
        with pytest.raises(ResponseValidationError):
            backend.read_outcomes(content, asked)


async def test_what_python_writes_for_numbers_that_are_none_does_no_harm() -> None:
    item = '{"text": "hi", "num_completion_tokens": 1, "tokens": [{"token": "hi", "log_prob": %s}]}'
    asked = {f"row-{at}": Request(model="m", prompt="hi") for at in range(2)}
    async with serving(Jobs(), "llmengine") as (_, backend):
        odd, good = backend.read_outcomes(f"[{item % '-Infinity'}, {item % '-0.5'}]".encode(), asked)

    assert (odd.response.text, odd.response.logprobs) == ("hi", None)
    assert [token.logprob for token in good.response.logprobs] == [-0.5]


async def test_an_error_that_repeats_its_prompt_does_not_say_it() -> None:
    prompt = "the canary sang in the mine"
    asked = {"row-0": Request(model="m", messages=(Message("user", prompt),))}
    error = {"error": {"message": f"no: {prompt}", "type": "BadRequestError", "param": None, "code": 400}}
    async with serving(Jobs(), "llmengine") as (_, backend):
        (outcome,) = backend.read_outcomes(msgspec.json.encode([error]), asked)

    assert outcome.error.status == 400
    assert prompt not in f"{outcome.error} {outcome!r}"
