"""What OpenAI's API answers to calls for sound, pictures, moderation and ranking, as our nouns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import msgspec
from msgspec import Struct

from asyncllm.backend import HttpCall, HttpReply, ImageRequest, MediaEvents, SpeechRequest, Transport
from asyncllm.errors import ResponseValidationError
from asyncllm.events import Event, UsageReport
from asyncllm.exchange import EVENT_STREAM, EventDecoder, Exchange, raise_embedded
from asyncllm.media import (
    Image,
    ImageFrame,
    Images,
    Moderation,
    Rank,
    Ranking,
    Segment,
    Transcript,
    Verdict,
    Word,
)
from asyncllm.media_http import as_events, decode_document
from asyncllm.rejection import broken_off
from asyncllm.sse import ServerSentEvent
from asyncllm.types import Usage

__all__ = [
    "open_image",
    "read_images",
    "read_moderation",
    "read_ranking",
    "read_transcript",
    "sound_type",
]

_AUDIO_TYPES = {
    "aac": "audio/aac", "flac": "audio/flac", "mp3": "audio/mpeg", "opus": "audio/ogg", "pcm": "audio/pcm",
    "wav": "audio/wav",
}  # fmt: skip
_PICTURE_TYPES = {"gif": "image/gif", "jpeg": "image/jpeg", "png": "image/png", "svg": "image/svg+xml",
                  "webp": "image/webp"}  # fmt: skip
_BODY_BYTES = 65536


class _InputDetails(Struct):
    audio_tokens: int | None = None
    cached_tokens: int | None = None


class _Usage(Struct):
    """Every form of it: by tokens, by seconds, Mistral's by both, and what rerankers count."""

    type: str | None = None
    seconds: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_audio_seconds: float | None = None
    total_tokens: int | None = None
    input_token_details: _InputDetails | None = None
    input_tokens_details: _InputDetails | None = None


class _Word(Struct):
    word: str
    start: float | None = None
    end: float | None = None


class _Segment(Struct):
    text: str
    start: float | None = None
    end: float | None = None
    speaker: str | None = None


class _Transcript(Struct):
    text: str
    language: str | None = None
    duration: float | None = None
    segments: list[_Segment] | None = None
    words: list[_Word] | None = None
    usage: _Usage | None = None


class _Image(Struct):
    b64_json: bytes | None = None
    url: str | None = None
    revised_prompt: str | None = None


class _Images(Struct):
    data: list[_Image]
    usage: _Usage | None = None
    size: str | None = None
    quality: str | None = None
    output_format: str | None = None


class _Frame(Struct):
    type: str
    b64_json: bytes | None = None
    partial_image_index: int = 0
    output_format: str | None = None
    usage: _Usage | None = None


class _Verdict(Struct):
    flagged: bool
    categories: dict[str, bool | None]
    category_scores: dict[str, float | None]


class _Moderation(Struct):
    results: list[_Verdict]
    model: str | None = None


class _Rank(Struct):
    index: int
    relevance_score: float


class _Units(Struct):
    search_units: float | None = None
    input_tokens: float | None = None


class _Meta(Struct):
    billed_units: _Units | None = None


class _Ranking(Struct):
    results: list[_Rank]
    model: str | None = None
    usage: _Usage | None = None
    meta: _Meta | None = None


def _request_id(headers: Mapping[str, str]) -> str | None:
    return headers.get("x-request-id") or None


def _usage(usage: _Usage | None) -> Usage:
    if usage is None:
        return Usage()
    details = usage.input_token_details or usage.input_tokens_details or _InputDetails()
    return Usage(
        input_tokens=usage.prompt_tokens if usage.input_tokens is None else usage.input_tokens,
        output_tokens=usage.completion_tokens if usage.output_tokens is None else usage.output_tokens,
        cached_tokens=details.cached_tokens,
        input_audio_tokens=details.audio_tokens,
        audio_s=usage.prompt_audio_seconds if usage.seconds is None else usage.seconds,
    )


def read_transcript(call: HttpCall, reply: HttpReply, body: bytes, *, duration_s: float | None) -> Transcript:
    """The reply to `POST /audio/transcriptions`, in its plain, its verbose or its diarized form.

    The recording lasts as long as the service says, or else as the caller does.
    """
    wire = decode_document(call, reply, body, _Transcript, "a transcript")
    usage = _usage(wire.usage)
    lasts_s = next((told for told in (wire.duration, usage.audio_s, duration_s) if told is not None), None)
    return Transcript(
        text=wire.text,
        language=wire.language or None,
        duration_s=lasts_s,
        segments=tuple(
            Segment(text=one.text, start_s=one.start, end_s=one.end, speaker=one.speaker) for one in wire.segments or ()
        ),
        words=tuple(Word(text=one.word, start_s=one.start, end_s=one.end) for one in wire.words or ()),
        usage=msgspec.structs.replace(usage, audio_s=lasts_s if usage.audio_s is None else usage.audio_s),
        request_id=_request_id(reply.headers),
        body=body,
    )


def sound_type(request: SpeechRequest) -> str | None:
    """The MIME type that goes with the format asked for."""
    return _AUDIO_TYPES.get(request.format) if isinstance(request.format, str) else None


def read_images(call: HttpCall, reply: HttpReply, body: bytes, request: ImageRequest) -> Images:
    """The reply to `POST /images/generations` or `/images/edits`: every picture."""
    wire = decode_document(call, reply, body, _Images, "a reply with pictures")
    if not wire.data:
        raise_embedded(call, body)
    return _images(wire, reply, request)


def _images(wire: _Images, reply: HttpReply, request: ImageRequest) -> Images:
    media_type = _picture_type(wire.output_format, request)
    made = tuple(_image(one, media_type) for one in wire.data)
    if not made:
        raise ResponseValidationError("the reply has no pictures", status=reply.status)
    return Images(
        images=made,
        size=wire.size,
        quality=wire.quality,
        usage=msgspec.structs.replace(_usage(wire.usage), images=len(made)),
        request_id=_request_id(reply.headers),
    )


def _image(wire: _Image, media_type: str | None) -> Image:
    if not wire.b64_json and not wire.url:
        raise ResponseValidationError("a picture has neither bytes nor an address")
    return Image(
        data=wire.b64_json,
        url=wire.url,
        media_type=media_type if wire.b64_json else None,
        revised_prompt=wire.revised_prompt or None,
    )


def _picture_type(told: str | None, request: ImageRequest) -> str | None:
    asked = request.format if isinstance(request.format, str) else "png"
    return _PICTURE_TYPES.get(told or asked)


class _Frames(EventDecoder):
    """The events of pictures under way; the last of the final ones is the terminal event."""

    def __init__(self, call: HttpCall, request: ImageRequest) -> None:
        super().__init__()
        self._call = call
        self._request = request
        self._left = request.n if isinstance(request.n, int) else 1
        self._made = 0

    def read(self, event: ServerSentEvent, events: list[Event]) -> None:
        """One frame, or what an error in its place means."""
        call = self._call
        if event.data == b"[DONE]":
            return
        if event.type == "error":
            raise broken_off(event.data, sent=call.body, secrets=call.secrets)
        try:
            frame = msgspec.json.decode(event.data, type=_Frame)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise_embedded(call, event.data)
            raise ResponseValidationError("a frame cannot be read", body=event.data[:_BODY_BYTES]) from None
        kind, _, step = frame.type.partition(".")
        if frame.type == "error":
            raise broken_off(event.data, sent=call.body, secrets=call.secrets)
        if kind not in ("image_generation", "image_edit") or step not in ("partial_image", "completed"):
            return  # of a kind that is not known, and so not the end
        if not frame.b64_json:
            raise ResponseValidationError("a frame has no picture", body=event.data[:_BODY_BYTES])
        is_final = step == "completed"
        picture = Image(data=frame.b64_json, media_type=_picture_type(frame.output_format, self._request))
        index = self._made if is_final else frame.partial_image_index
        events += as_events(ImageFrame(image=picture, index=index, is_final=is_final))
        if is_final:
            self._made += 1
            self.done = self._made >= self._left
            events.append(UsageReport(msgspec.structs.replace(_usage(frame.usage), images=self._made)))


def open_image(transport: Transport, call: HttpCall, request: ImageRequest) -> MediaEvents:
    """Pictures as they come; from a server that does not stream, all at once."""

    def decoder(call: HttpCall, _: HttpReply, kind: str) -> _Frames | None:
        return _Frames(call, request) if kind in (EVENT_STREAM, "") else None

    def whole(call: HttpCall, reply: HttpReply, body: bytes) -> list[Event]:
        made = read_images(call, reply, body, request)
        frames = [ImageFrame(image=image, index=index, is_final=True) for index, image in enumerate(made)]
        return [*as_events(*frames), UsageReport(made.usage)]

    return cast("MediaEvents", Exchange(transport, call, whole=whole, stream=decoder))


def read_moderation(call: HttpCall, reply: HttpReply, body: bytes, *, count: int) -> Moderation:
    """The reply to `POST /moderations`: `count` verdicts."""
    wire = decode_document(call, reply, body, _Moderation, "a moderation")
    if len(wire.results) != count:
        raise ResponseValidationError(f"{count} inputs were sent and {len(wire.results)} verdicts came back")
    verdicts = tuple(
        Verdict(
            flagged=one.flagged,
            categories={name: bool(holds) for name, holds in one.categories.items()},
            scores={name: score for name, score in one.category_scores.items() if score is not None},
        )
        for one in wire.results
    )
    return Moderation(verdicts=verdicts, model=wire.model, request_id=_request_id(reply.headers), body=body)


def read_ranking(call: HttpCall, reply: HttpReply, body: bytes, *, count: int) -> Ranking:
    """The reply to `POST /rerank` about `count` documents."""
    wire = decode_document(call, reply, body, _Ranking, "a ranking")
    places = [rank.index for rank in wire.results]
    if len(set(places)) < len(places) or not all(0 <= place < count for place in places):
        raise ResponseValidationError(f"{count} documents were sent and the ranking names others, or one twice")
    return Ranking(
        ranks=tuple(
            Rank(rank.index, rank.relevance_score)
            for rank in sorted(wire.results, key=lambda rank: -rank.relevance_score)
        ),
        model=wire.model,
        usage=_ranking_usage(wire),
        request_id=_request_id(reply.headers),
        body=body,
    )


def _ranking_usage(wire: _Ranking) -> Usage:
    """Rerankers write nothing: all tokens are input."""
    told: Any = wire.usage and (wire.usage.total_tokens or wire.usage.prompt_tokens or wire.usage.input_tokens)
    if told is None and wire.meta is not None and wire.meta.billed_units is not None:
        told = wire.meta.billed_units.input_tokens
    return Usage() if told is None else Usage(input_tokens=int(told), output_tokens=0)
