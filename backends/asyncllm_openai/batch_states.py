"""What a service that speaks OpenAI's API says of a batch, in words and in numbers.

Sources: https://platform.openai.com/docs/api-reference/batch/object, and
https://learn.microsoft.com/azure/ai-foundry/openai/how-to/batch for Azure, which writes some of the words its own way.
"""

from __future__ import annotations

from typing import Any, cast

from msgspec import Struct

from asyncllm.backend import BatchState, JobStatus
from asyncllm.errors import JobFailedError

__all__ = ["TOKEN", "WireBatch", "WirePage", "expected_lines", "state_of"]

TOKEN = "asyncllm_token"  # noqa: S105  # a name, by which nobody gets in anywhere
"""Where in the metadata the caller's own name for a batch is."""

_STATUS: dict[str, JobStatus] = {
    "cancelled": "cancelled",
    "cancelling": "running",
    "completed": "succeeded",
    "expired": "expired",
    "failed": "failed",
    "finalizing": "running",
    "inprogress": "running",
    "notstarted": "queued",
    "queued": "queued",
    "validating": "queued",
}
_SHOWN = 3  # errors of a batch that its error tells


class _Counts(Struct):
    total: int = 0
    completed: int = 0
    failed: int = 0


class _Fault(Struct):
    code: str | None = None
    line: int | None = None
    param: str | None = None


class _Faults(Struct):
    data: list[_Fault] | None = None


class WireBatch(Struct):
    """A batch."""

    id: str
    status: str
    errors: _Faults | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    request_counts: _Counts | None = None
    metadata: Any = None

    @property
    def files(self) -> list[str]:
        """Where its results are."""
        return [file for file in (self.output_file_id, self.error_file_id) if file]

    @property
    def token(self) -> object:
        """What it was called by whoever made it."""
        return cast("dict[str, Any]", self.metadata).get(TOKEN) if isinstance(self.metadata, dict) else None


class WirePage(Struct):
    """A page of the list of batches."""

    data: list[WireBatch]
    has_more: bool | None = None
    last_id: str | None = None


def state_of(batch: WireBatch) -> BatchState:
    """What the service says; a word that nobody knows is one of a batch that goes on."""
    word = batch.status.lower().replace("_", "").replace("canceled", "cancelled").replace("canceling", "cancelling")
    status = _STATUS.get(word, "running")
    counts = batch.request_counts
    total = counts.total if counts is not None and counts.total > 0 else None
    ended = 0 if counts is None else counts.completed + counts.failed
    return BatchState(
        id=batch.id,
        status=status,
        status_raw=batch.status,
        progress=None if total is None else min(1.0, ended / total),
        total=total,
        done=None if counts is None or total is None else counts.completed,
        failed=None if counts is None or total is None else counts.failed,
        error=_error(batch) if status == "failed" else None,
    )


def expected_lines(batch: WireBatch) -> int:
    """How many lines its results have at the least: a file for each kind that is counted, where there is the file."""
    counts = batch.request_counts
    if counts is None or not batch.output_file_id:
        return 0
    return counts.completed + (counts.failed if batch.error_file_id else 0)


def _error(batch: WireBatch) -> JobFailedError:
    """Why the file was refused: codes, lines and fields. The texts beside them may repeat what was sent."""
    faults = (batch.errors.data if batch.errors is not None else None) or []
    told = [
        f"{fault.code or 'a fault'}"
        + (f" in line {fault.line}" if fault.line is not None else "")
        + (f" ({fault.param})" if fault.param else "")
        for fault in faults[:_SHOWN]
    ]
    more = f" and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
    return JobFailedError(
        f"the service refused the file of the batch: {', '.join(told) or 'it gave no reason'}{more}",
        code=faults[0].code if faults else None,
        param=faults[0].param if faults else None,
    )
