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
from asyncllm.workspace.database import Db
from asyncllm.workspace.points import Points
from asyncllm.workspace.records import Kept, Lease, NewRow, RowState, RowStatus
from asyncllm.workspace.writer import Writer

__all__ = ["RowStore", "span"]

_SHIFT: Final = 40


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
                db.execute("DELETE FROM row WHERE id BETWEEN ? AND ?", all_of_it)
                db.execute("UPDATE batch SET total = NULL WHERE id = ?", (lease.batch,))

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
            db.execute("UPDATE batch SET total = ?, fingerprint = ? WHERE id = ?", (total, fingerprint, lease.batch))
            self.points.reach("index.close")

        await self._writer.write(do)

    async def rows(self, batch: int, start: int, count: int) -> list[RowState]:
        """States of at most `count` rows from position `start` on, in order."""
        base = batch << _SHIFT

        def do(db: Db) -> list[RowState]:
            return [
                RowState(number - base, key, RowStatus(status), attempts, crashes)
                for number, key, status, attempts, crashes in db.execute(
                    "SELECT id, key, status, attempts, crashes FROM row WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?",
                    (base + start, span(batch)[1], count),
                )
            ]

        return await self._writer.read(do)

    async def begin(self, lease: Lease, index: int) -> None:
        """A call for the row is about to be made. Raises `BatchLostError`."""

        def do(db: Db) -> None:
            self._check(db, lease)
            db.execute(
                "UPDATE row SET status = 1, attempts = attempts + 1 WHERE id = ? AND status < 2",
                (lease.batch << _SHIFT | index,),
            )
            if not db.changes():
                raise StoreError("a row was to be asked that has an outcome")
            self.points.reach("row.begin")

        await self._writer.write(do)

    async def release(self, lease: Lease, index: int) -> None:
        """The call was not to be: the row is pending, as if it had not begun. Raises `BatchLostError`."""

        def do(db: Db) -> None:
            self._check(db, lease)
            db.execute(
                "UPDATE row SET status = 0, attempts = attempts - 1 WHERE id = ? AND status = 1",
                (lease.batch << _SHIFT | index,),
            )

        await self._writer.write(do)

    async def finish(self, lease: Lease, index: int, key: bytes, status: RowStatus, body: bytes) -> None:
        """Keep the outcome of a row, durably. Raises `BatchLostError`; a row that has one keeps the one it has."""
        number = lease.batch << _SHIFT | index
        digest = _digest(number, key, body)

        def do(db: Db) -> None:
            self._check(db, lease)
            db.execute("UPDATE row SET status = ? WHERE id = ? AND status < 2", (int(status), number))
            if db.changes():
                self.points.reach("row.finish.within")
                db.execute("INSERT INTO outcome VALUES (?, ?, ?)", (number, body, digest))
            self.points.reach("row.finish")

        await self._writer.write(do)

    async def reopen(self, lease: Lease) -> int:
        """Make every row that did not succeed pending again, as if never asked, and return how many there are."""

        def do(db: Db) -> int:
            self._check(db, lease)
            all_of_it = span(lease.batch)
            db.execute(
                "DELETE FROM outcome WHERE id IN (SELECT id FROM row WHERE status > 2 AND id BETWEEN ? AND ?)",
                all_of_it,
            )
            db.execute(
                "UPDATE row SET status = 0, attempts = 0, crashes = 0 WHERE status > 2 AND id BETWEEN ? AND ?",
                all_of_it,
            )
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
        """At most `count` rows from position `start` on, in order, with their outcomes.

        Raises `CorruptStoreError` for an outcome that is not what was written.
        """
        base = batch << _SHIFT

        def do(db: Db) -> list[Kept]:
            found: list[Kept] = []
            for number, name, status, attempts, key, body, digest in db.execute(
                "SELECT id, name, status, attempts, key, body, digest FROM row LEFT JOIN outcome USING (id) "
                "WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?",
                (base + start, span(batch)[1], count),
            ):
                if digest != (None if body is None else _digest(number, key, body)):
                    raise CorruptStoreError(f"{self._folder}: the outcome of row {number - base} is damaged")
                found.append(Kept(number - base, name, RowStatus(status), attempts, body))
            return found

        return await self._writer.read(do)


def span(batch: int) -> tuple[int, int]:
    """Smallest and largest number of a row of the batch."""
    return batch << _SHIFT, (batch + 1 << _SHIFT) - 1


def _digest(number: int, key: bytes, body: bytes) -> bytes:
    return hashlib.sha256(b"%d:%b:%b" % (number, key, body)).digest()[:8]


def _insert(db: Db, base: int, row: NewRow) -> None:
    import apsw

    try:
        db.execute("INSERT INTO row (id, key, name, status) VALUES (?, ?, ?, 0)", (base | row.index, row.key, row.name))
    except apsw.ConstraintError:
        twin = db.execute("SELECT id FROM row WHERE id >> 40 = ? AND name = ?", (base >> _SHIFT, row.name)).fetchone()
        first = f"row {twin[0] - base + 1}" if twin else "an earlier row"
        raise InputError(f"{row.place}: its custom_id is that of {first}; each row needs one of its own") from None
