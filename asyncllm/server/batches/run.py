"""One batch of a tenant: run by the durable runner under its lease, until what came of it is kept as files."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from msgspec import Struct

from asyncllm.batch.export import outcomes
from asyncllm.batch.options import RunSettings
from asyncllm.batch.plan import BatchPlan
from asyncllm.batch.report import BatchReport, BatchStatus, RunProgress
from asyncllm.batch.run import Caller, run_plan
from asyncllm.batch.threads import in_thread
from asyncllm.errors import ConfigError, InputError
from asyncllm.server.batches.calls import RowCalls
from asyncllm.server.batches.rows import UploadedRows
from asyncllm.workspace.batches import BatchStore
from asyncllm.workspace.folder import make_folder
from asyncllm.workspace.tenants import BatchFault, Status, StoredBatch, StoredFile, TenantStore, new_id

if TYPE_CHECKING:
    from asyncllm.server.service import Service

__all__ = ["BatchRun"]

_OUTPUT, _ERRORS = "output.jsonl", "errors.jsonl"
_PIECE = 2**20
_AT_ONCE_S = 0.001
_STATUSES: Final[dict[BatchStatus, Status]] = {
    "completed": "completed",
    "completed_with_errors": "completed",
    "cancelled": "cancelled",
    "expired": "expired",
}


class _Usage(Struct):
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0


class BatchRun:
    """One batch while it is worked on in this process."""

    def __init__(
        self, service: Service, tenants: TenantStore, batch: StoredBatch, calls: RowCalls, folder: Path
    ) -> None:
        self.batch = batch
        self.calls = calls
        self.progress = RunProgress(stage="checking")
        self._settings = service.settings
        self._tenants = tenants
        self._folder = folder
        self._kept = self.progress

    async def run(self, tell: Callable[[], None]) -> None:
        """Work on it until it is over. `tell` hears that it has come further.

        Raises `BatchLockedError` and `BatchLostError` where another process does; else what keeps it from going on.
        """
        if self.batch.state.status == "cancelling" and "in_progress" not in self.batch.state.at:
            await self._end("cancelled")
            return
        rows = UploadedRows(self.batch, self._tenants.blobs, self._settings)
        try:
            report = await self._run(rows, tell)
        except InputError as error:
            faults = rows.faults or [BatchFault(error.code or "invalid_input", error.message)]
            await self._end("failed", faults=faults)
            return
        await self._tenants.change_batch(self.batch.tenant, self.batch.id, lambda batch: batch.having("finalizing"))
        await self._finish(report)

    async def cancel(self) -> None:
        """Have its runner stop, which goes unheard before that has begun."""
        async with BatchStore(self._folder, create=False, waits=False) as store:
            for record in await store.batches():
                await store.cancel(record.id)

    async def keep_progress(self) -> None:
        """Have others know how far it has come."""
        progress = self.progress
        if progress == self._kept:
            return
        self._kept = progress

        def change(batch: StoredBatch) -> StoredBatch:
            known = {"total": progress.total or 0, "done": progress.done, "failed": progress.failed}
            is_running = progress.stage != "checking" and batch.state.status == "validating"
            return batch.having("in_progress" if is_running else None, **known)

        await self._tenants.change_batch(self.batch.tenant, self.batch.id, change)

    async def give_up(self) -> None:
        """It cannot go on, and its time is over."""
        await self._end("failed", faults=[BatchFault("server_error", "the server could not work on it in its time")])

    # -- running

    async def _run(self, rows: UploadedRows, tell: Callable[[], None]) -> BatchReport:
        ran_s = await self._prepare()
        left_s = self.batch.expires_at - time.time()
        settings = RunSettings(
            concurrency=self._settings.batch_concurrency,
            max_runtime_s=ran_s + max(left_s, _AT_ONCE_S),
            on_bad_row="fail",
            drain_s=self._settings.batch_drain_s,
        )
        plan = BatchPlan(
            source=rows.name, sink=str(self._folder / _OUTPUT), errors=str(self._folder / _ERRORS),
            output_format="openai", settings=settings,
        )  # fmt: skip

        def hear(progress: RunProgress) -> None:
            before, self.progress = self.progress, progress
            if progress.stage != before.stage:
                tell()

        caller = Caller(_name, self.calls.ask, _no_service)
        return await run_plan(caller, plan, {}, given=rows, store=self._folder, place_options={}, tell=hear)

    async def _prepare(self) -> float:
        """Have a folder for it, and say for how many seconds it was worked on."""
        await in_thread(lambda: make_folder(self._folder, create=True))
        async with BatchStore(self._folder, waits=False) as store:
            return sum(record.ran_s for record in await store.batches())

    # -- its end

    async def _finish(self, report: BatchReport) -> None:
        usage = await self._usage()
        outputs: list[tuple[StoredFile, Path]] = []
        ids: dict[str, str] = {}
        for field, name in (("output_file", _OUTPUT), ("error_file", _ERRORS)):
            path = self._folder / name
            file = await in_thread(lambda path=path, name=name: self._file(path, name))  # type: ignore[misc]
            if file is not None:
                outputs.append((file, path))
                ids[field] = file.id
        await self._end(
            _STATUSES[report.status],
            outputs,
            total=report.total,
            done=report.done,
            failed=report.failed,
            usage=usage,
            **ids,
        )

    async def _usage(self) -> dict[str, int]:
        counted = _Usage()
        async with BatchStore(self._folder, create=False, waits=False) as store:
            async for outcome in outcomes(store, await store.find(None)):
                if outcome.answer is not None:
                    for name in _Usage.__struct_fields__:
                        value = getattr(outcome.answer.usage, name) or 0
                        setattr(counted, name, getattr(counted, name) + value)
        return {name: getattr(counted, name) for name in _Usage.__struct_fields__}

    def _file(self, path: Path, name: str) -> StoredFile | None:
        digest, size = hashlib.sha256(), 0
        try:
            with path.open("rb") as file:
                while piece := file.read(_PIECE):
                    digest.update(piece)
                    size += len(piece)
        except FileNotFoundError:
            size = 0
        if not size:
            return None
        now, kept_s = time.time(), self.batch.output_expires_s
        return StoredFile(
            id=new_id("file-"),
            purpose="batch_output",
            filename=f"{self.batch.id}_{name}",
            size=size,
            digest=digest.hexdigest(),
            created_at=now,
            expires_at=None if kept_s is None else now + kept_s,
        )

    async def _end(self, status: Status, outputs: Sequence[tuple[StoredFile, Path]] = (), **known: object) -> None:
        await self._tenants.change_batch(
            self.batch.tenant, self.batch.id, lambda batch: batch.having(status, **known), outputs
        )


def _name(model: object) -> str:
    """What a row names is looked at when it is asked: one that is not there fails alone."""
    return str(model)


def _no_service(_: object) -> NoReturn:
    raise ConfigError("the server's batches are asked by its client", field="via")
