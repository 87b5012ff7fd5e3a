"""Forms as a server reads them, by aiohttp's own reader."""

from __future__ import annotations

import asyncio

from aiohttp import MultipartReader, StreamReader
from aiohttp.base_protocol import BaseProtocol
from msgspec import Struct

from asyncllm.testing.seen import SeenRequest

__all__ = ["Field", "fields_of", "read_form"]


class Field(Struct, frozen=True, order=True):
    """A field of a form."""

    name: str
    value: bytes
    filename: str | None = None
    media_type: str | None = None


async def read_form(content_type: str, body: bytes) -> list[Field]:
    """Every field, in order."""
    loop = asyncio.get_running_loop()
    stream = StreamReader(BaseProtocol(loop), 2**16, loop=loop)
    stream.feed_data(body)
    stream.feed_eof()
    reader = MultipartReader({"Content-Type": content_type}, stream)
    fields: list[Field] = []
    while (part := await reader.next()) is not None:
        assert not isinstance(part, MultipartReader)
        assert part.name is not None
        value = bytes(await part.read(decode=False))
        fields.append(Field(part.name, value, part.filename, part.headers.get("Content-Type")))
    return fields


async def fields_of(request: SeenRequest) -> list[Field]:
    """Every field of a request, in order."""
    return await read_form(request.headers["content-type"], request.body)
