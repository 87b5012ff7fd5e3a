"""The allowances of keys, in the store as long as that can be written, and else in this process alone."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import cast

import msgspec

from asyncllm.errors import StoreError
from asyncllm.workspace.database import Db
from asyncllm.workspace.lease import now_s
from asyncllm.workspace.records import MIGRATIONS
from asyncllm.workspace.shares import Portion, Report, exchange
from asyncllm.workspace.writer import Writer

__all__ = ["Books"]

_log = logging.getLogger("asyncllm.server")
_PATIENCE_S = 2.0
"""For a store that does not answer, before a call is let in without it."""
_AGAIN_S = 1.0
"""Without the store, before it is tried again."""


class Books:
    """Gives shares of what keys are allowed, see `shares`.

    While the store fails, each process keeps the limits by itself: together they may let in as much each.
    """

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._own: Db | None = None
        self._known: set[str] = set()  # keys that are in `_own`
        self._until = 0.0
        self._unspent: dict[str, float] = {}  # US dollars that the store has not been told of, by key
        self._left_usd: dict[str, float] = {}
        self.failures = 0
        """Times that the store could not be asked."""

    async def exchange(self, report: Report) -> Portion:
        """See `shares.exchange`."""
        if now_s() >= self._until:
            told = msgspec.structs.replace(report, spent_usd=report.spent_usd + self._unspent.get(report.key, 0.0))
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    portion = await self._writer.write(lambda db: exchange(db, told, now_s(), time.time()))
            except (StoreError, TimeoutError) as error:
                self._fail(error)
            else:
                self._recover(report.key)
                self._left_usd[report.key] = portion.left_usd + portion.usd
                return portion
        self._unspent[report.key] = self._unspent.get(report.key, 0.0) + report.spent_usd
        return self._alone(report)

    def forget(self, key: str) -> None:
        """Nothing is under way of it."""
        self._left_usd.pop(key, None)

    def _fail(self, error: Exception) -> None:
        self.failures += 1
        self._until = now_s() + _AGAIN_S
        if self._own is None:
            _log.error("the limits of keys are kept by each process for itself, as the store fails: %s", error)

    def _recover(self, key: str) -> None:
        self._unspent.pop(key, None)
        if self._own is not None:
            self._own.close()
            self._own = None
            self._known.clear()
            _log.warning("the limits of keys are kept in the store again")

    def _alone(self, report: Report) -> Portion:
        import apsw

        if self._own is None:
            self._own = cast("Db", apsw.Connection(":memory:"))
            self._own.execute(";".join(MIGRATIONS))
        if report.key not in self._known:
            self._known.add(report.key)
            # What is handed back was never taken here.
            spent = (report.grants.budget_usd or 0.0) - self._left_usd.get(report.key, report.grants.budget_usd or 0.0)
            report = msgspec.structs.replace(report, minute={}, spent_usd=report.spent_usd + spent)
        return exchange(self._own, report, now_s(), time.time())
