"""What a durable batch tells: as it goes, and at its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

from asyncllm.types import Noun

__all__ = ["BatchReport", "BatchStatus", "OnRunProgress", "RunProgress", "Stage"]

BatchStatus: TypeAlias = Literal["completed", "completed_with_errors", "stopped", "cancelled", "expired"]
"""A `stopped` batch goes on when it is run again; an `expired` one with a longer `max_runtime_s`."""


Stage: TypeAlias = Literal["checking", "running", "exporting", "paused"]


class RunProgress(Noun, frozen=True, kw_only=True):
    """How far a durable batch has come. A row counts once its outcome is on the disk."""

    stage: Stage
    """`checking` reads the whole input before the first call; `paused` waits for room on the disk."""
    total: int | None = None
    """Rows of the input, once they are known."""
    done: int = 0
    """Rows that were answered, in this run or before."""
    failed: int = 0
    """Rows that have failed for good, in this run or before."""
    in_flight: int = 0
    input_tokens: int = 0
    """Of this run, as of the answers that told it."""
    output_tokens: int = 0
    cost_usd: float = 0
    """Of this run, as of the answers whose cost is known."""
    errors: dict[str, int] = {}
    """Failures of this run by the name of their class."""
    rows_per_s: float = 0
    """Of the last half minute or so."""
    eta_s: float | None = None
    """Seconds that the rest will take if it goes on like this."""


OnRunProgress: TypeAlias = Callable[[RunProgress], None]


class BatchReport(Noun, frozen=True, kw_only=True):
    """What came of running a batch."""

    name: str
    status: BatchStatus
    total: int
    """Rows of the input."""
    done: int
    """Rows that were answered, in all runs."""
    failed: int
    """Rows that have failed, in all runs."""
    left: int
    """Rows that were not asked, or not to their end."""
    input_tokens: int = 0
    """Of all rows, as of the answers that told it."""
    output_tokens: int = 0
    cost_usd: float = 0
    """Of all rows, as of the answers whose cost is known."""
    errors: dict[str, int] = {}
    """Failures by the name of their class."""
    ran_s: float = 0
    """Seconds of work, over all runs."""
    output: str | None = None
    """Where the outcomes are, if they were exported."""
    errors_output: str | None = None
    """Where the failed rows are, if the format has a file of its own for them."""
    store: str = ""
    """The folder of the store."""
