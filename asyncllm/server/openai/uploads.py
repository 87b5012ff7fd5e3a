"""Files and numbers of forms, as calls take them."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Literal

from asyncllm.batch.threads import in_thread
from asyncllm.errors import InvalidRequestError
from asyncllm.media import MediaFile
from asyncllm.media_calls.uploads import media_type_of, read_upload
from asyncllm.server.forms import Form, Upload

__all__ = ["count", "media_file", "number"]

_UNKNOWN = "application/octet-stream"


async def media_file(upload: Upload, field: str, kind: Literal["audio", "image"]) -> MediaFile:
    """A file that was sent, in memory. Raises `InvalidRequestError` for an empty one."""
    if upload.size == 0:
        raise InvalidRequestError(f"{field} is empty", field=field)
    data = await in_thread(upload.path.read_bytes)
    named = await read_upload(data, field, kind)
    sent = PurePosixPath(upload.filename.replace("\\", "/")).name
    ending = PurePosixPath(sent).suffix
    # Services tell formats apart by the ending, which is all that they are told of a name that is somebody's own.
    name = f"{kind}{ending}" if ending.isascii() and ending[1:].isalnum() and len(ending) < 10 else named.name
    told = upload.content_type.partition(";")[0].strip()
    media_type = media_type_of(data)
    if media_type == _UNKNOWN and told.isascii() and told.isprintable() and told.count("/") == 1:
        media_type = told
    try:
        return MediaFile(data, name, media_type)
    except InvalidRequestError:
        return MediaFile(data, name)


def number(form: Form, name: str) -> float | None:
    """A number of a form. Raises `InvalidRequestError`."""
    text = form.text(name)
    try:
        return float(text) if text else None
    except ValueError:
        raise InvalidRequestError(f"{name} is a number", field=name) from None


def count(form: Form, name: str) -> int | None:
    """A whole number of a form. Raises `InvalidRequestError`."""
    text = form.text(name)
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise InvalidRequestError(f"{name} is a whole number", field=name)
    return int(text)
