"""The durable runner where a service works the rows off in batches of its own: `via="vendor"`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import Struct

from asyncllm.backend import Batches, BatchItem, BatchOutcome, BatchState, Clock, FiledBatches
from asyncllm.batch.codec import encode_answer
from asyncllm.batch.filed import Filed
from asyncllm.batch.held import HeldRun
from asyncllm.batch.parts import Part, VendorSettings, index_of, item_id
from asyncllm.batch.places import Place
from asyncllm.batch.rows import Row
from asyncllm.batch.vendor import run_vendor
from asyncllm.errors import APIError, AsyncLLMError, RowAbandonedError, UnsupportedError
from asyncllm.types import Request
from asyncllm.workspace.records import OpenPart, RowState, RowStatus

__all__ = ["Service", "ServicedRunner"]


class Service(Struct, frozen=True):
    """Who works the rows off."""

    batches: Batches
    model: str
    """The model of all rows, in the words of the service."""
    clock: Clock
    settings: VendorSettings
    file: Callable[[str], Place] | None = None
    """The place of a file of outcomes by the token of its batch, where the service writes files."""

    def lent(self, tokens: Mapping[str, str]) -> Batches:
        """`batches`, with outcomes of their files where there are some; `tokens` by the batches' ids."""
        if self.file is None or not isinstance(self.batches, FiledBatches):
            return self.batches
        return Filed(self.batches, self.file, tokens)


class ServicedRunner(HeldRun):
    """One run of a batch whose rows go to a service, a part at a time.

    It is the ledger of `run_vendor` as well: parts and outcomes are written down in the store, under the lease. A run
    that ends leaves what is with the service there, and the next one waits for it.
    """

    def __init__(self, *parts: Any, service: Service, **named: Any) -> None:
        super().__init__(*parts, **named)
        self._service = service
        self._held: dict[int, tuple[RowState, Request]] = {}  # rows whose outcomes are waited for
        self._remote: dict[str, str] = {}  # tokens by the ids of batches that are with the service
        self._run: asyncio.Task[None] | None = None
        self._cancelling: list[asyncio.Task[None]] = []

    async def _work(self) -> None:
        self._course.tell(stage="running")
        begun = await self._begun(await self._store.open_parts(self._lease.batch))
        service = self._service
        async with self._source.rows() as rows:
            work = run_vendor(
                service.lent(self._remote),
                self._items(rows, frozenset(self._held)),
                self,
                clock=service.clock,
                begun=begun,
                settings=service.settings,
                tell=self._look,
            )
            self._run = asyncio.create_task(work)
            try:
                await asyncio.wait([self._run])
            finally:
                for task in (self._run, *self._cancelling):
                    task.cancel()
                await asyncio.wait([self._run, *self._cancelling])
        if self._error is None and not self._run.cancelled():
            self._run.result()

    async def _begun(self, parts: list[OpenPart]) -> list[Part]:
        """The parts of an earlier run that have not ended, with what they ask read again.

        All of it, rows that have their outcome included: a file of outcomes goes by the order of the items.
        """
        wanted = frozenset[int]().union(*(part.rows for part in parts))
        items: dict[int, BatchItem] = {}
        if wanted:
            async with self._source.rows() as rows:
                async for row, state in self._known(rows, wanted):
                    if row.index in wanted and isinstance(row.request, Request):
                        items[row.index] = self._item(row.request, state)
        self._remote |= {part.remote_id: part.token for part in parts if part.remote_id is not None}
        return [
            Part(
                token=part.token,
                model=part.model,
                items=tuple(items[index] for index in sorted(part.rows & items.keys())),
                is_begun=True,
                batch_id=part.remote_id,
            )
            for part in parts
        ]

    async def _items(self, rows: AsyncIterator[Row], held: frozenset[int]) -> AsyncIterator[BatchItem]:
        async for row, state in self._known(rows):
            if self._is_stopping:
                return
            if row.index in held:
                continue
            if isinstance(row.request, Request):
                yield self._item(row.request, state)
                continue
            lacking = UnsupportedError(f"{row.place}: batches of a service take chats and completions", field="via")
            await self._end(state, row.error or lacking, RowStatus.FAILED)

    def _item(self, asked: Request, state: RowState) -> BatchItem:
        if not state.status.is_final:
            self._held[state.index] = state, asked
            self._in_flight = len(self._held)
        return BatchItem(item_id(state.index), msgspec.structs.replace(asked, model=self._service.model))

    # -- stopping

    async def _cancel(self, remote_id: str) -> None:
        # Whether it has come to anything shows at the next look.
        with suppress(APIError):
            await self._service.batches.cancel_batch(remote_id)

    def _abandon(self) -> None:
        if self._run is not None:
            self._run.cancel()

    def _take_no_more(self) -> None:
        if self._ended is not None:
            self._cancelling = [asyncio.create_task(self._cancel(remote)) for remote in self._remote]

    def _look(self, _: BatchState) -> None:
        self._course.tell(in_flight=self._in_flight)

    # -- the ledger

    async def intent(self, part: Part, /) -> None:
        """See `Ledger`."""
        await self._store.open_part(self._lease, part.token, part.model, _rows(part))

    async def created(self, part: Part, batch_id: str, /) -> None:
        """See `Ledger`."""
        await self._store.name_part(self._lease, part.token, batch_id)
        self._remote[batch_id] = part.token
        if self._ended is not None:  # it was on its way when the batch was stopped
            await self._cancel(batch_id)

    async def withdrawn(self, part: Part, /) -> None:
        """See `Ledger`."""
        await self._store.close_part(self._lease, part.token, withdrawn=_rows(part))

    async def outcome(self, outcome: BatchOutcome, /) -> None:
        """See `Ledger`."""
        held = self._held.get(index_of(outcome.id))
        if held is None:  # it was told before the run that began with it was interrupted
            return
        state, asked = held
        if outcome.response is not None:
            body = encode_answer(asked, outcome.response)
            await self._store.finish(self._lease, state.index, state.key, RowStatus.DONE, body)
            self._course.tally.add(outcome.response, None)
        elif outcome.error is not None and not (self._ended is not None and _is_unasked(outcome.error)):
            await self._end(state, outcome.error, RowStatus.FAILED)
        self._course.tell(in_flight=self._in_flight)

    async def done(self, part: Part, state: BatchState, /) -> None:
        """See `Ledger`."""
        await self._store.close_part(self._lease, part.token)
        self._remote.pop(state.id, None)
        for index in _rows(part):
            self._held.pop(index, None)
        self._in_flight = len(self._held)


def _is_unasked(error: AsyncLLMError) -> bool:
    """Whether the service never came to the row, because it was told to stop."""
    return isinstance(error, RowAbandonedError)


def _rows(part: Part) -> list[int]:
    return [index_of(item.id) for item in part.items]
