"""Answers a call with the answer that the same call got before.

The same call means: everything in the request that shapes the answer, at the same deployment. What is kept are the
events of a whole answer as they came, and they come again the same way, whether the caller reads them one by one or
folded. So an answer kept from a stream has no `body`, and one kept from a plain call comes in one piece.

An answer is put away after its end, and only if every choice came to a proper end and the caller left without an error.
Two equal calls at the same time are both made: one that waited for the other would share its failures and its pace.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any
from zlib import crc32

import msgspec
from msgspec import UNSET

from asyncllm.cache import Cache, Guarded
from asyncllm.events import Event, Events, Finished, Ready, Skipped, Started, TextDelta, UsageReport
from asyncllm.middleware import Open
from asyncllm.trail import Trail
from asyncllm.types import Request, Sampling

__all__ = ["cache_key", "cached"]

_LARGEST_BYTES = 4 * 1024 * 1024
"""Answers that take more than this are not kept: nobody should have to hold them twice."""

_FORMAT = 1
"""Changes with what keys and values are made of, so that a folder written by another version answers nothing wrong."""

_APART = frozenset({"stream", "timeouts", "idempotency_key"})
"""The fields of a request that do not shape its answer. Any that is added does, until it is named here."""

_HEAD = struct.Struct(">BL")
"""Before each answer: its format, and the CRC of the rest, so that a damaged one is none."""
_ARRAY = struct.Struct(">BL")
"""How msgpack begins an array: 0xdd and the number of its items."""
_NO_SAMPLING = Sampling()
_keys = msgspec.msgpack.Encoder(order="deterministic")
_values = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Event])


def cache_key(request: Request, place_id: str) -> str:
    """The same for two requests exactly if the place must treat them the same.

    Raises `TypeError` or `ValueError` where `extra`, or a schema, holds something that has no wire format.
    """
    asked: dict[str, Any] = {
        name: value
        for name in request.__struct_fields__
        if name not in _APART and (value := getattr(request, name)) is not UNSET
    }
    if request.sampling != _NO_SAMPLING:
        # 0 is 0.0 for a temperature, and only the type of the field can tell.
        asked["sampling"] = msgspec.convert(msgspec.to_builtins(request.sampling), Sampling)
    return hashlib.sha256(_keys.encode([_FORMAT, place_id, type(request.constraint).__name__, asked])).hexdigest()


def cached(open_: Open, cache: Cache, place_id: str, *, largest_bytes: int = _LARGEST_BYTES) -> Open:
    """Answer calls of `open_` out of `cache`, and fill it.

    `place_id` says which deployment answers: backend, address and options, anything that makes answers differ. A hit
    sets `trail.cached`, and nothing below is entered. A cache that fails costs the call only the cache.
    """
    guarded = Guarded.of(cache)

    def opened(request: Request, trail: Trail) -> AbstractAsyncContextManager[Events]:
        try:
            key = cache_key(request, place_id)
        except Exception as error:  # whatever an object in `extra` raises; the backend will say what it thinks of it
            guarded.tell("key", error)
            return open_(request, trail)
        return _Cached(open_, request, trail, _Entry(guarded, key, largest_bytes))

    return opened


class _Cached:
    __slots__ = ("_entry", "_events", "_inner", "_open", "_request", "_trail")

    def __init__(self, open_: Open, request: Request, trail: Trail, entry: _Entry) -> None:
        self._open = open_
        self._request = request
        self._trail = trail
        self._entry = entry
        self._inner: AbstractAsyncContextManager[Events] | None = None
        self._events: Ready | None = None

    async def __aenter__(self) -> Events:
        entry = self._entry
        kept = await entry.get()
        if kept is not None:
            self._trail.cached = True
            return Ready(kept)
        inner = self._open(self._request, self._trail)
        events = Ready.of(await inner.__aenter__())
        self._inner = inner
        entry.add(events.head)
        if events.rest is None:
            entry.has_ended = True
            return events
        self._events = Ready(events.head, self._record(events.rest))
        return self._events

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if self._inner is None:
            return None
        if self._events is not None:
            await self._events.aclose()
        handled = await self._inner.__aexit__(kind, error, trace)
        if kind is None:
            await self._entry.put()
        return handled

    async def _record(self, batches: AsyncIterator[Sequence[Event]]) -> AsyncGenerator[Sequence[Event]]:
        entry = self._entry
        async for batch in batches:
            entry.add(batch)
            yield batch
        entry.has_ended = True


class _Entry:
    """One answer in the cache, or on its way there: encoded as it passes, so that its bytes are all that is held."""

    __slots__ = ("_bytes", "_cache", "_count", "_ends", "_key", "_largest_bytes", "has_ended")

    def __init__(self, cache: Guarded, key: str, largest_bytes: int) -> None:
        self.has_ended = False
        """Whether all events have been added."""
        self._cache = cache
        self._key = key
        self._largest_bytes = largest_bytes
        self._bytes: bytearray | None = bytearray(_ARRAY.size)
        self._count = 0
        self._ends = _Ends()

    async def get(self) -> list[Event] | None:
        """The answer, if it is there and whole."""
        value = await self._cache.get(self._key)
        if value is None:
            return None
        try:
            return _decode(value)
        except Exception as error:  # whatever stands there, it is no answer
            self._cache.tell("decode", error)
            return None

    def add(self, events: Sequence[Event]) -> None:
        """Take the next events."""
        buffer = self._bytes
        if buffer is None:
            return
        try:
            for event in events:
                _values.encode_into(event, buffer, -1)
            self._ends.add(events)
        except Exception as error:  # an event of somebody's own backend may hold anything
            self._cache.tell("encode", error)
            self._bytes = None
            return
        self._count += len(events)
        if len(buffer) > self._largest_bytes:
            self._bytes = None

    async def put(self) -> None:
        """Keep the answer, unless it is too large or not whole."""
        buffer = self._bytes
        if buffer is not None and self.has_ended and self._ends.are_proper:
            _ARRAY.pack_into(buffer, 0, 0xDD, self._count)
            await self._cache.put(self._key, _HEAD.pack(_FORMAT, crc32(buffer)) + buffer)


def _decode(value: bytes) -> list[Event]:
    kept = memoryview(value)[_HEAD.size :]
    if _HEAD.unpack_from(value) != (_FORMAT, crc32(kept)):
        raise ValueError("damaged, or of another format")
    events = _decoder.decode(kept)
    ends = _Ends()
    ends.add(events)
    if not ends.are_proper:
        raise ValueError("no whole answer")
    return events


class _Ends:
    """Which choices have begun, how they ended, and whether anything is missing."""

    __slots__ = ("_begun", "_has_gaps", "_reasons")

    def __init__(self) -> None:
        self._has_gaps = False
        self._begun: set[int] = set()
        self._reasons: dict[int, str | None] = {}

    def add(self, events: Iterable[Event]) -> None:
        for event in events:
            if type(event) is TextDelta:  # first the kind that comes once a token
                self._begun.add(event.index)
            elif isinstance(event, Finished):
                self._reasons[event.index] = event.reason
            elif isinstance(event, Skipped):
                self._has_gaps = True
            elif not isinstance(event, (Started, UsageReport)):  # a union would be made anew for each event
                self._begun.add(event.index)

    @property
    def are_proper(self) -> bool:
        """Whether there is a choice, each came to an end that was no error, and nothing was left out."""
        if self._has_gaps or not self._reasons:
            return False
        return self._begun <= self._reasons.keys() and "error" not in self._reasons.values()
