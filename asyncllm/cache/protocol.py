"""What a response cache is."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Cache"]


class Cache(Protocol):
    """Keeps answers by key. Keys and values mean nothing to it; what it has forgotten is asked for again.

    Whatever a method raises costs a call the cache and nothing else. Whoever is given a cache may read every answer in
    it, so people who must not see each other's answers need one each.
    """

    async def get(self, key: str) -> bytes | None:
        """What was last put under `key`, or `None`. Never part of a value."""
        ...

    async def put(self, key: str, value: bytes) -> None:
        """Keep `value` for as long as there is room, over what `key` had before."""
        ...

    async def aclose(self) -> None:
        """Free what is held open. Idempotent. For whoever made the cache: clients leave it open."""
        ...
