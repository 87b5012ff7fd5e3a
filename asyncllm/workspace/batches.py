"""The batches of a workspace, and who is at work on each."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import msgspec

from asyncllm.errors import BatchLockedError, StoreError
from asyncllm.finishing import finish
from asyncllm.workspace.database import FILE, Db, connect
from asyncllm.workspace.folder import make_folder
from asyncllm.workspace.lease import LEASE_S, Lock, boot_id, has_ended, now_s, this_process
from asyncllm.workspace.parts import PartStore
from asyncllm.workspace.points import Points
from asyncllm.workspace.records import MIGRATIONS, BatchRecord, Lease, RowStatus
from asyncllm.workspace.rows import change_rows, span
from asyncllm.workspace.writer import Writer

__all__ = ["BatchStore"]

_GIVE_BACK_S = 10


class BatchStore(PartStore):
    """Everything that is known of batches, in one workspace. Use it inside `async with`.

    Opening it raises as `connect` does, and `StoreError` if nothing is there and it is not to be made.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        create: bool = True,
        waits: bool = True,
        env: Mapping[str, str] | None = None,
        vfs: str | None = None,
    ) -> None:
        points = Points(os.environ if env is None else env)
        super().__init__(Path(folder), points, Writer(self._connect, Path(folder) / FILE, points, waits=waits))
        self._vfs = vfs
        self._create = create

    def _connect(self) -> Db:
        if not self._create and not (self._folder / FILE).exists():
            raise StoreError(f"{self._folder}: there is no workspace here")
        self._folder = make_folder(self._folder, create=self._create)
        return connect(self._folder, MIGRATIONS, self.points, vfs=self._vfs)

    async def __aenter__(self) -> Self:
        await self._writer.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._writer.aclose()

    @property
    def folder(self) -> Path:
        """Where it is."""
        return self._folder

    @property
    def is_full(self) -> bool:
        """Whether the disk has no room for what is to be kept, which waits for some."""
        return self._writer.is_full

    def wait_for_room(self, waits: bool) -> None:
        """Say whether what is to be written waits while the disk is full. It raises `StoreError` otherwise."""
        self._writer.waits = waits

    # -- batches

    async def define(self, name: str, definition: Mapping[str, Any], settings: Mapping[str, Any]) -> BatchRecord:
        """The batch called `name`, made if it is new.

        Raises `StoreError` if there is one of that name which is another batch: the message names what differs.
        """
        told = msgspec.json.encode(definition, order="deterministic")
        extra = msgspec.json.encode(settings, order="deterministic")

        def do(db: Db) -> BatchRecord:
            self._check_batches(db)
            found = db.execute("SELECT id, definition FROM batch WHERE name = ?", (name,)).fetchone()
            if found is None:
                self.points.reach("batch.insert")
                db.execute(
                    "INSERT INTO batch (name, status, definition, settings, created_at) VALUES (?, 'new', ?, ?, ?)",
                    (name, told, extra, time.time()),
                )
                batch = db.last_insert_rowid()
                self._seal(db, batch)
                return self._record(db, batch)
            batch, before = found
            if before != told:
                old = msgspec.json.decode(before)
                differing = sorted(key for key in {*old, *definition} if old.get(key) != definition.get(key))
                raise StoreError(
                    f"{self._folder}: the batch of {name} is another one: it differs in {', '.join(differing)}. Run it "
                    "as it was, or give another output or another store"
                )
            self._change(db, batch, "settings = ?", extra)
            return self._record(db, batch)

        return await self._writer.write(do)

    async def has(self, name: str) -> bool:
        """Whether there is a batch of that name."""

        def do(db: Db) -> bool:
            self._check_batches(db)
            return db.execute("SELECT 1 FROM batch WHERE name = ?", (name,)).fetchone() is not None

        return await self._writer.read(do)

    async def record(self, batch: int) -> BatchRecord:
        """What there is on a batch."""
        return await self._writer.read(lambda db: self._record(db, batch))

    async def mark_exported(self, batch: int, lease: Lease | None, *, is_exported: bool = True) -> None:
        """Say whether what stands at the output of the batch is its own. With a `lease`, raises `BatchLostError`."""

        def do(db: Db) -> None:
            if lease is not None:
                self._check(db, lease)
            self._change(db, batch, "exported = ?", is_exported)
            self.points.reach("batch.exported")

        await self._writer.write(do)

    async def batches(self) -> list[BatchRecord]:
        """All there are, oldest first."""

        def do(db: Db) -> list[BatchRecord]:
            self._check_batches(db)
            return [self._record(db, batch) for (batch,) in db.execute("SELECT id FROM batch ORDER BY id").fetchall()]

        return await self._writer.read(do)

    async def find(self, name: str | None) -> BatchRecord:
        """The batch of that name, or the only one there is. Raises `StoreError`."""
        records = await self.batches()
        if name is not None:
            records = [record for record in records if record.name == name]
        if len(records) != 1:
            what = "no batch" if not records else "more than one batch"
            which = f" of {name}" if name is not None else ""
            raise StoreError(f"{self._folder}: there is {what}{which} in this store")
        return records[0]

    def _record(self, db: Db, batch: int) -> BatchRecord:
        found = db.execute(
            "SELECT name, status, definition, settings, fingerprint, total, ran_s, created_at, ended_at, process, "
            "fence, exported FROM batch WHERE id = ?",
            (batch,),
        ).fetchone()
        assert found is not None  # whoever asks has seen it in this transaction, and none is ever removed
        (
            name,
            status,
            definition,
            settings,
            fingerprint,
            total,
            ran_s,
            created_at,
            ended_at,
            process,
            fence,
            exported,
        ) = found
        counts = db.execute(
            "SELECT status, count(*) FROM row WHERE id BETWEEN ? AND ? GROUP BY status", span(batch)
        ).fetchall()
        return BatchRecord(
            id=batch,
            name=name,
            status=status,
            definition=msgspec.json.decode(definition),
            settings=msgspec.json.decode(settings),
            fingerprint=fingerprint,
            total=total,
            ran_s=ran_s,
            created_at=created_at,
            ended_at=ended_at,
            process=process,
            counts={RowStatus(number): count for number, count in counts},
            is_exported=bool(exported),
            is_running=Lock(self._folder, batch, fence).is_held(),
        )

    async def cancel(self, batch: int) -> None:
        """Ask whoever is at work on it to stop for good."""

        def do(db: Db) -> None:
            self._change(db, batch, "cancel = 1")
            self.points.reach("batch.cancel")

        await self._writer.write(do)

    # -- leases

    async def take(self, batch: int, *, lease_s: float = LEASE_S) -> Lease:
        """Become the one who is at work on the batch. What was under way when the one before ended is pending again.

        Raises `BatchLockedError` while another runner is alive.
        """
        held: list[Lock] = []

        def do(db: Db) -> tuple[Lease, Lock]:
            self._check_batches(db)
            found = db.execute("SELECT fence, boot, beat, process FROM batch WHERE id = ?", (batch,)).fetchone()
            assert found is not None  # as in `_record`
            fence, boot, beat, process = found
            before = Lock(self._folder, batch, fence)
            is_late = boot != boot_id() or beat is None or now_s() - beat > lease_s
            if not is_late and before.is_held() and not has_ended(process):
                raise BatchLockedError(
                    f"another runner is at work on this batch (process {process.split(':')[0]}); wait for it or end it"
                )
            lock = Lock(self._folder, batch, fence + 1)
            if not held or held[-1].path != lock.path:  # the disk was full, and this is not the first try
                if not lock.take():
                    raise BatchLockedError("another runner has just begun to work on this batch")
                held.append(lock)
            self.points.reach("lease.locked")
            self._change(
                db,
                batch,
                "fence = ?, boot = ?, beat = ?, process = ?, cancel = 0, status = 'running', ended_at = NULL",
                fence + 1,
                boot_id(),
                now_s(),
                this_process(),
            )
            db.execute(f"{change_rows('0', crashes='crashes + 1')} AND status = 1 AND id BETWEEN ? AND ?", span(batch))
            self.points.reach("lease.taken")
            return Lease(batch, fence + 1, held[-1]), before

        taking = asyncio.create_task(self._writer.write(do))
        try:
            lease, before = await asyncio.shield(taking)
        except BaseException:
            await finish(asyncio.create_task(self._give_back(taking, held)), _GIVE_BACK_S)
            raise
        before.path.unlink(missing_ok=True)
        return lease

    async def _give_back(self, taking: asyncio.Task[tuple[Lease, Lock]], held: list[Lock]) -> None:
        """Whoever wanted the lease wants it no more, and it may have been granted meanwhile."""
        try:
            with suppress(Exception):  # it was not granted, and that is told already
                lease, _ = await taking
                await self.leave(lease, "stopped", ended=False)
        finally:
            for lock in held:
                lock.release()

    async def beat(self, lease: Lease, ran_s: float) -> bool:
        """Show that the runner works, `ran_s` seconds after the last beat. True if it is to stop for good.

        Raises `BatchLostError`.
        """

        def do(db: Db) -> bool:
            self._check(db, lease)
            self._change(db, lease.batch, "beat = ?, ran_s = ran_s + ?", now_s(), ran_s)
            self.points.reach("lease.beat")
            return bool(db.execute("SELECT cancel FROM batch WHERE id = ?", (lease.batch,)).fetchone()[0])

        return await self._writer.write(do)

    async def leave(self, lease: Lease, status: str, *, ended: bool) -> None:
        """Give the batch back in `status`. Rows that are under way are pending again, as if never begun."""

        def do(db: Db) -> None:
            self._check(db, lease)
            left_at = time.time() if ended else None
            self._change(db, lease.batch, "status = ?, beat = NULL, process = NULL, ended_at = ?", status, left_at)
            db.execute(
                f"{change_rows('0', attempts='max(0, attempts - 1)')} AND status = 1 AND id BETWEEN ? AND ?",
                span(lease.batch),
            )
            self.points.reach("batch.leave")

        await self._writer.write(do)
        lease.lock.release()

    async def tell(self, lease: Lease, status: str) -> None:
        """Say how the batch stands, for people."""

        def do(db: Db) -> None:
            self._check(db, lease)
            self._change(db, lease.batch, "status = ?", status)
            self.points.reach("batch.tell")

        await self._writer.write(do)
