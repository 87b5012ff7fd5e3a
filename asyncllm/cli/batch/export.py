"""`asyncllm batch export`: what has come of a batch by now, as a file."""

from __future__ import annotations

import asyncio
from argparse import Namespace

import msgspec

from asyncllm.batch.plan import recall
from asyncllm.batch.run import export_plan
from asyncllm.cli.batch.look import known
from asyncllm.cli.batch.progress import facts, report_line
from asyncllm.cli.output import note, print_json
from asyncllm.cli.status import OK

__all__ = ["run"]


def run(args: Namespace) -> int:
    """Write the outcomes that there are. Raises `AsyncLLMError`."""
    return asyncio.run(_export(args))


async def _export(args: Namespace) -> int:
    async with known(args) as (batches, record):
        plan = recall(record, batches.folder)
        is_elsewhere = args.to is not None and args.to != plan.sink
        if is_elsewhere:
            plan = msgspec.structs.replace(plan, sink=args.to, errors=None)
        if args.errors is not None:
            plan = msgspec.structs.replace(plan, errors=args.errors)
        if args.output_format is not None:
            plan = msgspec.structs.replace(plan, output_format=args.output_format)
        report = await export_plan(
            plan,
            batches,
            record,
            plan.notes.get("place_options", {}),
            elsewhere=is_elsewhere,
            overwrite=args.overwrite,
        )
    if args.json:
        print_json({name: value for name, value in facts(report).items() if name != "status"})
    elif not args.quiet:
        note(report_line(report, "written"))
    return OK
