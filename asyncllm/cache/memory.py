"""A cache in the memory of this process."""

from __future__ import annotations

import threading
from collections import OrderedDict
from time import monotonic

from asyncllm.cache.bounds import check_bounds

__all__ = ["MemoryCache"]

_ENTRY_BYTES = 300
"""What Python itself spends on an entry: two strings' headers, a tuple, a number and a place in the table."""


class MemoryCache:
    """At most `max_bytes` of answers, those that were used least recently out first, none older than `ttl_s` seconds.

    May be shared by clients, those of other threads and event loops included.

    Raises `ConfigError` for limits that cannot be right.
    """

    def __init__(self, *, max_bytes: int = 64 * 1024 * 1024, ttl_s: float | None = None) -> None:
        check_bounds(max_bytes, ttl_s)
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, tuple[bytes, float]] = OrderedDict()  # value and when it was put, by use
        self._bytes = 0

    async def get(self, key: str) -> bytes | None:
        """See `Cache`. What is read counts as used."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            value, put_at = entry
            if self._ttl_s is not None and monotonic() - put_at >= self._ttl_s:
                self._forget(key)
                return None
            self._entries.move_to_end(key)
            return value

    async def put(self, key: str, value: bytes) -> None:
        """See `Cache`. A value larger than the whole cache is not kept."""
        with self._lock:
            self._forget(key)
            size = _size(key, value)
            if size > self._max_bytes:
                return
            while self._bytes + size > self._max_bytes:
                self._forget(next(iter(self._entries)))
            self._entries[key] = (value, monotonic())
            self._bytes += size

    async def aclose(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()
            self._bytes = 0

    def _forget(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= _size(key, entry[0])

    def __repr__(self) -> str:
        return f"<MemoryCache: {len(self._entries)} entries, {self._bytes} of {self._max_bytes} bytes>"


def _size(key: str, value: bytes) -> int:
    return len(key) + len(value) + _ENTRY_BYTES
