"""Runs a small batch on a file system of one MiB: `unshare -m python full_disk.py FOLDER WHAT`.

Prints, as JSON, what was told on the way and how it ended. Needs to be root in a mount namespace of its own.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from asyncllm.batch.report import RunProgress
from asyncllm.errors import WriteError
from small_batches import SmallBatch

WIDTH = 20_000


def mount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)


async def full_store(folder: Path, reserve_bytes: int) -> dict[str, Any]:
    """The store fills its disk, which grows once that was told."""
    batch = SmallBatch(folder, 100, width=WIDTH)
    batch.store().mkdir()
    mount(batch.store(), "size=1m")
    stages: list[str] = []
    done: list[int] = []

    def tell(progress: RunProgress) -> None:
        if progress.stage == "paused" and "paused" not in stages:
            mount(batch.store(), "remount,size=64m")
            done.append(progress.done)
        stages.append(progress.stage)

    report = await batch.run(reserve_bytes=reserve_bytes, progress=tell)
    return {
        "status": report.status,
        "right": batch.results() == batch.expected(),
        "asked": len(batch.asked),
        "paused": stages.count("paused"),
        "last": stages[-1],
        "done_at_pause": done,
    }


async def full_output(folder: Path) -> dict[str, Any]:
    """The output fills its disk; the store is elsewhere."""
    small = folder / "small"
    small.mkdir()
    mount(small, "size=1m")
    batch = SmallBatch(folder, 100, width=WIDTH)
    batch.output_folder = small
    code = None
    try:
        await batch.run()
    except WriteError as error:
        code = error.code
    left = [path.name for path in small.iterdir()]
    mount(small, "remount,size=64m")
    report = await batch.run()
    return {
        "code": code,
        "left": left,
        "status": report.status,
        "right": batch.results() == batch.expected(),
        "asked": len(batch.asked),
    }


if __name__ == "__main__":
    where, what = Path(sys.argv[1]), sys.argv[2]
    work = full_output(where) if what == "output" else full_store(where, int(what))
    print(json.dumps(asyncio.run(work)))
