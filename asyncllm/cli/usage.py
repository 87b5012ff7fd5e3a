"""`asyncllm usage`: what the calls of a server took, as its store has it."""

from __future__ import annotations

import asyncio
import sys
from argparse import Namespace
from collections.abc import Sequence

from asyncllm.cli.output import print_json, print_table
from asyncllm.cli.status import OK
from asyncllm.cli.store import store_folder
from asyncllm.workspace.served import ServerStore
from asyncllm.workspace.usage import UsageRow
from asyncllm.workspace.usage_forms import COUNTS, csv_text, moment, summed

__all__ = ["run"]


def run(args: Namespace) -> int:
    """Say what there is, and return the exit status. Raises `AsyncLLMError`."""
    since = moment(args.since, "since") if args.since is not None else 0.0
    until = moment(args.until, "until") if args.until is not None else float("inf")
    sums = summed(asyncio.run(_read(args.store, since, until)), args.by)
    if args.json:
        print_json([{args.by: group, **counts} for group, counts in sums.items()])
    elif args.csv:
        rows = [(group, *counts.values()) for group, counts in sums.items()]
        sys.stdout.write(csv_text((args.by, *COUNTS), rows))
    else:
        lines = [(group, *map(_written, counts, counts.values())) for group, counts in sums.items()]
        print_table([(args.by, *COUNTS), *lines])
    return OK


async def _read(folder: str | None, since: float, until: float) -> Sequence[UsageRow]:
    async with ServerStore(store_folder(folder), create=False) as store:
        return await store.usage.read(since=since, until=until)


def _written(name: str, count: float) -> str:
    return f"{count:.6f}" if name == "cost_usd" else f"{count:.0f}"
