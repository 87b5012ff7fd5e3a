"""`POST /v1/audio/speech` and `/v1/audio/transcriptions`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Annotated, Any, get_args

from msgspec import Meta, Struct

from asyncllm.calls import Model
from asyncllm.client import Client
from asyncllm.dialect.served import read_document
from asyncllm.errors import InvalidRequestError, UnsupportedError
from asyncllm.estimate import estimated_texts
from asyncllm.media import MediaFile, TimestampUnit, Transcript
from asyncllm.server.described import Described
from asyncllm.server.endpoint import Endpoint
from asyncllm.server.http.bodies import read_body
from asyncllm.server.http.bounds import Bytes, Filled, No, words
from asyncllm.server.http.departure import Watched
from asyncllm.server.http.forms import read_form
from asyncllm.server.incoming import Incoming
from asyncllm.server.openai import objects
from asyncllm.server.openai.transcripts import write_transcript
from asyncllm.server.openai.uploads import media_file, read_texts
from asyncllm.server.openai.wire import given, passed, read_fields, said_as
from asyncllm.server.replies import send_json, send_text
from asyncllm.server.streams import send_pieces

__all__ = ["Speech", "Transcriptions"]

_OCTETS = "application/octet-stream"
_FORMS = ("json", "text", "verbose_json", "srt", "vtt")
_NAMES = {"verbose": "response_format", "timestamps": "timestamp_granularities"}
_UNITS = get_args(TimestampUnit)


class _Voice(Struct):
    id: Filled


class _Speech(Struct):
    input: Filled
    model: str | None = None
    voice: Filled | _Voice | None = None
    response_format: Filled | None = None
    speed: Annotated[float, Meta(gt=0)] | None = None
    instructions: Filled | None = None
    stream_format: Annotated[str, words("audio")] | None = None


class _Transcription(Struct, kw_only=True):
    model: str | None = None
    language: str | None = None
    prompt: str | None = None
    response_format: Annotated[str, words(*_FORMS)] = "json"
    temperature: Annotated[float, Meta(ge=0)] | None = None
    timestamp_granularities: list[Annotated[str, words(*_UNITS)]] = []
    """The name with `[]` behind it is another for it."""
    stream: No | None = None


class _TranscriptionForm(_Transcription, kw_only=True):
    file: Bytes


class Speech(Endpoint):
    """A text as sound, whose bytes are sent as they come."""

    described = Described(body=_Speech, reply=Bytes, reply_type="audio/*", also=(_OCTETS,), absent="model")

    async def answer(self, incoming: Incoming) -> None:
        """See `Endpoint`."""
        settings = self.service.settings
        document = read_document(await read_body(incoming, settings))
        asked = read_fields(document, _Speech)
        if asked.stream_format not in (None, "audio"):
            raise UnsupportedError("stream_format: sound is sent as it is: leave it out", field="stream_format")
        name, model, client = self.find(incoming, asked.model or "")
        options = given(
            voice=asked.voice.id if isinstance(asked.voice, _Voice) else asked.voice,
            format=asked.response_format,
            speed=asked.speed,
            instructions=asked.instructions,
            extra=passed(document, _Speech, settings),
        )
        async with (
            self.admit(incoming, name, estimated_texts((asked.input,))) as ticket,
            AsyncExitStack() as opened,
            Watched(incoming.receive) as watched,
        ):
            with said_as(name, {"text": "input", "format": "response_format"}):
                sound = client.stream_speech(asked.input, model=model, **options)
                await opened.enter_async_context(sound)
            ticket.begin()
            pieces = aiter(sound)
            first = await anext(pieces, b"")  # with it, what the whole is called
            try:
                await send_pieces(
                    incoming.send,
                    _after(first, pieces),
                    watched,
                    dog=self.service.dog,
                    settings=settings,
                    media_type=sound.media_type or _OCTETS,
                )
            finally:
                ticket.count(sound)


async def _after(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in rest:
        yield piece


class Transcriptions(Endpoint):
    """What is said in a recording."""

    described = Described(
        body=_TranscriptionForm,
        is_form=True,
        max_bytes="max_media_bytes",
        reply=objects.Transcript,
        also=("text/plain",),
        absent="model",
    )

    async def answer(self, incoming: Incoming) -> None:
        """See `Endpoint`."""
        settings = self.service.settings
        async with read_form(incoming, settings, max_file_bytes=settings.max_media_bytes) as form:
            audio = await media_file(form.file("file"), "file", "audio")
            asked = read_texts(form, _Transcription)
            options = _options(asked)
            name, model, client = self.find(incoming, asked.model or "")
        is_timed = asked.response_format not in ("json", "text")
        async with self.admit(incoming, name, estimated_texts((options.get("prompt", ""),))) as ticket:
            with said_as(name, _NAMES):
                async with Watched(incoming.receive):
                    found = await _transcribe(client, audio, model, options, is_timed=is_timed)
            ticket.count(found)
        document = write_transcript(found, asked.response_format, model=name)
        if isinstance(document, str):
            await send_text(incoming.send, document)
        else:
            await send_json(incoming.send, document)


async def _transcribe(
    client: Client, audio: MediaFile, model: Model, options: dict[str, Any], *, is_timed: bool
) -> Transcript:
    """The transcript, with times where they are needed: services differ in how they are to be asked for them."""
    transcribe = client.transcribe
    if not is_timed:
        return await transcribe(audio, model=model, **options)
    try:
        return await transcribe(audio, model=model, verbose=True, **options)
    except UnsupportedError as error:  # which is raised before anything is sent
        if error.field != "verbose":
            raise
        lacking = error
    for units in [options["timestamps"]] if "timestamps" in options else [["segment"], ["word"]]:
        timed: dict[str, Any] = {**options, "timestamps": units}
        try:
            return await transcribe(audio, model=model, **timed)
        except UnsupportedError:
            continue
    raise lacking


def _options(asked: _Transcription) -> dict[str, Any]:
    if asked.stream:
        raise UnsupportedError("stream: a transcript is given whole here; leave it out", field="stream")
    if asked.response_format not in _FORMS:
        raise InvalidRequestError(f"response_format is one of {', '.join(_FORMS)}", field="response_format")
    units = asked.timestamp_granularities
    if any(unit not in _UNITS for unit in units):
        field = "timestamp_granularities"
        raise InvalidRequestError(f"{field} are {' and '.join(_UNITS)}", field=field)
    options: dict[str, Any] = given(
        language=asked.language, prompt=asked.prompt, temperature=asked.temperature, timestamps=units or None
    )
    return options
