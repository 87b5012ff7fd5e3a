"""The words that scripts are written in.

`Pause` and `Stall` mean the same to every fake; the others are what a `FaultyServer` does with a connection. A script
may also hold plain `bytes`, which are sent as they are, and plain numbers, which are seconds to wait.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

from msgspec import Struct

__all__ = ["Chunk", "Fin", "HalfClose", "Op", "Pause", "Rst", "Slice", "Sse", "Stall", "Status"]


class Pause(Struct, frozen=True):
    """Wait, then go on. A plain number in a script means the same."""

    seconds: float


class Stall(Struct, frozen=True):
    """Wait until cancelled; a server waits until the client is gone."""


class Status(Struct, frozen=True):
    """A reply with its length in its headers, after which the connection takes the next request."""

    code: int = 200
    headers: Mapping[str, str] = {}
    body: bytes | None = b""
    """`None` sends the headers alone, as they are given: the ops that follow make the body."""


class Chunk(Struct, frozen=True):
    """One piece of a body with `Transfer-Encoding: chunked`; an empty one ends the body."""

    data: bytes = b""


class Sse(Struct, frozen=True):
    """A reply of status 200 that streams server-sent events, one write each."""

    events: Sequence[bytes | str | Mapping[str, Any]]
    """The data of each event; a mapping becomes JSON."""
    ending: Literal["done", "end", "fin", "rst", "stall"] = "done"
    """`done` adds `[DONE]` and ends the body, `end` ends it without, `fin` and `rst` cut it, `stall` says no more."""
    framing: Literal["chunked", "close"] = "chunked"
    """With `close` the end of the connection is the end of the body, so that nobody can tell a cut from an end."""
    headers: Mapping[str, str] = {}
    """In addition to those that make it an event stream."""
    every_s: float = 0
    """Seconds to wait after each event."""


class Slice(Struct, frozen=True):
    """From here on, send every byte in pieces of `size`, `wait_s` seconds apart."""

    size: int
    wait_s: float = 0


class Fin(Struct, frozen=True):
    """Close the connection in an orderly way."""


class Rst(Struct, frozen=True):
    """Reset the connection: the peer's next read or write fails.

    What was sent just before may be lost with it; a `Pause` in between lets it arrive.
    """


class HalfClose(Struct, frozen=True):
    """Say that nothing more will be sent, and go on listening."""


Op: TypeAlias = bytes | float | Pause | Stall | Status | Chunk | Sse | Slice | Fin | Rst | HalfClose
"""One step of a server's script."""
