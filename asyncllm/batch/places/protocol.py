"""What a place has to do that inputs are read from and outputs are written to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeAlias

__all__ = ["Place", "Write"]

Write: TypeAlias = Callable[[bytes], Awaitable[None]]


class Place(Protocol):
    """One file, on this machine or in an object store."""

    name: str
    """For people: the path or the address as it was given, without anything secret."""

    async def fingerprint(self) -> str | None:
        """Tells one content from another, cheaply (size and time of change, an ETag); `None` if nothing is there.

        Raises `InputError` where there is something that cannot be read, such as a folder, and `APIError`.
        """
        ...

    def read(self) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Lend the content, in pieces. Raises `InputError` naming the place and the fix, `APIError`."""
        ...

    def write(self, *, overwrite: bool) -> AbstractAsyncContextManager[Write]:
        """Lend a way to write the whole content.

        It is there, at once and durably, when the block ends, and nothing of it is if the block raises.

        Raises `OutputExistsError` if something is there and `overwrite` is false, `WriteError`, `APIError`.
        """
        ...
