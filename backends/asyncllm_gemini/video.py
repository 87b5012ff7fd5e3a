"""Films by Veo's models, as jobs.

Source: https://ai.google.dev/gemini-api/docs/video and the public client, https://github.com/googleapis/python-genai.
`POST models/{model}:predictLongRunning` names an operation, which is asked after until it is `done` and says then where
the film is, for two days. An operation cannot be stopped.
"""

from __future__ import annotations

import base64
import re
from typing import Any, cast
from urllib.parse import quote

import msgspec
from msgspec import UNSET, Struct

from asyncllm.backend import HttpCall, JobCall, JobRequest, JobState, Transport, VideoRequest, require_options
from asyncllm.errors import (
    APIStatusError,
    AsyncLLMError,
    ContentFilterError,
    InvalidRequestError,
    ResponseValidationError,
    UnsupportedError,
)
from asyncllm.media import MediaFile, Video
from asyncllm.media_http import decode_document, read_file
from asyncllm.rejection import broken_off
from asyncllm.trusted import Trusted
from asyncllm.types import Timeouts

__all__ = ["Films"]

_LOOK = Timeouts(connect_s=10, byte_idle_s=60)
_OPTIONS = frozenset({"seconds", "aspect_ratio", "resolution", "image", "last_image", "references"})
_REFERENCES = 3
_ID = re.compile(r"models/[A-Za-z0-9._-]{1,200}/operations/[A-Za-z0-9_-]{1,200}")


class _Wire(Struct, rename="camel"):
    """Names are in camel case."""


class _File(_Wire):
    uri: str | None = None


class _Sample(_Wire):
    video: _File | None = None


class _Made(_Wire):
    generated_samples: list[_Sample] = []
    rai_media_filtered_count: int | None = None


class _Response(_Wire):
    generate_video_response: _Made | None = None


class _Operation(_Wire):
    name: str | None = None
    done: bool = False
    error: Any = None
    response: _Response | None = None


class FilmState(JobState, frozen=True, kw_only=True):
    """What an operation is found as."""

    uri: str | None = None

    _private = frozenset({"result", "uri"})


class Films:
    """The methods of `Gemini` for jobs."""

    job_calls: frozenset[JobCall] = frozenset({"submit_video"})
    _name: str
    _films: str
    """Where paths begin, with the version."""
    _headers: dict[str, str]
    _transport: Transport
    _trusted: Trusted

    async def submit(self, request: JobRequest, /) -> JobState:
        """See `asyncllm.backend.JobBackend`. `resolution` is `720p`, `1080p` or `4k`."""
        if not isinstance(request, VideoRequest):
            raise UnsupportedError("Gemini makes films and has no other jobs", backend=self._name, field="submit")
        require_options(request, _OPTIONS, backend=self._name)
        try:
            body = msgspec.json.encode(_written(request))
        except (TypeError, UnicodeEncodeError) as error:
            raise InvalidRequestError(f"an option is not JSON: {type(error).__name__}", field="extra") from None
        model = quote(request.model.removeprefix("models/"), safe="")
        call = HttpCall(
            url=f"{self._films}/models/{model}:predictLongRunning",
            body=body,
            headers=self._headers,
            timeouts=request.timeouts,
        )
        async with self._transport.open(call) as reply:
            body = await reply.read()
            told = decode_document(call, reply, body, _Operation, "an operation")
        if not told.name:
            raise ResponseValidationError("the reply names no operation", body=body[:65536], maybe_billed=True)
        return JobState(id=told.name, status="running")

    async def poll(self, job_id: str, /) -> JobState:
        """See `asyncllm.backend.JobBackend`."""
        if not _ID.fullmatch(job_id) or "/../" in f"/{job_id}/":
            raise InvalidRequestError("the id of a film is models/.../operations/...", field="id", backend=self._name)
        call = HttpCall(method="GET", url=f"{self._films}/{job_id}", headers=self._headers, timeouts=_LOOK)
        async with self._transport.open(call) as reply:
            body = await reply.read()
            told = decode_document(call, reply, body, _Operation, "an operation")
        if not told.done:
            return JobState(id=job_id, status="running")
        made = told.response.generate_video_response if told.response is not None else None
        samples = made.generated_samples if made is not None else []
        uri = next((one.video.uri for one in samples if one.video is not None and one.video.uri), None)
        if uri is None:
            return JobState(id=job_id, status="failed", error=_failure(told, made, body, call))
        return FilmState(id=job_id, status="succeeded", uri=uri)

    async def cancel(self, _: str, /) -> JobState:
        """Refuse: Gemini stops no operation. Raises `UnsupportedError`."""
        raise UnsupportedError("Gemini cannot stop a film", backend=self._name, field="cancel")

    async def job_result(self, state: JobState, /) -> Video:
        """See `asyncllm.backend.JobBackend`. Raises `RedirectRefusedError` for an address that may not have the key."""
        uri = state.uri if isinstance(state, FilmState) else None
        if uri is None:
            raise ResponseValidationError("the service does not say where the film is")
        self._trusted.check(uri)
        call = HttpCall(method="GET", url=uri, headers=self._headers, timeouts=_LOOK)
        async with self._transport.open(call) as reply:
            data, kind = await read_file(call, reply, "a film")
        return Video(data=data, media_type=kind or "video/mp4", model=state.id.split("/")[1])


def _written(request: VideoRequest) -> dict[str, Any]:
    """The body of a request for a film. Raises `InvalidRequestError`."""
    instance: dict[str, Any] = {"prompt": request.prompt}
    frames = {"image": request.image, "lastFrame": request.last_image}
    instance |= {name: _picture(file) for name, file in frames.items() if isinstance(file, MediaFile)}
    if isinstance(request.references, tuple):
        if len(instance) > 1:
            raise InvalidRequestError(
                "references are for films without image and last_image: either decides", field="references"
            )
        if len(request.references) > _REFERENCES:
            raise InvalidRequestError(f"references has {_REFERENCES} pictures at the most", field="references")
        instance["referenceImages"] = [
            {"image": _picture(file), "referenceType": "asset"} for file in request.references
        ]
    elif "lastFrame" in instance and "image" not in instance:
        raise InvalidRequestError("a film with a last_image begins with an image", field="image")
    parameters: dict[str, Any] = {}
    if isinstance(request.seconds, int | float):
        whole = int(request.seconds)
        if whole != request.seconds:
            raise InvalidRequestError("seconds of a film is a whole number, such as 4, 6 or 8", field="seconds")
        parameters["durationSeconds"] = whole
    if request.aspect_ratio is not UNSET:
        parameters["aspectRatio"] = request.aspect_ratio
    if request.resolution is not UNSET:
        parameters["resolution"] = request.resolution
    extra = dict(request.extra)
    if isinstance(extra.get("parameters"), dict):  # which must not cost our own part of it
        parameters |= cast("dict[str, Any]", extra.pop("parameters"))
    if parameters.get("sampleCount", 1) != 1:
        raise InvalidRequestError("a job is one film: leave out sampleCount", field="extra")
    return {"instances": [instance]} | ({"parameters": parameters} if parameters else {}) | extra


def _picture(file: MediaFile) -> dict[str, str]:
    return {"bytesBase64Encoded": base64.b64encode(file.data).decode(), "mimeType": file.media_type}


def _failure(told: _Operation, made: _Made | None, body: bytes, call: HttpCall) -> AsyncLLMError:
    """Why an operation that is done has no film: what it says, or a filter."""
    if told.error is not None:
        error = broken_off(msgspec.json.encode({"error": told.error}), secrets=call.secrets)
        kind = type(error) if error.status is not None else APIStatusError
        return kind(
            error.message, status=error.status, code=error.code, retryable=False, maybe_billed=True, body=body[:65536]
        )
    if made is not None and made.rai_media_filtered_count:
        return ContentFilterError("a content filter kept the film back", code="rai_media_filtered", body=body[:65536])
    return ResponseValidationError("the operation is done and has no film", body=body[:65536])
