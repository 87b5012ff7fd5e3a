"""A backend whose jobs go as they are told to, for tests of whatever waits for one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, TypeAlias

from asyncllm.backend import JobCall, JobRequest, JobState, JobStatus
from asyncllm.testing.ops import Stall
from asyncllm.testing.scripted_backend import ScriptedBackend

__all__ = ["ScriptedJobs", "ScriptedLook"]

ScriptedLook: TypeAlias = JobStatus | JobState | BaseException | Stall
"""What one question after a job gets: a status alone, a state, an error, or no answer at all."""


class ScriptedJobs(ScriptedBackend):
    """Plays one look a question, in order, for each job; asked more often than that, it plays the last one again.

    `accepts` are what the calls that submit a job get, one after the other: an error, a `Stall`, or `None` for a job,
    which every later one is too. `results` are what fetching the result of a job gets, likewise. Jobs are called
    `job-1`, `job-2` and so on; any other id is a job too, as if it had been submitted elsewhere.
    """

    job_calls: frozenset[JobCall] = frozenset({"submit", "submit_video", "submit_dub"})

    def __init__(
        self,
        looks: Sequence[ScriptedLook] = ("succeeded",),
        *,
        accepts: Sequence[BaseException | Stall | None] = (),
        results: Sequence[Any] = ("made",),
    ) -> None:
        super().__init__([[]])
        self._looks = looks
        self._accepts = accepts
        self._results = results
        self.submitted: list[JobRequest] = []
        """Every request for a job, in the order of the calls."""
        self.asked: list[str] = []
        """The id of the job of every question, in order."""
        self.cancelled: list[str] = []
        """The id of every job that was to be cancelled."""
        self.fetched: list[str] = []
        """The id of every job whose result was asked for."""

    async def submit(self, request: JobRequest, /) -> JobState:
        """See `asyncllm.backend.JobBackend`."""
        self.submitted.append(request)
        count = len(self.submitted)
        if count <= len(self._accepts):
            await _played(self._accepts[count - 1])
        return JobState(id=f"job-{count}", status="queued")

    async def poll(self, job_id: str, /) -> JobState:
        """See `asyncllm.backend.JobBackend`."""
        look = self._looks[min(self.asked.count(job_id), len(self._looks) - 1)]
        self.asked.append(job_id)
        told = await _played(look)
        return told if isinstance(told, JobState) else JobState(id=job_id, status=told, status_raw=told)

    async def cancel(self, job_id: str, /) -> JobState:
        """See `asyncllm.backend.JobBackend`."""
        self.cancelled.append(job_id)
        return JobState(id=job_id, status="cancelled")

    async def job_result(self, state: JobState, /) -> Any:
        """See `asyncllm.backend.JobBackend`."""
        result = self._results[min(self.fetched.count(state.id), len(self._results) - 1)]
        self.fetched.append(state.id)
        return await _played(result)


async def _played(step: Any) -> Any:
    if isinstance(step, BaseException):
        raise step
    if isinstance(step, Stall):
        await asyncio.Event().wait()  # never: nobody sets that event
    return step
