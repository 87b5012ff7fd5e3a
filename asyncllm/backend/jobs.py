"""What a backend may be asked that outlives a call: one long job, or a batch of requests that the service works off.

Both are looked at from time to time until they have ended. An id is enough to look again, from any process.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from msgspec import UNSET, UnsetType

from asyncllm.backend.media import MediaRequest
from asyncllm.errors import AsyncLLMError
from asyncllm.media import MediaFile
from asyncllm.types import Noun, Request, Response, Timeouts

__all__ = [
    "BatchItem",
    "BatchLimits",
    "BatchOutcome",
    "BatchRequest",
    "BatchState",
    "Batches",
    "DubRequest",
    "FiledBatches",
    "JobBackend",
    "JobCall",
    "JobRequest",
    "JobState",
    "JobStatus",
    "VideoRequest",
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


class VideoRequest(MediaRequest, frozen=True, kw_only=True):
    """A film to make of a text, and of pictures where there are any."""

    prompt: str
    seconds: float | UnsetType = UNSET
    """How long it is to be."""
    size: str | UnsetType = UNSET
    """`WIDTHxHEIGHT`."""
    aspect_ratio: str | UnsetType = UNSET
    """`WIDTH:HEIGHT`, in place of `size`."""
    resolution: str | UnsetType = UNSET
    """Of the shorter side, as in `720p`, beside `aspect_ratio`."""
    image: MediaFile | UnsetType = UNSET
    """The first picture of the film, or what it goes by."""
    last_image: MediaFile | UnsetType = UNSET
    references: tuple[MediaFile, ...] | UnsetType = UNSET
    """Pictures of what is to be seen in it."""

    _private = frozenset({"prompt", "image", "last_image", "references", "extra"})

    @property
    def texts(self) -> tuple[str, ...]:
        """The prompt."""
        return (self.prompt,)


class DubRequest(MediaRequest, frozen=True, kw_only=True):
    """A recording or a film to be spoken in another language: exactly one of `file` and `url`."""

    file: MediaFile | None = None
    url: str | None = None
    """Where the service finds it."""
    target_language: str
    source_language: str | UnsetType = UNSET
    speakers: int | UnsetType = UNSET
    """How many speak in it."""
    duration_s: float | None = None
    """How long it is, for services that do not say it. It is not sent."""

    _private = frozenset({"file", "url", "extra"})


JobRequest: TypeAlias = Request | VideoRequest | DubRequest
"""What becomes a job: a generation to be worked off in the background, a film to make, a recording to dub."""

JobCall: TypeAlias = Literal["submit", "submit_video", "submit_dub"]
"""The client's call for each kind of request, in the same order."""


@runtime_checkable
class JobBackend(Protocol):
    """A backend with jobs: requests that are accepted, worked off, and asked after until they are over.

    The id of a job is a text of the backend's own, from which alone any process can go on with it.
    """

    job_calls: frozenset[JobCall]
    """Which kinds of request it takes."""

    async def submit(self, request: JobRequest, /) -> JobState:
        """Hand a job over, once: nothing that may have been accepted is sent again.

        Raises `UnsupportedError`, before anything is sent, for an option that it cannot honour, and `APIError`, with
        `maybe_billed` where the job may be there.
        """
        ...

    async def poll(self, job_id: str, /) -> JobState:
        """Look at a job, by one question and without waiting. Raises `NotFoundError`, `APIError`.

        A job that failed is a state with an `error`, and none that is raised.
        """
        ...

    async def cancel(self, job_id: str, /) -> JobState:
        """Ask the service to stop. Raises `UnsupportedError` where it cannot, `NotFoundError`, `APIError`."""
        ...

    async def job_result(self, state: JobState, /) -> Any:
        """What a job has made, by the state that `poll` found it done in: `Response`, `Video` or `Dub`.

        It is asked for only where `state.result` is `None`, and may be asked for again. Raises `APIError`.
        """
        ...


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
    output: str | None = None
    """Address of the file that the service is to write the outcomes to, for `FiledBatches` and none else."""
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


@runtime_checkable
class FiledBatches(Batches, Protocol):
    """A backend whose service does not give outcomes: it writes them to the file that is the batch's `output`.

    Whoever makes a batch fetches that file, and `batch_outcomes` refuses with `UnsupportedError`.
    """

    def read_outcomes(self, content: bytes, requests: Mapping[str, Request], /) -> Iterator[BatchOutcome]:
        """What such a file says of the items that are `requests`, all of a batch's in the order they were sent in.

        Errors of items are as `batch_outcomes` has them. Raises `ResponseValidationError`, before the first outcome,
        where the content is none of a batch, or of another number of items.
        """
        ...
