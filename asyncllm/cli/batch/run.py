"""`asyncllm batch run` and `asyncllm batch retry-failed`."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from argparse import Namespace
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import msgspec
from msgspec import Struct

from asyncllm.batch.options import RunOptions
from asyncllm.batch.plan import again, recall, store_of
from asyncllm.batch.report import BatchReport
from asyncllm.cli.batch.ending import heeding
from asyncllm.cli.batch.look import known, standing
from asyncllm.cli.batch.places import place_options
from asyncllm.cli.batch.progress import Teller, facts, report_line, teller
from asyncllm.cli.options import call_options, make_client, pair, read_file, readable
from asyncllm.cli.output import note, print_json
from asyncllm.cli.status import FAILED, INTERRUPTED, LATER, OK, TERMINATED, status_of
from asyncllm.client import Client
from asyncllm.errors import AsyncLLMError, ConfigError
from asyncllm.sandbox import open_sandbox

__all__ = ["run"]

_SAME = ("format", "output_format", "errors", "on_bad_row", "priority", "via")
_PACE = ("concurrency", "data_parallelism", "max_attempts", "max_runtime_s", "max_failure_rate", "drain_s")
_OF_CLIENT = ("base_url", "api_key_env", "timeout", "place_options", "sandbox")
_STATUS = {"completed": OK, "completed_with_errors": FAILED, "cancelled": FAILED, "stopped": LATER, "expired": LATER}
_DRAIN_S = 30.0


class _Notes(logging.Handler):
    """Tells warnings as all else is told."""

    def emit(self, record: logging.LogRecord) -> None:
        note(record.getMessage())


@contextmanager
def _warnings(args: Namespace) -> Generator[None]:
    """Take warnings on: without a handler Python prints them as they are."""
    handler = logging.NullHandler() if args.quiet or args.json else _Notes()
    logger = logging.getLogger("asyncllm")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Job(Struct, frozen=True):
    source: str
    sink: str
    store: Path
    options: dict[str, Any]


def run(args: Namespace) -> int:
    """Run the batch that the arguments ask for, and return the exit status. Raises `AsyncLLMError`."""
    try:
        with asyncio.Runner() as runner:
            return runner.run(_retry(args) if args.action == "retry-failed" else _run(args))
    except AsyncLLMError as error:
        if args.json:
            print_json({"type": "error", "error": type(error).__name__, "message": error.message, **_plain(error)})
        raise


async def _run(args: Namespace) -> int:
    if args.output == "-":
        raise ConfigError(
            "-o takes the name of a file: a batch that is run again looks there for what it has written; "
            "`asyncllm batch export -o -` prints it",
            field="--output",
        )
    if args.input == "-" and sys.stdin.isatty():
        raise ConfigError("- is what is piped in, and nothing is: name a file", field="input")
    options: dict[str, Any] = {**call_options(args)}
    options |= {name: value for name in _SAME if (value := getattr(args, name)) is not None}
    options |= _pace(args)
    if args.model:
        options["model"] = args.model[0] if len(args.model) == 1 else args.model
    if args.template is not None:
        options["template"] = _template(args.template)
    options["labels"] = {name: str(value) for name, value in (pair(given, "--label") for given in args.label)}
    if args.vendor_option:
        options["vendor"] = dict(pair(given, "--vendor-option") for given in args.vendor_option)
    if args.tool_config is not None:
        options["tool_config"] = _json(Path(args.tool_config), "--tool-config")
    options["place_options"] = args.place_options = place_options(args.place_option)
    options["notes"] = {name: value for name in _OF_CLIENT if (value := getattr(args, name))}
    options["overwrite"], options["retry_failed"] = args.overwrite, args.retry_failed
    return await _go(args, _Job(args.input, args.output, store_of(args.output, args.store), options))


def _pace(args: Namespace) -> dict[str, Any]:
    """What may be other from run to run."""
    options: dict[str, Any] = {name: value for name in _PACE if (value := getattr(args, name)) is not None}
    if args.ray_option:
        options["ray_options"] = dict(pair(given, "--ray-option") for given in args.ray_option)
    return options


async def _retry(args: Namespace) -> int:
    async with known(args) as (store, record):
        folder = store.folder
        if record.definition["format"] is None:
            raise ConfigError(
                "the requests of this batch came from a program: run that again, with retry_failed=True", field="output"
            )
        plan = recall(record, folder)
    for name in _OF_CLIENT:
        setattr(args, name, plan.notes.get(name))
    model = plan.model
    args.model = [model] if isinstance(model, str) else list(model or ())
    options: dict[str, Any] = {**again(plan), "place_options": args.place_options or {}, "retry_failed": True}
    options |= _pace(args)
    options["overwrite"] = args.overwrite
    return await _go(args, _Job(plan.source, plan.sink, folder, options))


async def _go(args: Namespace, job: _Job) -> int:
    """Run it, tell how it goes, and say how it ended."""
    async with make_client(args, answers="answers rows that name no model", prices=True) as client:
        with teller(job.sink, json=args.json, quiet=args.quiet) as telling, _warnings(args):
            report = await _drained(client, args, telling, job)
    if report is None:
        await _tell_stopped(args, job)
        return TERMINATED if args.signals.terminated else INTERRUPTED
    if args.json:
        print_json({"type": "end", **facts(report)})
    elif not args.quiet:
        note(report_line(report, report.status.replace("_", " ")))
        _advise(report, job.sink)
    return _STATUS[report.status]


async def _drained(client: Client, args: Namespace, telling: Teller, job: _Job) -> BatchReport | None:
    """What came of it, or `None` if a signal has stopped it."""
    options = cast("RunOptions", {**job.options, "store": job.store, "progress": telling.progress})
    if args.sandbox is not None:
        options["sandbox"] = await open_sandbox(args.sandbox)
    running = asyncio.create_task(client.run_batch(job.source, job.sink, **options))

    def stop() -> None:
        if not args.quiet:
            note(_stopping(options))
        running.cancel()

    with heeding(args.signals, stop):
        try:
            return await running
        except asyncio.CancelledError:
            return None


def _stopping(options: RunOptions) -> str:
    if options.get("via") == "vendor":
        return "stopping: what is with the service stays there, and the next run waits for it"
    drain_s = options.get("drain_s", _DRAIN_S)
    return f"stopping: rows under way may finish, for up to {drain_s:g} s (the same signal again: at once)"


async def _tell_stopped(args: Namespace, job: _Job) -> None:
    told: dict[str, Any] = {"status": "stopped", "total": None, "done": 0, "failed": 0}
    with suppress(AsyncLLMError):  # it was stopped before there was a store
        told = await standing(job.store, job.sink)
    if args.json:
        print_json({"type": "end", **told})
    elif not args.quiet:
        ended = told["done"] + told["failed"]
        of = "" if told["total"] is None else f" of {told['total']:,}"
        note(f"stopped with {ended:,}{of} rows; the same command goes on from there")


def _advise(report: BatchReport, sink: str) -> None:
    """How to go on, where there is a way."""
    if report.status == "stopped":
        note("too many rows have failed; the same command goes on with the rest")
    elif report.status == "expired":
        note("out of time; with a longer --max-runtime the same command goes on")
    elif report.status == "cancelled":
        note("cancelled; the same command goes on")
    elif report.failed:
        note(f"to ask the failed rows again: asyncllm batch retry-failed {sink}")


def _template(given: str) -> Any:
    if not given.startswith("@"):
        return readable(given, "--template")
    path = Path(given[1:])
    return _json(path, "--template") if path.suffix == ".json" else read_file(path, "--template")


def _json(path: Path, where: str) -> Any:
    try:
        return json.loads(read_file(path, where))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: {path} is not valid JSON: {error}", field=where) from None


def _plain(error: AsyncLLMError) -> dict[str, Any]:
    told = {"code": error.code, "field": error.field, "exit_status": status_of(error)}
    return cast("dict[str, Any]", msgspec.to_builtins(told))
