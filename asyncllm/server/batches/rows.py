"""The rows of an uploaded file, and what is wrong with it as a whole."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from asyncllm.batch.formats.bodies import CHAT, COMPLETION, EMBEDDINGS
from asyncllm.batch.formats.openai import OpenAI
from asyncllm.batch.formats.protocol import Reading
from asyncllm.batch.rows import Row, asked_of
from asyncllm.batch.threads import in_thread
from asyncllm.errors import InputError
from asyncllm.server.settings import ServerSettings
from asyncllm.workspace.blobs import Blobs
from asyncllm.workspace.tenants import BatchFault, StoredBatch

__all__ = ["ENDPOINTS", "UploadedRows"]

ENDPOINTS = {"chat": CHAT, "complete": COMPLETION, "embed": EMBEDDINGS}
"""Where rows may go to, by what they ask."""

_PIECE = 64 * 2**10
_TURN = 32
"""Rows that are read before others have a turn of the event loop."""
_MAX_FAULTS = 100


class UploadedRows:
    """An `Input` of the durable runner."""

    chunk = 1000
    can_be_checked = True

    def __init__(self, batch: StoredBatch, blobs: Blobs, settings: ServerSettings) -> None:
        self.name = batch.input_file
        self.faults: list[BatchFault] = []
        """What was found to be wrong, where reading it raised `InputError`."""
        self._batch = batch
        self._blobs = blobs
        self._settings = settings

    async def fingerprint(self) -> str | None:
        """The digest that the file is kept by."""
        return self._batch.digest

    @asynccontextmanager
    async def rows(self) -> AsyncGenerator[AsyncIterator[Row]]:
        """The rows. Iterating raises `InputError` after the last of them where one could not be read."""
        batch = self._batch
        file = await in_thread(lambda: self._blobs.open(batch.tenant, batch.digest, batch.size))
        try:
            yield self._checked(file)
        finally:
            os.close(file)

    async def _checked(self, file: int) -> AsyncIterator[Row]:
        self.faults = []
        names: set[str] = set()
        reading = Reading(name=self.name, max_row_bytes=self._settings.max_body_bytes)
        async for row in OpenAI().read(_pieces(file), reading):
            fault = self._fault(row, names)
            if fault is not None:
                self.faults.append(fault)
            if len(self.faults) >= _MAX_FAULTS or row.index >= self._settings.max_batch_rows:
                break
            yield row
            if row.index % _TURN == 0:
                await asyncio.sleep(0)
        if self.faults:
            raise InputError(f"{self.name}: some of its lines cannot be asked")

    def _fault(self, row: Row, names: set[str]) -> BatchFault | None:
        line = int(row.place.rpartition(" ")[2])
        if row.index >= self._settings.max_batch_rows:
            told = f"a batch has at most {self._settings.max_batch_rows} rows"
            return BatchFault("too_many_rows", told, line)
        if row.error is not None:
            message = row.error.message.removeprefix(f"{row.place}: ")
            return BatchFault(row.error.code or "invalid_request", message, line, row.error.field)
        assert row.request is not None  # it is there where there is no error
        if ENDPOINTS[asked_of(row.request)] != self._batch.endpoint:
            return BatchFault("mismatched_url", f"the batch is for {self._batch.endpoint} alone", line, "url")
        if row.id in names:
            return BatchFault("duplicate_custom_id", "an earlier line has the same custom_id", line, "custom_id")
        names.add(row.id or "")
        return None


async def _pieces(file: int) -> AsyncIterator[bytes]:
    while piece := await in_thread(lambda: os.read(file, _PIECE)):
        yield piece
