"""Runs as jobs: submitted now, asked after later, by the address that the service gave for it, which is their id.

A job goes to `POST /api/v1/execute/{id}`, as the vendor's own client submits one; on an address of another form, to the
address of every run. A run that is done at once has its result with it, and no address: it is not found again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import msgspec

from asyncllm.backend import HttpCall, JobCall, JobRequest, JobState, Transport
from asyncllm.collect import collect
from asyncllm.errors import APIError, APIStatusError, UnsupportedError
from asyncllm.trusted import Trusted
from asyncllm.types import Request, Response, Timeouts
from asyncllm_aixplain.failures import categorised
from asyncllm_aixplain.replies import PendingError, is_over, read_result
from asyncllm_aixplain.run import settle

__all__ = ["RunJobs"]

_RUNS, _JOBS = "/api/v2/execute/", "/api/v1/execute/"
_LOOK = Timeouts(connect_s=10, byte_idle_s=60)


class RunJobs(ABC):
    """The methods of `AiXplain` for jobs."""

    job_calls: frozenset[JobCall] = frozenset({"submit"})
    _name: str
    _headers: dict[str, str]
    _transport: Transport
    _trusted: Trusted

    @abstractmethod
    def _check(self, request: Request) -> None:
        """Raise for what no run can be."""

    @abstractmethod
    async def _call(self, request: Request) -> HttpCall:
        """The call that runs `request`."""

    async def submit(self, request: JobRequest, /) -> JobState:
        """See `asyncllm.backend.JobBackend`."""
        if not isinstance(request, Request):
            raise UnsupportedError("aiXplain has no such jobs", backend=self._name, field=type(request).__name__)
        self._check(request)
        call = await self._call(request)
        call = msgspec.structs.replace(call, url=call.url.replace(_RUNS, _JOBS, 1))
        limit = request.sampling.max_tokens
        try:
            async with self._transport.open(call) as reply:
                body = await reply.read()
        except APIStatusError as error:
            raise categorised(error) from None
        try:
            events = read_result(body, model=request.model, limit=limit if isinstance(limit, int) else None, call=call)
        except PendingError as pending:
            return JobState(id=pending.url, status="running", status_raw="IN_PROGRESS")
        except APIError as error:
            settle(error, accepted=True)
            raise
        return JobState(id="", status="succeeded", result=collect(events))

    async def poll(self, job_id: str, /) -> JobState:
        """See `asyncllm.backend.JobBackend`. Raises `RedirectRefusedError` for an address that may not have the key."""
        self._trusted.check(job_id)
        call = HttpCall(method="GET", url=job_id, headers=self._headers, timeouts=_LOOK)
        async with self._transport.open(call) as reply:
            body = await reply.read()
        if not is_over(body):
            return JobState(id=job_id, status="running", status_raw="IN_PROGRESS")
        try:
            result: Response = collect(read_result(body, model="", limit=None, call=call))
        except APIStatusError as error:
            return JobState(id=job_id, status="failed", status_raw="FAILED", error=error)
        return JobState(id=job_id, status="succeeded", status_raw="SUCCESS", result=result)

    async def cancel(self, _: str, /) -> JobState:
        """Refuse: aiXplain stops no run. Raises `UnsupportedError`."""
        raise UnsupportedError("aiXplain cannot stop a run", backend=self._name, field="cancel")

    async def job_result(self, state: JobState, /) -> Response:
        """What has come with the last look."""
        result: Response = state.result
        return result
