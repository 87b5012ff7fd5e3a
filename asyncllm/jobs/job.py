"""One job, of whichever service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Generic, NoReturn, TypeVar, Unpack
from urllib.parse import quote, unquote

from msgspec.structs import replace

from asyncllm.backend import JobBackend, JobState, JobStatus
from asyncllm.errors import (
    APIError,
    APIStatusError,
    FirstEventTimeoutError,
    InvalidRequestError,
    JobFailedError,
    NotFoundError,
)
from asyncllm.jobs.looking import WaitOptions, Waits, looks, waits_of
from asyncllm.place import Target
from asyncllm.scrub import scrub

__all__ = ["Job", "job_id", "read_job_id"]

T = TypeVar("T")

_NEW_S = 60.0  # for which a job that was just accepted may not be found yet
_LOOK_S = 60.0  # in which one question is answered
_ORDER: dict[str, int] = {"queued": 0, "running": 1}


class Job(Generic[T]):
    """What a service has accepted and works off in its own time.

        job = await client.submit_video("A lighthouse in a storm", seconds=8)
        async for status in job: ...
        film = await job.result()

    `id` is all that is needed to go on with it, from any process: `client.job(id)`. Nothing runs between its calls,
    and leaving or cancelling any of them leaves the job as it is; several tasks may wait for one.
    """

    def __init__(
        self,
        target: Target,
        backend: JobBackend,
        state: JobState,
        *,
        finish: Callable[[Callable[[], Awaitable[Any]]], Awaitable[T]],
        texts: tuple[str, ...] = (),
        is_new: bool = True,
    ) -> None:
        self._target = target
        self._backend = backend
        self._clock = target.place.clock
        self._state = state
        self._finish = finish
        self._texts = texts
        self._is_known = is_new  # whether its state has been told
        self._is_new_until = self._clock.time() + _NEW_S if is_new else 0.0
        self._made: list[T] = []
        self._taking = asyncio.Lock()

    @property
    def id(self) -> str:
        """Backend or deployment, model and the service's own id, as one text."""
        return job_id(self._target.place.label, self._target.model, self._state.id)

    @property
    def status(self) -> JobStatus:
        """As it was last seen: `queued`, `running`, `succeeded`, `failed`, `cancelled` or `expired`."""
        return self._state.status

    @property
    def state(self) -> JobState:
        """All that was told of it at the last look."""
        return self._state

    @property
    def is_over(self) -> bool:
        """Whether it has ended, whichever way, as far as it was seen."""
        return self._state.is_final

    async def poll(self) -> JobState:
        """Look once, now. A job that is over is not asked after any more.

        Raises `APIError`, of whatever kind; one that is `retryable` may pass.
        """
        if not self.is_over:
            try:
                await self._look(_LOOK_S)
            except TimeoutError as error:
                if isinstance(error, APIError):
                    raise
                raise _unanswered() from None
        return self._state

    async def wait(self, **options: Unpack[WaitOptions]) -> JobState:
        """Look from time to time until the job is over, whichever way it ends; the options are those of `WaitOptions`.

        Raises `JobTimeoutError` after `timeout`, with the last failure as its cause: the job goes on. Failures that may
        pass, such as a lost connection, a 429 or a 5xx, are let pass, up to five in a row; others are raised at once.
        """
        async with aclosing(self._looks(waits_of(options))) as states:
            async for _ in states:
                pass
        return self._state

    async def result(self, **options: Unpack[WaitOptions]) -> T:
        """What the job has made, once it is over: waits as `wait` does, unless it is.

        Raises as `wait` does; `JobFailedError` for a job that has not succeeded, with the service's error as its cause;
        and `APIError` where the result cannot be fetched, which may be tried again.
        """
        await self.wait(**options)
        async with self._taking:  # or two who wait would each fetch it, and hooks be told twice
            if not self._made:
                self._made.append(await self._finish(self._take))
        return self._made[0]

    async def cancel(self) -> JobState:
        """Ask the service to stop. What it has done by then may be billed.

        Raises `UnsupportedError` where the service cannot, `APIError`.
        """
        if not self.is_over:
            try:
                self._tell(await self._backend.cancel(self._state.id))
            except APIError as error:
                raise self._scrubbed(error) from None
        return self._state

    async def events(self, **options: Unpack[WaitOptions]) -> AsyncGenerator[JobState]:
        """Each change of status or progress, beginning with what is known, to the end of the job.

        Nothing is asked while nobody waits for the next. Raises as `wait` does.
        """
        told: tuple[JobStatus, float | None] | None = None
        if self._is_known:
            told = self._state.status, self._state.progress
            yield self._state
        async with aclosing(self._looks(waits_of(options))) as states:
            async for state in states:
                if (state.status, state.progress) != told:
                    told = state.status, state.progress
                    yield state

    def __aiter__(self) -> AsyncIterator[JobStatus]:
        """Each status once, to the end of the job."""
        return self._statuses()

    async def _statuses(self) -> AsyncGenerator[JobStatus]:
        told = None
        async with aclosing(self.events()) as states:
            async for state in states:
                if state.status != told:
                    told = state.status
                    yield told

    async def _looks(self, waits: Waits) -> AsyncGenerator[JobState]:
        if self.is_over:
            return
        told = self._state if self._is_known else None
        async with aclosing(looks(self._look, waits, self._clock, told=told, name=self.id)) as states:
            async for state in states:
                yield state

    async def _look(self, within_s: float) -> JobState:
        """One question; see `Look`. A job that another task has seen end meanwhile is not asked after."""
        if self.is_over:
            return self._state
        try:
            async with asyncio.timeout(min(within_s, _LOOK_S)):
                self._tell(await self._backend.poll(self._state.id))
        except NotFoundError as error:
            if self._clock.time() >= self._is_new_until:
                raise self._scrubbed(error) from None
        except APIError as error:
            raise self._scrubbed(error) from None
        except TimeoutError:
            if within_s <= _LOOK_S:
                raise
            raise _unanswered() from None
        return self._state

    def _tell(self, state: JobState) -> None:
        """Take over what was told, unless it goes back behind what is known."""
        self._is_known = True
        self._is_new_until = 0.0
        known = self._state
        if known.is_final:
            return
        changes: dict[str, Any] = {"id": known.id}
        if _ORDER.get(state.status, 2) < _ORDER[known.status]:
            changes["status"] = known.status
        if isinstance(state.error, APIError):
            changes["error"] = self._scrubbed(state.error)
        self._state = replace(state, **changes)

    async def _take(self) -> Any:
        """What the job has made. Raises `JobFailedError`."""
        state = self._state
        if state.status != "succeeded":
            self._fail(state)
        if state.result is not None:
            return state.result
        return await self._backend.job_result(state)

    def _fail(self, state: JobState) -> NoReturn:
        error = state.error
        reason = f": {error.message}" if error is not None else ""
        told = {"failed": "failed", "cancelled": "was cancelled", "expired": "was given up by the service"}
        raise JobFailedError(
            f"the job {told[state.status]}{reason}",
            status=error.status if error is not None else None,
            code=(error.code if error is not None else None) or state.status,
            request_id=error.request_id if error is not None else None,
            maybe_billed=True,
        ) from error

    def _scrubbed(self, error: APIError) -> APIError:
        """A refusal without what it repeats of the request, which the question after the job does not hold."""
        if isinstance(error, APIStatusError):
            error.message = scrub(error.message, self._texts, ())
            error.args = (error.message,)
        return error

    def __repr__(self) -> str:
        return f"<Job {self.id} {self.status}>"

    def __reduce__(self) -> str:
        raise TypeError("a Job holds its client and is not pickled; its id is all that is needed: client.job(id)")


def job_id(label: str, model: str, service_id: str) -> str:
    """The id of a job, made of backend or deployment, model, and the service's own."""
    return f"{_quoted(label)}:{_quoted(model)}:{service_id}"


def read_job_id(text: object) -> tuple[str, str, str]:
    """The three parts of an id. Raises `InvalidRequestError`."""
    parts = text.split(":", 2) if isinstance(text, str) else []
    if len(parts) < 3 or not parts[0] or not parts[2]:
        raise InvalidRequestError(
            "a job's id is backend:model:id, as job.id gives it; the model may be empty, as in openai::videos/video_1",
            field="id",
        )
    return unquote(parts[0]), unquote(parts[1]), parts[2]


def _quoted(text: str) -> str:
    return quote(text, safe="/@+ ")


def _unanswered() -> FirstEventTimeoutError:
    return FirstEventTimeoutError(f"the question after the job was not answered in {_LOOK_S:g} seconds")
