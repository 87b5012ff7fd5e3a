"""The calls that make jobs, as `Client` inherits them."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, Unpack, cast

import msgspec

from asyncllm.backend import DubRequest, JobBackend, JobCall, JobRequest, JobState, VideoRequest
from asyncllm.backend.media import MediaRequest
from asyncllm.batch.batch import CONCURRENCY, OnProgress, Order
from asyncllm.batch.fanout import Source
from asyncllm.calls import CallOptions, Model, Prompt, chat_request, output_of
from asyncllm.errors import APIConnectionError, APIError, APIStatusError, FirstEventTimeoutError, InvalidRequestError
from asyncllm.jobs.job import Job, read_job_id
from asyncllm.jobs.looking import WaitOptions
from asyncllm.jobs.many import JobBatch, Submit
from asyncllm.media import Dub, Video
from asyncllm.media_calls.options import DubOptions, Upload, VideoOptions
from asyncllm.media_calls.requests import dub_request, video_request
from asyncllm.media_calls.uploads import check_upload, read_upload
from asyncllm.middleware.observe import Observer
from asyncllm.once import Claim, once
from asyncllm.place import Target, lacking
from asyncllm.routes import Routes
from asyncllm.trail import Trail
from asyncllm.typed.output import Output
from asyncllm.types import Response, Timeouts
from asyncllm.watchdog import Watchdog

__all__ = ["JobCalls"]

T = TypeVar("T")
V = TypeVar("V")

_replace = msgspec.structs.replace
_LONGEST_S = 3600.0
_REFUSED = (429, 503, 529)  # nothing was accepted, and later it may be
_WEB = ("http://", "https://")


class JobCalls(ABC):
    """Jobs, over what a client has for every call.

    What submits one raises `UnsupportedError` if the backend has no such jobs or lacks an option, `InvalidRequestError`
    naming an argument that cannot be right, both before anything is sent, and `APIError`. It is sent again only where a
    failure shows that nothing was accepted; where the job may be there, the error has `maybe_billed`.

    Hooks are told of a job twice: as it is submitted, and as its result is taken, with usage and cost. Until then a
    budget holds what it has set aside for it.
    """

    _timeouts: Timeouts
    _dog: Watchdog
    _observer: Observer
    _routes: Routes

    async def submit(self, prompt: Prompt, **options: Unpack[CallOptions]) -> Job[Response]:
        """Have a conversation answered in the background; prompt and options are those of `chat`."""
        if "repairs" in options:
            raise InvalidRequestError("a job is not asked again: repairs are for chat", field="repairs")
        output = output_of(options)
        request = chat_request(prompt, options, stream=False, timeouts=self._timeouts, output=output)
        target = self._target(options.get("model"))
        texts = tuple(message.text for message in request.messages)
        return await self._submit("submit", target, request, texts, output)

    async def submit_video(self, prompt: str, **options: Unpack[VideoOptions]) -> Job[Video]:
        """Have a film made of a text, and of pictures where they are given: paths, bytes or `MediaFile`s."""
        asked = video_request(prompt, options, self._timeouts)
        target = self._target(options.get("model"))
        request = _replace(asked, **await _pictures(options))
        return await self._submit("submit_video", target, request, request.texts)

    async def generate_video(self, prompt: str, **options: Unpack[VideoOptions]) -> Video:
        """Make a film of a text: `submit_video` and the wait for its result.

        It is waited for until `timeouts.total_s`, or for an hour. Then, and when this is cancelled, the job goes on;
        `JobTimeoutError` tells its id.
        """
        started_at = asyncio.get_running_loop().time()
        job = await self.submit_video(prompt, **options)
        return await job.result(timeout=self._left_s(options, started_at))

    async def submit_dub(self, source: Upload, target_language: str, **options: Unpack[DubOptions]) -> Job[Dub]:
        """Have a recording or a film spoken in another language: a path, bytes, a `MediaFile`, or an http(s) address.

        Languages are ISO 639 codes such as `es`.
        """
        if isinstance(source, str) and source.lower().startswith(_WEB):
            asked = dub_request(source, target_language, options, self._timeouts)
            target = self._target(options.get("model"))
        else:
            check_upload(source, "source")
            target = self._target(options.get("model"))
            file = await read_upload(source, "source", "media")
            asked = dub_request(file, target_language, options, self._timeouts)
        return await self._submit("submit_dub", target, asked, asked.texts)

    async def dub(self, source: Upload, target_language: str, **options: Unpack[DubOptions]) -> Dub:
        """Dub a recording or a film: `submit_dub` and the wait for its result, as with `generate_video`."""
        started_at = asyncio.get_running_loop().time()
        job = await self.submit_dub(source, target_language, **options)
        return await job.result(timeout=self._left_s(options, started_at))

    def job(self, id: str) -> Job[Any]:  # noqa: A002  # what it is called everywhere
        """A job that was submitted before, here or elsewhere, by its `id`. Nothing is asked yet.

        Raises `InvalidRequestError`, `ConfigError` for a backend that is not there, `UnsupportedError` for one without
        jobs.
        """
        self._bind()
        label, model, service_id = read_job_id(id)
        target = self._routes.again(label, model)
        backend = target.place.backend
        if not isinstance(backend, JobBackend):
            raise lacking(target, "job")
        request = MediaRequest(model=model, timeouts=self._timeouts)
        state = JobState(id=service_id, status="queued")
        return Job(target, backend, state, finish=self._finisher(target, request, Claim(), None), is_new=False)

    def batch_jobs(
        self,
        items: Source[T],
        submit: Submit[T, V],
        *,
        concurrency: int = CONCURRENCY,
        order: Order = "input",
        drain_s: float = 0,
        progress: OnProgress | None = None,
        **waits: Unpack[WaitOptions],
    ) -> JobBatch[T, V]:
        """Have a job made of each item, `concurrency` of them under way at a time, and read what becomes of each.

            async for result in client.batch_jobs(texts, lambda text: client.submit_video(text), timeout=600):
                result.index, result.item, result.job_id, result.result, result.error

        `submit` makes the job of an item, once; `client.job` in its place goes on with those whose ids the items are.
        `waits` are the options of `Job.wait`, for each job from when it was accepted. `items`, `order`, `drain_s` and
        `progress` are as in `batch`. What goes wrong with one item is the `error` of its result, with the `job_id` if
        there is a job, and `maybe_billed` where there may be one.

        Leaving early ends no job: once `aclose`, or an `async with` around it, has ended the batch, its `unread` has
        the ids. `drain_s` lets what is being submitted come to an id.

        Raises `InvalidRequestError` for arguments that cannot be right; while iterating, what `items` raises, after the
        results of all that it gave before, and at once, where `submit` gives no `Job` or raises what is no
        `AsyncLLMError`.
        """
        return JobBatch(items, submit, waits, concurrency=concurrency, order=order, drain_s=drain_s, progress=progress)

    @abstractmethod
    def _bind(self) -> None:
        """Tie the client to the running loop."""

    @abstractmethod
    def _target(self, model: Model | None) -> Target:
        """Where a call for `model` goes."""

    def _left_s(self, options: VideoOptions | DubOptions, started_at: float) -> float:
        timeouts = options.get("timeouts", self._timeouts)
        total_s = _LONGEST_S if timeouts.total_s is None else timeouts.total_s
        return max(0.001, started_at + total_s - asyncio.get_running_loop().time())

    async def _submit(
        self, kind: JobCall, target: Target, asked: JobRequest, texts: tuple[str, ...], output: Output | None = None
    ) -> Job[Any]:
        backend = target.place.backend
        if not isinstance(backend, JobBackend) or kind not in backend.job_calls:
            raise lacking(target, kind)
        request: JobRequest = _replace(asked, model=target.model)
        first_s = request.timeouts.first_event_s
        # What is late may have been accepted: the layers, which would try again, know no deadline for the first event.
        bounded = _replace(request, timeouts=_replace(request.timeouts, first_event_s=None))
        claim = Claim()
        trail = Trail(kind, bounded, target.place.name, target.place.label)
        state = await once(
            lambda: _accepted(backend, request, first_s),
            target,
            trail,
            dog=self._dog,
            observer=self._observer,
            claim=claim,
        )
        finish = self._finisher(target, request, claim, output)
        return Job(target, backend, state, finish=finish, texts=texts)

    def _finisher(
        self, target: Target, request: Any, claim: Claim, output: Output | None
    ) -> Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]:
        """What takes the result of a job, in the layers of its place."""
        place = target.place

        async def finish(take: Callable[[], Awaitable[Any]]) -> Any:
            trail = Trail("job_result", request, place.name, place.label)
            made = await once(
                lambda: _measured(take, request), target, trail, dog=self._dog, observer=self._observer, claim=claim
            )
            if not isinstance(made, Response):
                return made
            response = _replace(made, backend=place.name, model=made.model or target.model or None)
            return response if output is None else output.parse(response)

        return finish


async def _accepted(backend: JobBackend, request: JobRequest, within_s: float | None) -> JobState:
    """The state of a job that was handed over. No error says that it may be sent again, unless nothing was accepted."""
    try:
        async with asyncio.timeout(within_s):
            return await backend.submit(request)
    except APIError as error:
        if not _is_refusal(error):
            error.maybe_billed, error.retryable = True, False
        raise
    except TimeoutError:
        raise FirstEventTimeoutError(
            f"the service did not say within first_event_s={within_s} seconds whether it has accepted the job",
            elapsed_s=within_s,
            retryable=False,
            maybe_billed=True,
        ) from None


def _is_refusal(error: APIError) -> bool:
    """Whether a failure to submit shows that nothing was accepted."""
    if isinstance(error, APIStatusError):
        status = error.status
        return (
            not error.maybe_billed and status is not None and (status in _REFUSED or (status < 500 and status != 408))
        )
    return isinstance(error, APIConnectionError) and not error.maybe_billed


async def _measured(take: Callable[[], Awaitable[Any]], request: Any) -> Any:
    """What a job has made, as long as it was asked for, or said, to be where the service does not tell it."""
    made = await take()
    if isinstance(made, Video) and made.usage.video_s is None and isinstance(request, VideoRequest):
        lasts_s = made.duration_s or (request.seconds if isinstance(request.seconds, int | float) else None)
        return _replace(made, duration_s=lasts_s, usage=_replace(made.usage, video_s=lasts_s))
    if isinstance(made, Dub) and made.usage.audio_s is None and isinstance(request, DubRequest):
        lasts_s = made.duration_s or request.duration_s
        return _replace(made, duration_s=lasts_s, usage=_replace(made.usage, audio_s=lasts_s))
    return made


async def _pictures(options: VideoOptions) -> dict[str, Any]:
    """The pictures of a film, read. Raises `InvalidRequestError`."""
    given = cast("dict[str, Any]", options)
    names = [name for name in ("image", "last_image") if name in given]
    for name in names:
        check_upload(given[name], name)
    references: Any = given.get("references", ())
    if not isinstance(references, list | tuple) or ("references" in given and not references):
        raise InvalidRequestError("references is a list of at least one picture", field="references")
    listed = cast("list[Any]", references)
    for position, one in enumerate(listed):
        check_upload(one, f"references[{position}]")
    read: dict[str, Any] = {name: await read_upload(given[name], name, "image") for name in names}
    if listed:
        files = [await read_upload(one, f"references[{at}]", "image") for at, one in enumerate(listed)]
        read["references"] = tuple(files)
    return read
