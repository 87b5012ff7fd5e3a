"""Figures of all processes that serve from a workspace, added up.

Each writes its own every few seconds. Those of a process that has ended are kept in one sum, so that no counter ever
falls; what stands at a moment, such as how many calls are under way, ends with its process.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeAlias

import msgspec

from asyncllm.workspace.database import Db
from asyncllm.workspace.lease import has_ended, now_s
from asyncllm.workspace.writer import Writer

__all__ = ["Board", "Series"]

Series: TypeAlias = dict[tuple[str, tuple[str, ...]], list[float]]
"""By name and values of labels: one number, or of a histogram those of its buckets and, last, the sum."""
_Rows: TypeAlias = list[tuple[str, tuple[str, ...], list[float]]]

_SILENT_S = 60.0
"""Without a word, after which a process is taken to have ended."""
_GONE = ""
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Rows).decode


class Board:
    """Where the processes write what they have counted."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def exchange(self, worker: str, own: Series, momentary: Collection[str]) -> Series:
        """Write `own`, and return the sum of all. `momentary` are names of what ends with a process.

        `worker` begins with what `lease.this_process` tells. Raises `StoreError`.
        """
        rows = [(name, labels, values) for (name, labels), values in own.items()]
        return await self._writer.write(lambda db: _exchange(db, worker, rows, momentary))


def _exchange(db: Db, worker: str, own: _Rows, momentary: Collection[str]) -> Series:
    now = now_s()
    total: Series = {}
    gone: Series = {}
    for other, beat, body in db.execute("SELECT worker, beat, body FROM server_figures WHERE worker <> ?", (worker,)):
        rows = _decode(body)
        if other == _GONE:
            _add(gone, rows)
        elif not 0 <= now - beat <= _SILENT_S or has_ended(other.partition("/")[0]):
            _add(gone, [row for row in rows if row[0] not in momentary])
            db.execute("DELETE FROM server_figures WHERE worker = ?", (other,))
        else:
            _add(total, rows)
    _put(db, _GONE, [(name, labels, values) for (name, labels), values in gone.items()], now)
    _put(db, worker, own, now)
    _add(total, own)
    _add(total, [(name, labels, values) for (name, labels), values in gone.items()])
    return total


def _put(db: Db, worker: str, rows: _Rows, now: float) -> None:
    db.execute(
        "INSERT OR REPLACE INTO server_figures (worker, beat, body) VALUES (?, ?, ?)", (worker, now, _encode(rows))
    )


def _add(total: Series, rows: _Rows) -> None:
    for name, labels, values in rows:
        before = total.get((name, labels))
        if before is None or len(before) != len(values):  # an older version had other buckets
            total[name, labels] = list(values)
        else:
            total[name, labels] = [a + b for a, b in zip(before, values, strict=True)]
