"""The same calls for code without an event loop, as `sync.Client` inherits them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar, Unpack, cast

from asyncllm.backend import JobState, JobStatus
from asyncllm.batch.batch import CONCURRENCY, OnProgress, Order
from asyncllm.batch.fanout import Source
from asyncllm.batch.waiting import WaitingBatch
from asyncllm.calls import CallOptions, Prompt
from asyncllm.jobs.calls import JobCalls
from asyncllm.jobs.job import Job
from asyncllm.jobs.looking import WaitOptions
from asyncllm.jobs.many import JobBatch, JobResult, Submit
from asyncllm.media import Dub, Video
from asyncllm.media_calls.options import DubOptions, Upload, VideoOptions
from asyncllm.types import Response
from asyncllm.waiting import Runner, next_of

__all__ = ["WaitingJob", "WaitingJobCalls"]

T = TypeVar("T")
V = TypeVar("V")

_SUBMITTING = 32
"""Threads at the most in which jobs of a batch are submitted."""


class WaitingJob(Generic[T]):
    """`asyncllm.Job` with methods that wait: same arguments, same results, same errors."""

    def __init__(self, runner: Runner, job: Job[T]) -> None:
        self._runner = runner
        self._job = job

    @property
    def id(self) -> str:
        """Backend or deployment, model and the service's own id, as one text."""
        return self._job.id

    @property
    def status(self) -> JobStatus:
        """As it was last seen."""
        return self._job.status

    @property
    def state(self) -> JobState:
        """All that was told of it at the last look."""
        return self._job.state

    @property
    def is_over(self) -> bool:
        """Whether it has ended, whichever way, as far as it was seen."""
        return self._job.is_over

    def poll(self) -> JobState:
        """Look once, now."""
        return self._runner.run(self._job.poll)

    def wait(self, **options: Unpack[WaitOptions]) -> JobState:
        """Look from time to time until the job is over, whichever way it ends."""
        return self._runner.run(lambda: self._job.wait(**options))

    def result(self, **options: Unpack[WaitOptions]) -> T:
        """What the job has made, once it is over."""
        return self._runner.run(lambda: self._job.result(**options))

    def cancel(self) -> JobState:
        """Ask the service to stop."""
        return self._runner.run(self._job.cancel)

    def events(self, **options: Unpack[WaitOptions]) -> Iterator[JobState]:
        """Each change of status or progress, beginning with what is known, to the end of the job."""
        states = self._job.events(**options)
        try:
            while (state := self._runner.run(lambda: next_of(states))) is not None:
                yield state
        finally:
            if not self._runner.closed:
                self._runner.run(states.aclose)

    def __iter__(self) -> Iterator[JobStatus]:
        """Each status once, to the end of the job."""
        told = None
        for state in self.events():
            if state.status != told:
                told = state.status
                yield told

    def __repr__(self) -> str:
        return repr(self._job)


class WaitingJobCalls(ABC):
    """Jobs, each call as in `asyncllm.Client`."""

    def submit(self, prompt: Prompt, **options: Unpack[CallOptions]) -> WaitingJob[Response]:
        """Have a conversation answered in the background."""
        client, runner = self._over_there()
        return WaitingJob(runner, runner.run(lambda: client.submit(prompt, **options)))

    def submit_video(self, prompt: str, **options: Unpack[VideoOptions]) -> WaitingJob[Video]:
        """Have a film made of a text."""
        client, runner = self._over_there()
        return WaitingJob(runner, runner.run(lambda: client.submit_video(prompt, **options)))

    def generate_video(self, prompt: str, **options: Unpack[VideoOptions]) -> Video:
        """Make a film of a text, and wait for it."""
        client, runner = self._over_there()
        return runner.run(lambda: client.generate_video(prompt, **options))

    def submit_dub(self, source: Upload, target_language: str, **options: Unpack[DubOptions]) -> WaitingJob[Dub]:
        """Have a recording or a film spoken in another language."""
        client, runner = self._over_there()
        return WaitingJob(runner, runner.run(lambda: client.submit_dub(source, target_language, **options)))

    def dub(self, source: Upload, target_language: str, **options: Unpack[DubOptions]) -> Dub:
        """Dub a recording or a film, and wait for it."""
        client, runner = self._over_there()
        return runner.run(lambda: client.dub(source, target_language, **options))

    def job(self, id: str) -> WaitingJob[Any]:  # noqa: A002  # what it is called everywhere
        """A job that was submitted before, here or elsewhere, by its `id`."""
        client, runner = self._over_there()

        async def find() -> Job[Any]:
            return client.job(id)

        return WaitingJob(runner, runner.run(find))

    def batch_jobs(
        self,
        items: Source[T],
        submit: Callable[[T], WaitingJob[V]],
        *,
        concurrency: int = CONCURRENCY,
        order: Order = "input",
        drain_s: float = 0,
        progress: OnProgress | None = None,
        **waits: Unpack[WaitOptions],
    ) -> WaitingBatch[JobResult[V]]:
        """Have a job made of each item: `for result in client.batch_jobs(texts, client.submit_video): ...`

        `submit` is called in threads of its own, up to 32 at a time, and may call this client; `items` and `progress`
        are called on the thread of the background loop, as in `batch`.
        """
        client, runner = self._over_there()
        threads = ThreadPoolExecutor(_SUBMITTING, "asyncllm-submit")

        async def over_there(item: T) -> Job[V]:
            job = await runner.in_thread(threads, lambda: submit(item))
            return job._job if isinstance(job, WaitingJob) else job  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]

        async def make() -> JobBatch[T, V]:
            checked = over_there if callable(submit) else cast("Submit[T, V]", submit)
            return client.batch_jobs(
                items, checked, concurrency=concurrency, order=order, drain_s=drain_s, progress=progress, **waits
            )

        return WaitingBatch(runner, runner.run(make))

    @abstractmethod
    def _over_there(self) -> tuple[JobCalls, Runner]:
        """The asynchronous client, and who awaits its calls."""
