"""What a backend may be asked of sound, pictures, moderation and ranking: requests, and a protocol for each call."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeAlias, runtime_checkable

import msgspec
from msgspec import UNSET, UnsetType

from asyncllm.errors import UnsupportedError
from asyncllm.media import (
    Images,
    Line,
    MediaEvent,
    MediaFile,
    Moderation,
    Ranking,
    Speech,
    SpeechMode,
    TimestampUnit,
    Transcript,
)
from asyncllm.types import ImagePart, Noun, TextPart, Timeouts

__all__ = [
    "ImageEditor",
    "ImageMaker",
    "ImageRequest",
    "IsolateRequest",
    "Isolator",
    "MediaEvents",
    "MediaRequest",
    "ModerateRequest",
    "Moderator",
    "RerankRequest",
    "Reranker",
    "SpeechMaker",
    "SpeechRequest",
    "TranscribeRequest",
    "Transcriber",
    "require_options",
]

MediaEvents: TypeAlias = AbstractAsyncContextManager[AsyncIterator[MediaEvent]]
"""A sound or a picture under way, lent for the length of the block, as `Backend.open` lends an answer."""


class MediaRequest(Noun, frozen=True, kw_only=True):
    """What all requests of this kind have. An option that was not given is `UNSET`."""

    model: str
    """The model in the backend's own naming; empty where the backend is to choose."""
    timeouts: Timeouts = Timeouts()
    extra: dict[str, Any] = {}
    """Options that only this provider knows, sent as they are."""

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts that a model is to read, for an estimate of what they cost."""
        return ()


class TranscribeRequest(MediaRequest, frozen=True, kw_only=True):
    """A recording to be written down."""

    audio: MediaFile
    language: str | UnsetType = UNSET
    prompt: str | UnsetType = UNSET
    temperature: float | UnsetType = UNSET
    timestamps: tuple[TimestampUnit, ...] | UnsetType = UNSET
    verbose: bool | UnsetType = UNSET
    """Whether to ask for language, duration and segments beside the text; unset asks for what the model can tell."""
    duration_s: float | None = None
    """How long the recording is, for services that do not say it. It is not sent."""

    _private = frozenset({"audio", "prompt", "extra"})

    @property
    def texts(self) -> tuple[str, ...]:
        """The prompt."""
        return (self.prompt,) if isinstance(self.prompt, str) else ()


class IsolateRequest(MediaRequest, frozen=True, kw_only=True):
    """A recording to be freed of noise."""

    audio: MediaFile
    duration_s: float | None = None
    """How long the recording is, which such services do not say. It is not sent."""

    _private = frozenset({"audio", "extra"})


class SpeechRequest(MediaRequest, frozen=True, kw_only=True):
    """A text to make sound of."""

    text: str = ""
    lines: tuple[Line, ...] = ()
    """Of a dialogue, in place of `text`."""
    mode: SpeechMode = "speech"
    voice: str | UnsetType = UNSET
    format: str | UnsetType = UNSET
    speed: float | UnsetType = UNSET
    instructions: str | UnsetType = UNSET
    language: str | UnsetType = UNSET
    duration_s: float | UnsetType = UNSET
    """How long music or an effect is to be."""
    stream: bool = False

    _private = frozenset({"text", "lines", "instructions", "extra"})

    @property
    def texts(self) -> tuple[str, ...]:
        """What is spoken or described."""
        return tuple(line.text for line in self.lines) or (self.text,)

    @property
    def characters(self) -> int:
        """How many characters that are."""
        return sum(map(len, self.texts))


class ImageRequest(MediaRequest, frozen=True, kw_only=True):
    """Pictures to make, or to change where `images` are given."""

    prompt: str
    images: tuple[MediaFile, ...] = ()
    mask: MediaFile | UnsetType = UNSET
    """Whose transparent parts say what to change."""
    n: int | UnsetType = UNSET
    size: str | UnsetType = UNSET
    """`WIDTHxHEIGHT` or `auto`."""
    aspect_ratio: str | UnsetType = UNSET
    """`WIDTH:HEIGHT`, in place of `size`."""
    quality: str | UnsetType = UNSET
    background: str | UnsetType = UNSET
    format: str | UnsetType = UNSET
    compression: int | UnsetType = UNSET
    """Percent."""
    response_format: str | UnsetType = UNSET
    """`b64_json` or `url`, for services that give either."""
    partial_images: int | UnsetType = UNSET
    """Of a stream: how many pictures to show on the way."""
    stream: bool = False

    _private = frozenset({"prompt", "images", "mask", "extra"})

    @property
    def texts(self) -> tuple[str, ...]:
        """The prompt."""
        return (self.prompt,)


class ModerateRequest(MediaRequest, frozen=True, kw_only=True):
    """Texts to be judged one by one, or the parts of one input."""

    inputs: tuple[str, ...] = ()
    parts: tuple[TextPart | ImagePart, ...] = ()

    _private = frozenset({"inputs", "parts", "extra"})

    @property
    def texts(self) -> tuple[str, ...]:
        """All text."""
        return self.inputs or tuple(part.text for part in self.parts if isinstance(part, TextPart))


class RerankRequest(MediaRequest, frozen=True, kw_only=True):
    """Documents to be put in the order in which they answer a query."""

    query: str
    documents: tuple[str, ...]
    top_n: int | UnsetType = UNSET

    _private = frozenset({"query", "documents", "extra"})

    @property
    def texts(self) -> tuple[str, ...]:
        """All text: the query is read with each document."""
        return tuple(self.query + document for document in self.documents)


def require_options(request: MediaRequest, supported: frozenset[str], *, backend: str) -> None:
    """Raise `UnsupportedError` naming the first option set in `request` that is not in `supported`."""
    for option in msgspec.structs.fields(type(request)):
        if option.default is UNSET and getattr(request, option.name) is not UNSET and option.name not in supported:
            raise UnsupportedError(
                f"the {backend!r} backend does not support {option.name} here; leave it out or choose another backend",
                backend=backend,
                model=request.model or None,
                field=option.name,
            )


@runtime_checkable
class Transcriber(Protocol):
    """A backend that writes down what is said."""

    async def transcribe(self, request: TranscribeRequest, /) -> Transcript:
        """What was said. Raises `UnsupportedError` for an option it cannot honour, `APIError`."""
        ...


@runtime_checkable
class SpeechMaker(Protocol):
    """A backend that makes sound: speech, and the other modes it offers."""

    async def speak(self, request: SpeechRequest, /) -> Speech:
        """The whole of it. Raises `UnsupportedError` for a mode or an option it cannot honour, `APIError`."""
        ...

    def open_speech(self, request: SpeechRequest, /) -> MediaEvents:
        """The same as it comes, as `AudioChunk`s. A body that breaks off raises `StreamInterrupted`."""
        ...


@runtime_checkable
class ImageMaker(Protocol):
    """A backend that makes pictures."""

    async def generate_image(self, request: ImageRequest, /) -> Images:
        """All of them. Raises `UnsupportedError` for an option it cannot honour, `APIError`."""
        ...

    def open_image(self, request: ImageRequest, /) -> MediaEvents:
        """The same as they come, as `ImageFrame`s that end with the final ones; a request with images changes them."""
        ...


@runtime_checkable
class ImageEditor(Protocol):
    """A backend that changes pictures."""

    async def edit_image(self, request: ImageRequest, /) -> Images:
        """The changed ones. Raises `UnsupportedError` for an option it cannot honour, `APIError`."""
        ...


@runtime_checkable
class Moderator(Protocol):
    """A backend that judges whether content is harmful."""

    async def moderate(self, request: ModerateRequest, /) -> Moderation:
        """One verdict a text, or one for all parts. Raises `APIError`."""
        ...


@runtime_checkable
class Reranker(Protocol):
    """A backend that ranks documents."""

    async def rerank(self, request: RerankRequest, /) -> Ranking:
        """The best first. Raises `APIError`."""
        ...


@runtime_checkable
class Isolator(Protocol):
    """A backend that frees a voice of the noise around it."""

    async def isolate(self, request: IsolateRequest, /) -> Speech:
        """The voice alone. Raises `UnsupportedError` for an option it cannot honour, `APIError`."""
        ...
