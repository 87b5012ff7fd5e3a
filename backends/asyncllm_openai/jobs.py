"""Jobs over OpenAI's HTTP API: films, and responses that are made in the background.

Sources: https://platform.openai.com/docs/api-reference/videos and https://platform.openai.com/docs/guides/background.
The id of a job is the path of what it makes: `videos/...` or `responses/...`. A response in the background is stored by
the service, as it would not be found again otherwise. A film cannot be stopped, only deleted.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import Any

import msgspec
from msgspec import UNSET, Struct
from msgspec.structs import replace

from asyncllm.backend import (
    HttpCall,
    HttpReply,
    JobCall,
    JobRequest,
    JobState,
    JobStatus,
    MediaRequest,
    Transport,
    VideoRequest,
    require_options,
    require_supported,
)
from asyncllm.collect import collect
from asyncllm.dialect.responses import SUPPORTED, read_response, write_response
from asyncllm.errors import APIStatusError, InvalidRequestError, UnsupportedError
from asyncllm.media import MediaFile, Video
from asyncllm.media_http import decode_document, read_file
from asyncllm.multipart import encode_form, option_fields
from asyncllm.rejection import broken_off
from asyncllm.types import Request, Timeouts, Usage

__all__ = ["OpenAIJobs"]

_LOOK = Timeouts(connect_s=10, byte_idle_s=60)
_OPTIONS = frozenset({"seconds", "size", "aspect_ratio", "image"})
_SIZES = {"16:9": "1280x720", "9:16": "720x1280"}
_ID = re.compile(r"(videos|responses)/[A-Za-z0-9_-]{1,500}")
_STATUSES: dict[str, JobStatus] = {
    "queued": "queued",
    "completed": "succeeded",
    "incomplete": "succeeded",  # an answer that was cut off is one
    "failed": "failed",
    "cancelled": "cancelled",
}


class _Wire(Struct):
    """A film or a response, as far as both say how they stand."""

    id: str
    status: str
    progress: float | None = None
    error: Any = None
    model: str | None = None
    seconds: Any = None


class FilmState(JobState, frozen=True, kw_only=True):
    """What a film is found as."""

    model: str | None = None
    seconds: float | None = None


class OpenAIJobs(ABC):
    """The methods of `OpenAI` for jobs."""

    job_calls: frozenset[JobCall]
    _name: str
    _headers: dict[str, str]
    _transport: Transport

    @abstractmethod
    def _address(self, path: str, model: str = "") -> str:
        """Where a call goes."""

    @abstractmethod
    def _secrets(self, call: HttpCall) -> tuple[str, ...]:
        """What no error text of `call` may repeat."""

    @abstractmethod
    def _media_call(self, path: str, request: MediaRequest, body: bytes, kind: str, *, stream: bool) -> HttpCall:
        """`body`, of the media type `kind`, on its way to `path` of the API."""

    async def submit(self, request: JobRequest, /) -> JobState:
        """See `asyncllm.backend.JobBackend`."""
        if isinstance(request, VideoRequest):
            kind, body = _film_form(request, self._name)
            call = self._media_call("/videos", request, body, kind, stream=False)
            return await self._look_at(call, "videos")
        if not isinstance(request, Request):
            raise UnsupportedError("OpenAI dubs nothing", backend=self._name, field="submit_dub")
        require_supported(request, SUPPORTED, backend=self._name)
        asked = replace(request, extra={"background": True, "store": True, **request.extra})
        call = HttpCall(
            url=self._address("/responses", request.model),
            body=write_response(asked),
            headers=self._headers,
            timeouts=request.timeouts,
        )
        return await self._look_at(call, "responses")

    async def poll(self, job_id: str, /) -> JobState:
        """See `asyncllm.backend.JobBackend`."""
        call = self._look_call(job_id)
        return await self._look_at(call, job_id.partition("/")[0])

    async def cancel(self, job_id: str, /) -> JobState:
        """See `asyncllm.backend.JobBackend`: of responses alone."""
        if job_id.startswith("videos/"):
            raise UnsupportedError("OpenAI cannot stop a film", backend=self._name, field="cancel")
        call = replace(self._look_call(job_id, "/cancel"), method="POST")
        return await self._look_at(call, "responses")

    async def job_result(self, state: JobState, /) -> Video:
        """See `asyncllm.backend.JobBackend`: of films alone, as a response comes with the look that finds it done."""
        call = self._look_call(state.id, "/content")
        async with self._transport.open(call) as reply:
            data, kind = await read_file(call, reply, "a film")
            request_id = reply.headers.get("x-request-id")
        told = state if isinstance(state, FilmState) else FilmState(id=state.id, status=state.status)
        return Video(
            data=data,
            media_type=kind or "video/mp4",
            duration_s=told.seconds,
            model=told.model,
            usage=Usage(video_s=told.seconds),
            request_id=request_id,
        )

    def _look_call(self, job_id: str, path: str = "") -> HttpCall:
        if not _ID.fullmatch(job_id):
            raise InvalidRequestError("the id of a job is videos/... or responses/...", field="id", backend=self._name)
        return HttpCall(method="GET", url=self._address(f"/{job_id}{path}"), headers=self._headers, timeouts=_LOOK)

    async def _look_at(self, call: HttpCall, kind: str) -> JobState:
        """The state that a call gets."""
        async with self._transport.open(call) as reply:
            body = await reply.read()
            return self._state(call, reply, body, kind)

    def _state(self, call: HttpCall, reply: HttpReply, body: bytes, kind: str) -> JobState:
        told = decode_document(call, reply, body, _Wire, "the state of a job")
        state = FilmState(
            id=f"{kind}/{told.id}",
            status=_STATUSES.get(told.status, "running"),
            status_raw=told.status[:60],
            progress=None if told.progress is None else min(1.0, max(0.0, told.progress / 100)),
            model=told.model,
            seconds=_seconds(told.seconds),
        )
        secrets = self._secrets(call)
        if state.status == "failed":
            return replace(state, error=_failure(told.error, call, secrets))
        if state.status == "succeeded" and kind == "responses":
            return replace(state, result=collect(read_response(body, sent=call.body, secrets=secrets)))
        return state


def _film_form(request: VideoRequest, backend: str) -> tuple[str, bytes]:
    """Media type and body of a request for a film: a form, with or without a picture."""
    require_options(request, _OPTIONS, backend=backend)
    fields: list[tuple[str, str | MediaFile]] = [("model", request.model), ("prompt", request.prompt)]
    if isinstance(request.image, MediaFile):
        fields.append(("input_reference", request.image))
    if isinstance(request.seconds, int | float):
        fields.append(("seconds", f"{request.seconds:g}"))
    size = request.size
    if isinstance(request.aspect_ratio, str):
        if request.aspect_ratio not in _SIZES:
            raise InvalidRequestError(
                f"aspect_ratio is one of {', '.join(_SIZES)}; else give size", field="aspect_ratio"
            )
        size = _SIZES[request.aspect_ratio]
    if size is not UNSET:
        fields.append(("size", size))
    kept = [field for field in fields if field[0] not in request.extra]
    for name, value in request.extra.items():
        kept += option_fields(name, value)
    return encode_form(kept)


def _failure(error: object, call: HttpCall, secrets: tuple[str, ...]) -> APIStatusError:
    document = {"error": error or {"message": "the job failed and the service gave no reason"}}
    told = broken_off(msgspec.json.encode(document), sent=call.body, secrets=secrets)
    told.retryable, told.maybe_billed = False, True
    return told


def _seconds(told: object) -> float | None:
    """A length, which comes as a text."""
    try:
        return float(told) if isinstance(told, str | int | float) else None
    except ValueError:
        return None
