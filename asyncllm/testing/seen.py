"""Requests as a server sees them."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from msgspec import Struct

__all__ = ["HEAD_BYTES", "MalformedError", "SeenRequest", "read_request"]

HEAD_BYTES = 2**20
"""What the head of a request may hold, and what its reader holds back."""


class MalformedError(Exception):
    """What came is not a request."""


class SeenRequest(Struct):
    """A request as it arrived, and how its client left."""

    method: str
    path: str
    """Query included."""
    headers: dict[str, str]
    """By names in lower case."""
    body: bytes
    connection: int
    """Which connection brought it, counted from one."""
    aborted_s: float | None = None
    """Seconds from its arrival until the client closed the connection, if it did before the script's end."""

    def json(self) -> Any:
        """The body decoded."""
        return msgspec.json.decode(self.body)


async def read_request(reader: asyncio.StreamReader, connection: int) -> SeenRequest:
    """The next request. Raises `MalformedError`, and `IncompleteReadError` where the client leaves before its end."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")[:-2]
        method, path, _ = first.split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if headers.get("transfer-encoding", "").lower() == "chunked":
            body = await _read_chunks(reader)
        else:
            body = await reader.readexactly(int(headers.get("content-length", 0)))
    except (ValueError, asyncio.LimitOverrunError) as error:
        raise MalformedError from error
    return SeenRequest(method, path, headers, body, connection)


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass  # a trailer
    return body
