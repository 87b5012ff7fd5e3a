"""The parts of a batch that a service works off: which rows went, under which token, and what the service calls them.

Rows of an open part are pending, with an attempt counted: nobody else's crash is theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from asyncllm.workspace.database import Db
from asyncllm.workspace.records import Lease, OpenPart
from asyncllm.workspace.rows import RowStore, change_rows, span

__all__ = ["PartStore"]

_SEAL: Final = "seal(id, batch, token, model, remote_id, rows, state)"
_ATTEMPT: Final = f"{change_rows('0', 'attempts + 1')} AND status < 2 AND id = ?"
_WITHDRAW: Final = f"{change_rows('0', 'attempts - 1')} AND status < 2 AND id = ?"


class PartStore(RowStore):
    """What a `BatchStore` does about parts. Whatever writes needs a lease, and raises `BatchLostError` without it."""

    async def open_parts(self, batch: int) -> list[OpenPart]:
        """Parts that may be with the service, oldest first. Raises `CorruptStoreError`."""

        def do(db: Db) -> list[OpenPart]:
            found: list[OpenPart] = []
            for token, model, remote_id, rows, is_whole in db.execute(
                f"SELECT token, model, remote_id, rows, seal = {_SEAL} FROM part WHERE batch = ? AND state = 'open' "
                "ORDER BY id",
                (batch,),
            ):
                if not is_whole:
                    raise self._damaged("a part of a batch")
                found.append(OpenPart(token, model, remote_id, frozenset(msgspec.msgpack.decode(rows))))
            return found

        return await self._writer.read(do)

    async def open_part(self, lease: Lease, token: str, model: str, rows: Sequence[int]) -> None:
        """A part of these rows is about to be made."""
        low = span(lease.batch)[0]
        packed = msgspec.msgpack.encode(rows)

        def do(db: Db) -> None:
            self._check(db, lease)
            db.execute(
                "INSERT INTO part (batch, token, model, rows, state, seal) VALUES (?, ?, ?, ?, 'open', 0)",
                (lease.batch, token, model, packed),
            )
            self._seal_part(db, token)
            for index in rows:
                db.execute(_ATTEMPT, (low | index,))
            self.points.reach("part.open")

        await self._writer.write(do)

    async def name_part(self, lease: Lease, token: str, remote_id: str) -> None:
        """The service has made the part, and knows it by that id."""

        def do(db: Db) -> None:
            self._check(db, lease)
            self._change_part(db, token, "remote_id = ?", remote_id)
            self.points.reach("part.name")

        await self._writer.write(do)

    async def close_part(self, lease: Lease, token: str, *, withdrawn: Sequence[int] = ()) -> None:
        """The part is over. Rows that were `withdrawn` with it are as if they had never gone."""
        low = span(lease.batch)[0]

        def do(db: Db) -> None:
            self._check(db, lease)
            self._change_part(db, token, "state = 'over'")
            for index in withdrawn:
                db.execute(_WITHDRAW, (low | index,))
            self.points.reach("part.close")

        await self._writer.write(do)

    def _change_part(self, db: Db, token: str, what: str, *values: object) -> None:
        db.execute(f"UPDATE part SET {what} WHERE token = ? AND seal = {_SEAL}", (*values, token))
        if not db.changes():
            raise self._damaged("a part of a batch")
        self._seal_part(db, token)

    def _seal_part(self, db: Db, token: str) -> None:
        db.execute(f"UPDATE part SET seal = {_SEAL} WHERE token = ?", (token,))
