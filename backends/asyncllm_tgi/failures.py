"""Errors that TGI puts into a reply of status 200: the body of an error reply, without the status it would have had."""

from __future__ import annotations

from collections.abc import Mapping

from asyncllm.errors import APIStatusError
from asyncllm.rejection import broken_off, rejection

__all__ = ["failure", "with_status"]

_STATUS: Mapping[str, int] = {
    "validation": 422,
    "template_error": 422,
    "missing_template_variable": 422,
    "tool_error": 422,
    "generation": 424,
    "overloaded": 429,
    "incomplete_generation": 500,
    "incomplete_generation_stream": 500,
}
"""The status that TGI answers with for each `error_type`, where the error comes before the answer."""


def failure(document: bytes, *, sent: bytes, secrets: tuple[str, ...]) -> APIStatusError:
    """The error that an event's `document` is."""
    return with_status(broken_off(document, sent=sent, secrets=secrets), sent=sent, secrets=secrets)


def with_status(error: APIStatusError, *, sent: bytes, secrets: tuple[str, ...]) -> APIStatusError:
    """`error` as it would have been with the status that its `error_type` stands for."""
    status = _STATUS.get(error.code or "")
    if status is None or error.status is not None:
        return error
    return rejection(status, {}, error.body or b"", sent=sent, secrets=secrets)
