"""An error reply, by status or inside a stream, becomes the one typed error it means.

Status and code decide, never the wording. The server's own words are kept for people to read, scrubbed of whatever
they echo of the request: an error text travels to logs that prompts and keys must not reach.

Nothing here raises, whatever a server sends: what cannot be understood says nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, cast

import msgspec

from asyncllm.advice import retry_after
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
from asyncllm.multipart import form_texts
from asyncllm.scrub import scrub

__all__ = ["broken_off", "embedded_error", "excerpt", "rejection", "retry_after"]

_BY_STATUS: dict[int, type[APIStatusError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    402: QuotaExceededError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    410: NotFoundError,
    422: UnprocessableEntityError,
    429: RateLimitError,
    503: OverloadedError,
    529: OverloadedError,
}

# Codes that say more than the status. Sources: OpenAI, Azure, Anthropic, AWS, vLLM, llama.cpp, TGI, ElevenLabs.
_BY_CODE: dict[str, type[APIStatusError]] = {
    "ModelNotReadyException": OverloadedError,
    "ModelStreamErrorException": InternalServerError,
    "ServiceQuotaExceededException": QuotaExceededError,
    "authentication_error": AuthenticationError,
    "billing_error": QuotaExceededError,
    "billing_hard_limit_reached": QuotaExceededError,
    "contentFilter": ContentFilterError,
    "content_filter": ContentFilterError,
    "content_policy_violation": ContentFilterError,
    "context_length_exceeded": ContextLengthExceededError,
    "exceed_context_size_error": ContextLengthExceededError,
    "insufficient_quota": QuotaExceededError,
    "invalid_api_key": AuthenticationError,
    "invalid_request_error": BadRequestError,
    "moderation_blocked": ContentFilterError,
    "not_found_error": NotFoundError,
    "overloaded": OverloadedError,
    "overloaded_error": OverloadedError,
    "permission_error": PermissionDeniedError,
    "quota_exceeded": QuotaExceededError,
    "rate_limit_error": RateLimitError,
    "rate_limit_exceeded": RateLimitError,
    "string_above_max_length": ContextLengthExceededError,
    "voice_not_found": NotFoundError,
}
_BY_CODE["API_KEY_INVALID"] = AuthenticationError  # which Google answers with 400, and with this in the details
_SIGNATURE = ("ExpiredTokenException", "InvalidSignatureException", "UnrecognizedClientException")
_BY_CODE.update(dict.fromkeys(_SIGNATURE, AuthenticationError))  # which AWS answers with 403
# What a response of OpenAI's Responses API fails by, where the request is at fault.
_BY_CODE.update(
    dict.fromkeys(
        (
            "data_residency_mismatch", "empty_image_file", "failed_to_download_image", "image_file_not_found",
            "image_file_too_large", "image_parse_error", "image_too_large", "image_too_small", "invalid_base64_image",
            "invalid_image", "invalid_image_format", "invalid_image_mode", "invalid_image_url", "invalid_prompt",
            "unsupported_image_media_type",
        ),
        BadRequestError,
    )
)  # fmt: skip
_BY_CODE.update(
    dict.fromkeys(("bio_policy", "image_content_policy_violation", "misalignment_policy_violation"), ContentFilterError)
)
# These name the request's fault in general: a status that says more wins.
_VAGUE = {"invalid_request_error", "authentication_error", "permission_error", "not_found_error", "rate_limit_error"}
_RETRYABLE_STATUS, _FINAL_STATUS = {408, 425}, {501, 505}
_LINE_LIMIT = 4096  # bytes in which a title or a first line is looked for
_BODY_LIMIT = 65536
_NAMES = {"model", "role", "type", "id", "tool_call_id", "name", "tool_choice"}  # they name things and say nothing
_REQUEST_ID = ("x-request-id", "request-id", "x-amzn-requestid", "apim-request-id")

_ADVICE = {"true": True, "false": False}  # `x-should-retry`


class _Told(msgspec.Struct):
    """What an error document says, in whichever of the known shapes it came."""

    message: str = ""
    code: str | None = None
    param: str | None = None
    kind: str | None = None
    status: int | None = None
    request_id: str | None = None


def rejection(
    status: int, headers: Mapping[str, str], body: bytes, *, sent: bytes = b"", secrets: tuple[str, ...] = ()
) -> APIStatusError:
    """The error that a reply of `status` means. `sent` and `secrets` are what its text must not repeat.

    `body` may be cut off, empty, HTML or anything else: the status alone is enough.
    """
    told = _read(body)
    if told.code is None and told.kind is None:
        told.kind = headers.get("x-amzn-errortype", "").partition(":")[0].strip()[:100] or None
    error = _classify(status, told)
    named = next((headers[name] for name in _REQUEST_ID if name in headers), None)
    return error(
        _scrub(told.message, sent, secrets) or "the server gave no reason",
        status=status,
        code=_scrub_word(told.code or told.kind, sent, secrets),
        param=_scrub_word(told.param, sent, secrets),
        request_id=named or _scrub_word(told.request_id, sent, secrets),
        retry_after_s=retry_after(headers),
        retryable=_ADVICE.get(headers.get("x-should-retry", "").strip().lower(), _retryable(status, error)),
        body=body,
    )


def embedded_error(document: bytes, *, sent: bytes = b"", secrets: tuple[str, ...] = ()) -> APIStatusError | None:
    """The error that a JSON document inside a reply of status 200 is, or `None` if it is none; see `broken_off`."""
    return broken_off(document, sent=sent, secrets=secrets) if _is_error(document) else None


def broken_off(document: bytes, *, sent: bytes = b"", secrets: tuple[str, ...] = ()) -> APIStatusError:
    """The error that `document` means, which a server has sent as one inside a reply of status 200."""
    told = _read(document)
    status = told.status or _status(told.code)
    error = _classify(status or 500, told)
    return error(
        _scrub(told.message, sent, secrets) or "the server broke off without a reason",
        status=status,
        code=_scrub_word(told.code or told.kind, sent, secrets),
        param=_scrub_word(told.param, sent, secrets),
        request_id=_scrub_word(told.request_id, sent, secrets),
        retryable=_retryable(status or 500, error),
        body=document[:_BODY_LIMIT],
    )


def excerpt(body: bytes, *, sent: bytes = b"", secrets: tuple[str, ...] = ()) -> str:
    """The title or the first line of a body that is not JSON, without what it repeats of the request."""
    return _scrub(_first_line(body), sent, secrets)


def _retryable(status: int, error: type[APIStatusError]) -> bool:
    return (error.retryable or status in _RETRYABLE_STATUS) and status not in _FINAL_STATUS


def _classify(status: int, told: _Told) -> type[APIStatusError]:
    by_status = _BY_STATUS.get(status, InternalServerError if status >= 500 else APIStatusError)
    if by_status is BadRequestError and told.param == "input_tokens":  # vLLM's word: its code is but the status
        return ContextLengthExceededError
    for word in (told.code, told.kind):
        if word in _BY_CODE and not (word in _VAGUE and by_status not in (APIStatusError, InternalServerError)):
            return _BY_CODE[word]
    return by_status


def _is_error(document: bytes) -> bool:
    """Whether a document that came in place of an answer, or of a piece of one, is an error."""
    try:
        whole = _object(_unwrapped(_load(document))) or {}
    except ValueError:
        return False
    if whole.get("error") not in (None, False) or "error" in (whole.get("object"), whole.get("type")):
        return True
    code = whole.get("code")
    is_name = isinstance(code, str) and not code.isdigit() and bool(whole.get("message"))
    return bool(whole.get("error_code") or whole.get("detail") or is_name or _status(code))


def _read(body: bytes) -> _Told:
    """Find message, code, type and param in the shapes that servers use.

    `{"error": {message, type, param, code}}` OpenAI, vLLM, llama.cpp · `{"error": {"status_code", "content"}}` LLM
    Engine streams, `{"error": str, "request_id"}` its middleware · `{"error": str, "error_type"}` TGI · `{"detail"}`
    FastAPI, `{"detail": {message, status}}` ElevenLabs · `{"message", "code"}`, `{"object": "error"}` old vLLM ·
    `{"text", "error_code"}` FastChat · any of them alone in a list, as Gemini sends it · anything else as its title
    or first line.
    """
    try:
        document = _unwrapped(_load(body))
    except ValueError:
        return _Told(_first_line(body))
    whole = _object(document)
    if whole is None:
        return _Told(document if isinstance(document, str) else "")
    error = whole.get("error")
    inner = _object(error) or _object(whole.get("detail")) or whole
    words = (inner.get(name) for name in ("message", "Message", "error", "detail", "content", "text"))
    status = next((status for name in ("status_code", "status") if (status := _status(inner.get(name)))), None)
    word = _word(inner.get("status")) if inner is whole.get("detail") else None
    return _Told(
        message=_as_text(error if isinstance(error, str) else next(filter(None, words), None)) + _filters(inner),
        code=_word(inner.get("code")) or _word(inner.get("error_code")) or word,
        param=_word(inner.get("param")),
        kind=_word(inner.get("type"))
        or _word(inner.get("error_type"))
        or _word(whole.get("error_type"))
        or _reason(inner),
        status=status,
        request_id=_word(whole.get("request_id")),
    )


def _reason(error: dict[str, Any]) -> str | None:
    """Google's own word for what is wrong, which stands in the details."""
    details = (_object(item) or {} for item in _array(error.get("details"))[:5])
    return next((word for item in details if (word := _word(item.get("reason")))), None)


def _unwrapped(document: object) -> object:
    """`document`, or what is alone in it."""
    items = _array(document)
    return items[0] if len(items) == 1 else document


def _filters(error: dict[str, Any]) -> str:
    """Which filters of Azure's refused the prompt, and why, where the error says it."""
    inner = _object(error.get("innererror")) or _object(error.get("inner_error")) or {}
    results = _object(inner.get("content_filter_result")) or _object(inner.get("content_filter_results")) or {}
    hits = [
        f"{name} ({result['severity']})" if isinstance(result.get("severity"), str) else name
        for name, item in results.items()
        if (result := _object(item) or {}).get("filtered") is True
    ]
    return f" [filtered: {', '.join(hits)}]" if hits else ""


def _load(document: bytes) -> object:
    """The JSON in `document`, with what only Python's own parser takes. Raises `ValueError` where there is none."""
    try:
        return msgspec.json.decode(document)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        try:
            return json.loads(document.decode("utf-8", "replace").lstrip("\ufeff"))
        except RecursionError:
            raise ValueError from None


def _object(value: object) -> dict[str, Any] | None:
    """`value` if it is a JSON object."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def _array(value: object) -> list[Any]:
    """The items of `value` if it is a JSON array."""
    return cast("list[Any]", value) if isinstance(value, list) else []


def _status(value: object) -> int | None:
    """`value` as the status of an error, if it is one."""
    text = str(value) if isinstance(value, str | int) else ""
    return int(text) if re.fullmatch(r"[45][0-9]{2}", text) else None


def _word(value: object) -> str | None:
    return str(value)[:100] if isinstance(value, str | int) and str(value).strip() else None


def _as_text(message: object, depth: int = 3) -> str:
    if isinstance(message, str):
        return message
    entry = _object(message)
    if entry is not None:
        inner = entry.get("message") or entry.get("error") or entry.get("msg") or entry.get("detail")
        return _as_text(inner, depth - 1) if inner and depth else ""
    # FastAPI: one entry a field, with the place in `loc`.
    return "; ".join(
        f"{'.'.join(map(str, _array(entry.get('loc'))))}: {entry.get('msg', '')}"
        if (entry := _object(item))
        else str(item)
        for item in _array(message)[:5]
    )


def _first_line(body: bytes) -> str:
    text = body[:_LINE_LIMIT].decode("utf-8", "replace")
    title = re.search(r"<title[^>]*>(.*?)</title", text, re.IGNORECASE | re.DOTALL)
    if title:
        return title[1]
    return next((line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("<")), "")


def _scrub(message: str, sent: bytes, secrets: tuple[str, ...]) -> str:
    """`message` on one line, at most 500 characters, without what it repeats of the request."""
    return scrub(message, _private_texts(sent), secrets)


def _scrub_word(word: str | None, sent: bytes, secrets: tuple[str, ...]) -> str | None:
    """The same for a code or the name of a field; a code that is known stays whole, whatever the prompt was."""
    return word if word is None or word in _BY_CODE else _scrub(word, sent, secrets)


def _private_texts(sent: bytes) -> Iterator[str]:
    """Every text of a request, JSON or a form, except files and what names things; of any other body, the whole."""
    texts = form_texts(sent)
    if texts is not None:
        yield from (text for name, text in texts if name not in _NAMES)
        return
    try:
        document = _load(sent)
    except ValueError:
        document = sent.decode("utf-8", "replace")
    left: list[tuple[str, object]] = [("", document)]
    while left:
        name, value = left.pop()
        if isinstance(value, str) and name not in _NAMES:
            yield value
        left += (_object(value) or {}).items()
        left += ((name, item) for item in _array(value))
