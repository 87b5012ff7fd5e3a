"""All batches of the server's tenants: each begun, gone on with after a restart, cancelled and ended here.

Several processes may do this on one store: the runner's lease has each batch worked on by one of them, and another goes
on with it where that one has ended. A batch whose key is revoked is cancelled; with one that has expired it goes on.
What no row can be asked with, such as a bad key of the server's own, stops a batch for a while, until its time is over.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from asyncllm.batch.threads import in_thread
from asyncllm.errors import AsyncLLMError, BatchLockedError, BatchLostError
from asyncllm.server.batches.calls import RowCalls
from asyncllm.server.batches.run import BatchRun
from asyncllm.workspace.keys import Key
from asyncllm.workspace.served import ServerStore
from asyncllm.workspace.tenants import StoredBatch

if TYPE_CHECKING:
    from asyncllm.server.service import Service

__all__ = ["BatchWork"]

_log = logging.getLogger("asyncllm.server")
_LOOK_S = 2.0
_CLEAN_S = 60.0
_LEFT_S = 3600.0
"""Age at which what a batch was worked on with is removed, once it is over: nobody can still be about to use it."""
_AT_ONCE = 16
_OF_A_TENANT = 2
"""Batches that are worked on at one time by this process."""
_REST_S = (5.0, 300.0)
"""Before a batch that cannot go on is tried again: at first, and at the most."""


class BatchWork:
    """Works on batches from `start` to `aclose`."""

    def __init__(self, service: Service, store: ServerStore) -> None:
        self._service = service
        self._store = store
        self._folder = store.folder / "batches"
        self._places = asyncio.Semaphore(service.settings.batch_concurrency)
        self._runs: dict[str, tuple[BatchRun, asyncio.Task[None]]] = {}
        self._rests: dict[str, tuple[float, float]] = {}  # until when, and for how long
        self._awake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._cleaned: float | None = None

    def start(self) -> None:
        """Begin, unless that is done."""
        if self._task is None:
            self._stopping.clear()
            self._task = asyncio.create_task(self._work())

    def wake(self) -> None:
        """There is something new to be done. Starts it as well."""
        self.start()
        self._awake.set()

    async def aclose(self) -> None:
        """Let rows under way end, for a while, and stop. What is left goes on where the store is opened next."""
        task, self._task = self._task, None
        if task is not None:
            self._stopping.set()
            task.cancel()
            await asyncio.wait([task])

    async def _work(self) -> None:
        try:
            while True:
                try:
                    await self._look()
                except Exception as error:  # the store may be to be had again
                    _log.error("batches were not looked after, by a %s", type(error).__name__)
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_S):
                        await self._awake.wait()
                self._awake.clear()
        finally:
            tasks = [task for _, task in self._runs.values()]
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)

    async def _look(self) -> None:
        active = await self._store.upkeep.active()
        await self._clean({batch.id for batch in active})
        keys = await self._keys(active)
        for batch in active:
            if batch.id in self._runs:
                await self._look_after(self._runs[batch.id][0], batch, keys.get(batch.key))
        over = self._runs.keys() - {batch.id for batch in active}
        for id_ in over:  # another process has ended it: this one stood still
            self._runs[id_][1].cancel()
        for batch in self._next(active):
            await self._begin(batch, keys.get(batch.key))

    async def _clean(self, active: Collection[str]) -> None:
        self._rests = {id_: rest for id_, rest in self._rests.items() if id_ in active}
        now = time.monotonic()
        if self._cleaned is not None and now - self._cleaned < _CLEAN_S:
            return
        if self._cleaned is None:
            await self._store.upkeep.sweep()
        self._cleaned = now
        await self._store.upkeep.expire()
        await in_thread(lambda: self._remove_left(active))

    async def _keys(self, active: Sequence[StoredBatch]) -> Mapping[str, Key]:
        tenants = {batch.tenant for batch in active if batch.key}
        return {key.id: key for tenant in tenants for key in await self._store.keys.list(tenant)}

    def _next(self, active: Sequence[StoredBatch]) -> Sequence[StoredBatch]:
        """What is to be begun: the oldest first, and no tenant's before all others'."""
        busy = Counter(run.batch.tenant for run, _ in self._runs.values())
        now = time.monotonic()
        begun: list[StoredBatch] = []
        for batch in active:
            rested = batch.id not in self._rests or now >= self._rests[batch.id][0]
            if batch.id not in self._runs and rested and busy[batch.tenant] < _OF_A_TENANT and busy.total() < _AT_ONCE:
                busy[batch.tenant] += 1
                begun.append(batch)
        return begun

    async def _begin(self, batch: StoredBatch, key: Key | None) -> None:
        if _is_revoked(batch, key):
            batch = await self._cancel(batch)
        tenants = self._store.tenants
        calls = RowCalls(self._service, batch, self._places, self._stopping, key)
        run = BatchRun(self._service, tenants, batch, calls, self._folder / batch.id)
        self._runs[batch.id] = run, asyncio.create_task(self._run(run))

    async def _look_after(self, run: BatchRun, batch: StoredBatch, key: Key | None) -> None:
        run.calls.key = key
        if _is_revoked(batch, key):
            batch = await self._cancel(batch)
        if batch.state.status == "cancelling":
            with suppress(AsyncLLMError):  # it has not begun yet, or is over: the next look tells
                await run.cancel()
        await run.keep_progress()

    async def _cancel(self, batch: StoredBatch) -> StoredBatch:
        changed = await self._store.tenants.change_batch(
            batch.tenant, batch.id, lambda known: known.having("cancelling")
        )
        return changed or batch

    async def _run(self, run: BatchRun) -> None:
        """Work on one batch; whatever goes wrong there is no business of others."""
        id_ = run.batch.id
        try:
            await run.run(self._awake.set)
            self._rests.pop(id_, None)
        except (BatchLockedError, BatchLostError):
            self._rest(id_, _REST_S[0])
        except Exception as error:
            _log.error("a batch was put off by a %s", type(error).__name__)
            self._rest(id_, min(2 * self._rests.get(id_, (0, _REST_S[0] / 2))[1], _REST_S[1]))
            if time.time() > run.batch.expires_at:
                with suppress(Exception):  # it is tried again as long as it is not over
                    await run.give_up()
        finally:
            del self._runs[id_]
            self._awake.set()

    def _rest(self, id_: str, seconds: float) -> None:
        self._rests[id_] = time.monotonic() + seconds, seconds

    def _remove_left(self, active: Collection[str]) -> None:
        """Remove folders of batches that are over, some time after that."""
        if not self._folder.is_dir():
            return
        for folder in self._folder.iterdir():
            if folder.name not in active and time.time() - _touched(folder) > _LEFT_S:
                shutil.rmtree(folder, ignore_errors=True)


def _is_revoked(batch: StoredBatch, key: Key | None) -> bool:
    return bool(batch.key) and batch.state.status != "cancelling" and (key is None or key.revoked_at is not None)


def _touched(folder: Path) -> float:
    return max((path.stat().st_mtime for path in folder.glob("*")), default=folder.stat().st_mtime)
