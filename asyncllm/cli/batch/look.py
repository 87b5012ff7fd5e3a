"""`asyncllm batch status` and `asyncllm batch cancel`, and what is known of a batch that is in a store."""

from __future__ import annotations

import asyncio
import shlex
import time
from argparse import Namespace
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from asyncllm.batch.plan import seen_from, seen_here, store_of
from asyncllm.cli.batch.progress import duration
from asyncllm.cli.output import note, print_json, print_table, say
from asyncllm.cli.status import OK
from asyncllm.errors import BatchLockedError, ConfigError
from asyncllm.workspace.batches import BatchStore
from asyncllm.workspace.database import FILE
from asyncllm.workspace.records import BatchRecord, RowStatus

__all__ = ["known", "run", "standing"]

_HEADER = ("output", "status", "rows", "failed", "attempts", "worked", "age", "runner", "to go on")
_AGAIN = "the same command again"
_TO_GO_ON = {
    "interrupted": _AGAIN,
    "stopped": _AGAIN,
    "cancelled": _AGAIN,
    "expired": f"{_AGAIN}, with a longer --max-runtime",
    "completed_with_errors": "asyncllm batch retry-failed",
}


def run(args: Namespace) -> int:
    """Say how batches stand, or stop one. Raises `AsyncLLMError`."""
    return asyncio.run(_cancel(args) if args.action == "cancel" else _status(args))


async def _status(args: Namespace) -> int:
    if args.output is not None:
        async with known(args) as (batches, record):
            told = [await _told(batches, record)]
    else:
        folders = [Path(args.store)] if args.store is not None else sorted(Path.cwd().glob(f"*.batch/{FILE}"))
        told = [one for folder in folders for one in await _all(folder if args.store is not None else folder.parent)]
    if args.json:
        print_json(told)
    elif told:
        print_table([_HEADER, *(_row(one) for one in told)])
    else:
        note("there is no batch here; name an output, or a --store")
    return OK


async def _cancel(args: Namespace) -> int:
    async with known(args) as (batches, record):
        name = seen_here(batches.folder, record.name)
        if record.status.startswith("completed"):
            say(f"{name}: completed; there is nothing to cancel")
            return OK
        try:
            lease = await batches.take(record.id)
        except BatchLockedError:
            await batches.cancel(record.id)
            say(f"{name}: {_runner(record.process)} was asked to stop; rows under way may finish")
            return OK
        await batches.leave(lease, "cancelled", ended=True)
        say(f"{name}: cancelled; nobody was at work on it")
        return OK


@asynccontextmanager
async def known(args: Namespace) -> AsyncGenerator[tuple[BatchStore, BatchRecord]]:
    """The store and the batch that the arguments name. Raises `ConfigError` if they name none, `StoreError`."""
    output: str | None = args.output
    if args.store is not None:
        folder = Path(args.store)
    elif output is not None:
        folder = store_of(output, None)
    else:
        raise ConfigError("name the output of the batch, or its --store", field="output")
    if not (folder / FILE).exists():
        of = "" if output is None else f"no batch was run with the output {output}: "
        raise ConfigError(f"{of}there is no store at {folder}", field="output" if args.store is None else "--store")
    async with BatchStore(folder, create=False) as batches:
        yield batches, await batches.find(None if output is None else seen_from(folder, output))


async def standing(store: Path, sink: str) -> dict[str, Any]:
    """How the batch of that output stands. Raises `StoreError`."""
    async with BatchStore(store, create=False) as batches:
        return await _told(batches, await batches.find(seen_from(store, sink)))


async def _all(folder: Path) -> list[dict[str, Any]]:
    async with BatchStore(folder, create=False) as batches:
        return [await _told(batches, record) for record in await batches.batches()]


async def _told(batches: BatchStore, record: BatchRecord) -> dict[str, Any]:
    """What is known of a batch, as JSON has it."""
    counts = record.counts
    done = counts.get(RowStatus.DONE, 0)
    failed = counts.get(RowStatus.FAILED, 0) + counts.get(RowStatus.ABANDONED, 0)
    status = record.status
    if status in ("new", "running") and not record.is_running:
        status = "interrupted"
    return {
        "output": seen_here(batches.folder, record.name),
        "status": status,
        "running": record.is_running,
        "process": int(record.process.split(":")[0]) if record.is_running and record.process else None,
        "total": record.total,
        "done": done,
        "failed": failed,
        "left": None if record.total is None else record.total - done - failed,
        "attempts": await batches.attempts(record.id),
        "rows_per_s": (done + failed) / record.ran_s if record.ran_s else None,
        "ran_s": record.ran_s,
        "age_s": max(0.0, time.time() - record.created_at),
        "labels": record.settings["settings"]["labels"],
        "store": str(batches.folder),
        "to_go_on": None if record.is_running else _to_go_on(batches, record, status),
    }


def _to_go_on(batches: BatchStore, record: BatchRecord, status: str) -> str | None:
    told = _TO_GO_ON.get(status)
    if told is None or not told.startswith("asyncllm"):
        return told
    output = seen_here(batches.folder, record.name)
    is_beside = store_of(output, None).absolute() == batches.folder
    return shlex.join([*told.split(), output, *([] if is_beside else ["--store", str(batches.folder)])])


def _row(told: dict[str, Any]) -> tuple[str, ...]:
    ended = told["done"] + told["failed"]
    is_fast = told["running"] and told["rows_per_s"]
    return (
        told["output"],
        told["status"].replace("_", " "),
        f"{ended:,}" if told["total"] is None else f"{ended:,} of {told['total']:,}",
        f"{told['failed']:,}",
        f"{told['attempts']:,}",
        duration(told["ran_s"]) + (f", {told['rows_per_s']:.3g} rows/s" if is_fast else ""),
        duration(told["age_s"]),
        f"process {told['process']}" if told["running"] else "-",
        told["to_go_on"] or "-",
    )


def _runner(process: str | None) -> str:
    return f"process {process.split(':')[0]}" if process else "whoever is at work on it"
