"""The backend behind `asyncllm_gemini.connect`."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, cast
from urllib.parse import quote, urlsplit

import msgspec
from msgspec import UNSET, Struct

from asyncllm.backend import (
    Config,
    Context,
    HttpCall,
    HttpReply,
    ImageRequest,
    MediaEvents,
    require_options,
    require_supported,
)
from asyncllm.errors import ConfigError, ContentFilterError, InvalidRequestError, ResponseValidationError
from asyncllm.events import Event, Events, UsageReport
from asyncllm.exchange import Exchange, raise_embedded
from asyncllm.media import Image, ImageFrame, Images
from asyncllm.media_http import as_events, decode_document
from asyncllm.trusted import Trusted, trusted_hosts
from asyncllm.types import ModelInfo, Request, Timeouts, Usage
from asyncllm_gemini.video import Films

__all__ = ["Gemini"]

_HOST = "generativelanguage.googleapis.com"
_PROBE = Timeouts(connect_s=5, byte_idle_s=10)
_OPTIONS = frozenset({"aspect_ratio", "quality", "partial_images"})
_SIZES = {"low": "1K", "medium": "2K", "high": "4K", "1K": "1K", "2K": "2K", "4K": "4K"}
"""What a quality means here: the length of the longer side."""


class _Wire(Struct, rename="camel"):
    """Names are in camel case."""


class _Blob(_Wire):
    data: bytes
    mime_type: str | None = None


class _Part(_Wire):
    inline_data: _Blob | None = None
    thought: bool = False


class _Content(_Wire):
    parts: list[_Part] | None = None


class _Candidate(_Wire):
    content: _Content | None = None
    finish_reason: str | None = None


class _Feedback(_Wire):
    block_reason: str | None = None


class _Counts(_Wire):
    prompt_token_count: int | None = None
    candidates_token_count: int | None = None
    thoughts_token_count: int | None = None
    cached_content_token_count: int | None = None


class _Reply(_Wire):
    candidates: list[_Candidate] | None = None
    prompt_feedback: _Feedback | None = None
    usage_metadata: _Counts | None = None
    model_version: str | None = None
    response_id: str | None = None


class _Model(_Wire):
    name: str
    input_token_limit: int | None = None


class _Models(_Wire):
    models: list[_Model] = []


class Gemini(Films):
    """One project at one address."""

    def __init__(self, config: Config, context: Context) -> None:
        config.check_options("api_version", "headers", "trusted_hosts")
        self._name = config.backend
        self._transport = context.transport
        url = config.url(context.env, "GOOGLE_GEMINI_BASE_URL", f"https://{_HOST}")
        version = config.option("api_version", str, "v1")
        if not version.isalnum():
            raise ConfigError("the option 'api_version' is v1 or v1beta", backend=config.backend, field="api_version")
        self._models = f"{url}/{version}/models"
        self._films = f"{url}/{version if 'api_version' in config.options else 'v1beta'}"
        self._trusted = Trusted(url, trusted_hosts(config))
        key = config.key(context.env, "GEMINI_API_KEY") or config.key(context.env, "GOOGLE_API_KEY")
        if key is None and urlsplit(url).hostname == _HOST:
            key = config.require_key(context.env, "GEMINI_API_KEY")
        self._headers = config.headers(
            {"Content-Type": "application/json", **({} if key is None else {"x-goog-api-key": key.reveal()})}
        )

    def open(self, request: Request, /) -> AbstractAsyncContextManager[Events]:
        """Refuse: there is no chat here. Raises `UnsupportedError`."""
        require_supported(request, frozenset(), backend=self._name)
        raise AssertionError  # each request uses chat or complete

    async def generate_image(self, request: ImageRequest, /) -> Images:
        """See `asyncllm.backend.ImageMaker`. `quality` is `low`, `medium` or `high`, or `1K`, `2K` or `4K`."""
        call = self._call(request)
        async with self._transport.open(call) as reply:
            return _read(call, reply, await reply.read())

    async def edit_image(self, request: ImageRequest, /) -> Images:
        """See `asyncllm.backend.ImageEditor`: the pictures go before the prompt."""
        return await self.generate_image(request)

    def open_image(self, request: ImageRequest, /) -> MediaEvents:
        """See `asyncllm.backend.ImageMaker`. Nothing is shown on the way: each frame is a final one."""
        return cast("MediaEvents", Exchange(self._transport, self._call(request), whole=_frames, stream=_no_stream))

    async def list_models(self) -> Sequence[ModelInfo]:
        """What `GET /v1/models` lists."""
        call = HttpCall(method="GET", url=f"{self._models}?pageSize=1000", headers=self._headers, timeouts=_PROBE)
        async with self._transport.open(call) as reply:
            told = decode_document(call, reply, await reply.read(), _Models, "a model list")
        return [
            ModelInfo(id=model.name.removeprefix("models/"), context_tokens=model.input_token_limit)
            for model in told.models
        ]

    async def is_alive(self) -> bool:
        """Whether the models can be listed: a service that is up, and a key that it takes."""
        return bool(await self.list_models())

    async def aclose(self) -> None:
        """Nothing is held here: connections belong to the transport."""

    def _call(self, request: ImageRequest) -> HttpCall:
        require_options(request, _OPTIONS, backend=self._name)
        picture: dict[str, Any] = {}
        if request.aspect_ratio is not UNSET:
            picture["aspectRatio"] = request.aspect_ratio
        if isinstance(request.quality, str):
            if request.quality not in _SIZES:
                raise InvalidRequestError(f"quality is one of {', '.join(_SIZES)}", field="quality")
            picture["imageSize"] = _SIZES[request.quality]
        parts: list[dict[str, Any]] = [
            {"inlineData": {"mimeType": file.media_type, "data": base64.b64encode(file.data).decode()}}
            for file in request.images
        ]
        parts.append({"text": request.prompt})
        config: dict[str, Any] = {"responseModalities": ["IMAGE"]} | ({"imageConfig": picture} if picture else {})
        extra = dict(request.extra)
        if isinstance(extra.get("generationConfig"), dict):  # which must not cost our own part of it
            merged: dict[str, Any] = config | cast("dict[str, Any]", extra["generationConfig"])
            if picture and isinstance(merged["imageConfig"], dict):
                merged["imageConfig"] = picture | cast("dict[str, Any]", merged["imageConfig"])
            extra["generationConfig"] = merged
        wire = {"contents": [{"role": "user", "parts": parts}], "generationConfig": config} | extra
        try:
            body = msgspec.json.encode(wire)
        except (TypeError, UnicodeEncodeError) as error:
            raise InvalidRequestError(f"an option is not JSON: {type(error).__name__}", field="extra") from None
        model = quote(request.model.removeprefix("models/"), safe="")
        return HttpCall(
            url=f"{self._models}/{model}:generateContent",
            body=body,
            headers=self._headers,
            timeouts=request.timeouts,
        )


def _read(call: HttpCall, reply: HttpReply, body: bytes) -> Images:
    """The pictures of a reply. Raises what it says where there are none."""
    wire = decode_document(call, reply, body, _Reply, "a reply with pictures")
    parts = [part for one in wire.candidates or () if one.content for part in one.content.parts or ()]
    made = tuple(
        Image(data=part.inline_data.data, media_type=part.inline_data.mime_type)
        for part in parts
        if part.inline_data is not None and part.inline_data.data and not part.thought
    )
    if not made:
        raise_embedded(call, body)
        raise _no_pictures(wire, reply)
    counts = wire.usage_metadata or _Counts()
    written, thought = counts.candidates_token_count, counts.thoughts_token_count
    return Images(
        images=made,
        model=wire.model_version,
        request_id=wire.response_id,
        usage=Usage(
            input_tokens=counts.prompt_token_count,
            output_tokens=None if written is None else written + (thought or 0),
            cached_tokens=counts.cached_content_token_count,
            reasoning_tokens=thought,
            images=len(made),
        ),
    )


def _no_pictures(wire: _Reply, reply: HttpReply) -> ContentFilterError | ResponseValidationError:
    """The error for a reply without pictures: a filter's, if it names one."""
    reasons = [one.finish_reason for one in wire.candidates or () if one.finish_reason not in (None, "STOP")]
    blocked = wire.prompt_feedback.block_reason if wire.prompt_feedback is not None else None
    word = (blocked or next(iter(reasons), None) or "")[:60]
    if blocked or any(mark in word for mark in ("SAFETY", "PROHIBITED", "BLOCKLIST", "RECITATION", "SPII")):
        return ContentFilterError(
            f"a content filter kept the picture back: {word}", status=reply.status, code=word, maybe_billed=True
        )
    return ResponseValidationError(
        f"the reply has no pictures{f': {word}' if word else ''}", status=reply.status, code=word or None
    )


def _frames(call: HttpCall, reply: HttpReply, body: bytes) -> list[Event]:
    made = _read(call, reply, body)
    frames = [ImageFrame(image=image, index=index, is_final=True) for index, image in enumerate(made)]
    return [*as_events(*frames), UsageReport(made.usage)]


def _no_stream(_: HttpCall, __: HttpReply, ___: str) -> None:
    """Nothing here is asked for as a stream."""
