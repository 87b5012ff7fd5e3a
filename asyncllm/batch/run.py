"""Running a batch from a place to a place: what belongs together is checked and put together here."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from asyncllm.backend import Batches, Clock, FiledBatches
from asyncllm.batch.evaluator import require_sandbox
from asyncllm.batch.export import Target, Written, export, tally
from asyncllm.batch.fanout import Source
from asyncllm.batch.formats import find_format, find_output_format
from asyncllm.batch.formats.protocol import Reading
from asyncllm.batch.held import HeldRun
from asyncllm.batch.inputs import FileInput, GivenInput, Input
from asyncllm.batch.items import BatchInput
from asyncllm.batch.options import Location, RunOptions
from asyncllm.batch.places import Place, place_of
from asyncllm.batch.plan import BatchPlan, remembered, seen_from, split, store_of
from asyncllm.batch.report import BatchReport, BatchStatus, OnRunProgress
from asyncllm.batch.rows import Answer, AnyAsk
from asyncllm.batch.runner import Ask, Runner
from asyncllm.batch.serviced import Service, ServicedRunner
from asyncllm.batch.tooling import check_evaluable, evaluating
from asyncllm.batch.workers.crew import AskRow, crew_of
from asyncllm.batch.workers.recipe import Recipe, no_recipes
from asyncllm.calls import CallOptions, Model, chat_request
from asyncllm.errors import BatchLostError, ConfigError, InvalidRequestError, OutputExistsError, StoreError
from asyncllm.finishing import finish
from asyncllm.sandbox import Sandbox
from asyncllm.types import Request, Timeouts
from asyncllm.workspace.batches import BatchStore
from asyncllm.workspace.records import BatchRecord, Lease, RowStatus

__all__ = ["Caller", "export_plan", "run_batch", "run_plan"]

_PEEKED = 4096
_LEAVE_S = 10
_NOT_FOR_ROWS = ("output_type", "repairs", "idempotency_key")


class Caller(Struct, frozen=True):
    """What a batch needs of a client."""

    resolve: Callable[[Model | None], str]
    """Says which model a call would go to. Raises `ConfigError` where none is there."""
    ask: AskRow
    """Asks what a row asks."""
    service: Callable[[Model | None], tuple[Batches, str, Clock]]
    """Who works off batches of a model, its name there, and the client's clock. Raises `UnsupportedError`."""
    recipes: Callable[[int], list[Recipe]] = no_recipes
    """What as many workers make clients like this one from. Raises `ConfigError`."""


class _Parts(Struct, frozen=True):
    """What a plan comes to."""

    source: Input
    target: Target
    definition: dict[str, Any]


async def _parts(
    plan: BatchPlan, options: CallOptions, place_options: Mapping[str, Any], given: Input | None = None
) -> _Parts:
    """Raises `ConfigError` for what does not go together."""
    for name in _NOT_FOR_ROWS:
        if name in options:
            raise InvalidRequestError(f"a batch that is kept has no {name}: an outcome is text and JSON", field=name)
    # What is wrong with the options is said here, once.
    asked = chat_request("x", options, stream=False, timeouts=Timeouts())
    sink = place_of(plan.sink, options=place_options)
    source = given or await _file_input(plan, options, place_options)
    if source.name == sink.name != "-":
        raise ConfigError("the output would take the place of the input; give another one", field="sink")
    format_ = source.format if isinstance(source, FileInput) else None
    output_format = find_output_format(plan.output_format, sink.name, format_)
    errors = None
    if output_format.has_errors_file:
        if plan.errors is None and plan.sink == "-":
            raise ConfigError("failed rows go into a file of their own; say where", field="errors")
        errors = place_of(plan.errors or _beside(plan.sink), options=place_options)
    elif plan.errors is not None:
        raise ConfigError(f"{output_format.name} has no file of errors: they are in the output", field="errors")
    told = msgspec.structs.replace(asked, idempotency_key=None, timeouts=Timeouts())
    definition = {
        "source": source.name,
        "format": None if format_ is None else format_.name,
        "template": msgspec.to_builtins(plan.template),
        "model": plan.model,
        "via": "vendor" if plan.via == "vendor" else "client",  # which of our own processes asks may change
        "tool_config": msgspec.to_builtins(plan.tool_config),
        "options": hashlib.sha256(msgspec.json.encode(told, order="deterministic")).hexdigest(),
    }
    return _Parts(source, Target(output_format, sink, errors), definition)


async def _file_input(plan: BatchPlan, options: CallOptions, place_options: Mapping[str, Any]) -> FileInput:
    place = place_of(plan.source, options=place_options)
    first = b""
    async with place.read() as chunks:
        async for chunk in chunks:
            first += chunk
            if len(first) >= _PEEKED:
                break
    reading = Reading(name=place.name, template=plan.template, options=options, max_row_bytes=plan.max_row_bytes)
    return FileInput(place, find_format(plan.format, place.name, first), reading)


def _beside(sink: str) -> str:
    """`output.jsonl` has its errors in `output.errors.jsonl`."""
    folder, slash, name = sink.rpartition("/")
    stem, dot, suffix = name.partition(".")
    return f"{folder}{slash}{stem}.errors{dot}{suffix}"


async def run_batch(
    caller: Caller, source: Location | Source[BatchInput], sink: Location, options: RunOptions
) -> BatchReport:
    """See `Client.run_batch`."""
    plan, call, rest = split(source, sink, options)
    given = None if isinstance(source, str | PathLike) else GivenInput(source, call)
    return await run_plan(
        caller,
        plan,
        call,
        given=given,
        store=store_of(sink, rest.get("store")),
        overwrite=rest.get("overwrite", False),
        retry_failed=rest.get("retry_failed", False),
        place_options=rest.get("place_options", {}),
        ray_options=rest.get("ray_options", {}),
        sandbox=rest.get("sandbox"),
        tell=rest.get("progress"),
    )


async def run_plan(
    caller: Caller,
    plan: BatchPlan,
    options: CallOptions,
    *,
    given: Input | None = None,
    store: Path,
    overwrite: bool = False,
    retry_failed: bool = False,
    place_options: Mapping[str, Any],
    ray_options: Mapping[str, Any] = {},
    sandbox: Sandbox | None = None,
    tell: OnRunProgress | None = None,
) -> BatchReport:
    """Ask every row of `plan.source` that has no outcome yet, and write all outcomes to `plan.sink`.

    Raises, before anything is asked, `ConfigError`, `InputError` and `OutputExistsError`; `StoreError`; and as
    `Runner.run` does.
    """
    crew = crew_of(caller.ask, caller.recipes, plan.via, plan.settings, ray_options)
    ask = _asking(crew.ask, plan, options)
    if plan.tool_config is not None:
        ask = evaluating(ask, plan.tool_config, require_sandbox(sandbox))
    service = _service(caller, plan, options, place_options) if plan.via == "vendor" else None
    parts = await _parts(plan, options, place_options, given)
    fingerprint = await parts.source.fingerprint()
    async with BatchStore(store, waits=False) as batches:
        name = seen_from(store, parts.target.output.name)
        source = parts.source.name if given is not None else seen_from(store, parts.source.name)
        if not overwrite:
            await _must_be_free(parts.target, batches, name)
        record = await batches.define(name, {**parts.definition, "source": source}, remembered(plan, options, store))
        lease = await batches.take(record.id)
        status: BatchStatus = "stopped"
        try:
            if retry_failed:
                await batches.reopen(lease)
            record = await batches.record(record.id)
            named: dict[str, Any] = {"source": parts.source, "settings": plan.settings, "tell": tell}
            named["check"] = _checking(caller, plan)
            runner: HeldRun = Runner(batches, lease, record, ask=ask, **named)
            if service is not None:
                runner = ServicedRunner(batches, lease, record, service=service, **named)
            written: Written | None = None
            async with runner.alive():
                async with crew:
                    status = await runner.run(fingerprint)
                if status != "stopped":
                    await batches.tell(lease, status)
                    record = await batches.record(record.id)
                    written = await export(
                        batches, record, parts.source, parts.target, overwrite=overwrite, lease=lease
                    )
        except BaseException:
            with suppress(StoreError):  # the lock is free in any case, and what ended the run is what counts
                await _leave(batches, lease, status)
            raise
        await _leave(batches, lease, status)
        return await _report(batches, await batches.record(record.id), status, written)


async def export_plan(
    plan: BatchPlan,
    batches: BatchStore,
    record: BatchRecord,
    place_options: Mapping[str, Any],
    *,
    elsewhere: bool = False,
    overwrite: bool = False,
) -> BatchReport:
    """Write the outcomes that there are, as often as wanted, whether or not the batch has come to its end.

    `elsewhere` says that the output of the plan is not that of the batch. Raises as `export` does.
    """
    given = GivenInput((), {}) if record.definition["format"] is None else None
    parts = await _parts(plan, {}, place_options, given)
    written = await export(batches, record, parts.source, parts.target, overwrite=overwrite, elsewhere=elsewhere)
    return await _report(batches, record, "stopped", written)


async def _leave(batches: BatchStore, lease: Lease, status: BatchStatus) -> None:
    """Give the lease back, unless somebody else has it by now."""

    async def leave() -> None:
        with suppress(BatchLostError):
            await batches.leave(lease, status, ended=status != "stopped")

    try:
        await finish(asyncio.create_task(leave()), _LEAVE_S)
    finally:
        lease.lock.release()


async def _must_be_free(target: Target, batches: BatchStore, name: str) -> None:
    for place in (target.output, target.errors):
        if place is None or place.name == "-" or await place.fingerprint() is None:
            continue
        # Asked for after it was seen there, as another runner may be faster with the whole of it.
        if not await batches.has(name):
            raise OutputExistsError(
                f"{place.name}: something is there that this batch has not written; give another output, or say that "
                "it may be written over",
                field="sink",
            )


def _asking(ask_row: AskRow, plan: BatchPlan, options: CallOptions) -> Ask:
    timeouts = options.get("timeouts")

    async def ask(asked: AnyAsk, idempotency_key: str) -> Answer:
        if timeouts is not None:
            asked = msgspec.structs.replace(asked, timeouts=timeouts)
        if isinstance(asked, Request):
            asked = msgspec.structs.replace(asked, idempotency_key=idempotency_key)
        return await ask_row(asked, plan.model)

    return ask


def _service(caller: Caller, plan: BatchPlan, options: CallOptions, place_options: Mapping[str, Any]) -> Service:
    """Who works the rows off. Raises `UnsupportedError`, `ConfigError`."""
    batches, model, clock = caller.service(plan.model)
    limit_s = plan.settings.max_runtime_s
    settings = msgspec.structs.replace(
        plan.vendor,
        labels={**plan.settings.labels, **plan.vendor.labels},
        priority=plan.vendor.priority or plan.settings.priority,
        max_runtime_s=plan.vendor.max_runtime_s or (None if limit_s is None else max(1, int(limit_s))),
        timeouts=options.get("timeouts", plan.vendor.timeouts),
    )
    return Service(batches, model, clock, settings, _files(batches, settings.output, place_options))


def _files(batches: Batches, folder: str | None, place_options: Mapping[str, Any]) -> Callable[[str], Place] | None:
    """Where files of outcomes are, by the tokens of their batches. Raises `ConfigError`."""
    if not isinstance(batches, FiledBatches):
        if folder is not None:
            raise InvalidRequestError("this service gives outcomes itself: leave output out", field="output")
        return None
    if folder is None:
        raise InvalidRequestError(
            "this service writes outcomes to files: say where both can reach them, as "
            "vendor={'output': 's3://bucket/folder'}",
            field="output",
        )

    def file(token: str) -> Place:
        return place_of(f"{folder.rstrip('/')}/{token}.json", options=place_options)

    file("token")  # raises what is wrong with the address now
    return file


def _checking(caller: Caller, plan: BatchPlan) -> Callable[[AnyAsk], None]:
    """Checks what can be known of a row before it is asked; that its model is there, each model once."""
    known: set[str] = set()

    def check(asked: AnyAsk) -> None:
        if plan.tool_config is not None:
            check_evaluable(asked)
        if asked.model not in known:
            found = caller.resolve(plan.model or asked.model or None)
            if plan.via == "vendor" and plan.model is None and found != caller.resolve(None):
                raise InvalidRequestError(
                    "a batch of a service is of one model, and this row names another", field="model"
                )
            known.add(asked.model)

    return check


async def _report(
    batches: BatchStore, record: BatchRecord, status: BatchStatus, written: Written | None
) -> BatchReport:
    counted = written.tally if written is not None else await tally(batches, record)
    done = record.counts.get(RowStatus.DONE, 0)
    failed = record.counts.get(RowStatus.FAILED, 0) + record.counts.get(RowStatus.ABANDONED, 0)
    total = sum(record.counts.values())
    return BatchReport(
        name=record.name,
        status=status,
        total=total,
        done=done,
        failed=failed,
        left=total - done - failed,
        input_tokens=counted.input_tokens,
        output_tokens=counted.output_tokens,
        cost_usd=counted.cost_usd,
        errors=dict(counted.errors),
        ran_s=record.ran_s,
        output=None if written is None else written.output,
        errors_output=None if written is None else written.errors,
        store=str(batches.folder),
    )
