"""Dubbing: a recording or a film in another language, as a job.

Source: https://elevenlabs.io/docs/api-reference/dubbing. A dub is created from a file or an address, is `dubbing` until
it is `dubbed` or `failed`, and is fetched by its language. It can be deleted and not be stopped.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from urllib.parse import quote

import msgspec
from msgspec import UNSET, Struct

from asyncllm.backend import (
    DubRequest,
    HttpCall,
    JobCall,
    JobRequest,
    JobState,
    JobStatus,
    MediaRequest,
    Transport,
    require_options,
)
from asyncllm.errors import InvalidRequestError, ResponseValidationError, UnsupportedError
from asyncllm.media import Dub, MediaFile
from asyncllm.media_http import decode_document, read_file
from asyncllm.multipart import option_fields
from asyncllm.rejection import broken_off
from asyncllm.types import Timeouts, Usage

__all__ = ["Dubbing"]

_LOOK = Timeouts(connect_s=10, byte_idle_s=60)
_STATUSES: dict[str, JobStatus] = {"dubbed": "succeeded", "failed": "failed"}
_OPTIONS = frozenset({"source_language", "speakers"})
_ID = re.compile(r"[A-Za-z0-9_-]{1,200}")


class _Created(Struct):
    dubbing_id: str


class _Media(Struct):
    duration: float | None = None
    content_type: str | None = None


class _Project(Struct):
    status: str
    target_languages: list[str] = []
    error: str | None = None
    media_metadata: _Media | None = None


class DubState(JobState, frozen=True, kw_only=True):
    """What a project is found as."""

    language: str | None = None
    duration_s: float | None = None


class Dubbing(ABC):
    """The methods of `ElevenLabs` for jobs."""

    job_calls: frozenset[JobCall] = frozenset({"submit_dub"})
    _name: str
    _url: str
    _headers: dict[str, str]
    _transport: Transport

    @abstractmethod
    def _form_call(self, path: str, fields: list[tuple[str, str | MediaFile]], request: MediaRequest) -> HttpCall:
        """A form on its way to `path`."""

    async def submit(self, request: JobRequest, /) -> JobState:
        """See `asyncllm.backend.JobBackend`."""
        if not isinstance(request, DubRequest):
            raise UnsupportedError("ElevenLabs dubs and has no other jobs", backend=self._name, field="submit")
        require_options(request, _OPTIONS, backend=self._name)
        fields: list[tuple[str, str | MediaFile]] = []
        if request.file is not None:
            fields.append(("file", request.file))
        if request.url is not None:
            fields.append(("source_url", request.url))
        if request.source_language is not UNSET:
            fields.append(("source_lang", request.source_language))
        fields.append(("target_lang", request.target_language))
        if request.speakers is not UNSET:
            fields += option_fields("num_speakers", request.speakers)
        call = self._form_call("/v1/dubbing", fields, request)
        async with self._transport.open(call) as reply:
            told = decode_document(call, reply, await reply.read(), _Created, "the id of a dub")
        return DubState(
            id=told.dubbing_id, status="running", language=request.target_language, duration_s=request.duration_s
        )

    async def poll(self, job_id: str, /) -> JobState:
        """See `asyncllm.backend.JobBackend`."""
        call = self._project_call(job_id)
        async with self._transport.open(call) as reply:
            told = decode_document(call, reply, await reply.read(), _Project, "the state of a dub")
        error = None
        if told.status == "failed":
            document = {"error": {"message": told.error or "the dub failed and the service gave no reason"}}
            error = broken_off(msgspec.json.encode(document), secrets=call.secrets)
            error.retryable, error.maybe_billed, error.code = False, True, "failed"
        return DubState(
            id=job_id,
            status=_STATUSES.get(told.status, "running"),
            status_raw=told.status[:60],
            error=error,
            language=next(iter(told.target_languages), None),
            duration_s=None if told.media_metadata is None else told.media_metadata.duration,
        )

    async def cancel(self, _: str, /) -> JobState:
        """Refuse: a dub can be deleted and not be stopped. Raises `UnsupportedError`."""
        raise UnsupportedError("ElevenLabs cannot stop a dub", backend=self._name, field="cancel")

    async def job_result(self, state: JobState, /) -> Dub:
        """See `asyncllm.backend.JobBackend`: the dub in the first language of its project."""
        language = state.language if isinstance(state, DubState) else None
        if language is None:
            raise ResponseValidationError("the service does not say into which language it has dubbed")
        call = self._project_call(state.id, f"/audio/{quote(language, safe='')}")
        async with self._transport.open(call) as reply:
            data, kind = await read_file(call, reply, "a dub")
            request_id = reply.headers.get("request-id")
        lasts_s = state.duration_s if isinstance(state, DubState) else None
        return Dub(
            data=data,
            media_type=kind or "application/octet-stream",
            language=language,
            duration_s=lasts_s,
            usage=Usage(audio_s=lasts_s),
            request_id=request_id,
        )

    def _project_call(self, job_id: str, path: str = "") -> HttpCall:
        if not _ID.fullmatch(job_id):
            raise InvalidRequestError("the id of a dub is a word of letters and digits", field="id", backend=self._name)
        return HttpCall(
            method="GET", url=f"{self._url}/v1/dubbing/{job_id}{path}", headers=self._headers, timeouts=_LOOK
        )
