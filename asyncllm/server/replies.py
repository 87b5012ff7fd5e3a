"""Replies in one piece, and what is told of errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.types import Send

from asyncllm.dialect.faults import status_of
from asyncllm.errors import (
    APIError,
    APIStatusError,
    AsyncLLMError,
    AuthenticationError,
    InternalServerError,
    PermissionDeniedError,
)

__all__ = ["http_status", "retry_headers", "send_json", "send_text", "told_of"]

_JSON = (b"content-type", b"application/json")
_encode = msgspec.json.Encoder().encode


async def send_json(send: Send, document: Any, status: int = 200, headers: Mapping[str, str] = {}) -> None:
    """Send a document as the whole reply."""
    body = _encode(document)
    told = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [_JSON, length, *told]})
    await send({"type": "http.response.body", "body": body})


async def send_text(send: Send, text: str) -> None:
    """Send a text as the whole reply."""
    body = text.encode("utf-8", "replace")
    kind = (b"content-type", b"text/plain; charset=utf-8")
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": 200, "headers": [kind, length]})
    await send({"type": "http.response.body", "body": body})


def told_of(error: AsyncLLMError) -> AsyncLLMError:
    """What a client may know: that a key of ours is bad is no business of somebody who has another."""
    if isinstance(error, AuthenticationError | PermissionDeniedError):
        return InternalServerError("the service behind this model refused the server", status=502, code="bad_gateway")
    return error


def http_status(error: AsyncLLMError) -> int:
    """The status that `error` is told with: one that it has itself, which a timeout has too where a client is late."""
    own = error.status if isinstance(error, APIError) else None
    return own if own is not None and not isinstance(error, APIStatusError) and 400 <= own < 600 else status_of(error)


def retry_headers(error: AsyncLLMError) -> dict[str, str]:
    """When to ask again, where that is known."""
    wait_s = error.retry_after_s if isinstance(error, APIError) else None
    if wait_s is None:
        return {}
    return {"retry-after": f"{max(1, round(wait_s))}", "retry-after-ms": f"{wait_s * 1000:.0f}"}
