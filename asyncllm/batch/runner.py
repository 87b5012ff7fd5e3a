"""The durable runner: every row of an input is asked, and has one outcome in the store, however often it is started.

A row is written down as under way before it is asked, and with its outcome after that; only then it counts. What was
under way when a process ended, this one or a worker, is asked again. A row during which that happened twice is asked
with nothing beside it, and one during which it happened three times is abandoned.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta, Struct

from asyncllm.batch.codec import digest, encode_answer, encode_error
from asyncllm.batch.course import Course
from asyncllm.batch.fanout import FanOut
from asyncllm.batch.inputs import Input
from asyncllm.batch.lost import NoWorkerError, RowCrashedError
from asyncllm.batch.options import OnBadRow
from asyncllm.batch.report import BatchStatus, OnRunProgress
from asyncllm.batch.rows import Answer, AnyAsk, Row
from asyncllm.errors import (
    AsyncLLMError,
    AuthenticationError,
    BudgetExceededError,
    EngineDeadError,
    InputError,
    PluginError,
    QuotaExceededError,
    RowAbandonedError,
    StoreError,
    WrongLoopError,
)
from asyncllm.workspace.batches import BatchStore
from asyncllm.workspace.folder import free_bytes
from asyncllm.workspace.records import BatchRecord, Lease, NewRow, RowState, RowStatus

__all__ = ["Ask", "RunSettings", "Runner"]

Ask: TypeAlias = Callable[[AnyAsk, str], Awaitable[Answer]]
"""Asks one row, which an idempotency key stands beside."""

_HOPELESS = (
    AuthenticationError, BudgetExceededError, EngineDeadError, PluginError, QuotaExceededError, StoreError,
    WrongLoopError,
)  # fmt: skip
"""Errors that the next row would meet as well."""

_ALONE = 2
_ABANDONED = 3
_BEAT_S = 1.0
_SHOWN = 10
_MIN_FAILURES = 20
_NO_KEY = b"\0" * 16
_PUT_BACK = "put it back as it was"


class RunSettings(Struct, frozen=True, kw_only=True):
    """What may differ from run to run of one batch; see `RunOptions`."""

    concurrency: Annotated[int, Meta(ge=1)] = 64
    max_attempts: Annotated[int, Meta(ge=1)] = 3
    max_runtime_s: Annotated[float, Meta(gt=0)] | None = None
    max_failure_rate: Annotated[float, Meta(ge=0, le=1)] | None = None
    on_bad_row: OnBadRow = "refuse"
    drain_s: Annotated[float, Meta(ge=0)] = 30
    reserve_bytes: Annotated[int, Meta(ge=0)] = 64 * 2**20
    labels: dict[str, str] = {}
    priority: str | None = None
    data_parallelism: Annotated[int, Meta(ge=1, le=64)] = 1


class Runner:
    """One run of a batch, by whoever holds its lease."""

    def __init__(
        self,
        store: BatchStore,
        lease: Lease,
        record: BatchRecord,
        *,
        source: Input,
        ask: Ask,
        settings: RunSettings,
        check: Callable[[AnyAsk], None] | None = None,
        tell: OnRunProgress | None = None,
    ) -> None:
        self._store = store
        self._lease = lease
        self._record = record
        self._source = source
        self._ask = ask
        self._settings = settings
        self._check = check
        self._course = Course(record, store, tell)
        self._fan_out: FanOut[tuple[Row, RowState], None] | None = None
        self._busy = 0
        self._suspects: deque[tuple[Row, RowState]] = deque()  # workers have ended twice during each
        self._quiet: asyncio.Future[None] | None = None
        self._ended: BatchStatus | None = None
        self._error: Exception | None = None
        self._stopping = asyncio.Event()
        self._deadline: asyncio.TimerHandle | None = None
        self._total = record.total
        self._beaten = 0.0
        self._ran_s = record.ran_s
        self._looked = -_BEAT_S

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

    # -- the calls

    async def _work(self) -> None:
        self._course.tell(stage="running")
        concurrency = self._settings.concurrency
        async with self._source.rows() as rows:
            fan_out = self._fan_out = FanOut(
                self._pending(rows), self._do, concurrency=concurrency, window=2 * concurrency, ordered=False
            )
            if self._is_stopping:
                fan_out.stop()
            try:
                async for _ in fan_out:
                    self._course.tell(in_flight=self._busy)
            except asyncio.CancelledError:
                self._stopping.set()
                await fan_out.aclose(self._settings.drain_s)
                raise
            finally:
                await fan_out.aclose()

    async def _pending(self, rows: AsyncIterator[Row]) -> AsyncIterator[tuple[Row, RowState]]:
        """The rows that are to be asked, in order."""
        async for row, state in self._known(rows):
            error = row.error if row.request is None else _abandoned(row, state)
            if error is not None:
                await self._end(state, error, RowStatus.FAILED if row.request is None else RowStatus.ABANDONED)
                continue
            await self._room()
            if self._is_stopping:
                return
            is_alone = state.crashes >= _ALONE
            if is_alone:
                await self._idle()
            if self._is_stopping:
                return
            self._busy += 1
            yield row, state
            if is_alone:
                await self._idle()
        while True:
            await self._idle()
            if not self._suspects or self._is_stopping:
                return
            self._busy += 1
            yield self._suspects.popleft()

    async def _known(self, rows: AsyncIterator[Row]) -> AsyncIterator[tuple[Row, RowState]]:
        """The rows that have no outcome yet, with how they stand.

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
            if not state.status.is_final:
                yield row, state
        if not self._source.can_be_checked:
            await self._close_index(count, None)
        elif count != self._total:
            raise InputError(f"{self._source.name}: the input has fewer rows than when it was checked; {_PUT_BACK}")

    async def _new(self, row: Row) -> list[RowState]:
        new = _new(row)
        await self._store.index(self._lease, [new])
        return [RowState(row.index, new.key, RowStatus.PENDING, 0, 0)]

    async def _do(self, _: int, item: tuple[Row, RowState]) -> None:
        row, state = item
        assert row.request is not None  # the others have come to their end in `_pending`
        try:
            await self._attempt(row, row.request, state)
        finally:
            self._busy -= 1
            if not self._busy and self._quiet is not None and not self._quiet.done():
                self._quiet.set_result(None)

    async def _attempt(self, row: Row, asked: AnyAsk, state: RowState) -> None:
        points = self._store.points
        attempts = state.attempts
        while True:
            await self._store.begin(self._lease, state.index)
            attempts += 1
            points.reach("row.ask")
            try:
                answer = await self._ask(asked, self._idempotency_key(state))
            except RowCrashedError:
                state = msgspec.structs.replace(state, crashes=state.crashes + 1)
                if not await self._goes_on(row, state):
                    return
            except (NoWorkerError, *_HOPELESS) as error:
                await self._store.release(self._lease, state.index, counts=False)
                self._stop(error.error if isinstance(error, NoWorkerError) else error)
                return
            except AsyncLLMError as error:
                if not error.retryable or attempts >= self._settings.max_attempts:
                    await self._end(state, error, RowStatus.FAILED)
                    return
                await self._pause(_pause_s(error, attempts))
                if self._is_stopping:
                    await self._store.release(self._lease, state.index, counts=True)
                    return
            else:
                points.reach("row.answered")
                body = encode_answer(asked, answer)
                await self._store.finish(self._lease, state.index, state.key, RowStatus.DONE, body)
                self._course.tally.add(answer, None, 0)
                return

    async def _goes_on(self, row: Row, state: RowState) -> bool:
        """Whether a row during which a worker has just ended is to be asked again at once."""
        await self._store.crash(self._lease, state.index)
        error = _abandoned(row, state)
        if error is not None:
            await self._end(state, error, RowStatus.ABANDONED)
        elif state.crashes >= _ALONE:
            self._suspects.append((row, state))
        return state.crashes < _ALONE and not self._is_stopping

    async def _end(self, state: RowState, error: AsyncLLMError, status: RowStatus) -> None:
        """The row has failed for good."""
        await self._store.finish(self._lease, state.index, state.key, status, encode_error(error))
        self._course.tally.add(None, error, 0)
        rate = self._settings.max_failure_rate
        if rate is not None:
            counted = self._course.tally.progress(0)
            allowed = max(_MIN_FAILURES - 1, rate * (counted.failed + counted.done))
            if counted.failed > allowed:
                self._stop("stopped")

    def _idempotency_key(self, state: RowState) -> str:
        """The same for every attempt at this row of this batch, in every run."""
        born = self._record.created_at
        return f"{state.key.hex()}-{born.hex()[4:17]}-{state.index}"

    async def _pause(self, seconds: float) -> None:
        """Wait, unless the run is to stop."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    async def _idle(self) -> None:
        while self._busy:
            self._quiet = asyncio.get_running_loop().create_future()
            await self._quiet

    async def _room(self) -> None:
        """Wait while the disk has less room than what is kept free for the outcomes of what is under way."""
        now = asyncio.get_running_loop().time
        if self._settings.reserve_bytes and now() - self._looked >= _BEAT_S / 2:
            while not self._is_stopping and free_bytes(self._store.folder) < self._settings.reserve_bytes:
                self._course.tell(stage="paused")
                await self._pause(_BEAT_S / 2)
            self._course.tell(stage="running")
            self._looked = now()

    # -- stopping

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
        if self._fan_out is not None:
            self._fan_out.stop()
            if self._ended is not None:
                loop = asyncio.get_running_loop()
                self._deadline = loop.call_later(self._settings.drain_s, self._fan_out.abandon)

    async def _beat(self) -> None:
        """Beat, as `alive` says. Waits where the store does."""
        while True:
            await asyncio.sleep(_BEAT_S)
            if await self._count_time():
                self._stop("cancelled")

    async def _tick(self) -> None:
        """Look at the clock, and tell how far it has come even where nothing moves."""
        now = asyncio.get_running_loop().time
        while True:
            left_s = self._left_s(now())
            if left_s <= 0:
                self._stop("expired")
            await asyncio.sleep(min(_BEAT_S, left_s) if left_s > 0 else _BEAT_S)
            self._course.pace(now())
            self._course.tell(in_flight=self._busy)

    async def _beside(self, work: Awaitable[None]) -> None:
        """What goes wrong beside the rows, in the store or with whoever is told, ends the run."""
        try:
            await work
        except Exception as error:  # raised by `run`
            self._error = self._error or error
            self._stopping.set()
            self._abandon()

    def _abandon(self) -> None:
        """End what is under way at once."""
        if self._fan_out is not None:
            self._fan_out.abandon()

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


def _abandoned(row: Row, state: RowState) -> RowAbandonedError | None:
    if state.crashes < _ABANDONED:
        return None
    return RowAbandonedError(
        f"{row.place}: the process ended {state.crashes} times while this row was asked", code="dead_letter"
    )


def _pause_s(error: AsyncLLMError, attempts: int) -> float:
    """Seconds before the next attempt at a row, whose last one has failed after the client's own retries."""
    return error.retry_after_s or random.uniform(0.5, 1) * min(60.0, 2.0 ** (attempts - 1))
