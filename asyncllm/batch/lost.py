"""What a row can meet when it is asked outside of this process."""

from __future__ import annotations

from asyncllm.errors import AsyncLLMError

__all__ = ["NoWorkerError", "RowCrashedError", "WorkerLostError"]


class RowCrashedError(Exception):
    """What asked the row has ended under it. It counts as a crash of the row, and is no outcome."""


class NoWorkerError(Exception):
    """There is nobody to ask, now or later: the batch ends with `error`, and its rows stay as they are."""

    def __init__(self, error: AsyncLLMError) -> None:
        super().__init__(str(error))
        self.error = error


class WorkerLostError(Exception):
    """A worker has ended; `was_asked` says whether it may have had the row."""

    def __init__(self, how: str, *, was_asked: bool) -> None:
        super().__init__(how)
        self.how = how
        self.was_asked = was_asked
