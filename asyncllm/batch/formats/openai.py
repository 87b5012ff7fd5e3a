"""OpenAI's batch files: a request a line, and a result a line.

    {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"model": ..., "messages": [...]}}
    {"id": ..., "custom_id": "a", "response": {"status_code": 200, "request_id": ..., "body": {...}}, "error": null}

`url` is one of `/v1/chat/completions`, `/v1/completions` and `/v1/embeddings`, or the same without `/v1`, as Azure
writes it. What else a line holds beside `body` is not read. Failed requests go into a file of errors: those that a
service has refused with its status and error object, all others with `response` null and `error` set.

A result does not say when it was made: its `created` is 0, so that two outputs of the same results are the same.
Vectors are written as lists of numbers.

Source: https://platform.openai.com/docs/guides/batch.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from asyncllm.batch.formats.bodies import READERS, write_reply
from asyncllm.batch.formats.defaults import Defaults
from asyncllm.batch.formats.lines import Line, faulty_row, line_place, read_lines, too_large, unreadable
from asyncllm.batch.formats.protocol import Reading, Writer
from asyncllm.batch.rows import Outcome, Row
from asyncllm.dialect.faults import status_of, write_error
from asyncllm.dialect.outcomes import read_output_line, write_failure
from asyncllm.errors import APIStatusError, AsyncLLMError, InvalidRequestError

__all__ = ["OpenAI", "read_output"]

_ENDPOINTS = {url: url for url in READERS} | {url.removeprefix("/v1"): url for url in READERS}


class _Line(Struct, gc=False):
    custom_id: str | UnsetType = UNSET
    method: str | UnsetType = UNSET
    url: str | UnsetType = UNSET
    body: msgspec.Raw | UnsetType = UNSET


class _Named(Struct):
    custom_id: str | None = None


_line = msgspec.json.Decoder(_Line)
_named = msgspec.json.Decoder(_Named)
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_encode = msgspec.json.Encoder().encode


class OpenAI:
    """The format."""

    name = "openai"
    suffixes: Sequence[str] = ()
    repeats_input = False
    has_errors_file = True

    async def read(self, chunks: AsyncIterator[bytes], reading: Reading, /) -> AsyncIterator[Row]:
        """See `Format`."""
        defaults = Defaults(reading.options)
        index = 0
        async for line in read_lines(chunks, reading.max_row_bytes, reading.name):
            yield _row(line, index, reading, defaults)
            index += 1

    def writer(self) -> Writer:
        """See `Format`."""
        return _Writer()


class _Writer:
    def begin(self) -> bytes:
        return b""

    def write(self, outcome: Outcome, _: Mapping[str, Any], /) -> tuple[bytes, bytes]:
        answer, error = outcome.answer, outcome.error
        if answer is not None:
            request_id = getattr(answer, "request_id", None) or ""
            body = write_reply(outcome, answer)
            return _result(outcome, {"status_code": 200, "request_id": request_id, "body": body}), b""
        if isinstance(error, APIStatusError):
            body = write_error(error)
            reply = {"status_code": status_of(error), "request_id": error.request_id or "", "body": body}
            return b"", _result(outcome, reply)
        return b"", _result(outcome, None, None if error is None else write_failure(error))

    def end(self) -> bytes:
        return b""


def read_output(content: bytes) -> list[Outcome]:
    """The outcomes of an output or of a file of errors, a line each, in the order of the lines. Raises nothing."""
    results = [read_output_line(line) for line in content.splitlines() if line.strip()]
    return [
        Outcome(index=index, id=result.id, answer=result.answer, error=result.error)
        for index, result in enumerate(results)
    ]


def _result(outcome: Outcome, reply: dict[str, Any] | None, error: dict[str, str] | None = None) -> bytes:
    line = {"id": f"batch_req_{outcome.index}", "custom_id": outcome.id, "response": reply, "error": error}
    return _encode(line) + b"\n"


def _row(line: Line, index: int, reading: Reading, defaults: Defaults) -> Row:
    place = line_place(reading.name, line.number)
    if line.too_long:
        return too_large(index, place, reading.max_row_bytes)
    try:
        wire = _line.decode(line.data)
    except msgspec.ValidationError:
        reason = "custom_id, method and url are texts, and all of it is one JSON object"
        return faulty_row(index, place, reason, code="invalid_request", id_=_name(line.data))
    except _UNREADABLE:
        return unreadable(index, place, ended=line.ended)
    id_ = wire.custom_id or None
    try:
        endpoint, body = _parts(wire)
        request = defaults.fill(READERS[endpoint](body, "body"))
    except AsyncLLMError as error:
        code = error.code or "invalid_request"
        return faulty_row(index, place, error.message, code=code, field=error.field, id_=id_)
    return Row(index=index, place=place, id=id_, request=request)


def _parts(wire: _Line) -> tuple[str, bytes]:
    """Where a request goes to, and what goes there. Raises `InvalidRequestError`."""
    if not wire.custom_id:
        raise InvalidRequestError(
            "custom_id is missing: a text of your own that tells the requests of a batch apart",
            field="custom_id", code="missing_custom_id",
        )  # fmt: skip
    if wire.method != "POST":
        raise InvalidRequestError('method is "POST"', field="method", code="unsupported_method")
    endpoint = _ENDPOINTS.get(wire.url or "")
    if endpoint is None:
        raise InvalidRequestError(f"url is one of {', '.join(READERS)}", field="url", code="unsupported_url")
    if wire.body is UNSET:
        raise InvalidRequestError("body is missing: the request itself", field="body")
    return endpoint, bytes(wire.body)


def _name(line: bytes) -> str | None:
    """The name of a request that is otherwise no request."""
    try:
        return _named.decode(line).custom_id or None
    except _UNREADABLE:
        return None
