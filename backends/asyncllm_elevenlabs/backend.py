"""The backend behind `asyncllm_elevenlabs.connect`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, cast
from urllib.parse import quote, urlencode, urlsplit

import msgspec
from msgspec import UNSET, Struct

from asyncllm.backend import (
    Config,
    Context,
    HttpCall,
    IsolateRequest,
    MediaEvents,
    MediaRequest,
    SpeechRequest,
    TranscribeRequest,
    require_options,
    require_supported,
)
from asyncllm.errors import InvalidRequestError, ResponseValidationError, UnsupportedError
from asyncllm.events import Events
from asyncllm.exchange import raise_embedded
from asyncllm.media import MediaFile, Speech, Transcript, Word
from asyncllm.media_http import decode_document, open_sound, read_sound
from asyncllm.multipart import encode_form, option_fields
from asyncllm.types import ModelInfo, Request, Timeouts, Usage
from asyncllm_elevenlabs.dubbing import Dubbing

__all__ = ["ElevenLabs"]

_HOST = "api.elevenlabs.io"
_PROBE = Timeouts(connect_s=5, byte_idle_s=10)
_FORMAT = re.compile(r"(mp3|opus|pcm|wav|ulaw|alaw)_[0-9]{4,5}(_[0-9]{2,3})?")
_TYPES = {"mp3": "audio/mpeg", "opus": "audio/ogg", "pcm": "audio/pcm", "wav": "audio/wav",
          "ulaw": "audio/basic", "alaw": "audio/x-alaw-basic"}  # fmt: skip

# By mode: what a request may say, and within which seconds the sound must last.
_OPTIONS = {
    "speech": frozenset({"voice", "format", "speed", "language"}),
    "dialogue": frozenset({"format", "language"}),
    "music": frozenset({"format", "duration_s"}),
    "effects": frozenset({"format", "duration_s"}),
}
_LASTING = {"music": (3, 600), "effects": (0.5, 30)}
_TRANSCRIBE = frozenset({"language", "temperature", "timestamps"})


class _Word(Struct):
    text: str
    type: str = "word"
    start: float | None = None
    end: float | None = None
    speaker_id: str | None = None


class _Transcript(Struct):
    """One transcript, or with `use_multi_channel` one a channel."""

    text: str | None = None
    language_code: str | None = None
    audio_duration_secs: float | None = None
    words: list[_Word] = []
    transcripts: list[_Transcript] | None = None


class _Model(Struct):
    model_id: str


class ElevenLabs(Dubbing):
    """One account at one address."""

    def __init__(self, config: Config, context: Context) -> None:
        config.check_options("headers")
        self._name = config.backend
        self._transport = context.transport
        self._url = config.url(context.env, "ELEVENLABS_BASE_URL", f"https://{_HOST}")
        find_key = config.require_key if urlsplit(self._url).hostname == _HOST else config.key
        key = find_key(context.env, "ELEVENLABS_API_KEY")
        self._headers = config.headers({"xi-api-key": key.reveal()} if key is not None else {})

    def open(self, request: Request, /) -> AbstractAsyncContextManager[Events]:
        """Refuse: there is no chat here. Raises `UnsupportedError`."""
        require_supported(request, frozenset(), backend=self._name)
        raise AssertionError  # each request uses chat or complete

    async def speak(self, request: SpeechRequest, /) -> Speech:
        """See `asyncllm.backend.SpeechMaker`: all four modes."""
        call = self._sound_call(request)
        async with self._transport.open(call) as reply:
            return read_sound(call, reply, await reply.read(), usage=_usage(request), media_type=_type(request))

    def open_speech(self, request: SpeechRequest, /) -> MediaEvents:
        """See `asyncllm.backend.SpeechMaker`."""
        return open_sound(self._transport, self._sound_call(request), usage=_usage(request), media_type=_type(request))

    async def isolate(self, request: IsolateRequest, /) -> Speech:
        """See `asyncllm.backend.Isolator`."""
        call = self._form_call("/v1/audio-isolation", [("audio", request.audio)], request)
        async with self._transport.open(call) as reply:
            usage = Usage(audio_s=request.duration_s)
            return read_sound(call, reply, await reply.read(), usage=usage, media_type="audio/mpeg")

    async def transcribe(self, request: TranscribeRequest, /) -> Transcript:
        """See `asyncllm.backend.Transcriber`. Words always come with their times."""
        require_options(request, _TRANSCRIBE, backend=self._name)
        fields: list[tuple[str, str | MediaFile]] = [("file", request.audio), ("model_id", request.model)]
        if request.language is not UNSET:
            fields.append(("language_code", request.language))
        if request.temperature is not UNSET:
            fields += option_fields("temperature", request.temperature)
        if request.timestamps is not UNSET:
            if request.timestamps != ("word",):
                raise UnsupportedError(
                    "ElevenLabs tells the times of words and of nothing else: timestamps=['word']",
                    backend=self._name,
                    model=request.model,
                    field="timestamps",
                )
            fields.append(("timestamps_granularity", "word"))
        call = self._form_call("/v1/speech-to-text", fields, request)
        async with self._transport.open(call) as reply:
            body = await reply.read()
            wire = decode_document(call, reply, body, _Transcript, "a transcript")
            if wire.text is None and wire.transcripts is None:
                raise_embedded(call, body)
                raise ResponseValidationError("the reply has no transcript", status=reply.status, body=body[:65536])
            return _transcript(wire, body, request, reply.headers.get("request-id"))

    async def list_models(self) -> Sequence[ModelInfo]:
        """What `GET /v1/models` lists."""
        call = HttpCall(method="GET", url=f"{self._url}/v1/models", headers=self._headers, timeouts=_PROBE)
        async with self._transport.open(call) as reply:
            models = decode_document(call, reply, await reply.read(), list[_Model], "a model list")
        return [ModelInfo(id=model.model_id) for model in models]

    async def is_alive(self) -> bool:
        """Whether the models can be listed: a service that is up, and a key that it takes."""
        return bool(await self.list_models())

    async def aclose(self) -> None:
        """Nothing is held here: connections belong to the transport."""

    def _sound_call(self, request: SpeechRequest) -> HttpCall:
        require_options(request, _OPTIONS[request.mode], backend=self._name)
        path, wire = _write(request)
        if request.stream and request.mode != "effects":  # which come as they are made in any case
            path += "/stream"
        query = ""
        if isinstance(request.format, str):
            if not _FORMAT.fullmatch(request.format) and not (request.mode == "music" and request.format == "auto"):
                raise InvalidRequestError(
                    "format is codec_rate or codec_rate_kbit with one of mp3, opus, pcm, wav, ulaw, alaw, "
                    "as in mp3_44100_128",
                    field="format",
                )
            query = f"?{urlencode({'output_format': request.format})}"
        return HttpCall(
            url=f"{self._url}{path}{query}",
            body=_json(wire, request),
            headers={**self._headers, "Content-Type": "application/json"},
            stream=request.stream,
            timeouts=request.timeouts,
        )

    def _form_call(self, path: str, fields: list[tuple[str, str | MediaFile]], request: MediaRequest) -> HttpCall:
        kept = [field for field in fields if field[0] not in request.extra]
        for name, value in request.extra.items():
            kept += _option_fields(name, value)
        kind, body = encode_form(kept)
        return HttpCall(
            url=self._url + path,
            body=body,
            headers={**self._headers, "Content-Type": kind},
            timeouts=request.timeouts,
        )


def _write(request: SpeechRequest) -> tuple[str, dict[str, Any]]:
    """Path and body of a call for sound."""
    low, high = _LASTING.get(request.mode, (0, 0))
    lasts_s = request.duration_s
    if isinstance(lasts_s, int | float) and not low <= lasts_s <= high:
        raise InvalidRequestError(f"duration_s of {request.mode} is from {low} to {high} seconds", field="duration_s")
    wire: dict[str, Any] = {"model_id": request.model}
    if request.language is not UNSET:
        wire["language_code"] = request.language
    if request.mode == "dialogue":
        wire["inputs"] = [{"text": line.text, "voice_id": line.voice} for line in request.lines]
        return "/v1/text-to-dialogue", wire
    if request.mode == "music":
        wire["prompt"] = request.text
        if isinstance(lasts_s, int | float):
            wire["music_length_ms"] = round(lasts_s * 1000)
        return "/v1/music", wire
    wire["text"] = request.text
    if request.mode == "effects":
        if lasts_s is not UNSET:
            wire["duration_seconds"] = lasts_s
        return "/v1/sound-generation", wire
    if not isinstance(request.voice, str):
        raise InvalidRequestError("ElevenLabs needs to know the voice, by its id", field="voice")
    if request.speed is not UNSET:
        wire["voice_settings"] = {"speed": request.speed}
    return f"/v1/text-to-speech/{quote(request.voice, safe='')}", wire


def _json(wire: dict[str, Any], request: SpeechRequest) -> bytes:
    extra = dict(request.extra)
    settings = extra.get("voice_settings")
    if "voice_settings" in wire and isinstance(settings, dict):
        # `speed` is one of several settings, and must not cost the others.
        extra["voice_settings"] = wire["voice_settings"] | settings
    try:
        return msgspec.json.encode(wire | extra)
    except (TypeError, UnicodeEncodeError) as error:
        raise InvalidRequestError(f"an option is not JSON: {type(error).__name__}", field="extra") from None


def _option_fields(name: str, value: Any) -> list[tuple[str, str]]:
    """An option as this service reads it in a form: the items of a list under one name, an object as JSON."""
    if isinstance(value, dict):
        return [(name, msgspec.json.encode(cast("dict[str, Any]", value)).decode())]
    items: Sequence[Any] = cast("Sequence[Any]", value) if isinstance(value, list | tuple) else [value]
    return [field for item in items for field in option_fields(name, item)]


def _usage(request: SpeechRequest) -> Usage:
    """Speech is billed by its characters, music and effects by their length."""
    if request.mode in ("speech", "dialogue"):
        return Usage(characters=request.characters)
    return Usage(audio_s=request.duration_s) if isinstance(request.duration_s, int | float) else Usage()


def _type(request: SpeechRequest) -> str | None:
    codec = request.format.partition("_")[0] if isinstance(request.format, str) else "mp3"
    return _TYPES.get(codec)


def _transcript(wire: _Transcript, body: bytes, request: TranscribeRequest, request_id: str | None) -> Transcript:
    channels = [wire] if wire.transcripts is None else wire.transcripts
    told_s = max((one.audio_duration_secs for one in channels if one.audio_duration_secs is not None), default=None)
    lasts_s = request.duration_s if told_s is None else told_s
    return Transcript(
        text="\n".join(one.text or "" for one in channels),
        language=next((one.language_code for one in channels if one.language_code), None),
        duration_s=lasts_s,
        words=tuple(
            Word(text=word.text, start_s=word.start, end_s=word.end, speaker=word.speaker_id)
            for one in channels
            for word in one.words
            if word.type != "spacing"
        ),
        usage=Usage(audio_s=lasts_s),
        request_id=request_id,
        body=body,
    )
