"""Stands between a call and its cache: a cache that fails costs the call nothing but the cache."""

from __future__ import annotations

import asyncio
import logging

from asyncllm.cache.protocol import Cache
from asyncllm.errors import AsyncLLMError

__all__ = ["Guarded"]

_log = logging.getLogger("asyncllm")

_PATIENCE_S = 2.0
"""How long a call waits for its cache. A store on a sound disk answers in a thousandth of that."""


class Guarded:
    """A `Cache` that raises nothing and keeps nobody waiting; its first trouble is logged, by its name.

    Whatever `get` could not get was never put, and a `put` that failed is forgotten.
    """

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._told = False

    @staticmethod
    def of(cache: Cache) -> Guarded:
        """`cache` guarded, once."""
        return cache if isinstance(cache, Guarded) else Guarded(cache)

    async def get(self, key: str) -> bytes | None:
        """What is kept under `key`, or `None`."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                return await self._cache.get(key)
        except Exception as error:  # whatever a store of somebody's own may raise
            self.tell("get", error)
            return None

    async def put(self, key: str, value: bytes) -> None:
        """Keep `value` under `key`, if possible."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await self._cache.put(key, value)
        except Exception as error:
            self.tell("put", error)

    async def aclose(self) -> None:
        """Close the cache itself."""
        await self._cache.aclose()

    def tell(self, step: str, error: Exception) -> None:
        """Log that `step` failed, the first time only, without anything that an error's text may quote."""
        if self._told:
            return
        self._told = True
        # The texts of this package's own errors are free of content; those of others may hold anything.
        reason = error.message if isinstance(error, AsyncLLMError) else type(error).__qualname__
        name = type(self._cache).__qualname__
        _log.warning("the cache %s failed at %s, and calls go on without it: %s", name, step, reason)
