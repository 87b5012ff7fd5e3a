"""The process that is measured: one library, one load, one line of JSON on standard output."""

from __future__ import annotations

import asyncio
import os
import resource
import sys
from typing import cast

import msgspec

from bench import lockstep, peers, workloads
from bench.processes import Job, Outcome, without_paths

_FILES = 8192  # a thousand connections pass the usual soft limit of 1,024 descriptors


def measure(job: Job) -> Outcome:
    """Run `job` on its core; any failure becomes one line, since a traceback would not fit into a table."""
    if job.core is not None:
        os.sched_setaffinity(0, {job.core})
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if 0 <= hard < _FILES else _FILES, hard))
    try:
        return Outcome(sample=asyncio.run(_run(job)))
    except Exception as error:
        return Outcome(error=without_paths(_in_one_line(error)))


async def _run(job: Job) -> workloads.Sample:
    if job.load.manner != "lockstep":
        return await workloads.run(peers.connect(job.library, job.base_url, [0]), job.load)
    with lockstep.counter() as seen:
        seen[0] = 0
        return await workloads.run(peers.connect(job.library, job.base_url, seen), job.load)


def _in_one_line(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return _in_one_line(cast("BaseExceptionGroup[BaseException]", error).exceptions[0])
    return " ".join(f"{type(error).__name__}: {error}".split())


if __name__ == "__main__":
    outcome = measure(msgspec.json.decode(sys.argv[1], type=Job))
    sys.stdout.buffer.write(msgspec.json.encode(outcome) + b"\n")
