"""What calls took, by tenant, key, model and hour: counted in memory, and carried over into the store every second.

Whatever kills the process loses what that second had. A store that fails stops no call: what it does not take is kept,
up to `_KEPT_ROWS` rows, and tried again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

from msgspec import Struct

from asyncllm.errors import StoreError
from asyncllm.finishing import finish
from asyncllm.workspace.database import Db
from asyncllm.workspace.writer import Writer

__all__ = ["UsageBook", "UsageRow"]

_log = logging.getLogger("asyncllm.server")
_FLUSH_S = 1.0
_AGAIN_S = 5.0
_KEPT_ROWS = 10_000
_LAST_S = 10.0
"""For the last of it to be written."""


class UsageRow(Struct, frozen=True, kw_only=True):
    """What the calls of one hour took."""

    tenant: str
    key: str
    """Its id, empty for calls without one."""
    name: str | None = None
    """Of the key."""
    model: str
    """By the name that requests use."""
    hour: int
    """Unix time of its beginning."""
    requests: int
    failures: int
    """The share of `requests` that failed or were left."""
    input_tokens: int
    output_tokens: int
    cost_usd: float
    """Of those whose cost is known."""
    unpriced: int
    """The share of `requests` whose cost nobody knows."""


class _Sum(Struct):
    requests: int = 0
    failures: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    unpriced: int = 0

    def add(self, other: _Sum) -> None:
        self.requests += other.requests
        self.failures += other.failures
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens
        self.cost_usd += other.cost_usd
        self.unpriced += other.unpriced


class UsageBook:
    """Counts calls. Without a writer it is all in memory, the newest rows of it."""

    def __init__(self, writer: Writer | None = None) -> None:
        self._writer = writer
        self._pending: dict[tuple[str, str, str, int], _Sum] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self.failures = 0
        """Times that the store did not take what there was."""
        self.lost = 0
        """Calls that are counted nowhere, as there was no room for them."""

    @property
    def pending(self) -> int:
        """Rows that wait for the store."""
        return 0 if self._writer is None else len(self._pending)

    def add(
        self,
        *,
        tenant: str,
        key: str,
        model: str,
        has_failed: bool,
        input_tokens: int,
        output_tokens: int,
        cost_usd: float | None,
    ) -> None:
        """Count a call that has ended."""
        row = _Sum(1, int(has_failed), input_tokens, output_tokens, cost_usd or 0.0, int(cost_usd is None))
        self._put((tenant, key, model, int(time.time() // 3600)), row)
        self._plan(_FLUSH_S)

    async def flush(self) -> None:
        """Carry over what there is. Raises `StoreError`, and keeps it then."""
        if self._writer is None or not self._pending:
            return
        rows, self._pending = self._pending, {}
        try:
            await finish(asyncio.create_task(self._writer.write(lambda db: _write(db, rows))), _LAST_S)
        except StoreError:
            self.failures += 1
            for place, row in rows.items():
                self._put(place, row)
            raise

    async def aclose(self) -> None:
        """Carry over the last of it; what the store does not take is lost, and told in the log. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is not None:
            await asyncio.wait([self._task])
        try:
            await self.flush()
        except StoreError as error:
            calls = sum(row.requests for row in self._pending.values())
            _log.error("the usage of %s calls is lost, as the store fails: %s", calls, error)

    async def read(
        self,
        *,
        since: float = 0,
        until: float = float("inf"),
        tenant: str | None = None,
        key: str | None = None,
        model: str | None = None,
    ) -> Sequence[UsageRow]:
        """The hours that begin from `since` on and before `until`, Unix times; oldest first. Raises `StoreError`."""
        asked = (tenant, key, model)
        first, last = int(max(0.0, -(-since // 3600))), int(min(2**40, -(-until // 3600) if until < 1e15 else 2**40))
        sums: dict[tuple[str, str, str, int], _Sum] = {}
        names: dict[str, str] = {}
        if self._writer is not None:
            sums, names = await self._writer.read(lambda db: _read(db, asked, first, last))
        for place, row in self._pending.items():
            if first <= place[3] < last and all(a is None or a == b for a, b in zip(asked, place, strict=False)):
                sums.setdefault(place, _Sum()).add(row)
        return [
            UsageRow(
                tenant=tenant,
                key=key,
                name=names.get(key),
                model=model,
                hour=hour * 3600,
                **{name: getattr(row, name) for name in _Sum.__struct_fields__},
            )
            for (tenant, key, model, hour), row in sorted(sums.items(), key=lambda one: (one[0][3], one[0]))
        ]

    def _put(self, place: tuple[str, str, str, int], row: _Sum) -> None:
        known = self._pending.get(place)
        if known is not None:
            known.add(row)
        elif len(self._pending) < _KEPT_ROWS:
            self._pending[place] = row
        elif self._writer is None:
            self.lost += self._pending.pop(next(iter(self._pending))).requests
            self._pending[place] = row
        else:
            self.lost += row.requests

    def _plan(self, after_s: float) -> None:
        if self._writer is not None and self._timer is None and self._task is None:
            self._timer = asyncio.get_running_loop().call_later(after_s, self._begin)

    def _begin(self) -> None:
        self._timer = None
        self._task = asyncio.create_task(self._carry())

    async def _carry(self) -> None:
        after_s = _FLUSH_S
        failures = self.failures
        try:
            await self.flush()
        except StoreError as error:
            if failures == 0 or self.failures % 100 == 0:
                _log.error("usage is kept in memory, as the store fails: %s", error)
            after_s = _AGAIN_S
        finally:
            self._task = None
        if self._pending:
            self._plan(after_s)


_COUNTS = "requests, failures, input_tokens, output_tokens, cost_usd, unpriced"


def _write(db: Db, rows: dict[tuple[str, str, str, int], _Sum]) -> None:
    more = ", ".join(f"{name} = {name} + excluded.{name}" for name in _Sum.__struct_fields__)
    for place, row in rows.items():
        db.execute(
            f"INSERT INTO key_usage (tenant, key, model, hour, {_COUNTS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
            f"ON CONFLICT DO UPDATE SET {more}",
            (*place, *(getattr(row, name) for name in row.__struct_fields__)),
        )


def _read(
    db: Db, asked: tuple[str | None, str | None, str | None], first: int, last: int
) -> tuple[dict[tuple[str, str, str, int], _Sum], dict[str, str]]:
    where = "hour >= ? AND hour < ?"
    values: list[object] = [first, last]
    for name, value in zip(("tenant", "key", "model"), asked, strict=True):
        if value is not None:
            where += f" AND {name} = ?"
            values.append(value)
    rows = db.execute(f"SELECT tenant, key, model, hour, {_COUNTS} FROM key_usage WHERE {where}", values).fetchall()
    return {row[:4]: _Sum(*row[4:]) for row in rows}, dict(db.execute("SELECT id, name FROM api_key").fetchall())
