"""Runs a large batch with the echo backend, and says how it goes: `python many_rows.py FOLDER ROWS`.

Prints a line of JSON at the start, several times a second, and at the end: rows done, and the resident set.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path

import asyncllm
from asyncllm.batch.report import RunProgress

ROW_BYTES = 1024


def write_input(file: Path, rows: int) -> None:
    """Lines of one KiB each."""
    with file.open("w") as out:
        for index in range(rows):
            start = f'{{"custom_id":"row-{index}","method":"POST","url":"/v1/chat/completions","body":{{"messages":'
            start += f'[{{"role":"user","content":"{index} '
            out.write(f'{start}{"x" * (ROW_BYTES - len(start) - 6)}"}}]}}}}\n')


def rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_bytes() -> int:
    """The largest resident set so far. `ru_maxrss` would begin at that of the process this one was forked from."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def say(stage: str, done: int, failed: int = 0) -> None:
    print(json.dumps({"stage": stage, "done": done, "failed": failed, "rss": rss_bytes()}), flush=True)


async def run(folder: Path, rows: int) -> None:
    source = folder / "in.jsonl"
    if not source.exists():
        write_input(source, rows)

    def tell(progress: RunProgress) -> None:
        say(progress.stage, progress.done, progress.failed)

    async with asyncllm.Client(model="echo:x") as client:
        say("base", 0)
        began, cpu_s = time.perf_counter(), time.process_time()
        report = await client.run_batch(source, folder / "out.jsonl", progress=tell)
        wall_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu_s
    say("end", report.done, report.failed)
    print(json.dumps({"status": report.status, "wall_s": wall_s, "cpu_s": cpu_s, "peak": peak_bytes()}), flush=True)


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1]), int(sys.argv[2])))
