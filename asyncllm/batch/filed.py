"""Services that write outcomes to files: in a folder of the caller's, one for each batch, by the name of its token."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager

import msgspec

from asyncllm.backend import BatchItem, BatchOutcome, BatchRequest, BatchState, FiledBatches
from asyncllm.batch.places import Place
from asyncllm.types import Request

__all__ = ["Filed"]


class Filed:
    """`Batches` over `FiledBatches`: what a batch says of its items is fetched from its file."""

    def __init__(self, batches: FiledBatches, file: Callable[[str], Place], tokens: Mapping[str, str]) -> None:
        """`file` gives the place of a token's file; `tokens` are those of the batches, by their ids."""
        self._batches = batches
        self._file = file
        self._tokens = tokens
        self._unwritten: set[str] = set()
        self.batch_limits = batches.batch_limits

    def batch_item_size(self, item: BatchItem, /) -> int:
        """See `Batches`."""
        return self._batches.batch_item_size(item)

    async def create_batch(self, batch: BatchRequest, /) -> BatchState:
        """See `Batches`."""
        return await self._batches.create_batch(msgspec.structs.replace(batch, output=self._file(batch.token).name))

    async def find_batch(self, token: str, /) -> BatchState | None:
        """See `Batches`."""
        return await self._batches.find_batch(token)

    async def get_batch(self, batch_id: str, /) -> BatchState:
        """See `Batches`."""
        state = await self._batches.get_batch(batch_id)
        if state.is_final and state.status != "succeeded":
            self._unwritten.add(batch_id)
        return state

    async def cancel_batch(self, batch_id: str, /) -> BatchState:
        """See `Batches`."""
        return await self._batches.cancel_batch(batch_id)

    @asynccontextmanager
    async def batch_outcomes(
        self, batch_id: str, requests: Mapping[str, Request] = {}, /
    ) -> AsyncGenerator[AsyncIterator[BatchOutcome]]:
        """See `Batches`; `requests` are all of the batch's. The file of a batch that did not succeed may be missing.

        Raises `InputError` as well, where the file cannot be read.
        """
        file = self._file(self._tokens[batch_id])
        if batch_id in self._unwritten and await file.fingerprint() is None:
            yield _each(())
            return
        async with file.read() as pieces:
            content = b"".join([piece async for piece in pieces])
        yield _each(self._batches.read_outcomes(content, requests))


async def _each(outcomes: Iterable[BatchOutcome]) -> AsyncIterator[BatchOutcome]:
    for outcome in outcomes:
        yield outcome
