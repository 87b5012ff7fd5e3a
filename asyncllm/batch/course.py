"""How far a run has come, and telling it to whoever wants to know, though not too often."""

from __future__ import annotations

import asyncio
from collections import deque

from asyncllm.batch.batch import Tally
from asyncllm.batch.report import OnRunProgress, RunProgress, Stage
from asyncllm.workspace.batches import BatchStore
from asyncllm.workspace.records import BatchRecord, RowStatus

__all__ = ["Course"]

_TELL_S = 0.1
_PACES = 30


class Course:
    """The progress of one run of a batch that had come as far as `record` says."""

    def __init__(self, record: BatchRecord, store: BatchStore, tell: OnRunProgress | None) -> None:
        counts = record.counts
        self.tally = Tally()
        """What has become of rows in this run."""
        self._done = counts.get(RowStatus.DONE, 0)
        self._failed = counts.get(RowStatus.FAILED, 0) + counts.get(RowStatus.ABANDONED, 0)
        self._total = record.total
        self._store = store
        self._tell = tell
        self._told = 0.0
        self._stage: Stage = "checking"
        self._told_stage: Stage | None = None
        self._in_flight = 0
        self._paces: deque[tuple[float, int]] = deque(maxlen=_PACES)

    def tell(self, *, stage: Stage | None = None, total: int | None = None, in_flight: int | None = None) -> None:
        """Note what is new, and tell where it stands if that was not done just now."""
        self._stage = stage or self._stage
        self._total = self._total if total is None else total
        self._in_flight = self._in_flight if in_flight is None else in_flight
        now = asyncio.get_running_loop().time()
        if self._tell is not None and (self._seen != self._told_stage or now - self._told >= _TELL_S):
            self._told, self._told_stage = now, self._seen
            self._tell(self.progress())

    def pace(self, now: float) -> None:
        """Note how much is done by now, which is called about once a second."""
        counted = self.tally
        self._paces.append((now, counted.done + counted.failed))

    def progress(self) -> RunProgress:
        """How far it has come."""
        counted = self.tally
        done, failed = counted.done + self._done, counted.failed + self._failed
        rate = self._rate()
        left = None if self._total is None else self._total - done - failed
        return RunProgress(
            stage=self._seen,
            total=self._total,
            done=done,
            failed=failed,
            in_flight=self._in_flight,
            input_tokens=counted.input_tokens,
            output_tokens=counted.output_tokens,
            cost_usd=counted.cost_usd,
            errors=dict(counted.errors),
            rows_per_s=rate,
            eta_s=left / rate if left is not None and rate else None,
        )

    @property
    def _seen(self) -> Stage:
        return "paused" if self._store.is_full else self._stage

    def _rate(self) -> float:
        if len(self._paces) < 2:
            return 0.0
        (first_at, first), (last_at, last) = self._paces[0], self._paces[-1]
        return (last - first) / (last_at - first_at)
