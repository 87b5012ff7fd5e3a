"""The durable runner: every row of an input is asked, and has one outcome in the store, however often it is started.

A row is written down as under way before it is asked, and with its outcome after that; only then it counts. What was
under way when a process ended, this one or a worker, is asked again. A row during which that happened twice is asked
with nothing beside it, and one during which it happened three times is abandoned.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import msgspec

from asyncllm.batch.codec import encode_answer
from asyncllm.batch.fanout import FanOut
from asyncllm.batch.held import HeldRun
from asyncllm.batch.lost import NoWorkerError, RowCrashedError
from asyncllm.batch.rows import Answer, AnyAsk, Row
from asyncllm.errors import (
    AsyncLLMError,
    AuthenticationError,
    BudgetExceededError,
    EngineDeadError,
    PluginError,
    QuotaExceededError,
    RowAbandonedError,
    StoreError,
    WrongLoopError,
)
from asyncllm.workspace.folder import free_bytes
from asyncllm.workspace.records import RowState, RowStatus

__all__ = ["Ask", "Runner"]

Ask: TypeAlias = Callable[[AnyAsk, str], Awaitable[Answer]]
"""Asks one row, which an idempotency key stands beside."""

_HOPELESS = (
    AuthenticationError, BudgetExceededError, EngineDeadError, PluginError, QuotaExceededError, StoreError,
    WrongLoopError,
)  # fmt: skip
"""Errors that the next row would meet as well."""

_ALONE = 2
_LOOK_S = 0.5
_ABANDONED = 3


class Runner(HeldRun):
    """One run of a batch whose rows are asked call by call."""

    def __init__(self, *held: Any, ask: Ask, **named: Any) -> None:
        super().__init__(*held, **named)
        self._ask = ask
        self._fan_out: FanOut[tuple[Row, RowState], None] | None = None
        self._suspects: deque[tuple[Row, RowState]] = deque()  # workers have ended twice during each
        self._quiet: asyncio.Future[None] | None = None
        self._looked = -_LOOK_S

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
                    self._course.tell(in_flight=self._in_flight)
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
            self._in_flight += 1
            yield row, state
            if is_alone:
                await self._idle()
        while True:
            await self._idle()
            if not self._suspects or self._is_stopping:
                return
            self._in_flight += 1
            yield self._suspects.popleft()

    async def _do(self, _: int, item: tuple[Row, RowState]) -> None:
        row, state = item
        assert row.request is not None  # the others have come to their end in `_pending`
        try:
            await self._attempt(row, row.request, state)
        finally:
            self._in_flight -= 1
            if not self._in_flight and self._quiet is not None and not self._quiet.done():
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
                self._course.tally.add(answer, None)
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

    def _idempotency_key(self, state: RowState) -> str:
        """The same for every attempt at this row of this batch, in every run."""
        born = self._record.created_at
        return f"{state.key.hex()}-{born.hex()[4:17]}-{state.index}"

    async def _idle(self) -> None:
        while self._in_flight:
            self._quiet = asyncio.get_running_loop().create_future()
            await self._quiet

    async def _room(self) -> None:
        """Wait while the disk has less room than what is kept free for the outcomes of what is under way."""
        now = asyncio.get_running_loop().time
        if self._settings.reserve_bytes and now() - self._looked >= _LOOK_S:
            while not self._is_stopping and free_bytes(self._store.folder) < self._settings.reserve_bytes:
                self._course.tell(stage="paused")
                await self._pause(_LOOK_S)
            self._course.tell(stage="running")
            self._looked = now()

    def _take_no_more(self) -> None:
        if self._fan_out is not None:
            self._fan_out.stop()

    def _abandon(self) -> None:
        if self._fan_out is not None:
            self._fan_out.abandon()


def _abandoned(row: Row, state: RowState) -> RowAbandonedError | None:
    if state.crashes < _ABANDONED:
        return None
    return RowAbandonedError(
        f"{row.place}: the process ended {state.crashes} times while this row was asked", code="dead_letter"
    )


def _pause_s(error: AsyncLLMError, attempts: int) -> float:
    """Seconds before the next attempt at a row, whose last one has failed after the client's own retries."""
    return error.retry_after_s or random.uniform(0.5, 1) * min(60.0, 2.0 ** (attempts - 1))
