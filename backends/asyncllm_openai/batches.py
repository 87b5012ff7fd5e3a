"""Batches over OpenAI's HTTP API: a file of requests goes up, a batch is made of it, files of results come down.

Sources: https://platform.openai.com/docs/api-reference/batch and /files; for Azure
https://learn.microsoft.com/azure/ai-foundry/openai/how-to/batch.

The caller's token goes along in the metadata, by which a batch is found again that may or may not have been made.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import msgspec
from msgspec import Raw, Struct

from asyncllm.backend import (
    BatchItem,
    BatchLimits,
    BatchOutcome,
    BatchRequest,
    BatchState,
    Config,
    Context,
    HttpCall,
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
    response_of,
    unsupported,
    without_texts,
    write_items,
)
from asyncllm.dialect.lenient import decode
from asyncllm.dialect.requests import encode
from asyncllm.errors import APIError, APIStatusError, AsyncLLMError, InvalidRequestError, ResponseValidationError
from asyncllm.media import MediaFile
from asyncllm.multipart import encode_form
from asyncllm.types import Request, Timeouts
from asyncllm_openai.backend import OpenAI, Service
from asyncllm_openai.batch_states import TOKEN, WireBatch, WirePage, expected_lines, state_of

__all__ = ["OpenAIWithBatches"]

_JSON = "application/json"
_LABELS = 15  # of 16 pairs, one of which is the token
_PAGE = 100
_UPLOADS = 3
_UNREAD = {"pending", "running", "importing", "notrunning"}  # what Azure says of a file that it has yet to read
_NEVER_REACHED = {"batch_cancelled": "cancelled", "batch_canceled": "cancelled", "batch_expired": "expired"}


class _File(Struct):
    id: str
    status: str | None = None


class _Answer(Struct):
    body: Raw = Raw()
    status_code: int | None = None


class _Line(Struct):
    """A line of results: what one item was answered with, or an `error` in its place."""

    custom_id: str
    response: _Answer | None = None
    error: dict[str, Any] | None = None


_file = msgspec.json.Decoder(_File)
_batch = msgspec.json.Decoder(WireBatch)
_page = msgspec.json.Decoder(WirePage)
_line = msgspec.json.Decoder(_Line)


class OpenAIWithBatches(OpenAI):
    """A server that works off batches, as OpenAI's own does; see `asyncllm.backend.Batches`."""

    batch_limits = BatchLimits(items=50_000, bytes=200_000_000)
    _batch_root = "/v1"
    """What stands before the path of a call where an item names it."""

    def __init__(self, config: Config, context: Context, service: Service | None = None) -> None:
        super().__init__(config, context, service)
        self._clock = context.clock

    def batch_item_size(self, item: BatchItem, /) -> int:
        """See `Batches`: the length of its line in the file."""
        return len(self._batch_line(item)[1])

    async def create_batch(self, batch: BatchRequest, /) -> BatchState:
        """Upload the items and make a batch of them; see `Batches`.

        `labels` become metadata, at most 15 of them; `extra` goes into the body of `POST /batches`.
        """
        self._check_options(batch)
        written = await write_items(check_batch(batch, self.batch_limits), self._batch_line)
        lines = [line for _, line in written]
        check_room(lines, self.batch_limits)
        try:
            file = await self._upload(batch, lines)
        except APIError as error:
            error.maybe_billed = False  # a file is no batch
            raise
        body = {
            "input_file_id": file,
            "endpoint": written[0][0],
            "completion_window": "24h",
            "metadata": {**batch.labels, TOKEN: batch.token},
            **batch.extra,
        }
        call = self._batch_call("POST", "/batches", encode(body), timeouts=batch.timeouts)
        return state_of(read_document(call, await create_once(self._transport, call), _batch, "a batch"))

    async def find_batch(self, token: str, /) -> BatchState | None:
        """See `Batches`: the first one in the list whose metadata has the token."""
        after, seen = "", set[str]()
        while True:
            call = self._batch_call(
                "GET", "/batches", query={"limit": str(_PAGE), **({"after": after} if after else {})}
            )
            page = read_document(call, await fetch(self._transport, call), _page, "a list of batches")
            for batch in page.data:
                if batch.token == token:
                    return state_of(batch)
            after = page.last_id or (page.data[-1].id if page.data else "")
            if not page.has_more or not after or after in seen:
                return None
            seen.add(after)

    async def get_batch(self, batch_id: str, /) -> BatchState:
        """See `Batches`."""
        return state_of(await self._look(batch_id))

    async def cancel_batch(self, batch_id: str, /) -> BatchState:
        """See `Batches`. A batch takes up to ten minutes to stop."""
        call = self._batch_call("POST", f"/batches/{path_of(batch_id)}/cancel")
        return state_of(read_document(call, await fetch(self._transport, call), _batch, "a batch"))

    @asynccontextmanager
    async def batch_outcomes(
        self, batch_id: str, requests: Mapping[str, Request] = {}, /
    ) -> AsyncGenerator[AsyncIterator[BatchOutcome]]:
        """See `Batches`: first those that were answered, then those that failed."""
        batch = await self._look(batch_id)
        require_ended(state_of(batch))
        calls = [self._batch_call("GET", f"/files/{path_of(file)}/content") for file in batch.files]
        secrets = self._secrets(calls[0]) if calls else ()

        def read(line: bytes) -> BatchOutcome:
            return self._outcome(decode(line, _line, "a line"), requests, secrets)

        async with lend_outcomes(self._transport, calls, read, expected=expected_lines(batch)) as outcomes:
            yield outcomes

    def _batch_model(self, model: str) -> str:
        """What the items of a batch call `model`."""
        return model

    def _check_options(self, batch: BatchRequest) -> None:
        if batch.priority is not None:
            raise unsupported("priority", "the service has none for batches", backend=self._name)
        check_day(batch, backend=self._name)
        if "metadata" in batch.extra:
            raise InvalidRequestError("metadata of a batch is given as labels", field="extra")
        right = all(len(name) <= 64 and len(value) <= 512 for name, value in batch.labels.items())
        if len(batch.labels) > _LABELS or not right or TOKEN in batch.labels:
            raise InvalidRequestError(
                f"labels are at most {_LABELS}, with names of up to 64 characters and values of up to 512; {TOKEN} is "
                "taken",
                field="labels",
            )

    def _batch_line(self, item: BatchItem) -> tuple[str, bytes]:
        """The endpoint of an item, and its line."""
        check_id(item)
        model = self._batch_model(item.request.model)
        path, body = self._body(msgspec.structs.replace(item.request, model=model, stream=False))
        url = self._batch_root + path
        return url, encode({"custom_id": item.id, "method": "POST", "url": url, "body": Raw(body)}) + b"\n"

    async def _upload(self, batch: BatchRequest, lines: Sequence[bytes]) -> str:
        """The id of a file with `lines`, once the service has read it. What did not arrive is sent again."""
        file = MediaFile(b"".join(lines), "batch.jsonl", "application/jsonl")
        kind, form = encode_form([("purpose", "batch"), ("file", file)])
        call = self._batch_call("POST", "/files", form, kind=kind, timeouts=batch.timeouts)
        for left in reversed(range(_UPLOADS)):
            try:
                told = read_document(call, await fetch(self._transport, call), _file, "a file")
            except APIStatusError as error:
                if not left or not error.retryable:
                    raise without_texts(error, lines) from None
                wait_s = error.retry_after_s or 1.0
            except APIError as error:
                if not left or not error.retryable:
                    raise
                wait_s = 1.0
            else:
                return await self._read_by_service(told)
            await self._clock.sleep(min(wait_s, LOOK.first_event_s or wait_s))
        raise AssertionError("the last attempt returns or raises")

    async def _read_by_service(self, file: _File) -> str:
        """The id of `file` once it can be used. Raises `ResponseValidationError` for one that never can be."""
        wait_s = 1.0
        while (file.status or "").lower() in _UNREAD:
            await self._clock.sleep(wait_s)
            wait_s = min(2 * wait_s, 60.0)
            call = self._batch_call("GET", f"/files/{path_of(file.id)}")
            file = read_document(call, await fetch(self._transport, call), _file, "a file")
        if (file.status or "").lower() in ("error", "failed", "deleted"):
            raise ResponseValidationError(f"the service cannot use the file of the batch: it is {file.status}")
        return file.id

    async def _look(self, batch_id: str) -> WireBatch:
        call = self._batch_call("GET", f"/batches/{path_of(batch_id)}")
        return read_document(call, await fetch(self._transport, call), _batch, "a batch")

    def _outcome(self, line: _Line, requests: Mapping[str, Request], secrets: tuple[str, ...]) -> BatchOutcome:
        request = requests.get(line.custom_id)
        sent = None if request is None else self._sent(request)
        answer, error = line.response, line.error
        try:
            if answer is not None and (answer.status_code is None or answer.status_code < 300) and bytes(answer.body):
                events = self._read_body(bytes(answer.body), sent or b"", secrets)
                return BatchOutcome(id=line.custom_id, response=response_of(events, self._name))
        except AsyncLLMError as failure:
            return BatchOutcome(id=line.custom_id, error=failure)
        if answer is not None and answer.status_code is not None:
            return BatchOutcome(id=line.custom_id, error=refused(answer.status_code, bytes(answer.body), sent, secrets))
        if error is None:
            raise ResponseValidationError("a line has neither a response nor an error")
        never = _NEVER_REACHED.get(str(error.get("code")))
        failed = refused(None, encode({"error": error}), sent, secrets) if never is None else abandoned(never)
        return BatchOutcome(id=line.custom_id, error=failed)

    def _sent(self, request: Request) -> bytes | None:
        """What went out for `request`, to know what an error text repeats."""
        try:
            return self._body(request)[1]
        except AsyncLLMError:
            return None

    def _batch_call(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        kind: str = _JSON,
        query: Mapping[str, str] = {},
        timeouts: Timeouts = LOOK,
    ) -> HttpCall:
        url = self._address(path)
        if query:
            url += f"{'&' if '?' in url else '?'}{urlencode(query)}"
        headers = {**self._headers, "Content-Type": kind}
        return self._carrying(HttpCall(method=method, url=url, body=body, headers=headers, timeouts=timeouts))
