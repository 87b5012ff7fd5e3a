"""Sound, pictures, moderation and ranking over OpenAI's HTTP API, for whoever speaks it.

Sources: https://platform.openai.com/docs/api-reference/audio, /images and /moderations; for `/rerank`, which OpenAI has
not, https://docs.jina.ai and https://docs.vllm.ai (the reranking API that Cohere's was the model for).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import msgspec
from msgspec import UNSET

from asyncllm.backend import (
    HttpCall,
    HttpReply,
    ImageRequest,
    MediaEvents,
    MediaRequest,
    ModerateRequest,
    RerankRequest,
    SpeechRequest,
    TranscribeRequest,
    Transport,
    require_options,
)
from asyncllm.errors import InvalidRequestError, UnsupportedError
from asyncllm.media import Images, MediaFile, Moderation, Ranking, Speech, Transcript
from asyncllm.media_http import open_sound, read_sound
from asyncllm.multipart import encode_form, option_fields
from asyncllm.types import TextPart, Usage
from asyncllm_openai.media_replies import (
    open_image,
    read_images,
    read_moderation,
    read_ranking,
    read_transcript,
    sound_type,
)

__all__ = ["OpenAIMedia"]

_JSON = "application/json"
_MB = 2**20
_AUDIO_BYTES = 25 * _MB
_IMAGE_BYTES = 50 * _MB
_IMAGES = 16
_SPOKEN = 4096
_FORMATS = ("mp3", "opus", "aac", "flac", "wav", "pcm")
_PICTURE_FORMATS = ("png", "webp", "jpeg", "gif", "svg")
_QUALITIES = ("auto", "low", "medium", "high", "xhigh", "max", "standard", "hd")

_SPEECH = frozenset({"voice", "format", "speed", "instructions"})
_TRANSCRIBE = frozenset({"language", "prompt", "temperature", "timestamps", "verbose"})
_OF_FORMS = frozenset({"prompt", "verbose"})
_IMAGE = frozenset(
    {"n", "size", "aspect_ratio", "quality", "background", "format", "compression", "response_format", "partial_images"}
)
_WIRE = {"format": "output_format", "compression": "output_compression"}


class OpenAIMedia(ABC):
    """The methods of `OpenAI` for calls beside chat, complete and embed."""

    _name: str
    _own: bool
    """Whether this is OpenAI's own service, whose limits are known."""
    _transport: Transport
    _bare_transcripts: bool
    """Whether a transcript is of one form, without a prompt, and lists in its request have no brackets."""

    @abstractmethod
    def _media_call(self, path: str, request: MediaRequest, body: bytes, kind: str, *, stream: bool) -> HttpCall:
        """`body`, of the media type `kind`, on its way to `path` of the API."""

    async def transcribe(self, request: TranscribeRequest, /) -> Transcript:
        """See `asyncllm.backend.Transcriber`. A model is asked for all that it tells: a `whisper` tells most."""
        bare = self._bare_transcripts
        require_options(request, _TRANSCRIBE - _OF_FORMS if bare else _TRANSCRIBE, backend=self._name)
        form = None if bare else self._transcription_format(request)
        if self._own:
            self._bound(request.audio, "audio", _AUDIO_BYTES)
        fields: list[tuple[str, str | MediaFile]] = [("file", request.audio), ("model", request.model)]
        for name in ("language", "prompt", "temperature"):
            if (value := getattr(request, name)) is not UNSET:
                fields += option_fields(name, value)
        if form is not None:
            fields.append(("response_format", form))
        if request.timestamps is not UNSET:
            fields += option_fields("timestamp_granularities", request.timestamps)
        kind, form_data = _form(fields, request, bare=bare)
        call, reply, body = await self._ask("/audio/transcriptions", request, kind, form_data)
        return read_transcript(call, reply, body, duration_s=request.duration_s)

    async def speak(self, request: SpeechRequest, /) -> Speech:
        """See `asyncllm.backend.SpeechMaker`."""
        call = self._speech_call(request)
        async with self._transport.open(call) as reply:
            return read_sound(call, reply, await reply.read(), usage=_spoken(request), media_type=sound_type(request))

    def open_speech(self, request: SpeechRequest, /) -> MediaEvents:
        """See `asyncllm.backend.SpeechMaker`."""
        call = self._speech_call(request)
        return open_sound(self._transport, call, usage=_spoken(request), media_type=sound_type(request))

    async def generate_image(self, request: ImageRequest, /) -> Images:
        """See `asyncllm.backend.ImageMaker`."""
        return await self._pictures(request)

    async def edit_image(self, request: ImageRequest, /) -> Images:
        """See `asyncllm.backend.ImageEditor`."""
        return await self._pictures(request)

    def open_image(self, request: ImageRequest, /) -> MediaEvents:
        """See `asyncllm.backend.ImageMaker`."""
        return open_image(self._transport, self._image_call(request), request)

    async def moderate(self, request: ModerateRequest, /) -> Moderation:
        """See `asyncllm.backend.Moderator`."""
        content: Any = list(request.inputs)
        if request.parts:
            content = [
                {"type": "text", "text": part.text}
                if isinstance(part, TextPart)
                else {"type": "image_url", "image_url": {"url": part.as_url}}
                for part in request.parts
            ]
        wire: dict[str, Any] = {"input": content} | ({"model": request.model} if request.model else {})
        call, reply, body = await self._ask("/moderations", request, _JSON, _json(wire, request))
        return read_moderation(call, reply, body, count=len(request.inputs) or 1)

    async def rerank(self, request: RerankRequest, /) -> Ranking:
        """See `asyncllm.backend.Reranker`. OpenAI itself does not rank."""
        if self._own:
            raise UnsupportedError("OpenAI has no rerank", backend=self._name, model=request.model, field="rerank")
        wire: dict[str, Any] = {"model": request.model, "query": request.query, "documents": request.documents}
        if request.top_n is not UNSET:
            wire["top_n"] = request.top_n
        call, reply, body = await self._ask("/rerank", request, _JSON, _json(wire, request))
        return read_ranking(call, reply, body, count=len(request.documents))

    async def _ask(self, path: str, request: MediaRequest, kind: str, body: bytes) -> tuple[HttpCall, HttpReply, bytes]:
        """The reply to a call that is read whole."""
        call = self._media_call(path, request, body, kind, stream=False)
        async with self._transport.open(call) as reply:
            return call, reply, await reply.read()

    def _transcription_format(self, request: TranscribeRequest) -> str:
        """`verbose_json`, or a plainer form for models of OpenAI's that know no other: those that are no whisper."""
        is_whisper = "whisper" in request.model.lower()
        wants_times = request.timestamps is not UNSET
        wants_more = request.verbose if isinstance(request.verbose, bool) else is_whisper or wants_times
        if wants_times and not wants_more:
            raise InvalidRequestError(
                "timestamps come with the verbose form: leave out verbose=False", field="timestamps"
            )
        if not wants_more:
            return "json"
        if is_whisper or not self._own:
            return "verbose_json"
        if request.model.endswith("-diarize") and not wants_times:
            return "diarized_json"
        field = "timestamps" if wants_times else "verbose"
        raise UnsupportedError(
            f"{request.model} has no {field}: of OpenAI's models only whisper-1 tells times",
            backend=self._name,
            model=request.model,
            field=field,
        )

    def _speech_call(self, request: SpeechRequest) -> HttpCall:
        if request.mode != "speech":
            raise UnsupportedError(
                f"the {self._name!r} backend makes speech and no {request.mode}",
                backend=self._name,
                model=request.model,
                field="mode",
            )
        require_options(request, _SPEECH, backend=self._name)
        if self._own:
            if request.voice is UNSET:
                raise InvalidRequestError("OpenAI needs to know the voice, as in voice='alloy'", field="voice")
            if request.characters > _SPOKEN:
                raise InvalidRequestError(
                    f"text has {request.characters} characters and OpenAI speaks {_SPOKEN} at the most", field="text"
                )
            if isinstance(request.speed, float | int) and not 0.25 <= request.speed <= 4:
                raise InvalidRequestError("speed is a number from 0.25 to 4", field="speed")
            _within(request, "format", _FORMATS)
        wire: dict[str, Any] = {"input": request.text, "model": request.model}
        for name in ("voice", "instructions", "speed"):
            if (value := getattr(request, name)) is not UNSET:
                wire[name] = value
        if request.format is not UNSET:
            wire["response_format"] = request.format
        return self._media_call("/audio/speech", request, _json(wire, request), _JSON, stream=request.stream)

    async def _pictures(self, request: ImageRequest) -> Images:
        call = self._image_call(request)
        async with self._transport.open(call) as reply:
            return read_images(call, reply, await reply.read(), request)

    def _image_call(self, request: ImageRequest) -> HttpCall:
        """A call for pictures: a form where there are some to change."""
        supported = _IMAGE | {"mask"} if request.images else _IMAGE
        require_options(request, supported, backend=self._name)
        if self._own:
            self._check_image(request)
        wire: dict[str, Any] = {"prompt": request.prompt, "model": request.model}
        if request.aspect_ratio is not UNSET:
            wire["size"] = _nearest_size(request.aspect_ratio)
        for name in ("n", "size", "quality", "background", "format", "compression", "response_format"):
            if (value := getattr(request, name)) is not UNSET:
                wire[_WIRE.get(name, name)] = value
        if request.stream:
            wire["stream"] = True
            if request.partial_images is not UNSET:
                wire["partial_images"] = request.partial_images
        if not request.images:
            body = _json(wire, request)
            return self._media_call("/images/generations", request, body, _JSON, stream=request.stream)
        name = "image" if len(request.images) == 1 else "image[]"
        fields: list[tuple[str, str | MediaFile]] = [(name, image) for image in request.images]
        if isinstance(request.mask, MediaFile):
            fields.append(("mask", request.mask))
        for option, value in wire.items():
            fields += option_fields(option, value)
        kind, body = _form(fields, request)
        return self._media_call("/images/edits", request, body, kind, stream=request.stream)

    def _check_image(self, request: ImageRequest) -> None:
        """Raise `InvalidRequestError` for what OpenAI is known to refuse."""
        if isinstance(request.n, int) and request.n > 10:
            raise InvalidRequestError("n is a whole number from 1 to 10", field="n")
        if isinstance(request.partial_images, int) and request.partial_images > 3:
            raise InvalidRequestError("partial_images is a whole number from 0 to 3", field="partial_images")
        _within(request, "quality", _QUALITIES)
        _within(request, "format", _PICTURE_FORMATS)
        if len(request.images) > _IMAGES:
            raise InvalidRequestError(
                f"images has {len(request.images)} pictures and OpenAI takes {_IMAGES} at the most", field="images"
            )
        for image in request.images:
            self._bound(image, "images", _IMAGE_BYTES)
        if isinstance(request.mask, MediaFile):
            self._bound(request.mask, "mask", _IMAGE_BYTES)

    def _bound(self, file: MediaFile, field: str, limit: int) -> None:
        if len(file.data) > limit:
            raise InvalidRequestError(
                f"{field} is a file of {len(file.data)} bytes ({file.media_type}) and OpenAI takes {limit} at the most",
                field=field,
            )


def _spoken(request: SpeechRequest) -> Usage:
    return Usage(characters=request.characters)


def _nearest_size(ratio: str) -> str:
    """The one of the three sizes that every model of OpenAI's makes which comes nearest to `WIDTH:HEIGHT`."""
    width, _, height = ratio.partition(":")
    share = int(width) / int(height)
    if 0.8 < share < 1.25:
        return "1024x1024"
    return "1536x1024" if share > 1 else "1024x1536"


def _within(request: MediaRequest, name: str, words: tuple[str, ...]) -> None:
    value = getattr(request, name)
    if value is not UNSET and value not in words:
        raise InvalidRequestError(f"{name} is one of {', '.join(words)}", field=name)


def _json(wire: dict[str, Any], request: MediaRequest) -> bytes:
    try:
        return msgspec.json.encode(wire | request.extra)
    except (TypeError, UnicodeEncodeError) as error:
        raise InvalidRequestError(f"an option is not JSON: {type(error).__name__}", field="extra") from None


def _form(fields: list[tuple[str, str | MediaFile]], request: MediaRequest, *, bare: bool = False) -> tuple[str, bytes]:
    """A form, where what is in `extra` stands in place of a field of that name; `bare` names lists without `[]`."""
    kept = [field for field in fields if field[0].partition("[")[0] not in request.extra]
    for name, value in request.extra.items():
        kept += option_fields(name, value)
    return encode_form([(name.removesuffix("[]"), value) for name, value in kept] if bare else kept)
