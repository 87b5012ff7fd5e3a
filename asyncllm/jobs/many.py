"""`client.batch_jobs`: many jobs at once, each with a result of its own."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from typing import Any, Generic, TypeAlias, TypeVar, cast

from asyncllm.batch.batch import ItemResult, OnProgress, Order, Results
from asyncllm.batch.fanout import Source
from asyncllm.errors import APIConnectionError, AsyncLLMError, InvalidRequestError, JobTimeoutError
from asyncllm.jobs.job import Job
from asyncllm.jobs.looking import WaitOptions, waits_of

__all__ = ["JobBatch", "JobResult", "Submit"]

T = TypeVar("T")
V = TypeVar("V")

Submit: TypeAlias = Callable[[T], Awaitable[Job[V]] | Job[V]]
"""Makes the job of an item, or finds it."""


class JobResult(ItemResult[V], frozen=True, kw_only=True):
    """What became of one item of a batch of jobs: exactly one of `result` and `error`."""

    job_id: str | None = None
    """Of the job, once it was accepted, however it has ended: `client.job(job_id)` goes on with it."""
    result: V | None = None

    _private = frozenset({"item", "result"})

    def _made(self) -> V:
        return cast("V", self.result)


class JobBatch(Results[T, JobResult[V]]):
    """Results of a batch of jobs: `async for result in client.batch_jobs(items, submit): ...`

    Jobs are submitted from the first result that is asked for on. Leaving early, by `aclose` or the end of an
    `async with`, ends the waiting and no job. What was under way is in `unread` then, behind the results that nobody
    has read: with its `job_id` and a `JobTimeoutError`, or, where it was being submitted, with an error that has
    `maybe_billed`.
    """

    def __init__(
        self,
        items: Source[T],
        submit: Submit[T, V],
        waits: WaitOptions,
        *,
        concurrency: int,
        order: Order,
        drain_s: float,
        progress: OnProgress | None,
    ) -> None:
        if isinstance(items, str | bytes) or not isinstance(items, Iterable | AsyncIterable):
            raise InvalidRequestError(
                f"items is an iterable, plain or async, of what submit takes, and not a {type(items).__name__}",
                field="items",
            )
        if not callable(submit):
            raise InvalidRequestError(
                "submit is a function that makes the job of an item, as in lambda text: client.submit_video(text)",
                field="submit",
            )
        waits_of(waits)
        self._work = _Work(submit, waits)
        super().__init__(items, self._work, concurrency=concurrency, order=order, drain_s=drain_s, progress=progress)

    async def aclose(self) -> None:
        """Submit nothing more and leave the jobs under way, after giving them `drain_s` seconds. Idempotent."""
        try:
            await super().aclose()
        finally:
            self.unread += self._work.left()


class _Work(Generic[T, V]):
    """Makes one job, waits for it, and turns its failure into a result."""

    def __init__(self, submit: Submit[T, V], waits: WaitOptions) -> None:
        self._submit = submit
        self._waits = waits
        self._left: list[JobResult[V]] = []

    async def __call__(self, index: int, item: T) -> JobResult[V]:
        job_id: str | None = None
        try:
            given: Any = self._submit(item)
            if inspect.isawaitable(given):
                given = await given
            if isinstance(given, Job):
                job = cast("Job[V]", given)
                job_id = job.id
                return JobResult(index=index, item=item, job_id=job_id, result=await job.result(**self._waits))
        except AsyncLLMError as error:
            return JobResult(index=index, item=item, job_id=job_id, error=error)
        except BaseException:
            self._left.append(JobResult(index=index, item=item, job_id=job_id, error=_ended(job_id)))
            raise
        # A mistake of the program, which would be made with every other item too, and may be paid for.
        raise InvalidRequestError(
            f"submit gives a Job, as client.submit_video does, and not a {type(given).__name__}", field="submit"
        )

    def left(self) -> tuple[JobResult[V], ...]:
        """What was under way when it was ended, each told once."""
        left = sorted(self._left, key=lambda result: result.index)
        self._left.clear()
        return tuple(left)


def _ended(job_id: str | None) -> AsyncLLMError:
    if job_id is None:
        return APIConnectionError(
            "the batch ended while this was submitted, and the job may have been accepted",
            retryable=False,
            maybe_billed=True,
        )
    return JobTimeoutError(f"the batch ended before the job was over; it goes on, and client.job({job_id!r}) finds it")
