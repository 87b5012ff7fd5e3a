"""The libraries compared, one file each, all doing the same work behind one protocol.

What a peer does per event is what its user would: look at the text and keep count. The counters live on the peer, so a
workload can watch a stream's progress without adding a callback to the measured path.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol

Library = Literal["bare", "asyncllm", "openai"]
LIBRARIES: tuple[Library, ...] = ("bare", "asyncllm", "openai")


class Counter(Protocol):
    """A number in a place of its own, at index 0: a list of one, or eight bytes shared with the server."""

    def __getitem__(self, index: int, /) -> int:
        """The number."""
        ...

    def __setitem__(self, index: int, number: int, /) -> None:
        """Set the number."""


class Peer(Protocol):
    """One open client of one library, used by many tasks at once."""

    seen: Counter
    """Content events seen so far, over all streams, at index 0."""
    chars: int
    """Characters of reply text seen so far, over all calls and streams."""

    async def chat(self) -> None:
        """One plain call; its text is added to `chars`."""

    async def stream(self) -> None:
        """One stream, read to its end; each content event is added to `seen` and `chars`."""


def connect(library: Library, base_url: str, seen: Counter) -> AbstractAsyncContextManager[Peer]:
    """A client of `library` that counts in `seen`, for the server at `base_url`, which ends in `/v1`.

    The import is inside, so a process loads the one library it measures and no other.
    """
    match library:
        case "bare":
            from bench.peers.bare import Bare

            return Bare(base_url, seen)
        case "asyncllm":
            from bench.peers.ours import Ours

            return Ours(base_url, seen)
        case "openai":
            from bench.peers.openai_sdk import OpenAISDK

            return OpenAISDK(base_url, seen)
