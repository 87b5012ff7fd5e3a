"""The process of the batch benchmark: one batch in one way, one line of JSON on standard output."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

import asyncllm
from bench.workloads import Sample

Kind = Literal["memory", "store", "http"]

_FILES = 8192
_WORDS = "the quick brown fox jumps over the lazy dog and runs away from it "
_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108  # a disk's time for a sync is not ours


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One figure to take."""

    kind: Kind
    """In memory with the echo backend, the same through a store, or in memory over HTTP."""
    rows: int
    concurrency: int = 64
    base_url: str = ""
    on_disk: bool = True
    """Whether the store is on the disk, or in memory."""
    core: int | None


def _chat(index: int) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": f"{index} {_WORDS}"}]}


async def _memory(job: Job) -> Sample:
    async with asyncllm.Client(model="echo:x") as client:
        await _warm_up(client, "Hello")

        async def work() -> int:
            done = 0
            async for result in client.batch(map(_chat, range(job.rows)), concurrency=job.concurrency):
                done += result.error is None
            return done

        return await _measured(work, job.rows)


async def _warm_up(client: asyncllm.Client, prompt: str) -> None:
    async for result in client.batch([prompt], max_tokens=200):
        result.unwrap()


async def _http(job: Job) -> Sample:
    async with asyncllm.Client(model="openai:gpt-x", base_url=job.base_url, api_key="k") as client:
        await _warm_up(client, "Hello")

        async def work() -> int:
            done = 0
            prompts = ["Hello"] * job.rows
            async for result in client.batch(prompts, concurrency=job.concurrency, order="completion", max_tokens=200):
                done += result.error is None
            return done

        return await _measured(work, job.rows)


async def _store(job: Job) -> Sample:
    with tempfile.TemporaryDirectory(prefix="asyncllm-bench-", dir=None if job.on_disk else _MEMORY) as folder:
        source, few = Path(folder, "in.jsonl"), Path(folder, "few.jsonl")
        await asyncio.to_thread(source.write_bytes, b"".join(_lines(job.rows)))
        await asyncio.to_thread(few.write_bytes, b"".join(_lines(1)))
        async with asyncllm.Client(model="echo:x") as client:
            await client.run_batch(few, Path(folder, "few.out.jsonl"))  # what is imported on first use

            async def work() -> int:
                report = await client.run_batch(source, Path(folder, "out.jsonl"), concurrency=job.concurrency)
                return report.done

            return await _measured(work, job.rows)


def _lines(rows: int) -> Iterator[bytes]:
    for index in range(rows):
        line = {"custom_id": f"row-{index}", "method": "POST", "url": "/v1/chat/completions", "body": _chat(index)}
        yield msgspec.json.encode(line) + b"\n"


async def _measured(work: Callable[[], Awaitable[int]], rows: int) -> Sample:
    gc.collect()  # as for the peers of a fan-out
    cpu_s, began = time.process_time(), time.perf_counter()
    done = await work()
    wall_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu_s
    if done != rows:
        raise RuntimeError(f"wrong result: {done} of {rows} rows were answered")
    return Sample(units=rows, cpu_s=cpu_s, wall_s=wall_s)


_KINDS: dict[Kind, Callable[[Job], Awaitable[Sample]]] = {"memory": _memory, "store": _store, "http": _http}


async def _run(job: Job) -> Sample:
    return await _KINDS[job.kind](job)


def main() -> None:
    """Run the job that the command line has."""
    job = msgspec.json.decode(sys.argv[1], type=Job)
    if job.core is not None:
        os.sched_setaffinity(0, {job.core})
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if 0 <= hard < _FILES else _FILES, hard))
    sample = asyncio.run(_run(job))
    sys.stdout.buffer.write(msgspec.json.encode({"sample": sample}) + b"\n")


if __name__ == "__main__":
    main()
