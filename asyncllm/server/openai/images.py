"""`POST /v1/images/generations` and `/v1/images/edits`.

A picture that is wanted by its address comes as a `data:` URL, so that nobody has to keep it; one that a service gives
by its address alone is passed on as that.
"""

from __future__ import annotations

import base64
import time
from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

from asyncllm.dialect.served import read_document
from asyncllm.errors import InvalidRequestError, UnsupportedError
from asyncllm.estimate import estimated_texts
from asyncllm.media import Image, Images
from asyncllm.server.described import Described
from asyncllm.server.endpoint import Endpoint
from asyncllm.server.http.bodies import read_body
from asyncllm.server.http.bounds import Bytes, Filled, No, words
from asyncllm.server.http.departure import Watched
from asyncllm.server.http.forms import Form, read_form
from asyncllm.server.incoming import Incoming
from asyncllm.server.openai import objects
from asyncllm.server.openai.uploads import media_file, read_texts
from asyncllm.server.openai.wire import given, passed, read_fields, said_as
from asyncllm.server.replies import send_json
from asyncllm.server.settings import ServerSettings

__all__ = ["ImageEdits", "ImageGenerations"]

_NAMES = {"format": "output_format", "compression": "output_compression"}
_FILES = ("image", "image[]", "mask")
_LIMITS = {"n": ("maximum", "max_choices")}


class _Asked(Struct, kw_only=True):
    prompt: Filled
    model: str | None = None
    n: Annotated[int, Meta(ge=1)] | None = None
    size: Annotated[str, Meta(extra_json_schema={"pattern": "^([1-9][0-9]{1,4}x[1-9][0-9]{1,4}|auto)$"})] | None = None
    quality: Filled | None = None
    background: Annotated[str, words("transparent", "opaque", "auto")] | None = None
    output_format: Filled | None = None
    output_compression: Annotated[int, Meta(ge=0, le=100)] | None = None
    response_format: Annotated[str, words("b64_json", "url")] | None = None
    stream: No | None = None


class _EditForm(_Asked, kw_only=True):
    image: Annotated[list[Bytes], Meta(min_length=1)]
    """The name with `[]` behind it is another for it."""
    mask: Bytes | UnsetType = UNSET


class ImageGenerations(Endpoint):
    """Pictures of a prompt."""

    described = Described(body=_Asked, reply=objects.Pictures, limits=_LIMITS, absent="model")

    async def answer(self, incoming: Incoming) -> None:
        """See `Endpoint`."""
        settings = self.service.settings
        document = read_document(await read_body(incoming, settings))
        asked = read_fields(document, _Asked)
        options = _options(asked, settings)
        name, model, client = self.find(incoming, asked.model or "")
        extra = given(extra=passed(document, _Asked, settings))
        async with self.admit(incoming, name, estimated_texts((asked.prompt,))) as ticket:
            with said_as(name, _NAMES):
                async with Watched(incoming.receive):
                    found = await client.generate_image(asked.prompt, model=model, **options, **extra)
            ticket.count(found)
        await send_json(incoming.send, _reply(found, asked, is_edit=False))


class ImageEdits(Endpoint):
    """Pictures that are changed."""

    described = Described(
        body=_EditForm,
        is_form=True,
        max_bytes="max_media_bytes",
        reply=objects.Pictures,
        limits=_LIMITS,
        absent="model",
    )

    async def answer(self, incoming: Incoming) -> None:
        """See `Endpoint`."""
        settings = self.service.settings
        async with read_form(incoming, settings, max_file_bytes=settings.max_media_bytes) as form:
            asked = _form(form)
            options = _options(asked, settings)
            name, model, client = self.find(incoming, asked.model or "")
            uploads = [upload for told, upload in form.uploads if told in ("image", "image[]")]
            images = [await media_file(upload, "image", "image") for upload in uploads]
            has_mask = any(told == "mask" for told, _ in form.uploads)
            mask = await media_file(form.file("mask"), "mask", "image") if has_mask else None
        if not images:
            raise InvalidRequestError("image is missing: send it as a part that has a filename", field="image")
        async with self.admit(incoming, name, estimated_texts((asked.prompt,))) as ticket:
            with said_as(name, {**_NAMES, "images": "image"}):
                async with Watched(incoming.receive):
                    found = await client.edit_image(images, asked.prompt, mask=mask, model=model, **options)
            ticket.count(found)
        await send_json(incoming.send, _reply(found, asked, is_edit=True))


def _form(form: Form) -> _Asked:
    for name, _ in form.uploads:
        if name not in _FILES:
            raise InvalidRequestError(f"{name[:100]} is no picture that an edit takes", field=name[:100])
    return read_texts(form, _Asked)


def _options(asked: _Asked, settings: ServerSettings) -> Any:
    if asked.stream:
        raise UnsupportedError("stream: pictures are given whole here; leave it out", field="stream")
    if asked.n is not None and asked.n > settings.max_choices:
        raise InvalidRequestError(f"n is at most {settings.max_choices}", field="n")
    if asked.response_format not in (None, "b64_json", "url"):
        raise InvalidRequestError("response_format is b64_json or url", field="response_format")
    return given(
        n=asked.n,
        size=asked.size,
        quality=asked.quality,
        background=asked.background,
        format=asked.output_format,
        compression=asked.output_compression,
        response_format="b64_json" if asked.response_format == "b64_json" else None,
    )


def _reply(found: Images, asked: _Asked, *, is_edit: bool) -> dict[str, Any]:
    wire: dict[str, Any] = {
        "created": int(time.time()),
        "data": [_picture(image, as_url=asked.response_format == "url") for image in found],
    }
    told = {"size": found.size, "quality": found.quality}
    wire |= {name: value for name, value in told.items() if value is not None}
    media_type = next((image.media_type for image in found if image.media_type is not None), None)
    if media_type is not None:
        wire["output_format"] = media_type.partition("/")[2]
    usage = found.usage
    # Of an edit, what of its input was pictures is not known, and readers take that for granted.
    if not is_edit and usage.input_tokens is not None and usage.output_tokens is not None:
        wire["usage"] = {
            "input_tokens": usage.input_tokens,
            "input_tokens_details": {"text_tokens": usage.input_tokens, "image_tokens": 0},
            "output_tokens": usage.output_tokens,
            "total_tokens": usage.total_tokens,
        }
    return wire


def _picture(image: Image, *, as_url: bool) -> dict[str, Any]:
    prompt = {} if image.revised_prompt is None else {"revised_prompt": image.revised_prompt}
    if image.data is None:
        return {"url": image.url, **prompt}
    data = base64.b64encode(image.data).decode()
    return (
        {"url": f"data:{image.media_type or 'image/png'};base64,{data}"} | prompt
        if as_url
        else {"b64_json": data, **prompt}
    )
