"""What a backend may be asked that outlives a call: one long job, or a batch of requests that the service works off.

Both are looked at from time to time until they have ended. An id is enough to look again, from any process.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from asyncllm.errors import AsyncLLMError
from asyncllm.types import Noun, Request, Response, Timeouts

__all__ = [
    "BatchItem",
    "BatchLimits",
    "BatchOutcome",
    "BatchRequest",
    "BatchState",
    "Batches",
    "JobState",
    "JobStatus",
]

JobStatus: TypeAlias = Literal["queued", "running", "succeeded", "failed", "cancelled", "expired"]
"""The first two go on, the others are final."""


class JobState(Noun, frozen=True, kw_only=True):
    """What a service says of a job, at one look."""

    id: str
    """What the service knows the job by."""
    status: JobStatus
    status_raw: str | None = None
    """The service's own word."""
    progress: float | None = None
    """The share that is done, from 0 to 1, where the service tells it."""
    result: Any = None
    """What the job has made, where the look that found it done brought that along."""
    error: AsyncLLMError | None = None
    """Why the job failed."""
    retry_after_s: float | None = None
    """Seconds after which the service wants to be asked again."""

    _private = frozenset({"result"})

    @property
    def is_final(self) -> bool:
        """Whether the job has ended, whichever way."""
        return self.status not in ("queued", "running")


class BatchItem(Noun, frozen=True):
    """One request of a batch."""

    id: str
    """Tells the items of a batch apart: 1 to 64 letters, digits, `-` and `_`."""
    request: Request


class BatchRequest(Noun, frozen=True, kw_only=True):
    """Requests for a service to work off in its own time."""

    model: str
    """The model of all items, in the backend's own naming; a request of theirs names the same one, or none."""
    items: Sequence[BatchItem]
    """Not more of them than the backend's `batch_limits` allow, and all chats or all text completions."""
    token: str
    """The caller's own name for this batch, which goes with it to the service, so that it can be found again."""
    labels: Mapping[str, str] = {}
    priority: str | None = None
    max_runtime_s: int | None = None
    """Seconds after which the service is to give up what is not done."""
    timeouts: Timeouts = Timeouts()
    extra: dict[str, Any] = {}
    """Options of the batch, not of its items, that only this provider knows."""

    _private = frozenset({"items", "extra"})


class BatchLimits(Noun, frozen=True, kw_only=True):
    """How much one batch of a service holds; `None` where the service does not say."""

    items: int | None = None
    bytes: int | None = None
    """Of the items as they are sent, each as large as `batch_item_size` says."""


class BatchState(JobState, frozen=True, kw_only=True):
    """What a service says of a batch. A batch that succeeded may have items that failed."""

    total: int | None = None
    done: int | None = None
    failed: int | None = None


class BatchOutcome(Noun, frozen=True, kw_only=True):
    """What became of one item: exactly one of `response` and `error`."""

    id: str
    response: Response | None = None
    error: AsyncLLMError | None = None


@runtime_checkable
class Batches(Protocol):
    """A backend whose service works off batches of requests."""

    batch_limits: BatchLimits

    def batch_item_size(self, item: BatchItem, /) -> int:
        """How many bytes `item` adds to a batch. Nothing is sent.

        Raises `UnsupportedError` and `InvalidRequestError` for an item that the service cannot take.
        """
        ...

    async def create_batch(self, batch: BatchRequest, /) -> BatchState:
        """Hand a batch over.

        Raises `UnsupportedError` and `InvalidRequestError`, before anything is sent, for an item or an option that the
        service cannot take or for more than it takes, and `APIError`. Nothing that may have been accepted is sent
        again: a failure after which the batch may be there is an error with `maybe_billed`, and `find_batch` tells.
        """
        ...

    async def find_batch(self, token: str, /) -> BatchState | None:
        """The batch that was created with `token`, or `None` for none.

        Raises `UnsupportedError` where the service cannot be asked for it, and `APIError`.
        """
        ...

    async def get_batch(self, batch_id: str, /) -> BatchState:
        """Look at a batch. Raises `NotFoundError`, `APIError`."""
        ...

    async def cancel_batch(self, batch_id: str, /) -> BatchState:
        """Ask the service to stop. What is done stays done. Raises `NotFoundError`, `APIError`."""
        ...

    def batch_outcomes(
        self, batch_id: str, requests: Mapping[str, Request] = {}, /
    ) -> AbstractAsyncContextManager[AsyncIterator[BatchOutcome]]:
        """Lend the outcomes of a batch that has ended, in any order, for the length of the block.

        An item that the service names as one it never came to is an outcome with an error. Of an item in `requests`,
        which need not hold them all, an error says what the service said of it, freed of what that repeats of the
        request; of any other it gives the status and the code alone.

        Raises, on entering and while iterating: `APIError`; `StreamInterrupted` where the results end in the middle;
        after the last outcome `ResponseValidationError`, where some of them cannot be read.
        """
        ...
