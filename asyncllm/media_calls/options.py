"""Keyword arguments of the calls for sound, pictures, moderation and ranking."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypedDict

from asyncllm.calls import Model
from asyncllm.media import Line, MediaFile, SpeechMode, TimestampUnit
from asyncllm.types import Timeouts

__all__ = [
    "Dialogue",
    "DubOptions",
    "ImageOptions",
    "IsolateOptions",
    "MediaOptions",
    "RerankOptions",
    "SpeechOptions",
    "TranscribeOptions",
    "Upload",
    "VideoOptions",
]

Upload: TypeAlias = str | os.PathLike[str] | bytes | MediaFile
"""A file to send: its path, its bytes, or a `MediaFile` with a name and a type of your own."""


Dialogue: TypeAlias = Sequence[Line | tuple[str, str]]
"""Lines in order; a pair is a voice and what it says."""


class MediaOptions(TypedDict, total=False):
    """What each of these calls takes."""

    model: Model
    """Where to send the call, over the client's default."""
    timeouts: Timeouts
    """Deadlines of this call, over the client's."""
    extra: Mapping[str, Any]
    """Options that only the provider knows, sent as they are."""


class TranscribeOptions(MediaOptions, total=False):
    """Keyword arguments of `transcribe`."""

    language: str
    """What is spoken, as an ISO 639 code such as `en`."""
    prompt: str
    """Text that guides spelling and style, or comes before what is heard."""
    temperature: float
    timestamps: Sequence[TimestampUnit]
    """What to tell the times of."""
    verbose: bool
    """Whether to ask for language, duration and segments too; by default where the model can tell them."""
    duration_s: float
    """How long the recording is: what the call is billed by, where the service does not say it."""


class IsolateOptions(MediaOptions, total=False):
    """Keyword arguments of `isolate`."""

    duration_s: float
    """How long the recording is: what the call is billed by."""


class SpeechOptions(MediaOptions, total=False):
    """Keyword arguments of `speak` and `stream_speech`."""

    voice: str
    """The service's name or id of a voice."""
    format: str
    """Of the sound, in the service's own word, such as `mp3` or `mp3_44100_128`."""
    speed: float
    """Times the usual pace."""
    mode: SpeechMode
    """`speech` unless it is `music`, `dialogue` or `effects`."""
    instructions: str
    """How to speak, in words."""
    language: str
    duration_s: float
    """How long music or an effect is to be."""


class ImageOptions(MediaOptions, total=False):
    """Keyword arguments of `generate_image`, `edit_image` and `stream_image`."""

    n: int
    """How many pictures."""
    size: str
    """`WIDTHxHEIGHT` in pixels, or `auto`."""
    aspect_ratio: str
    """`WIDTH:HEIGHT`, in place of `size`: the service's own size that comes nearest."""
    quality: str
    """In the service's own word, such as `low` or `high`."""
    background: Literal["transparent", "opaque", "auto"]
    format: str
    """Of the file, such as `png`, `webp` or `jpeg`."""
    compression: int
    """Percent, of a `webp` or `jpeg`."""
    response_format: Literal["b64_json", "url"]
    """Bytes or an address, for services that give either."""


class VideoOptions(MediaOptions, total=False):
    """Keyword arguments of `generate_video` and `submit_video`."""

    seconds: float
    """How long the film is to be."""
    size: str
    """`WIDTHxHEIGHT` in pixels."""
    aspect_ratio: str
    """`WIDTH:HEIGHT`, in place of `size`."""
    resolution: str
    """Of the shorter side, in the service's own word, such as `720p`."""
    image: Upload
    """A picture that the film begins with, or goes by."""
    last_image: Upload
    """A picture that it ends with."""
    references: Sequence[Upload]
    """Pictures of what is to be seen in it."""


class DubOptions(MediaOptions, total=False):
    """Keyword arguments of `dub` and `submit_dub`."""

    source_language: str
    """What is spoken, as an ISO 639 code such as `en`; by default the service finds out."""
    speakers: int
    """How many speak; by default the service finds out."""
    duration_s: float
    """How long the recording is: what the call is billed by, where the service does not say it."""


class RerankOptions(MediaOptions, total=False):
    """Keyword arguments of `rerank`."""

    top_n: int
    """How many of the best to return; by default all."""
