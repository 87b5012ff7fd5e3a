"""Batches of Anthropic's Messages API: the requests go up in one body, lines of results come down.

Source: https://platform.claude.com/docs/en/api/messages/batches.

The API has no place for a name of the caller's own, so nobody can ask whether a batch was made: `find_batch` refuses.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from msgspec import Raw, Struct

from asyncllm.backend import (
    BatchItem,
    BatchLimits,
    BatchOutcome,
    BatchRequest,
    BatchState,
    HttpCall,
    JobStatus,
)
from asyncllm.batch_http import (
    LOOK,
    abandoned,
    check_batch,
    check_day,
    check_id,
    check_room,
    create_once,
    fetch,
    lend_outcomes,
    path_of,
    read_document,
    refused,
    require_ended,
    require_origin,
    response_of,
    unsupported,
    write_items,
)
from asyncllm.dialect.lenient import decode
from asyncllm.dialect.requests import encode
from asyncllm.errors import AsyncLLMError, InvalidRequestError, NotFoundError, ResponseValidationError
from asyncllm.types import Request
from asyncllm_anthropic.backend import Anthropic
from asyncllm_anthropic.replies import read_message

__all__ = ["AnthropicWithBatches"]

_HEAD, _TAIL = b'{"requests":[', b"]}"


class _Counts(Struct):
    processing: int = 0
    succeeded: int = 0
    errored: int = 0
    canceled: int = 0
    expired: int = 0


class _Batch(Struct):
    id: str
    processing_status: str
    request_counts: _Counts = msgspec.field(default_factory=_Counts)
    results_url: str | None = None
    cancel_initiated_at: str | None = None


class _Result(Struct):
    type: str
    message: Raw = Raw()
    error: Raw = Raw()


class _Line(Struct):
    custom_id: str
    result: _Result


_batch = msgspec.json.Decoder(_Batch)
_line = msgspec.json.Decoder(_Line)


class AnthropicWithBatches(Anthropic):
    """A server that works off batches, as Anthropic's own does; see `asyncllm.backend.Batches`."""

    batch_limits = BatchLimits(items=100_000, bytes=256_000_000 - len(_HEAD + _TAIL))

    def batch_item_size(self, item: BatchItem, /) -> int:
        """See `Batches`: its length in the body, with a comma."""
        return len(self._batch_item(item))

    async def create_batch(self, batch: BatchRequest, /) -> BatchState:
        """See `Batches`. `extra` goes into the body, beside the requests."""
        self._check_batch(batch)
        items = await write_items(check_batch(batch, self.batch_limits), self._batch_item)
        check_room(items, self.batch_limits)
        extra = encode(batch.extra)[1:-1]
        body = b"".join((_HEAD, *items))[:-1] + b"]" + (b"," + extra if extra else b"") + b"}"
        call = self._batch_call("POST", "/v1/messages/batches", body)
        call = msgspec.structs.replace(call, timeouts=batch.timeouts)
        return _state(read_document(call, await create_once(self._transport, call), _batch, "a batch"))

    async def find_batch(self, token: str, /) -> BatchState | None:
        """Refused: the service keeps no name of the caller's own with a batch."""
        del token
        raise unsupported("find_batch", "the service keeps no name of yours with a batch", backend=self._name)

    async def get_batch(self, batch_id: str, /) -> BatchState:
        """See `Batches`."""
        return _state(await self._look(batch_id))

    async def cancel_batch(self, batch_id: str, /) -> BatchState:
        """See `Batches`. What is under way is ended first."""
        call = self._batch_call("POST", f"/v1/messages/batches/{path_of(batch_id)}/cancel")
        return _state(read_document(call, await fetch(self._transport, call), _batch, "a batch"))

    @asynccontextmanager
    async def batch_outcomes(
        self, batch_id: str, requests: Mapping[str, Request] = {}, /
    ) -> AsyncGenerator[AsyncIterator[BatchOutcome]]:
        """See `Batches`. Results are kept for 29 days."""
        batch = await self._look(batch_id)
        state = _state(batch)
        require_ended(state)
        if not batch.results_url:
            raise NotFoundError("the service keeps no results of this batch, or no longer", code="no_results")
        require_origin(batch.results_url, self._url)
        call = HttpCall(method="GET", url=batch.results_url, headers=self._headers, timeouts=LOOK)

        def read(line: bytes) -> BatchOutcome:
            return self._outcome(decode(line, _line, "a line"), requests, call.secrets)

        async with lend_outcomes(self._transport, [call], read, expected=state.total or 0) as outcomes:
            yield outcomes

    def _check_batch(self, batch: BatchRequest) -> None:
        for field in ("labels", "priority"):
            if getattr(batch, field):
                raise unsupported(field, "the service has none for batches; leave it out", backend=self._name)
        check_day(batch, backend=self._name)
        if "requests" in batch.extra:
            raise InvalidRequestError("the requests of a batch are its items", field="extra")

    def _batch_item(self, item: BatchItem) -> bytes:
        check_id(item)
        params = self._params(msgspec.structs.replace(item.request, stream=False))
        return encode({"custom_id": item.id, "params": params}) + b","

    async def _look(self, batch_id: str) -> _Batch:
        call = self._batch_call("GET", f"/v1/messages/batches/{path_of(batch_id)}")
        return read_document(call, await fetch(self._transport, call), _batch, "a batch")

    def _batch_call(self, method: str, path: str, body: bytes = b"") -> HttpCall:
        return HttpCall(method=method, url=self._url + path, body=body, headers=self._headers, timeouts=LOOK)

    def _outcome(self, line: _Line, requests: Mapping[str, Request], secrets: tuple[str, ...]) -> BatchOutcome:
        name, result = line.custom_id, line.result
        if result.type in ("canceled", "expired"):
            return BatchOutcome(id=name, error=abandoned("expired" if result.type == "expired" else "cancelled"))
        request = requests.get(name)
        sent = None if request is None else self._sent(request)
        if result.type == "errored" and bytes(result.error):
            return BatchOutcome(id=name, error=refused(None, bytes(result.error), sent, secrets))
        if result.type != "succeeded":
            raise ResponseValidationError("a line has a result of no known type")
        try:
            events = read_message(bytes(result.message), sent=sent or b"", secrets=secrets)
        except AsyncLLMError as failure:
            return BatchOutcome(id=name, error=failure)
        return BatchOutcome(id=name, response=response_of(events, self._name))

    def _sent(self, request: Request) -> bytes | None:
        """What went out for `request`, to know what an error text repeats."""
        try:
            return encode(self._params(request))
        except AsyncLLMError:
            return None

    def _params(self, request: Request) -> dict[str, Any]:
        return self._body(request, {"model": request.model})


def _state(batch: _Batch) -> BatchState:
    """What the service says. It counts requests once all have ended; until then all of them are under way."""
    counts = batch.request_counts
    unanswered = counts.errored + counts.canceled + counts.expired
    ended = counts.succeeded + unanswered
    status: JobStatus = "running"
    if batch.processing_status == "ended":
        status = "expired" if counts.expired else "cancelled" if counts.canceled else "succeeded"
    total = ended + counts.processing
    return BatchState(
        id=batch.id,
        status=status,
        status_raw=batch.processing_status,
        progress=ended / total if ended else None,
        total=total or None,
        done=counts.succeeded if ended else None,
        failed=unanswered if ended else None,
    )
