"""The store's keys at hand: a request asks no disk whose it is, and no flood of requests can have it asked often."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from asyncllm.errors import InternalServerError
from asyncllm.workspace.keys import Key, KeyStore, Ring, is_written_as_key

__all__ = ["Keyring"]

_FRESH_S = 0.25
_PATIENCE_S = 5.0


class Keyring:
    """Knows the keys of a store as they stood at most `known_s` seconds ago, other processes' changes included.

    They are read again in the background, and whoever brings a key that is not among them waits until they have been
    read since: a new key is good at once. Two readings are `apart_s` seconds apart, however many ask.
    """

    def __init__(
        self, keys: KeyStore, *, known_s: float = 0.75, apart_s: float = 0.05, now: Callable[[], float] = time.time
    ) -> None:
        self._keys = keys
        self._known_s = known_s
        self._apart_s = apart_s
        self._now = now
        self._ring: Ring | None = None
        self._read_at = self._begun_at = float("-inf")
        self._has_failed = False
        self._reading: asyncio.Task[None] | None = None

    async def find(self, token: str) -> Key | None:
        """The key that `token` is, if that is good now. Raises `InternalServerError` where the store does not tell."""
        if not is_written_as_key(token):
            return None
        came_at = time.monotonic()
        if came_at - self._read_at > min(_FRESH_S, self._known_s):
            self._read()
        ring = await self._as_of(came_at - self._known_s)
        key = ring.find(token, self._now())
        if key is None and self._read_at < came_at:
            ring = await self._as_of(came_at)
            key = ring.find(token, self._now())
        return key

    async def _as_of(self, moment: float) -> Ring:
        """The keys as they stood at `moment` or later."""
        while self._ring is None or self._read_at < moment:
            reading = self._read()
            await asyncio.wait([reading], timeout=_PATIENCE_S)
            if not reading.done() or self._has_failed:
                raise InternalServerError("keys cannot be looked up for now", status=503, code="store", retryable=True)
        return self._ring

    def _read(self) -> asyncio.Task[None]:
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read_once())
        return self._reading

    async def _read_once(self) -> None:
        wait_s = self._begun_at + self._apart_s - time.monotonic()
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        self._begun_at = began = time.monotonic()
        try:
            self._ring = await self._keys.ring(self._ring)
        except Exception:  # whatever it is, nobody is let in by it
            self._has_failed = True
        else:
            self._has_failed = False
            self._read_at = began
