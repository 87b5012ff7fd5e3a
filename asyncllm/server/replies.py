"""Replies in one piece, and what is told of errors."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from math import inf
from typing import Any

import msgspec
from starlette.types import Send

from asyncllm.dialect.faults import status_of
from asyncllm.errors import (
    APIConnectionError,
    APIError,
    APIStatusError,
    APITimeoutError,
    AsyncLLMError,
    AuthenticationError,
    ConfigError,
    EngineDeadError,
    InternalServerError,
    PermissionDeniedError,
    PluginError,
    ResourceExhaustedError,
    StoreError,
    WriteError,
)
from asyncllm.scrub import redact

__all__ = ["closing_headers", "http_status", "retry_headers", "send_json", "send_text", "told_of"]

_log = logging.getLogger("asyncllm.server")
_LATE = 408
"""The status of a client that is late itself."""
_LONGEST_WAIT_S = 7 * 86400
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
    """What a client may know: neither where its calls go and by which key, nor where the server keeps its files.

    What is kept back is logged by its kind.
    """
    told = _public(error)
    if told is not None:
        # Its text may hold what an upstream said, and that what was asked.
        _log.warning("clients are not told of this: %s, status %s", type(error).__name__, _status(error))
        return told
    text = redact(error.message)
    if text == error.message:
        return error
    told = copy.copy(error)
    told.message, told.args = text, (text,)
    return told


def _public(error: AsyncLLMError) -> AsyncLLMError | None:
    """What stands for an error whose own text is not for clients."""
    if isinstance(error, AuthenticationError | PermissionDeniedError):
        return InternalServerError("the service behind this model refused the server", status=502, code="bad_gateway")
    if isinstance(error, StoreError | WriteError):
        return InternalServerError("the server cannot use its store for now", status=503, code="store", retryable=True)
    if isinstance(error, PluginError) or (type(error) is ConfigError and error.backend is not None):
        return InternalServerError("the server is not set up for this model", status=500, code="configuration")
    if not isinstance(error, APIConnectionError) or error.status == _LATE:
        return None
    text = "the service behind this model cannot be reached, or broke the connection off"
    if isinstance(error, APITimeoutError):
        text = "the service behind this model did not answer in time"
    elif isinstance(error, EngineDeadError):
        text = "the engine of this model has ended"
    elif isinstance(error, ResourceExhaustedError):
        text = "the server has no room for another connection to this model for now"
    return type(error)(text, retry_after_s=error.retry_after_s, retryable=error.retryable)


def _status(error: AsyncLLMError) -> int | None:
    return error.status if isinstance(error, APIError) else None


def http_status(error: AsyncLLMError) -> int:
    """The status that `error` is told with: one that it has itself, which a timeout has too where a client is late."""
    own = _status(error)
    return own if own is not None and not isinstance(error, APIStatusError) and 400 <= own < 600 else status_of(error)


def retry_headers(error: AsyncLLMError) -> dict[str, str]:
    """When to ask again, where that is known."""
    wait_s = error.retry_after_s if isinstance(error, APIError) else None
    if wait_s is None or not 0 <= wait_s < inf:
        return {}
    wait_s = min(wait_s, _LONGEST_WAIT_S)
    return {"retry-after": f"{max(1, round(wait_s))}", "retry-after-ms": f"{wait_s * 1000:.0f}"}


def closing_headers(error: AsyncLLMError) -> dict[str, str]:
    """That the connection ends with the reply, where the rest of a body does not come.

    Where it comes and is too large, it is read on past: a client that is cut off while it sends never sees the reply.
    """
    return {"connection": "close"} if http_status(error) == 408 else {}
