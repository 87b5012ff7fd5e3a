"""Arguments become one request, its model left empty, or an error that names the argument at fault."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any, TypeVar, cast, get_args

from msgspec import UNSET, Struct

from asyncllm.backend import (
    DubRequest,
    ImageRequest,
    IsolateRequest,
    ModerateRequest,
    RerankRequest,
    SpeechRequest,
    TranscribeRequest,
    VideoRequest,
)
from asyncllm.calls import check_names, extra_of, timeouts_of
from asyncllm.errors import InvalidRequestError
from asyncllm.media import Line, MediaFile, SpeechMode, TimestampUnit
from asyncllm.media_calls.options import (
    Dialogue,
    DubOptions,
    ImageOptions,
    IsolateOptions,
    MediaOptions,
    RerankOptions,
    SpeechOptions,
    TranscribeOptions,
    VideoOptions,
)
from asyncllm.types import ImagePart, TextPart, Timeouts

__all__ = [
    "dub_request",
    "image_request",
    "isolate_request",
    "moderate_request",
    "rerank_request",
    "speech_request",
    "transcribe_request",
    "video_request",
]

T = TypeVar("T")

_MOST_DOCUMENTS = 10_000
_SIZE = re.compile(r"[1-9][0-9]{1,4}x[1-9][0-9]{1,4}|auto")
_RATIO = re.compile(r"[1-9][0-9]{0,3}:[1-9][0-9]{0,3}")


class _Rule(Struct, frozen=True):
    """What an option must be."""

    holds: Callable[[Any], bool]
    told: str


def _is_number(value: object, least: float = 0) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value) and value >= least


def _is_count(value: object, least: int = 1) -> bool:
    return type(value) is int and value >= least


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _one_of(*words: str) -> _Rule:
    return _Rule(lambda value: value in words, f"one of {', '.join(words)}")


def _are_units(value: object) -> bool:
    units = get_args(TimestampUnit)
    given = cast("Sequence[object]", value) if isinstance(value, list | tuple) else ()
    return bool(given) and all(unit in units for unit in given)


_TEXT = _Rule(_is_text, "a text that is not empty")
_SECONDS = _Rule(lambda value: _is_number(value) and value > 0, "a number of seconds above zero")
_COUNT = _Rule(_is_count, "a whole number from 1 up")
_RULES: dict[str, _Rule] = {
    "aspect_ratio": _Rule(lambda value: _is_text(value) and bool(_RATIO.fullmatch(value)), "WIDTH:HEIGHT, as in 16:9"),
    "background": _one_of("transparent", "opaque", "auto"),
    "compression": _Rule(lambda value: _is_count(value, 0) and value <= 100, "a whole number from 0 to 100"),
    "duration_s": _SECONDS,
    "format": _TEXT,
    "instructions": _TEXT,
    "language": _TEXT,
    "mode": _one_of(*get_args(SpeechMode)),
    "n": _COUNT,
    "partial_images": _Rule(lambda value: _is_count(value, 0), "a whole number from 0 up"),
    "prompt": _TEXT,
    "quality": _TEXT,
    "resolution": _TEXT,
    "response_format": _one_of("b64_json", "url"),
    "seconds": _SECONDS,
    "size": _Rule(lambda value: _is_text(value) and bool(_SIZE.fullmatch(value)), "WIDTHxHEIGHT in pixels, or auto"),
    "source_language": _TEXT,
    "speakers": _COUNT,
    "speed": _Rule(lambda value: _is_number(value) and value > 0, "a number above zero"),
    "target_language": _TEXT,
    "temperature": _Rule(_is_number, "a number from 0 up"),
    "timestamps": _Rule(_are_units, f"a list of {' and '.join(get_args(TimestampUnit))}"),
    "top_n": _COUNT,
    "verbose": _Rule(lambda value: isinstance(value, bool), "True or False"),
    "voice": _TEXT,
}
_FILES = frozenset({"image", "last_image", "references"})
_COMMON = frozenset(MediaOptions.__optional_keys__)


def transcribe_request(audio: MediaFile, options: TranscribeOptions, timeouts: Timeouts) -> TranscribeRequest:
    """A recording to write down. Raises `InvalidRequestError`."""
    given = _checked(options, TranscribeOptions)
    if "timestamps" in given:
        given["timestamps"] = tuple(given["timestamps"])
    return TranscribeRequest(audio=audio, **given, **_common(options, timeouts))


def isolate_request(audio: MediaFile, options: IsolateOptions, timeouts: Timeouts) -> IsolateRequest:
    """A recording to clean. Raises `InvalidRequestError`."""
    return IsolateRequest(audio=audio, **_checked(options, IsolateOptions), **_common(options, timeouts))


def speech_request(
    text: str | Dialogue, options: SpeechOptions, timeouts: Timeouts, *, stream: bool = False
) -> SpeechRequest:
    """A text to make sound of. Raises `InvalidRequestError`."""
    given = _checked(options, SpeechOptions)
    mode = given.get("mode", "speech")
    if mode == "dialogue":
        if "voice" in given:
            raise InvalidRequestError("a dialogue has a voice with each line, and none beside them", field="voice")
        given["lines"] = _lines(text)
    elif not isinstance(text, str) or not text.strip():
        raise InvalidRequestError(
            "text is a text that is not empty; lines with voices are for mode='dialogue'", field="text"
        )
    else:
        given["text"] = text
    if "duration_s" in given and mode not in ("music", "effects"):
        raise InvalidRequestError(
            f"duration_s is for music and effects; how long {mode} lasts its text says", field="duration_s"
        )
    if mode in ("music", "effects"):
        for name in ("voice", "speed", "instructions", "language"):
            if name in given:
                raise InvalidRequestError(f"{name} is for speech; {mode} has none", field=name)
    return SpeechRequest(stream=stream, **given, **_common(options, timeouts))


def image_request(
    prompt: str, options: ImageOptions, timeouts: Timeouts, *, stream: bool = False, **more: Any
) -> ImageRequest:
    """Pictures to make or to change. Raises `InvalidRequestError`."""
    if not _is_text(prompt):
        raise InvalidRequestError("prompt is a text that is not empty", field="prompt")
    given = _checked(options, ImageOptions)
    if "size" in given and "aspect_ratio" in given:
        raise InvalidRequestError("give size or aspect_ratio, not both: either decides", field="aspect_ratio")
    for name, value in more.items():
        if name in _RULES:
            _check(name, value)
    return ImageRequest(prompt=prompt, stream=stream, **given, **more, **_common(options, timeouts))


def video_request(prompt: str, options: VideoOptions, timeouts: Timeouts) -> VideoRequest:
    """A film to make, its pictures left out: reading them takes time. Raises `InvalidRequestError`."""
    if not _is_text(prompt):
        raise InvalidRequestError("prompt is a text that is not empty", field="prompt")
    given = _checked(options, VideoOptions, files=_FILES)
    if given.get("size") == "auto":
        raise InvalidRequestError("size is WIDTHxHEIGHT in pixels", field="size")
    for name in ("aspect_ratio", "resolution"):
        if "size" in given and name in given:
            raise InvalidRequestError(f"give size or {name}, not both: either decides", field=name)
    return VideoRequest(prompt=prompt, **given, **_common(options, timeouts))


def dub_request(source: MediaFile | str, target_language: str, options: DubOptions, timeouts: Timeouts) -> DubRequest:
    """A recording, or the address of one, to dub. Raises `InvalidRequestError`."""
    _check("target_language", target_language)
    file, url = (None, source) if isinstance(source, str) else (source, None)
    given = _checked(options, DubOptions)
    return DubRequest(file=file, url=url, target_language=target_language, **given, **_common(options, timeouts))


def moderate_request(
    content: str | Sequence[str | TextPart | ImagePart], options: MediaOptions, timeouts: Timeouts
) -> ModerateRequest:
    """Content to judge. Raises `InvalidRequestError` naming the position of what is no content, or empty."""
    check_names(cast("Mapping[str, Any]", options), _COMMON)
    items: Sequence[object] = [content] if isinstance(content, str | TextPart | ImagePart) else content
    if not isinstance(items, Sequence) or isinstance(items, bytes):
        raise InvalidRequestError("content is a text, or a list of texts or of parts", field="content")
    if not items:
        raise InvalidRequestError("there is nothing to judge: content is an empty list", field="content")
    for position, item in enumerate(items):
        text = item.text if isinstance(item, TextPart) else item
        if not isinstance(item, ImagePart) and not _is_text(text):
            raise InvalidRequestError(
                f"content[{position}] is not a text, a TextPart or an ImagePart, or is empty",
                field=f"content[{position}]",
            )
    if all(isinstance(item, str) for item in items):
        return ModerateRequest(inputs=tuple(cast("Sequence[str]", items)), **_common(options, timeouts))
    given = cast("Sequence[str | TextPart | ImagePart]", items)
    parts = tuple(TextPart(item) if isinstance(item, str) else item for item in given)
    return ModerateRequest(parts=parts, **_common(options, timeouts))


def rerank_request(query: str, documents: Sequence[str], options: RerankOptions, timeouts: Timeouts) -> RerankRequest:
    """Documents to rank. Raises `InvalidRequestError` naming the position of one that is no text, or empty."""
    if not _is_text(query):
        raise InvalidRequestError("query is a text that is not empty", field="query")
    if isinstance(documents, str) or not isinstance(documents, Sequence) or not documents:
        raise InvalidRequestError("documents is a list of at least one text", field="documents")
    if len(documents) > _MOST_DOCUMENTS:
        raise InvalidRequestError(
            f"documents has {len(documents)} texts and no service takes more than {_MOST_DOCUMENTS} in one call",
            field="documents",
        )
    for position, document in enumerate(documents):
        if not _is_text(document):
            raise InvalidRequestError(
                f"documents[{position}] is not a text, or is empty", field=f"documents[{position}]"
            )
    given = _checked(options, RerankOptions)
    return RerankRequest(query=query, documents=tuple(documents), **given, **_common(options, timeouts))


def _checked(options: Any, kind: Any, *, files: frozenset[str] = frozenset()) -> dict[str, Any]:
    """The options that are of this call alone, each of them right, without those that are `files`."""
    check_names(options, kind.__optional_keys__)
    left = _COMMON | files
    given = {name: value for name, value in options.items() if name not in left and value is not UNSET}
    for name, value in given.items():
        _check(name, value)
    return given


def _check(name: str, value: object) -> None:
    rule = _RULES[name]
    if not rule.holds(value):
        hint = "; leave it out for the backend's default" if value is None else ""
        raise InvalidRequestError(f"{name} is {rule.told}{hint}", field=name)


def _common(options: Any, timeouts: Timeouts) -> dict[str, Any]:
    return {"model": "", "timeouts": timeouts_of(options, timeouts), "extra": extra_of(options)}


def _lines(text: object) -> tuple[Line, ...]:
    """The lines of a dialogue."""
    given = cast("Sequence[Any]", text) if isinstance(text, list | tuple) else ()
    if not given:
        raise InvalidRequestError(
            "text of a dialogue is a list of Line(voice, text) with at least one line", field="text"
        )
    lines: list[Line] = []
    for position, item in enumerate(given):
        match item:
            case Line(voice, said) | (voice, said) if _is_text(voice) and _is_text(said):
                lines.append(Line(voice, said))
            case _:
                raise InvalidRequestError(
                    f"text[{position}] is not a Line with a voice and a text, or is empty", field=f"text[{position}]"
                )
    return tuple(lines)
