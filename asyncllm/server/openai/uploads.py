"""Files and numbers of forms, as calls take them."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any, Literal, TypeVar, get_origin

from msgspec import Struct
from msgspec.structs import fields

from asyncllm.batch.threads import in_thread
from asyncllm.dialect.served import convert_texts
from asyncllm.errors import InvalidRequestError
from asyncllm.media import MediaFile
from asyncllm.media_calls.uploads import media_type_of, read_upload
from asyncllm.server.http.forms import Form, Upload

__all__ = ["media_file", "read_texts"]

T = TypeVar("T", bound=Struct)

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


def read_texts(form: Form, kind: type[T]) -> T:
    """The texts of a form as a `kind`: an empty one says no more than leaving it out, and others are ignored.

    A field whose type is a list has all texts of its name, and of that with `[]` behind it. Raises
    `InvalidRequestError` naming the field.
    """
    told: dict[str, Any] = {}
    for field in fields(kind):
        name = field.encode_name
        is_list = get_origin(field.type) is list
        value = [*form.texts(name), *form.texts(f"{name}[]")] if is_list else form.text(name)
        if value:
            told[name] = value
    return convert_texts(told, kind)
