"""From the store to a file: all outcomes in the order of the input, there at once or not at all, as often as wanted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from typing import Any

from msgspec import Struct

from asyncllm.batch.batch import Tally
from asyncllm.batch.codec import decode_outcome
from asyncllm.batch.formats.protocol import Format
from asyncllm.batch.inputs import Input
from asyncllm.batch.places.protocol import Place
from asyncllm.batch.rows import Outcome
from asyncllm.errors import AsyncLLMError, InputError, RowAbandonedError
from asyncllm.workspace.batches import BatchStore
from asyncllm.workspace.records import BatchRecord, Kept

__all__ = ["Target", "export", "outcomes", "tally"]

_CHUNK = 500
_WRITTEN = 2**18
"""Bytes that are gathered before they are written."""

_WHY = {
    "cancelled": ("cancelled", "the batch was cancelled before this row was asked"),
    "expired": ("expired", "the batch was out of time before this row was asked"),
}
_PENDING = ("pending", "this row has not been asked yet")


class Target(Struct, frozen=True):
    """Where outcomes go, and in what form."""

    format: Format
    output: Place
    errors: Place | None


async def outcomes(store: BatchStore, record: BatchRecord) -> AsyncIterator[Outcome]:
    """The outcome of every row there is, in order. A row without one has an error that says why."""
    start = 0
    while chunk := await store.outcomes(record.id, start, _CHUNK):
        for kept in chunk:
            yield _outcome(kept, record.status)
        start = chunk[-1].index + 1


def _outcome(kept: Kept, status: str) -> Outcome:
    if kept.body is None:
        code, why = _WHY.get(status, _PENDING)
        return Outcome(index=kept.index, id=kept.name, error=RowAbandonedError(why, code=code), attempts=kept.attempts)
    told = decode_outcome(kept.body)
    if isinstance(told, AsyncLLMError):
        return Outcome(index=kept.index, id=kept.name, error=told, attempts=kept.attempts)
    return Outcome(index=kept.index, id=kept.name, answer=told, attempts=kept.attempts)


async def tally(store: BatchStore, record: BatchRecord) -> Tally:
    """What has become of the rows that have an outcome."""
    counted = Tally()
    async for outcome in outcomes(store, record):
        if not (isinstance(outcome.error, RowAbandonedError) and outcome.error.code != "dead_letter"):
            counted.add(outcome.answer, outcome.error, 0)
    return counted


async def export(store: BatchStore, record: BatchRecord, source: Input, target: Target, *, overwrite: bool) -> None:
    """Write all outcomes, with the columns of the input where the format repeats them.

    Raises `OutputExistsError`, `WriteError`, `CorruptStoreError`, `InputError` if the input has changed, `APIError`.
    """
    points = store.points
    writer = target.format.writer()
    async with AsyncExitStack() as stack:
        fields = await stack.enter_async_context(source.rows()) if target.format.repeats_input else None
        write = await stack.enter_async_context(target.output.write(overwrite=overwrite or record.is_exported))
        write_error = None
        if target.errors is not None:
            write_error = await stack.enter_async_context(
                target.errors.write(overwrite=overwrite or record.is_exported)
            )
        points.reach("export.open")
        good, bad = bytearray(writer.begin()), bytearray()
        async for outcome in outcomes(store, record):
            columns: Mapping[str, Any] = {} if fields is None else await _fields(fields, outcome.index)
            line, error_line = writer.write(outcome, columns)
            good += line
            bad += error_line
            if len(good) >= _WRITTEN:
                await write(bytes(good))
                good.clear()
                points.reach("export.write")
            if len(bad) >= _WRITTEN and write_error is not None:
                await write_error(bytes(bad))
                bad.clear()
        good += writer.end()
        await write(bytes(good))
        if write_error is not None:
            await write_error(bytes(bad))
        points.reach("export.written")
        await store.mark_exported(record.id)
    points.reach("export.published")


async def _fields(rows: AsyncIterator[Any], index: int) -> Mapping[str, Any]:
    row = await anext(rows, None)
    if row is None or row.index != index:
        raise InputError("the input has other rows than when the batch began; put it back as it was")
    fields: Mapping[str, Any] = row.fields
    return fields
