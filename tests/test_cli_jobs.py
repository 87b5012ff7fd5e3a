"""`asyncllm jobs` in a process of its own, against a server that has one job."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from asyncllm.testing import FaultyServer
from job_servers import FILM, OpenAIJobs, as_json

FILM_ID = "openai:sora-2:videos/video_1"
ANSWER_ID = "openai:gpt-5:responses/resp_1"


class Done(Struct):
    """How the command ended."""

    status: int
    output: str
    errors: str


async def run(folder: Path, server: FaultyServer, *args: str) -> Done:
    env = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
           "OPENAI_API_KEY": "sk-jobs", "OPENAI_BASE_URL": f"{server.url}/v1"}  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "asyncllm", "jobs", *args),
        cwd=folder,
        env=env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    return Done(process.returncode or 0, output.decode(), errors.decode())


async def test_status_looks_once(tmp_path: Path) -> None:
    async with FaultyServer(OpenAIJobs({"status": "in_progress", "progress": 42})) as server:
        done = await run(tmp_path, server, "status", FILM_ID)
        as_lines = await run(tmp_path, server, "status", FILM_ID, "--json")

    assert (done.status, done.output) == (0, "running 42%\n")
    assert json.loads(as_lines.output) == {"id": FILM_ID, "status": "running", "progress": 0.42, "error": None}


async def test_wait_writes_a_film(tmp_path: Path) -> None:
    async with FaultyServer(OpenAIJobs("in_progress", "completed")) as server:
        done = await run(tmp_path, server, "wait", FILM_ID, "--output", "film.mp4")

    assert (done.status, done.output) == (0, "")
    assert "succeeded" in done.errors
    assert (tmp_path / "film.mp4").read_bytes() == FILM


async def test_wait_prints_an_answer(tmp_path: Path) -> None:
    async with FaultyServer(OpenAIJobs("completed")) as server:
        done = await run(tmp_path, server, "wait", ANSWER_ID)
        as_lines = await run(tmp_path, server, "wait", ANSWER_ID, "--json")

    assert (done.status, done.output) == (0, "forty-two\n")
    told = json.loads(as_lines.output)
    assert (told["text"], told["usage"]["output_tokens"], told["status"]) == ("forty-two", 3, "succeeded")


async def test_wait_does_not_write_over_a_file(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"mine")
    async with FaultyServer(OpenAIJobs("completed")) as server:
        done = await run(tmp_path, server, "wait", FILM_ID, "--output", "film.mp4")

    assert (done.status, server.requests) == (2, [])
    assert (tmp_path / "film.mp4").read_bytes() == b"mine"


async def test_wait_says_where_a_film_must_go(tmp_path: Path) -> None:
    async with FaultyServer(OpenAIJobs("completed")) as server:
        done = await run(tmp_path, server, "wait", FILM_ID)

    assert done.status == 2
    assert "--output" in done.errors


async def test_wait_ends_with_its_timeout(tmp_path: Path) -> None:
    async with FaultyServer(OpenAIJobs("in_progress")) as server:
        done = await run(tmp_path, server, "wait", FILM_ID, "--timeout", "0.3")

    assert done.status == 75
    assert FILM_ID in done.errors


@pytest.mark.parametrize("action", ["wait", "status"])
async def test_a_job_that_failed_has_a_status_of_its_own(tmp_path: Path, action: str) -> None:
    look: Any = {"status": "failed", "error": {"code": "x", "message": "no lighthouse"}}
    async with FaultyServer(OpenAIJobs(look)) as server:
        done = await run(tmp_path, server, action, FILM_ID)

    assert (done.status, done.output) == (1, "failed 0%\n")
    assert "no lighthouse" in done.errors


async def test_cancel_asks_the_service_to_stop(tmp_path: Path) -> None:
    async with FaultyServer(OpenAIJobs("in_progress")) as server:
        done = await run(tmp_path, server, "cancel", ANSWER_ID)
        refused = await run(tmp_path, server, "cancel", FILM_ID)

    assert (done.status, done.output) == (0, "cancelled\n")
    assert refused.status == 2
    assert "cannot stop" in refused.errors


@pytest.mark.parametrize("args", [("status",), ("look", FILM_ID), ("status", "no-id")])
async def test_a_wrong_command_is_one_line(tmp_path: Path, args: tuple[str, ...]) -> None:
    async with FaultyServer(as_json({})) as server:
        done = await run(tmp_path, server, *args)

    assert (done.status, done.errors.count("\n"), server.requests) == (2, 1, [])
