"""From the store to a file: all outcomes in the order of the input, there at once or not at all, as often as wanted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

from msgspec import Struct

from asyncllm.batch.batch import Tally
from asyncllm.batch.codec import decode_outcome
from asyncllm.batch.formats.protocol import Format
from asyncllm.batch.inputs import Input
from asyncllm.batch.places.protocol import Place, Write
from asyncllm.batch.rows import Outcome
from asyncllm.errors import InputError, OutputExistsError, RowAbandonedError
from asyncllm.workspace.batches import BatchStore
from asyncllm.workspace.records import BatchRecord, Kept, Lease, RowStatus

__all__ = ["Target", "Written", "export", "outcomes", "tally"]

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


class Written(Struct, frozen=True):
    """What an export has written."""

    output: str
    errors: str | None
    """`None` where there was nothing to write there."""
    tally: Tally


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
    return decode_outcome(kept.body, index=kept.index, name=kept.name, attempts=kept.attempts)


async def tally(store: BatchStore, record: BatchRecord) -> Tally:
    """What has become of the rows that have an outcome."""
    counted = Tally()
    async for outcome in outcomes(store, record):
        _count(counted, outcome)
    return counted


def _count(counted: Tally, outcome: Outcome) -> None:
    if not (isinstance(outcome.error, RowAbandonedError) and outcome.error.code != "dead_letter"):
        counted.add(outcome.answer, outcome.error)


async def export(
    store: BatchStore,
    record: BatchRecord,
    source: Input,
    target: Target,
    *,
    overwrite: bool,
    elsewhere: bool = False,
    lease: Lease | None = None,
) -> Written:
    """Write all outcomes, with the columns of the input where the format repeats them.

    `elsewhere` says that the target is not the output of the batch, which may be written over when it is its own.

    Raises `OutputExistsError`, `WriteError`, `CorruptStoreError`, `InputError` if the input has changed, `APIError`,
    and, with a `lease`, `BatchLostError`: who has stood still writes nothing over what another runner has written.
    """
    if elsewhere:
        return await _export(store, record, source, target, overwrite=overwrite)

    async def mark() -> None:
        await store.mark_exported(record.id, lease)

    try:
        return await _export(store, record, source, target, overwrite=overwrite or record.is_exported, mark=mark)
    except OutputExistsError:
        # It came to stand there at the last moment, when the output was marked as the batch's own.
        await store.mark_exported(record.id, lease, is_exported=record.is_exported)
        raise


async def _export(
    store: BatchStore,
    record: BatchRecord,
    source: Input,
    target: Target,
    *,
    overwrite: bool,
    mark: Callable[[], Awaitable[None]] | None = None,
) -> Written:
    errors = target.errors
    # A file of errors that has nothing to hold is not made, but one of an earlier export is not left as it was.
    is_stale = overwrite and errors is not None and errors.name != "-" and await errors.fingerprint() is not None
    if not _may_fail(record) and not is_stale:
        errors = None
    counted = Tally()
    writer = target.format.writer()
    async with AsyncExitStack() as stack:
        fields = await stack.enter_async_context(source.rows()) if target.format.repeats_input else None
        good = _Buffer(await stack.enter_async_context(target.output.write(overwrite=overwrite)))
        bad = good
        if errors is not None:
            bad = _Buffer(await stack.enter_async_context(errors.write(overwrite=overwrite)))
        store.points.reach("export.open")
        await good.add(writer.begin())
        async for outcome in outcomes(store, record):
            _count(counted, outcome)
            columns: Mapping[str, Any] = {} if fields is None else await _fields(fields, outcome.index)
            line, error_line = writer.write(outcome, columns)
            await good.add(line)
            await bad.add(error_line)
            store.points.reach("export.row")
        await good.add(writer.end())
        await good.flush()
        await bad.flush()
        store.points.reach("export.written")
        if mark is not None:
            await mark()
    store.points.reach("export.published")
    return Written(target.output.name, None if errors is None else errors.name, counted)


def _may_fail(record: BatchRecord) -> bool:
    """Whether a row may have an error in its outcome."""
    return any(count for status, count in record.counts.items() if status is not RowStatus.DONE)


class _Buffer:
    """Gathers bytes until they are worth a write."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._bytes = bytearray()

    async def add(self, data: bytes) -> None:
        self._bytes += data
        if len(self._bytes) >= _WRITTEN:
            await self.flush()

    async def flush(self) -> None:
        if self._bytes:
            data = bytes(self._bytes)
            self._bytes.clear()
            await self._write(data)


async def _fields(rows: AsyncIterator[Any], index: int) -> Mapping[str, Any]:
    row = await anext(rows, None)
    if row is None or row.index != index:
        raise InputError("the input has other rows than when the batch began; put it back as it was")
    fields: Mapping[str, Any] = row.fields
    return fields
