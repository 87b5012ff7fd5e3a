"""Errors to OpenAI's error objects, and the status that goes with each: the other way of `rejection`."""

from __future__ import annotations

from typing import Any

from asyncllm.errors import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AsyncLLMError,
    AuthenticationError,
    BadRequestError,
    BudgetExceededError,
    ConfigError,
    ConflictError,
    ContentFilterError,
    ContextLengthExceededError,
    EngineDeadError,
    InternalServerError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    PoolTimeoutError,
    QuotaExceededError,
    RateLimitError,
    ResourceExhaustedError,
    ResponseValidationError,
    StreamInterrupted,
    UnprocessableEntityError,
    UnsupportedError,
)

__all__ = ["status_of", "write_error"]

_FAULTS: dict[type[AsyncLLMError], tuple[int, str]] = {
    AsyncLLMError: (500, "server_error"),
    ConfigError: (400, "invalid_request_error"),
    UnsupportedError: (400, "invalid_request_error"),
    BudgetExceededError: (402, "insufficient_quota"),
    APIConnectionError: (502, "server_error"),
    APITimeoutError: (504, "server_error"),
    PoolTimeoutError: (503, "overloaded_error"),
    ResourceExhaustedError: (503, "overloaded_error"),
    EngineDeadError: (503, "server_error"),
    StreamInterrupted: (502, "server_error"),
    ResponseValidationError: (502, "server_error"),
    APIStatusError: (500, "server_error"),
    BadRequestError: (400, "invalid_request_error"),
    AuthenticationError: (401, "authentication_error"),
    PermissionDeniedError: (403, "permission_error"),
    NotFoundError: (404, "not_found_error"),
    ConflictError: (409, "invalid_request_error"),
    UnprocessableEntityError: (422, "invalid_request_error"),
    RateLimitError: (429, "rate_limit_error"),
    QuotaExceededError: (429, "insufficient_quota"),
    OverloadedError: (503, "overloaded_error"),
    InternalServerError: (500, "server_error"),
}
_CODES: dict[type[AsyncLLMError], str] = {
    ContentFilterError: "content_filter",
    ContextLengthExceededError: "context_length_exceeded",
    QuotaExceededError: "insufficient_quota",
}
"""OpenAI's codes for what the status does not tell."""


def write_error(error: AsyncLLMError) -> dict[str, Any]:
    """The body of an error reply, `{"error": {...}}`; `status_of` is its status."""
    code = next((_CODES[kind] for kind in type(error).__mro__ if kind in _CODES), error.code)
    return {
        "error": {
            "message": error.message,
            "type": _fault(error)[1],
            "param": error.param or error.field,
            "code": code,
        }
    }


def status_of(error: AsyncLLMError) -> int:
    """The HTTP status that means `error`: the one that it came with, where it is an error status."""
    if isinstance(error, APIStatusError) and error.status is not None and 400 <= error.status <= 599:
        return error.status
    return _fault(error)[0]


def _fault(error: AsyncLLMError) -> tuple[int, str]:
    return next(_FAULTS[kind] for kind in type(error).__mro__ if kind in _FAULTS)
