"""The rows of batches and their outcomes.

A call may be made twice, as a process may end between a call and its record. A row has one outcome: it is written
together with the state of the row, under the fence of the runner that wrote it, or not at all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from asyncllm.errors import BatchLostError, CorruptStoreError, InputError, StoreError
from asyncllm.workspace.database import FILE, Db
from asyncllm.workspace.mishaps import corrupt
from asyncllm.workspace.points import Points
from asyncllm.workspace.records import Kept, Lease, NewRow, RowState, RowStatus
from asyncllm.workspace.writer import Writer

__all__ = ["RowStore", "change_rows", "span"]

_SHIFT: Final = 40
_AT_ONCE: Final = 4 * 2**20
"""Bytes of outcomes after which no more are read at once."""
_ROW_SEAL: Final = "seal(id, key, name, status, attempts, crashes)"
_BATCH_SEAL: Final = (
    "seal(id, name, status, definition, settings, fingerprint, total, fence, boot, beat, process, cancel, ran_s, "
    "exported, created_at, ended_at)"
)


class RowStore:
    """What a `BatchStore` does about rows. Whatever writes needs a lease, and raises `BatchLostError` without it."""

    def __init__(self, folder: Path, points: Points, writer: Writer) -> None:
        self._folder = folder
        self.points = points
        self._writer = writer

    def _check(self, db: Db, lease: Lease) -> None:
        found = db.execute("SELECT fence FROM batch WHERE id = ?", (lease.batch,)).fetchone()
        if found is None or found[0] != lease.fence:
            raise BatchLostError("another runner has taken this batch over, because this one had stood still")

    # -- a batch as it was left

    def _check_batches(self, db: Db) -> None:
        if db.execute(f"SELECT 1 FROM batch WHERE seal IS NOT {_BATCH_SEAL}").fetchone():
            raise self._damaged("a batch")

    def _change(self, db: Db, batch: int, what: str, *values: object) -> None:
        """Set columns of the batch, `name = ?` each, unless it is damaged."""
        db.execute(f"UPDATE batch SET {what} WHERE id = ? AND seal = {_BATCH_SEAL}", (*values, batch))
        if not db.changes():
            raise self._damaged("a batch")
        self._seal(db, batch)

    def _seal(self, db: Db, batch: int) -> None:
        db.execute(f"UPDATE batch SET seal = {_BATCH_SEAL} WHERE id = ?", (batch,))

    def _damaged(self, what: str) -> CorruptStoreError:
        return corrupt(self._folder / FILE, what)

    # -- rows

    async def index(self, lease: Lease, rows: Sequence[NewRow]) -> None:
        """Keep rows of the input, in order. A row that is known already is left as it is.

        Raises `InputError` naming a row that is another than the one known, or whose name is that of an earlier row.
        """
        base = lease.batch << _SHIFT

        def do(db: Db) -> None:
            self._check(db, lease)
            with db:  # all of them or none
                for row in rows:
                    known = db.execute("SELECT key FROM row WHERE id = ?", (base | row.index,)).fetchone()
                    if known is None:
                        _insert(db, base, row)
                    elif known[0] != row.key:
                        raise InputError(
                            f"{row.place}: this row is not the one that the batch began with; a batch goes on with "
                            "the input and the options it began with: put them back, or give another output"
                        )
            self.points.reach("index.insert")

        await self._writer.write(do)

    async def forget_unasked(self, lease: Lease) -> None:
        """Forget all rows if none was ever asked, so that an input that was wrong may be another now."""

        def do(db: Db) -> None:
            self._check(db, lease)
            all_of_it = span(lease.batch)
            if not db.execute(
                "SELECT 1 FROM row WHERE (attempts OR status) AND id BETWEEN ? AND ?", all_of_it
            ).fetchone():
                self._change(db, lease.batch, "total = NULL")
                db.execute("DELETE FROM row WHERE id BETWEEN ? AND ?", all_of_it)
                self.points.reach("index.forget")

        await self._writer.write(do)

    async def close_index(self, lease: Lease, total: int, fingerprint: str | None) -> None:
        """The input, which `fingerprint` tells from others, has ended after `total` rows.

        Raises `InputError` if there were more of them before.
        """

        def do(db: Db) -> None:
            self._check(db, lease)
            low, high = span(lease.batch)
            if db.execute("SELECT 1 FROM row WHERE id BETWEEN ? AND ?", (low + total, high)).fetchone():
                raise InputError("the input has fewer rows than when the batch began; put it back as it was")
            self._change(db, lease.batch, "total = ?, fingerprint = ?", total, fingerprint)
            self.points.reach("index.close")

        await self._writer.write(do)

    async def rows(self, batch: int, start: int, count: int) -> list[RowState]:
        """States of at most `count` rows from position `start` on, in order. Raises `CorruptStoreError`."""
        base = batch << _SHIFT

        def do(db: Db) -> list[RowState]:
            found: list[RowState] = []
            for number, key, status, attempts, crashes, is_whole in db.execute(
                f"SELECT id, key, status, attempts, crashes, seal = {_ROW_SEAL} FROM row WHERE id BETWEEN ? AND ? "
                "ORDER BY id LIMIT ?",
                (base + start, span(batch)[1], count),
            ):
                index = start + len(found)
                if not is_whole or number != base | index:
                    raise self._damaged(f"row {index}")
                found.append(RowState(index, key, RowStatus(status), attempts, crashes))
            return found

        return await self._writer.read(do)

    async def begin(self, lease: Lease, index: int) -> None:
        """A call for the row is about to be made. Raises `BatchLostError`, `CorruptStoreError`."""

        def do(db: Db) -> None:
            self._check(db, lease)
            db.execute(_BEGIN, (lease.batch << _SHIFT | index,))
            if not db.changes():
                self._check_row(db, lease.batch, index)
                raise StoreError("a row was to be asked that has an outcome")
            self.points.reach("row.begin")

        await self._writer.write(do)

    async def release(self, lease: Lease, index: int, *, counts: bool) -> None:
        """The row is pending again: its call was not to be, or `counts` as an attempt. Raises `BatchLostError`."""

        def do(db: Db) -> None:
            self._check(db, lease)
            db.execute(_RELEASE, (not counts, lease.batch << _SHIFT | index))
            self.points.reach("row.release")

        await self._writer.write(do)

    async def crash(self, lease: Lease, index: int) -> None:
        """What made the call has ended during it, and this runner has not: the row is pending again, with a crash more.

        Raises `BatchLostError`.
        """

        def do(db: Db) -> None:
            self._check(db, lease)
            db.execute(_CRASH, (lease.batch << _SHIFT | index,))
            self.points.reach("row.crash")

        await self._writer.write(do)

    async def finish(self, lease: Lease, index: int, key: bytes, status: RowStatus, body: bytes) -> None:
        """Keep the outcome of a row, durably. Raises `BatchLostError`; a row that has one keeps the one it has."""
        number = lease.batch << _SHIFT | index
        digest = _digest(number, key, body)

        def do(db: Db) -> None:
            self._check(db, lease)
            db.execute(_FINISH, (int(status), number))
            if db.changes():
                self.points.reach("row.finish.within")
                db.execute("INSERT INTO outcome VALUES (?, ?, ?)", (number, body, digest))
            else:
                self._check_row(db, lease.batch, index)
            self.points.reach("row.finish")

        await self._writer.write(do)

    def _check_row(self, db: Db, batch: int, index: int) -> None:
        if db.execute(f"SELECT seal = {_ROW_SEAL} FROM row WHERE id = ?", (batch << _SHIFT | index,)).fetchone() != (
            1,
        ):
            raise self._damaged(f"row {index}")

    async def reopen(self, lease: Lease) -> int:
        """Make every row that did not succeed pending again, as if never asked, and return how many there are."""

        def do(db: Db) -> int:
            self._check(db, lease)
            all_of_it = span(lease.batch)
            db.execute(
                "DELETE FROM outcome WHERE id IN "
                f"(SELECT id FROM row WHERE status > 2 AND id BETWEEN ? AND ? AND seal = {_ROW_SEAL})",
                all_of_it,
            )
            db.execute(f"{change_rows('0', '0', '0')} AND status > 2 AND id BETWEEN ? AND ?", all_of_it)
            self.points.reach("batch.reopen")
            return db.changes()

        return await self._writer.write(do)

    async def attempts(self, batch: int) -> int:
        """How often rows of the batch were asked, in all."""
        return await self._writer.read(
            lambda db: int(
                db.execute("SELECT total(attempts) FROM row WHERE id BETWEEN ? AND ?", span(batch)).fetchone()[0]
            )
        )

    async def outcomes(self, batch: int, start: int, count: int) -> list[Kept]:
        """At most `count` rows from position `start` on, in order, with their outcomes; none at the end.

        Raises `CorruptStoreError` for what is not as it was written.
        """
        base = batch << _SHIFT

        def do(db: Db) -> list[Kept]:
            found: list[Kept] = []
            size = 0
            for number, name, status, attempts, key, body, digest, is_whole in db.execute(
                f"SELECT id, name, status, attempts, key, body, digest, seal = {_ROW_SEAL} FROM row "
                "LEFT JOIN outcome USING (id) WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?",
                (base + start, span(batch)[1], count),
            ):
                index = start + len(found)
                if not is_whole or number != base | index:
                    raise self._damaged(f"row {index}")
                kept = Kept(index, name, RowStatus(status), attempts, body)
                if kept.status.is_final != (body is not None) or digest != _digest(number, key, body):
                    raise self._damaged(f"the outcome of row {index}")
                found.append(kept)
                size += 0 if body is None else len(body)
                if size >= _AT_ONCE:
                    break
            if not found:
                self._check_end(db, batch, start)
            return found

        return await self._writer.read(do)

    def _check_end(self, db: Db, batch: int, total: int) -> None:
        told = db.execute("SELECT total FROM batch WHERE id = ?", (batch,)).fetchone()[0]
        if told is not None and told > total:
            raise self._damaged(f"row {total}")


def span(batch: int) -> tuple[int, int]:
    """Smallest and largest number of a row of the batch."""
    return batch << _SHIFT, (batch + 1 << _SHIFT) - 1


def change_rows(status: str, attempts: str = "attempts", crashes: str = "crashes") -> str:
    """The beginning of a statement that changes rows, those which are not damaged."""
    return (
        f"UPDATE row SET status = {status}, attempts = {attempts}, crashes = {crashes}, "
        f"seal = seal(id, key, name, {status}, {attempts}, {crashes}) WHERE seal = {_ROW_SEAL}"
    )


_BEGIN: Final = f"{change_rows('1', 'attempts + 1')} AND status < 2 AND id = ?"
_RELEASE: Final = f"{change_rows('0', 'attempts - ?1')} AND status = 1 AND id = ?2"
_CRASH: Final = f"{change_rows('0', crashes='crashes + 1')} AND status = 1 AND id = ?"
_FINISH: Final = f"{change_rows('?1')} AND status < 2 AND id = ?2"


def _digest(number: int, key: bytes, body: object) -> bytes | None:
    if not isinstance(body, bytes):
        return None
    return hashlib.sha256(b"%d:%b:%b" % (number, key, body)).digest()[:8]


def _insert(db: Db, base: int, row: NewRow) -> None:
    import apsw

    try:
        db.execute(
            "INSERT INTO row VALUES (?1, ?2, ?3, 0, 0, 0, seal(?1, ?2, ?3, 0, 0, 0))",
            (base | row.index, row.key, row.name),
        )
    except apsw.ConstraintError:
        twin = db.execute("SELECT id FROM row WHERE id >> 40 = ? AND name = ?", (base >> _SHIFT, row.name)).fetchone()
        first = f"row {twin[0] - base + 1}" if twin else "an earlier row"
        raise InputError(f"{row.place}: its custom_id is that of {first}; each row needs one of its own") from None
