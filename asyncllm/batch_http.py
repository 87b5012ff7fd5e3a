"""What backends share whose service works off batches over HTTP: checks, a creation that arrives once, and results.

Results are lines of JSON, one an item. They are read as they come, so that a file of any size is never held whole.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar
from urllib.parse import quote, urlsplit

import msgspec

from asyncllm.backend import BatchItem, BatchLimits, BatchOutcome, BatchRequest, BatchState, HttpCall, Transport
from asyncllm.collect import Collector
from asyncllm.dialect.lenient import decode
from asyncllm.errors import (
    APIError,
    APIStatusError,
    FirstEventTimeoutError,
    InvalidRequestError,
    RedirectRefusedError,
    ResponseValidationError,
    RowAbandonedError,
    StreamInterrupted,
    UnsupportedError,
)
from asyncllm.events import Event, end
from asyncllm.exchange import raise_embedded
from asyncllm.ndjson import NDJSONDecoder
from asyncllm.rejection import broken_off, excerpt, rejection
from asyncllm.types import Response, Timeouts

__all__ = [
    "LOOK",
    "abandoned",
    "check_batch",
    "check_day",
    "check_id",
    "check_room",
    "create_once",
    "fetch",
    "lend_outcomes",
    "path_of",
    "read_document",
    "refused",
    "require_ended",
    "require_origin",
    "response_of",
    "unsupported",
    "without_texts",
    "write_items",
]

T = TypeVar("T")
S = TypeVar("S", bound=APIStatusError)

LOOK = Timeouts(connect_s=5, first_event_s=60, byte_idle_s=60)
"""For a question that is answered at once."""

_DAY_S = 24 * 3600
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TOKEN = re.compile(r"[\x21-\x7e]{1,256}")
_LINE_BYTES = 64 * 2**20
_TURN = 100  # items that are written without a turn for other tasks
_PORTS = {"http": 80, "https": 443}


# -- before anything is sent -----------------------------------------------------------------------------------------


def unsupported(field: str, why: str, *, backend: str) -> UnsupportedError:
    """The error for what the service of `backend` has no place for: `why` goes on after "the service"."""
    return UnsupportedError(f"the {backend!r} backend does not support {field}: {why}", backend=backend, field=field)


def check_day(batch: BatchRequest, *, backend: str) -> None:
    """Raise `UnsupportedError` for another time than the day that the service gives every batch."""
    if batch.max_runtime_s not in (None, _DAY_S):
        why = f"the service gives every batch {_DAY_S} seconds; leave it out"
        raise unsupported("max_runtime_s", why, backend=backend)


def check_id(item: BatchItem) -> None:
    """Raise `InvalidRequestError` for an id that services refuse."""
    if not _ID.fullmatch(item.id):
        raise InvalidRequestError("the id of an item is 1 to 64 letters, digits, - and _", field="id")


def check_batch(batch: BatchRequest, limits: BatchLimits, *, is_filed: bool = False) -> list[BatchItem]:
    """The items of `batch`, each with a request for its model, as a whole reply; `is_filed` for `FiledBatches`.

    Raises `InvalidRequestError` for no item, for too many, for an id that is none or is there twice, for a second
    model, for chats and text completions together, for a token that no service would keep, and for a file of outcomes
    that the service would not write.
    """
    if batch.output is not None and not is_filed:
        raise InvalidRequestError("this service gives outcomes itself and writes no file: leave it out", field="output")
    if not _TOKEN.fullmatch(batch.token):
        raise InvalidRequestError("the token of a batch is 1 to 256 printable ASCII characters", field="token")
    if not batch.items:
        raise InvalidRequestError("a batch has at least one item", field="items")
    if limits.items is not None and len(batch.items) > limits.items:
        raise InvalidRequestError(
            f"a batch of this service holds {limits.items} items, and these are {len(batch.items)}: split them",
            field="items",
        )
    seen: set[str] = set()
    is_chat = batch.items[0].request.is_chat
    items: list[BatchItem] = []
    for item in batch.items:
        check_id(item)
        if item.id in seen:
            raise InvalidRequestError(f"two items have the id {item.id}", field="id")
        seen.add(item.id)
        if item.request.model not in ("", batch.model):
            raise InvalidRequestError(f"the item {item.id} is for another model than its batch", field="model")
        if item.request.is_chat != is_chat:
            raise InvalidRequestError(
                f"the item {item.id} is {'no' if is_chat else 'a'} chat, unlike the first: chats and text completions "
                "are batches of their own",
                field="items",
            )
        items.append(BatchItem(item.id, msgspec.structs.replace(item.request, model=batch.model, stream=False)))
    return items


async def write_items(items: Sequence[BatchItem], write: Callable[[BatchItem], T]) -> list[T]:
    """What `write` makes of each item. Other tasks get their turn in between: a batch may have a hundred thousand."""
    written: list[T] = []
    for item in items:
        written.append(write(item))
        if len(written) % _TURN == 0:
            await asyncio.sleep(0)
    return written


def check_room(lines: Sequence[bytes], limits: BatchLimits) -> None:
    """Raise `InvalidRequestError` where `lines`, the items as they are sent, are more than one batch holds."""
    size = sum(map(len, lines))
    if limits.bytes is not None and size > limits.bytes:
        raise InvalidRequestError(
            f"a batch of this service holds {limits.bytes} bytes, and these items are {size}: split them",
            field="items",
        )


def path_of(batch_id: str) -> str:
    """`batch_id` as the last part of a path. Raises `InvalidRequestError` for one that is none."""
    if not batch_id or batch_id in (".", ".."):
        raise InvalidRequestError("a batch is known by the id that the service gave it", field="batch_id")
    return quote(batch_id, safe="")


# -- calls -----------------------------------------------------------------------------------------------------------


async def fetch(transport: Transport, call: HttpCall) -> bytes:
    """The whole body that `call` is answered with, within its `first_event_s`. Raises `APIError`."""
    limit_s = call.timeouts.first_event_s
    try:
        async with asyncio.timeout(limit_s), transport.open(call) as reply:
            return await reply.read()
    except APIError:
        raise
    except TimeoutError:
        raise FirstEventTimeoutError(
            f"no answer within first_event_s={limit_s} seconds", elapsed_s=limit_s, maybe_billed=True
        ) from None


async def create_once(transport: Transport, call: HttpCall) -> bytes:
    """The answer to a call that makes something, and that is sent once, whatever happens.

    Raises `APIError`: with `maybe_billed`, and not `retryable`, where the thing may have been made all the same.
    """
    try:
        return await fetch(transport, msgspec.structs.replace(call, once=True))
    except APIError as error:
        status = error.status if isinstance(error, APIStatusError) else None
        if status is not None and (status >= 500 or status == 408):
            error.maybe_billed = True  # whoever gave up may not be the one who does the work
        if error.maybe_billed:
            error.retryable = False
        raise


def read_document(call: HttpCall, body: bytes, decoder: msgspec.json.Decoder[T], what: str) -> T:
    """The body of a good reply. Raises what an error in its place means, and `ResponseValidationError`."""
    try:
        return decode(body, decoder, what)
    except ResponseValidationError:
        raise_embedded(call, body)
        raise


def without_texts(error: S, lines: Sequence[bytes]) -> S:
    """`error` without what it repeats of `lines`, which were sent in a form that nobody else looks into."""
    told = excerpt(error.message.encode(), sent=b"[%b]" % b",".join(lines))
    return type(error)(told or "the service gave no reason", body=error.body, **error.facts())


def require_origin(address: str, own: str) -> None:
    """Raise `RedirectRefusedError` unless `address` is of the scheme, host and port of `own`, whom the key is for."""
    if _origin(address) is None or _origin(address) != _origin(own):
        raise RedirectRefusedError(
            "the results of the batch are to be fetched from another address than the service's own, which would get "
            "the key: check base_url"
        )


def _origin(address: str) -> tuple[str, str, int | None] | None:
    try:
        parts = urlsplit(address)
        if parts.username is not None or parts.password is not None or not parts.hostname:
            return None
        return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return None


# -- results ---------------------------------------------------------------------------------------------------------


def require_ended(state: BatchState) -> None:
    """Raise `InvalidRequestError` for a batch that goes on: it has no outcomes yet."""
    if not state.is_final:
        raise InvalidRequestError(f"the batch has not ended: it is {state.status}", field="batch_id")


def response_of(events: Sequence[Event], backend: str) -> Response:
    """The response that the events of one item are."""
    collector = Collector()
    collector.add(events)
    return collector.response(backend)


def refused(status: int | None, body: bytes, sent: bytes | None, secrets: tuple[str, ...] = ()) -> APIStatusError:
    """The error of an item that was answered with `status`, or with an error document alone.

    `sent` is the item's request. Where nobody has it at hand, what the service says may repeat it and is left out.
    """
    if status is None:
        error = broken_off(body, sent=sent or b"", secrets=secrets)
    else:
        error = rejection(status, {}, body, sent=sent or b"", secrets=secrets)
    return error if sent is not None else type(error)("the service refused the item", body=error.body, **error.facts())


def abandoned(code: str) -> RowAbandonedError:
    """The error of an item that the service never came to: `expired` or `cancelled`."""
    why = "its time ran out" if code == "expired" else "it was cancelled"
    return RowAbandonedError(f"the service did not come to this item of the batch before {why}", code=code)


@asynccontextmanager
async def lend_outcomes(
    transport: Transport, calls: Sequence[HttpCall], read: Callable[[bytes], BatchOutcome], *, expected: int = 0
) -> AsyncGenerator[AsyncIterator[BatchOutcome]]:
    """Lend the outcomes in the lines that `calls` are answered with, one call after the other.

    `read` raises `ResponseValidationError` for a line that is none. `expected` is how many lines there are at the
    least: fewer are an interruption too, for the end of a body without a length tells nothing.
    """
    async with AsyncExitStack() as opened:
        outcomes = _Outcomes(transport, opened, read).all(calls, expected)
        try:
            yield outcomes
        finally:
            await end(outcomes)


class _Outcomes:
    """Reads lines. The replies belong to `opened`, the block of whoever lends this."""

    def __init__(self, transport: Transport, opened: AsyncExitStack, read: Callable[[bytes], BatchOutcome]) -> None:
        self._transport = transport
        self._opened = opened
        self._read = read
        self._lines = 0
        self._bad: list[int] = []

    async def all(self, calls: Sequence[HttpCall], expected: int) -> AsyncGenerator[BatchOutcome]:
        for call in calls:
            reply = await self._opened.enter_async_context(
                self._transport.open(msgspec.structs.replace(call, stream=True))
            )
            lines = NDJSONDecoder(max_line_bytes=_LINE_BYTES)
            while data := await reply.receive():
                for outcome in self._some(call, lines.feed(data)):
                    yield outcome
            whole = len(self._bad)
            for outcome in self._some(call, lines.close()):
                yield outcome
            if len(self._bad) > whole:
                raise StreamInterrupted(f"the results end in the middle of line {self._lines}", retryable=True)
        if self._lines < expected:
            raise StreamInterrupted(f"the results end after {self._lines} lines of {expected}", retryable=True)
        if self._bad:
            raise ResponseValidationError(
                f"{len(self._bad)} lines of the results cannot be read, the first of them is line {self._bad[0]}"
            )

    def _some(self, call: HttpCall, lines: Sequence[bytes]) -> list[BatchOutcome]:
        outcomes: list[BatchOutcome] = []
        for line in lines:
            self._lines += 1
            try:
                outcomes.append(self._read(line))
            except ResponseValidationError:
                if self._lines == 1:
                    raise_embedded(call, line)  # an error in place of the results
                self._bad.append(self._lines)
        return outcomes
