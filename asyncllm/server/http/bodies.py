"""The body of a request, taken in within limits before anybody looks at it."""

from __future__ import annotations

import asyncio
import re

from asyncllm.errors import APITimeoutError, BadRequestError
from asyncllm.server.http.departure import ClientGone
from asyncllm.server.incoming import Incoming, header_of
from asyncllm.server.settings import ServerSettings

__all__ = ["read_body"]

_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*"?|[\[{]|[\]}]', re.DOTALL)
_OPENING = (b"[", b"{")
_CLOSING = (b"]", b"}")


async def read_body(incoming: Incoming, settings: ServerSettings) -> bytes:
    """The whole body.

    Raises `BadRequestError`: status 413 for one that is too large or is told to be, 400 for one that is nested too
    deeply; `APITimeoutError` for one that does not come; and `ClientGone`.
    """
    told = header_of(incoming.scope, b"content-length")
    if told is not None and told.isdigit() and int(told) > settings.max_body_bytes:
        raise _too_large(settings)
    pieces: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            while True:
                message = await incoming.receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                piece = message.get("body", b"")
                size += len(piece)
                if size > settings.max_body_bytes:
                    raise _too_large(settings)
                pieces.append(piece)
                if not message.get("more_body", False):
                    break
    except TimeoutError:
        raise APITimeoutError(
            f"the body of the request did not arrive within {settings.body_timeout_s} seconds", status=408
        ) from None
    body = b"".join(pieces)
    _check_depth(body, settings.max_depth)
    return body


def _check_depth(body: bytes, limit: int) -> None:
    if body.count(b"[") + body.count(b"{") <= limit:
        return
    depth = 0
    for token in _TOKENS.finditer(body):
        if token[0] in _OPENING:
            depth += 1
            if depth > limit:
                raise BadRequestError(f"the body is nested more than {limit} deep", status=400, code="too_deep")
        elif token[0] in _CLOSING:
            depth -= 1


def _too_large(settings: ServerSettings) -> BadRequestError:
    return BadRequestError(
        f"the body is larger than {settings.max_body_bytes} bytes", status=413, code="request_too_large"
    )
