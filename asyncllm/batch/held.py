"""A run of a batch by whoever holds its lease: what is left of the input, whether the run lives, when it stops.

How the rows that are left come to their outcomes is the business of those who inherit from it.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import msgspec

from asyncllm.batch.codec import digest, encode_error
from asyncllm.batch.course import Course
from asyncllm.batch.inputs import Input
from asyncllm.batch.options import RunSettings
from asyncllm.batch.report import BatchStatus, OnRunProgress
from asyncllm.batch.rows import AnyAsk, Row
from asyncllm.errors import AsyncLLMError, InputError
from asyncllm.workspace.batches import BatchStore
from asyncllm.workspace.records import BatchRecord, Lease, NewRow, RowState, RowStatus

__all__ = ["BEAT_S", "HeldRun"]

BEAT_S = 1.0
_SHOWN = 10
_MIN_FAILURES = 20
_NO_KEY = b"\0" * 16
_PUT_BACK = "put it back as it was"


class HeldRun(ABC):
    """One run of a batch under its lease."""

    def __init__(
        self,
        store: BatchStore,
        lease: Lease,
        record: BatchRecord,
        *,
        source: Input,
        settings: RunSettings,
        check: Callable[[AnyAsk], None] | None = None,
        tell: OnRunProgress | None = None,
    ) -> None:
        self._store = store
        self._lease = lease
        self._record = record
        self._source = source
        self._settings = settings
        self._check = check
        self._course = Course(record, store, tell)
        self._in_flight: int = 0
        self._ended: BatchStatus | None = None
        self._error: Exception | None = None
        self._stopping = asyncio.Event()
        self._deadline: asyncio.TimerHandle | None = None
        self._total = record.total
        self._beaten = 0.0
        self._ran_s = record.ran_s

    @asynccontextmanager
    async def alive(self) -> AsyncGenerator[None]:
        """Show to others that this run lives, and see what they want of it, as long as the block lasts.

        A full disk is waited for, as it is told of.
        """
        self._store.wait_for_room(True)
        self._beaten = asyncio.get_running_loop().time()
        tasks = [asyncio.create_task(self._beside(work)) for work in (self._beat(), self._tick())]
        try:
            yield
        finally:
            self._store.wait_for_room(False)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def run(self, fingerprint: str | None) -> BatchStatus:
        """Ask what is left of the input, which `fingerprint` tells from others, and say how it ended. Needs `alive`.

        Raises `InputError`, `StoreError`, and what no row can be asked with, such as `AuthenticationError`: then what
        was under way has come to its end, and the rest is as it was. Cancelled, it gives what is under way `drain_s`
        seconds and is cancelled then.
        """
        try:
            if self._source.can_be_checked:
                await self._index(fingerprint)
            await self._work()
        finally:
            if self._deadline is not None:
                self._deadline.cancel()
        if self._error is not None:
            raise self._error
        self._course.tell(stage="exporting")  # which is all that is left to do
        await self._count_time()
        counted = self._course.progress()
        if self._ended is not None and counted.done + counted.failed != self._total:
            return self._ended
        return "completed_with_errors" if counted.failed else "completed"

    @abstractmethod
    async def _work(self) -> None:
        """Bring the rows that are left to their outcomes."""

    # -- before the first call

    async def _index(self, fingerprint: str | None) -> None:
        """Read the whole input, so that what is wrong with it is known before anything is paid for."""
        if self._record.total is not None and fingerprint == self._record.fingerprint:
            return
        await self._store.forget_unasked(self._lease)
        total, bad = 0, 0
        said: list[str] = []
        chunk: list[NewRow] = []
        async with self._source.rows() as rows:
            async for row in rows:
                checked = self._checked(row)
                if checked.error is not None:
                    bad += 1
                    if len(said) < _SHOWN:
                        said.append(checked.error.message)
                chunk.append(_new(checked))
                total += 1
                if len(chunk) >= self._source.chunk:
                    await self._store.index(self._lease, chunk)
                    chunk = []
                    self._course.tell(total=total)
        await self._store.index(self._lease, chunk)
        if bad and self._settings.on_bad_row == "refuse":
            more = f" ({bad} rows in all)" if bad > len(said) else ""
            told = "\n".join(said)
            raise InputError(f"{told}{more}\nNothing was asked: mend them, or let such rows fail alone")
        if not total:
            raise InputError(f"{self._source.name}: there is no row in it")
        await self._close_index(total, fingerprint)

    async def _close_index(self, total: int, fingerprint: str | None) -> None:
        await self._store.close_index(self._lease, total, fingerprint)
        self._total = total
        self._course.tell(total=total)

    def _checked(self, row: Row) -> Row:
        if row.request is not None and self._check is not None:
            try:
                self._check(row.request)
            except AsyncLLMError as error:
                error.message = f"{row.place}: {error.message}"
                return msgspec.structs.replace(row, request=None, error=error)
        return row

    # -- rows

    async def _known(
        self, rows: AsyncIterator[Row], also: frozenset[int] = frozenset()
    ) -> AsyncIterator[tuple[Row, RowState]]:
        """The rows that have no outcome yet, and those of `also`, with how they stand.

        Raises `InputError` where the input is not the one that the batch began with.
        """
        known: list[RowState] = []
        start = count = 0
        async for unchecked in rows:
            row = self._checked(unchecked)
            if row.index >= start + len(known):
                start = row.index
                known = await self._store.rows(self._lease.batch, start, self._source.chunk)
                if not known and self._source.can_be_checked:
                    raise InputError(f"{row.place}: the input has grown since it was checked; {_PUT_BACK}")
                known = known or await self._new(row)
            state = known[row.index - start]
            count += 1
            if state.key != _key(row):
                raise InputError(f"{row.place}: this row is not the one that the batch began with; {_PUT_BACK}")
            if row.index in also or not state.status.is_final:
                yield row, state
        if not self._source.can_be_checked:
            await self._close_index(count, None)
        elif count != self._total:
            raise InputError(f"{self._source.name}: the input has fewer rows than when it was checked; {_PUT_BACK}")

    async def _new(self, row: Row) -> list[RowState]:
        new = _new(row)
        await self._store.index(self._lease, [new])
        return [RowState(row.index, new.key, RowStatus.PENDING, 0, 0)]

    async def _end(self, state: RowState, error: AsyncLLMError, status: RowStatus) -> None:
        """The row has failed for good."""
        await self._store.finish(self._lease, state.index, state.key, status, encode_error(error))
        self._course.tally.add(None, error)
        rate = self._settings.max_failure_rate
        if rate is not None:
            counted = self._course.tally
            allowed = max(_MIN_FAILURES - 1, rate * (counted.failed + counted.done))
            if counted.failed > allowed:
                self._stop("stopped")

    # -- stopping

    async def _pause(self, seconds: float) -> None:
        """Wait, unless the run is to stop."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    @property
    def _is_stopping(self) -> bool:
        return self._stopping.is_set()

    def _stop(self, why: BatchStatus | AsyncLLMError) -> None:
        """Ask no more rows; those under way come to their end."""
        if self._is_stopping:
            return
        self._stopping.set()
        if isinstance(why, AsyncLLMError):
            self._error = why
        else:
            self._ended = why
        self._take_no_more()
        if self._ended is not None:
            loop = asyncio.get_running_loop()
            self._deadline = loop.call_later(self._settings.drain_s, self._abandon)

    async def _beat(self) -> None:
        """Beat, as `alive` says. Waits where the store does."""
        while True:
            await asyncio.sleep(BEAT_S)
            if await self._count_time():
                self._stop("cancelled")

    async def _tick(self) -> None:
        """Look at the clock, and tell how far it has come even where nothing moves."""
        now = asyncio.get_running_loop().time
        while True:
            left_s = self._left_s(now())
            if left_s <= 0:
                self._stop("expired")
            await asyncio.sleep(min(BEAT_S, left_s) if left_s > 0 else BEAT_S)
            self._course.pace(now())
            self._course.tell(in_flight=self._in_flight)

    async def _beside(self, work: Awaitable[None]) -> None:
        """What goes wrong beside the rows, in the store or with whoever is told, ends the run."""
        try:
            await work
        except Exception as error:  # raised by `run`
            self._error = self._error or error
            self._stopping.set()
            self._abandon()

    @abstractmethod
    def _take_no_more(self) -> None:
        """What is under way comes to its end, and nothing else begins."""

    @abstractmethod
    def _abandon(self) -> None:
        """End what is under way at once."""

    def _left_s(self, now: float) -> float:
        limit = self._settings.max_runtime_s
        return float("inf") if limit is None else limit - self._ran_s - (now - self._beaten)

    async def _count_time(self) -> bool:
        """Keep how long it has worked. True if it is to stop for good."""
        now = asyncio.get_running_loop().time()
        spent_s, self._beaten = now - self._beaten, now
        self._ran_s += spent_s
        return await self._store.beat(self._lease, spent_s)


def _new(row: Row) -> NewRow:
    return NewRow(row.index, _key(row), row.id, row.place)


def _key(row: Row) -> bytes:
    return _NO_KEY if row.request is None else digest(row.request)
