"""Files of results to nouns: what OpenAI's batches write.

An OpenAI output, or file of errors, has one object a line: `{"id", "custom_id", "response": {"status_code",
"request_id", "body"}, "error"}`.

Source: https://platform.openai.com/docs/guides/batch.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec
from msgspec import Struct

from asyncllm import errors
from asyncllm.collect import collect
from asyncllm.dialect.replies import read_embeddings, read_reply
from asyncllm.errors import APIError, AsyncLLMError, InternalServerError, ResponseValidationError, RowAbandonedError
from asyncllm.rejection import rejection
from asyncllm.scrub import scrub
from asyncllm.types import Embeddings, Response

__all__ = ["Result", "read_output_line", "write_failure"]

Answer: TypeAlias = Response | Embeddings

_ABANDONED = {"dead_letter", "expired", "cancelled"}
_BODY_LIMIT = 65536
_NULL = b"null"


class Result(Struct, frozen=True):
    """What a file of results says of one request: exactly one of `answer` and `error`."""

    id: str | None = None
    """The request's own name, where results have one."""
    answer: Answer | None = None
    error: AsyncLLMError | None = None


class _Reply(Struct):
    status_code: int
    body: msgspec.Raw = msgspec.Raw(_NULL)
    request_id: str | None = None


class _Failure(Struct):
    code: str | int | None = None
    message: str | None = None
    type: str | None = None


class _Line(Struct):
    custom_id: str | None = None
    response: _Reply | None = None
    error: _Failure | None = None


class _Named(Struct):
    custom_id: str | None = None


class _Vectors(Struct):
    data: list[msgspec.Raw] | None = None


class _Shape(Struct):
    object: str | None = None


_line = msgspec.json.Decoder(_Line)
_named = msgspec.json.Decoder(_Named)
_shape = msgspec.json.Decoder(_Shape)
_vectors = msgspec.json.Decoder(_Vectors)
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def read_output_line(line: bytes) -> Result:
    """One line of an OpenAI output or file of errors. What cannot be read is an error of its own, and raises nothing.

    Of an error that is no reply, `code` says what it was.
    """
    try:
        wire = _line.decode(line)
    except _UNREADABLE:
        invalid = ResponseValidationError(
            f"a line of {len(line)} bytes is no result of a batch", body=line[:_BODY_LIMIT]
        )
        return Result(_name(line), error=invalid)
    reply = wire.response
    if wire.error is not None:
        return Result(wire.custom_id, error=_failure(wire.error))
    if reply is None:
        return Result(wire.custom_id, error=_nothing())
    if reply.status_code >= 400:
        headers = {"x-request-id": reply.request_id} if reply.request_id else {}
        return Result(wire.custom_id, error=rejection(reply.status_code, headers, bytes(reply.body)))
    body = bytes(reply.body)
    if body == _NULL:
        return Result(wire.custom_id, error=_nothing())
    try:
        return Result(wire.custom_id, answer=_answer(body))
    except AsyncLLMError as error:
        return Result(wire.custom_id, error=error)


def write_failure(error: AsyncLLMError) -> dict[str, str]:
    """An error that is no reply as a line of a file of errors has it; `type` makes it known again here."""
    name = type(error).__name__
    return {"code": error.code or name, "message": error.message, "type": name}


def _answer(item: bytes) -> Answer:
    try:
        is_vectors = _shape.decode(item).object == "list"
        vectors = _vectors.decode(item).data if is_vectors else None
    except _UNREADABLE:
        vectors = None  # what it is instead, the reader of replies says
    if vectors is not None:
        return read_embeddings(item, count=len(vectors))
    return collect(read_reply(item))


def _failure(failure: _Failure) -> AsyncLLMError:
    code = None if failure.code is None else str(failure.code)[:100]
    message = scrub(failure.message or "", (), ()) or "the batch gave no reason"
    reason = (code or "").removeprefix("batch_")
    if reason in _ABANDONED:
        return RowAbandonedError(message, code=reason)
    kind: type[AsyncLLMError] = getattr(errors, failure.type) if failure.type in errors.__all__ else APIError
    return kind(message, code=None if code == failure.type else code)


def _nothing() -> InternalServerError:
    return InternalServerError("the batch has no result for this request", code="no_result")


def _name(line: bytes) -> str | None:
    try:
        return _named.decode(line).custom_id
    except _UNREADABLE:
        return None
