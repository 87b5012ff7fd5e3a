"""The nouns of sound, pictures, moderation and ranking: what such calls are given beside text, and what comes back.

Frozen msgspec structs without I/O. Bytes show in a `repr` by their size alone, as everything private does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from asyncllm.errors import InvalidRequestError
from asyncllm.events import UsageReport
from asyncllm.types import Noun, Usage

__all__ = [
    "AudioChunk",
    "Dub",
    "Image",
    "ImageFrame",
    "Images",
    "Line",
    "MediaEvent",
    "MediaFile",
    "Moderation",
    "Rank",
    "Ranking",
    "Segment",
    "Speech",
    "SpeechMode",
    "TimestampUnit",
    "Transcript",
    "Verdict",
    "Video",
    "Word",
]

SpeechMode: TypeAlias = Literal["speech", "music", "dialogue", "effects"]
"""What is made of a text: the text spoken, the music or the sounds it describes, or its lines spoken by turns."""

TimestampUnit: TypeAlias = Literal["word", "segment"]
"""What a transcript tells the times of."""


class MediaFile(Noun, frozen=True):
    """A file as it is sent: its bytes, and the name and MIME type that a service knows it by."""

    data: bytes
    name: str
    """Without a folder. Services tell formats apart by its ending."""
    media_type: str = "application/octet-stream"

    _private = frozenset({"data", "name"})

    def __post_init__(self) -> None:
        if not isinstance(self.data, bytes) or not self.data:
            raise InvalidRequestError("a file is bytes that are not empty", field="data")
        if not isinstance(self.name, str) or not self.name:
            raise InvalidRequestError("a file has a name, as in speech.wav", field="name")
        kind, _, rest = self.media_type.partition("/")
        if not kind or not rest or not self.media_type.isascii() or not self.media_type.isprintable():
            raise InvalidRequestError("media_type is a MIME type, as in audio/wav", field="media_type")


class Line(Noun, frozen=True):
    """What one voice says in a dialogue."""

    voice: str
    text: str

    _private = frozenset({"text"})


# -- what comes back ---------------------------------------------------------------------------------------------


class _Reply(Noun, frozen=True, kw_only=True):
    """What every answer tells beside its content."""

    usage: Usage = Usage()
    model: str | None = None
    """The model that answered, as the backend names it."""
    request_id: str | None = None
    """The backend's id for the call."""
    cost_usd: float | None = None
    """US dollars, or `None` where no price is known."""
    body: bytes | None = None
    """The JSON body as received, where the answer is one and holds no pictures."""

    @property
    def raw(self) -> Any:
        """`body` decoded, for what this struct does not carry; `None` without a body."""
        return None if self.body is None else msgspec.json.decode(self.body)


class Word(Noun, frozen=True, kw_only=True):
    """A word of a transcript, with its times in seconds from the start of the recording."""

    text: str
    start_s: float | None = None
    end_s: float | None = None
    speaker: str | None = None

    _private = frozenset({"text"})


class Segment(Noun, frozen=True, kw_only=True):
    """A stretch of a transcript, with its times in seconds from the start of the recording."""

    text: str
    start_s: float | None = None
    end_s: float | None = None
    speaker: str | None = None

    _private = frozenset({"text"})


class Transcript(_Reply, frozen=True, kw_only=True):
    """What was said in a recording."""

    text: str
    language: str | None = None
    """As the service names it: a code or a word."""
    duration_s: float | None = None
    """How long the recording is, by the service, or else by the caller."""
    segments: tuple[Segment, ...] = ()
    words: tuple[Word, ...] = ()

    _private = frozenset({"text", "segments", "words", "body"})


class Speech(_Reply, frozen=True, kw_only=True):
    """Sound that was made: the bytes of an encoded file."""

    data: bytes
    media_type: str = "application/octet-stream"
    """MIME type of `data`, as the service names it."""

    _private = frozenset({"data", "body"})

    def __bytes__(self) -> bytes:
        return self.data


class Video(_Reply, frozen=True, kw_only=True):
    """A film that was made: the bytes of an encoded file."""

    data: bytes
    media_type: str = "video/mp4"
    """MIME type of `data`, as the service names it."""
    duration_s: float | None = None
    """How long it is, by the service, or else as it was asked for."""

    _private = frozenset({"data", "body"})

    def __bytes__(self) -> bytes:
        return self.data


class Dub(_Reply, frozen=True, kw_only=True):
    """A recording or a film in another language: the bytes of an encoded file."""

    data: bytes
    media_type: str = "application/octet-stream"
    """MIME type of `data`, as the service names it."""
    language: str | None = None
    """What is spoken in it, as the service names it."""
    duration_s: float | None = None
    """How long it is, by the service, or else by the caller."""

    _private = frozenset({"data", "body"})

    def __bytes__(self) -> bytes:
        return self.data


class Image(Noun, frozen=True, kw_only=True):
    """A picture that was made, as bytes or by its address."""

    data: bytes | None = None
    """The encoded file itself."""
    url: str | None = None
    """Where the service keeps it for a while."""
    media_type: str | None = None
    """MIME type of `data`."""
    revised_prompt: str | None = None
    """The prompt as the service has changed it."""

    _private = frozenset({"data", "url", "revised_prompt"})


class Images(_Reply, frozen=True, kw_only=True):
    """All pictures of one call: `len`, indexing and iteration are those of `images`."""

    images: tuple[Image, ...]
    size: str | None = None
    """`WIDTHxHEIGHT`, where the service tells it."""
    quality: str | None = None
    """In the service's own word, where it tells it."""

    _private = frozenset({"images", "body"})

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Image:
        return self.images[index]

    def __iter__(self) -> Iterator[Image]:
        return iter(self.images)


class Verdict(Noun, frozen=True, kw_only=True):
    """What a moderation model thinks of one input."""

    flagged: bool
    categories: Mapping[str, bool]
    """By the service's names, such as `violence/graphic`."""
    scores: Mapping[str, float]
    """How sure the model is, from 0 to 1, by the same names."""

    _private = frozenset({"categories", "scores"})


class Moderation(_Reply, frozen=True, kw_only=True):
    """One verdict an input, in the order given: `len`, indexing and iteration are those of `verdicts`."""

    verdicts: tuple[Verdict, ...]

    _private = frozenset({"verdicts", "body"})

    @property
    def flagged(self) -> bool:
        """Whether any input is."""
        return any(verdict.flagged for verdict in self.verdicts)

    def __len__(self) -> int:
        return len(self.verdicts)

    def __getitem__(self, index: int) -> Verdict:
        return self.verdicts[index]

    def __iter__(self) -> Iterator[Verdict]:
        return iter(self.verdicts)


class Rank(Noun, frozen=True):
    """A document's place in a ranking."""

    index: int
    """Which of the documents given."""
    score: float
    """How well it answers the query; comparable within one reply."""


class Ranking(_Reply, frozen=True, kw_only=True):
    """Documents, best first: `len`, indexing and iteration are those of `ranks`."""

    ranks: tuple[Rank, ...]

    _private = frozenset({"body"})

    def __len__(self) -> int:
        return len(self.ranks)

    def __getitem__(self, index: int) -> Rank:
        return self.ranks[index]

    def __iter__(self) -> Iterator[Rank]:
        return iter(self.ranks)


# -- what comes piece by piece -----------------------------------------------------------------------------------


class AudioChunk(Noun, frozen=True):
    """The next bytes of a sound that is being made."""

    data: bytes
    media_type: str | UnsetType = UNSET
    """MIME type of the whole, where the service names it."""

    _private = frozenset({"data"})


class ImageFrame(Noun, frozen=True, kw_only=True):
    """A picture on its way: as far as it has come, or as it will stay."""

    image: Image
    index: int = 0
    """Which partial picture this is, from zero; of a final one, which of the pictures asked for."""
    is_final: bool = False

    _private = frozenset({"image"})


MediaEvent: TypeAlias = AudioChunk | ImageFrame | UsageReport
"""What a backend lends of a sound or a picture that comes piece by piece."""
