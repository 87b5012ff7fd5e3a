"""`POST /v1/audio/speech` and `/v1/audio/transcriptions`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any, Literal, get_args

from msgspec import Struct

from asyncllm.calls import Model
from asyncllm.client import Client
from asyncllm.dialect.served import read_document
from asyncllm.errors import InvalidRequestError, UnsupportedError
from asyncllm.estimate import estimated_texts
from asyncllm.media import MediaFile, TimestampUnit, Transcript
from asyncllm.server.bodies import read_body
from asyncllm.server.departure import Watched
from asyncllm.server.endpoint import Endpoint
from asyncllm.server.forms import Form, read_form
from asyncllm.server.incoming import Incoming
from asyncllm.server.openai.transcripts import write_transcript
from asyncllm.server.openai.uploads import media_file, number
from asyncllm.server.openai.wire import given, passed, read_fields, said_as
from asyncllm.server.replies import send_json, send_text
from asyncllm.server.streams import send_pieces

__all__ = ["Speech", "Transcriptions"]

_OCTETS = "application/octet-stream"
_FORMS = ("json", "text", "verbose_json", "srt", "vtt")
_NAMES = {"verbose": "response_format", "timestamps": "timestamp_granularities"}
_UNITS = get_args(TimestampUnit)


class _Voice(Struct):
    id: str


class _Speech(Struct):
    input: str
    model: str = ""
    voice: str | _Voice | None = None
    response_format: str | None = None
    speed: float | None = None
    instructions: str | None = None
    stream_format: Literal["audio", "sse"] = "audio"


class Speech(Endpoint):
    """A text as sound, whose bytes are sent as they come."""

    async def answer(self, incoming: Incoming) -> None:
        """See `Endpoint`."""
        settings = self.service.settings
        document = read_document(await read_body(incoming, settings))
        asked = read_fields(document, _Speech)
        if asked.stream_format == "sse":
            raise UnsupportedError("stream_format: sound is sent as it is: leave it out", field="stream_format")
        name, model, client = self.find(incoming, asked.model)
        options = given(
            voice=asked.voice.id if isinstance(asked.voice, _Voice) else asked.voice,
            format=asked.response_format,
            speed=asked.speed,
            instructions=asked.instructions,
            extra=passed(document, _Speech, settings),
        )
        async with self.admit(incoming, name, estimated_texts((asked.input,))) as ticket, AsyncExitStack() as opened:
            with said_as(name, {"text": "input", "format": "response_format"}):
                sound = client.stream_speech(asked.input, model=model, **options)
                async with Watched(incoming.receive):
                    await opened.enter_async_context(sound)
            ticket.begin()
            pieces = aiter(sound)
            first = await anext(pieces, b"")  # with it, what the whole is called
            try:
                await send_pieces(
                    incoming,
                    _after(first, pieces),
                    sound.media_type or _OCTETS,
                    dog=self.service.dog,
                    send_timeout_s=settings.send_timeout_s,
                )
            finally:
                ticket.count(sound)


async def _after(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in rest:
        yield piece


class Transcriptions(Endpoint):
    """What is said in a recording."""

    async def answer(self, incoming: Incoming) -> None:
        """See `Endpoint`."""
        settings = self.service.settings
        async with read_form(incoming, settings, max_file_bytes=settings.max_media_bytes) as form:
            audio = await media_file(form.file("file"), "file", "audio")
            options = _transcription(form)
            form_ = form.text("response_format") or "json"
            name, model, client = self.find(incoming, form.text("model") or "")
        if form_ not in _FORMS:
            told = f"response_format is one of {', '.join(_FORMS)}"
            raise InvalidRequestError(told, field="response_format")
        is_timed = form_ not in ("json", "text")
        async with self.admit(incoming, name, estimated_texts((options.get("prompt", ""),))) as ticket:
            with said_as(name, _NAMES):
                async with Watched(incoming.receive):
                    found = await _transcribe(client, audio, model, options, is_timed=is_timed)
            ticket.count(found)
        document = write_transcript(found, form_, model=name)
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


def _transcription(form: Form) -> dict[str, Any]:
    if form.text("stream") in ("true", "1"):
        raise UnsupportedError("stream: a transcript is given whole here; leave it out", field="stream")
    field = "timestamp_granularities"
    units = [*form.texts(field), *form.texts(f"{field}[]")]
    if any(unit not in _UNITS for unit in units):
        raise InvalidRequestError(f"{field} are {' and '.join(_UNITS)}", field=field)
    options: dict[str, Any] = given(
        language=form.text("language") or None,
        prompt=form.text("prompt") or None,
        temperature=number(form, "temperature"),
        timestamps=units or None,
    )
    return options
