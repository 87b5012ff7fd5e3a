"""Files on their way out: read off the event loop, and named the way services want to know them."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Literal

from asyncllm.errors import InvalidRequestError
from asyncllm.media import MediaFile
from asyncllm.media_calls.options import Upload

__all__ = ["check_upload", "media_type_of", "read_upload"]

# By the first bytes of a file, with the offset at which they stand. Sources: the formats' own specifications.
_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (8, b"WAVE", "audio/wav"),
    (8, b"WEBP", "image/webp"),
    (4, b"ftypM4A", "audio/mp4"),
    (4, b"ftyp", "video/mp4"),
    (0, b"ID3", "audio/mpeg"),
    (0, b"\xff\xfb", "audio/mpeg"),
    (0, b"\xff\xf3", "audio/mpeg"),
    (0, b"\xff\xf2", "audio/mpeg"),
    (0, b"fLaC", "audio/flac"),
    (0, b"OggS", "audio/ogg"),
    (0, b"\x1aE\xdf\xa3", "audio/webm"),
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"GIF8", "image/gif"),
)
_ENDINGS = {
    "aac": "audio/aac", "flac": "audio/flac", "gif": "image/gif", "jpeg": "image/jpeg", "jpg": "image/jpeg",
    "m4a": "audio/mp4", "mp3": "audio/mpeg", "mp4": "video/mp4", "mpeg": "audio/mpeg", "mpga": "audio/mpeg",
    "oga": "audio/ogg", "ogg": "audio/ogg", "opus": "audio/ogg", "pcm": "audio/pcm", "png": "image/png",
    "wav": "audio/wav", "webm": "audio/webm", "webp": "image/webp",
}  # fmt: skip
_ENDING_OF = {
    "audio/flac": "flac", "audio/mp4": "m4a", "audio/mpeg": "mp3", "audio/ogg": "ogg", "audio/wav": "wav",
    "audio/webm": "webm", "image/gif": "gif", "image/jpeg": "jpg", "image/png": "png", "image/webp": "webp",
    "video/mp4": "mp4",
}  # fmt: skip
_UNKNOWN = "application/octet-stream"


def check_upload(source: object, field: str) -> None:
    """Raise `InvalidRequestError` for what is no `Upload`. Reads nothing."""
    if isinstance(source, str | bytes | MediaFile | os.PathLike):
        if source:
            return
        raise InvalidRequestError(f"{field} is empty", field=field)
    raise InvalidRequestError(
        f"{field} is a path, the bytes of a file, or a MediaFile, not a {type(source).__name__}", field=field
    )


async def read_upload(source: Upload, field: str, kind: Literal["audio", "image", "media"]) -> MediaFile:
    """The file to send. Raises `InvalidRequestError` for one that cannot be read or is empty."""
    check_upload(source, field)
    if isinstance(source, MediaFile):
        return source
    if isinstance(source, bytes):
        media_type = media_type_of(source)
        ending = _ENDING_OF.get(media_type)
        return MediaFile(source, f"{kind}.{ending}" if ending else kind, media_type)
    path = Path(source)
    data = await asyncio.to_thread(_read, path, field)
    if not data:
        raise InvalidRequestError(f"the file of {field} is empty", field=field)
    media_type = media_type_of(data)
    if media_type == _UNKNOWN:
        media_type = _ENDINGS.get(path.suffix[1:].lower(), _UNKNOWN)
    return MediaFile(data, path.name, media_type)


def media_type_of(data: bytes) -> str:
    """The MIME type of a file by its first bytes, or that of unknown bytes."""
    return next((name for at, mark, name in _SIGNATURES if data[at : at + len(mark)] == mark), _UNKNOWN)


def _read(path: Path, field: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        reason = "there is no such file"
    except IsADirectoryError:
        reason = "it is a folder"
    except (OSError, ValueError) as error:  # a ValueError: a name that no file can have
        reason = f"it cannot be read ({type(error).__name__})"
    raise InvalidRequestError(f"{field}: {reason}: {path.name[:80]!r}", field=field)
