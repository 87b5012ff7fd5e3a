"""An error reply, by status or inside a stream, becomes the one typed error it means.

Status and code decide, never the wording. The server's own words are kept for people to read, scrubbed of whatever
they echo of the request: an error text travels to logs that prompts and keys must not reach.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, cast

import msgspec

from asyncllm.errors import (
    APIStatusError,
    AuthenticationError,
    BadRequestError,
    ConflictError,
    ContentFilterError,
    ContextLengthExceededError,
    InternalServerError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    QuotaExceededError,
    RateLimitError,
    UnprocessableEntityError,
)

__all__ = ["embedded_error", "rejection"]

_BY_STATUS: dict[int, type[APIStatusError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    410: NotFoundError,
    422: UnprocessableEntityError,
    429: RateLimitError,
    503: OverloadedError,
    529: OverloadedError,
}

# Codes that say more than the status. Sources: the error pages of OpenAI, Azure, Anthropic, vLLM, llama.cpp and TGI.
_BY_CODE: dict[str, type[APIStatusError]] = {
    "authentication_error": AuthenticationError,
    "billing_hard_limit_reached": QuotaExceededError,
    "content_filter": ContentFilterError,
    "content_policy_violation": ContentFilterError,
    "context_length_exceeded": ContextLengthExceededError,
    "exceed_context_size_error": ContextLengthExceededError,
    "insufficient_quota": QuotaExceededError,
    "invalid_api_key": AuthenticationError,
    "invalid_request_error": BadRequestError,
    "not_found_error": NotFoundError,
    "overloaded": OverloadedError,
    "overloaded_error": OverloadedError,
    "permission_error": PermissionDeniedError,
    "rate_limit_error": RateLimitError,
    "rate_limit_exceeded": RateLimitError,
    "string_above_max_length": ContextLengthExceededError,
}
# These name the request's fault in general: a status that says more wins.
_VAGUE = {"invalid_request_error", "authentication_error", "permission_error", "not_found_error", "rate_limit_error"}

_RETRYABLE_STATUS = {408, 425}
_FINAL_STATUS = {501, 505}
_TEXT_LIMIT = 500
_ECHO_WHOLE = 4  # characters from which a text of the prompt is blanked out where it stands whole
_ECHO_LENGTH = 12  # characters in a row that a server text may share with the prompt by chance
_NAMES = {"model", "role", "type", "id", "tool_call_id", "name", "tool_choice"}  # they name things and say nothing
_REQUEST_ID = ("x-request-id", "request-id", "x-amzn-requestid", "apim-request-id")


class _Told(msgspec.Struct):
    """What an error document says, in whichever of the known shapes it came."""

    message: str = ""
    code: str | None = None
    param: str | None = None
    kind: str | None = None
    status: int | None = None


def rejection(
    status: int, headers: Mapping[str, str], body: bytes, *, sent: bytes = b"", secrets: tuple[str, ...] = ()
) -> APIStatusError:
    """The error that a reply of `status` means. `sent` and `secrets` are what its text must not repeat.

    `body` may be cut off, empty, HTML or anything else: the status alone is enough.
    """
    told = _read(body)
    error = _classify(status, told)
    message = _scrub(told.message, sent, secrets) or "the server gave no reason"
    return error(
        message,
        status=status,
        code=told.code or told.kind,
        param=told.param,
        request_id=next((headers[name] for name in _REQUEST_ID if name in headers), None),
        retry_after_s=retry_after(headers),
        retryable=_retryable(status, error),
        body=body,
    )


def embedded_error(document: bytes, *, sent: bytes = b"", secrets: tuple[str, ...] = ()) -> APIStatusError | None:
    """The error that a JSON document inside a reply of status 200 carries, or `None` if it carries none.

    `sent` and `secrets` are what its text must not repeat.
    """
    told = _read(document)
    if told.status is None and told.code and told.code.isdigit():
        told.status = int(told.code)
    if not (told.message or told.code or told.kind):
        return None
    status = told.status or 500
    error = _classify(status, told)
    return error(
        _scrub(told.message, sent, secrets) or "the server broke off without a reason",
        status=told.status,
        code=told.code or told.kind,
        param=told.param,
        retryable=_retryable(status, error),
        body=document,
    )


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait, or `None` where it does not say or cannot be understood.

    Reads `retry-after-ms`, then `Retry-After` as seconds or as an HTTP date, the latter against the reply's own
    `Date` where it has one: the local clock may be wrong.
    """
    for name, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        number = headers.get(name, "").strip()
        if re.fullmatch(r"[0-9]{1,35}(\.[0-9]{1,9})?", number):
            return float(number) / unit
    try:
        then = parsedate_to_datetime(headers.get("retry-after", "")).timestamp()
    except (TypeError, ValueError, OverflowError, IndexError):
        return None
    try:
        now = parsedate_to_datetime(headers.get("date", "")).timestamp()
    except (TypeError, ValueError, OverflowError, IndexError):
        now = time.time()
    return then - now if then > now else None


def _retryable(status: int, error: type[APIStatusError]) -> bool:
    return (error.retryable or status in _RETRYABLE_STATUS) and status not in _FINAL_STATUS


def _classify(status: int, told: _Told) -> type[APIStatusError]:
    by_status = _BY_STATUS.get(status, InternalServerError if status >= 500 else APIStatusError)
    for word in (told.code, told.kind):
        if word in _BY_CODE and not (word in _VAGUE and by_status not in (APIStatusError, InternalServerError)):
            return _BY_CODE[word]
    return by_status


def _read(body: bytes) -> _Told:
    """Find message, code, type and param in the shapes that servers use.

    `{"error": {message, type, param, code}}` OpenAI, vLLM, llama.cpp · `{"error": {"status_code", "content"}}` LLM
    Engine streams · `{"error": str, "error_type"}` TGI · `{"detail": str | list}` FastAPI · `{"message", "code"}`
    and `{"object": "error", ...}` old vLLM · anything else as its title or first line.
    """
    try:
        document: object = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _Told(_first_line(body))
    whole = _object(document)
    if whole is None:
        return _Told(document if isinstance(document, str) else "")
    error = whole.get("error")
    inner = _object(error) or whole
    message = inner.get("message") or inner.get("error") or inner.get("detail") or inner.get("content")
    if isinstance(error, str):
        message = error
    elif error is None and not message and whole.get("object") != "error":
        return _Told()
    status = next((value for name in ("status_code", "status") if isinstance(value := inner.get(name), int)), None)
    return _Told(
        message=_as_text(message),
        code=_word(inner.get("code")),
        param=_word(inner.get("param")),
        kind=_word(inner.get("type")) or _word(inner.get("error_type")) or _word(whole.get("error_type")),
        status=status,
    )


def _object(value: object) -> dict[str, Any] | None:
    """`value` if it is a JSON object."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def _array(value: object) -> list[Any]:
    """The items of `value` if it is a JSON array."""
    return cast("list[Any]", value) if isinstance(value, list) else []


def _word(value: object) -> str | None:
    return str(value)[:100] if isinstance(value, str | int) and str(value).strip() else None


def _as_text(message: object) -> str:
    if isinstance(message, str):
        return message
    entry = _object(message)
    if entry is not None:
        return _as_text(entry.get("message") or entry.get("error") or entry.get("msg") or "")
    # FastAPI: one entry a field, with the place in `loc`.
    return "; ".join(
        f"{'.'.join(map(str, _array(entry.get('loc'))))}: {entry.get('msg', '')}"
        if (entry := _object(item))
        else str(item)
        for item in _array(message)[:5]
    )


def _first_line(body: bytes) -> str:
    text = body[:65536].decode("utf-8", "replace")
    title = re.search(r"<title[^>]*>\s*(.*?)\s*</title", text, re.IGNORECASE | re.DOTALL)
    if title:
        return title[1]
    return next((line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("<")), "")


def _scrub(message: str, sent: bytes, secrets: tuple[str, ...]) -> str:
    """`message` on one line, at most 500 characters, without what it repeats of the request."""
    text = " ".join(message.split())[: 2 * _TEXT_LIMIT]
    for secret in secrets:
        text = text.replace(secret, "***")
    for private in _private_texts(sent):
        text = _blank_out(text, " ".join(private.split()))
    return text if len(text) <= _TEXT_LIMIT else f"{text[: _TEXT_LIMIT - 1]}…"


def _private_texts(sent: bytes) -> Iterator[str]:
    """Every text of a JSON request except what names things rather than says them."""
    try:
        document = msgspec.json.decode(sent) if sent else None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return
    yield from _texts(document)


def _texts(value: object, name: str = "") -> Iterator[str]:
    if isinstance(value, str):
        if name not in _NAMES:
            yield value
        return
    for key, item in (_object(value) or {}).items():
        yield from _texts(item, key)
    for item in _array(value):
        yield from _texts(item, name)


def _blank_out(text: str, private: str) -> str:
    """Replace what `text` shares with `private`: the whole of it, or any run of a dozen characters."""
    if len(private) >= _ECHO_WHOLE and private in text:
        text = text.replace(private, "…")
    if len(private) < _ECHO_LENGTH:
        return text
    kept: list[str] = []
    position = 0
    while position < len(text):
        end = position + _ECHO_LENGTH
        if end <= len(text) and text[position:end] in private:
            while end < len(text) and text[position : end + 1] in private:
                end += 1
            kept.append("…")
            position = end
        else:
            kept.append(text[position])
            position += 1
    return "".join(kept)
