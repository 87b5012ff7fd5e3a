"""The words that scripts are written in.

`Pause` and `Stall` mean the same to everything that plays a script; the others are what a `FaultyServer` does with a
connection. A script may also hold plain `bytes`, which are sent as they are, and plain numbers, which are seconds to
wait.

`repr` of a script is Python that makes it again, so one that was generated can be stored and read by `parse_script`.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, cast

from msgspec import Struct

__all__ = [
    "Chunk",
    "Comment",
    "Fin",
    "Gzip",
    "HalfClose",
    "Named",
    "Newline",
    "Op",
    "Pause",
    "Rst",
    "Slice",
    "Sse",
    "SseItem",
    "Stall",
    "Status",
    "parse_script",
]

Newline: TypeAlias = Literal["\n", "\r", "\r\n"]
"""How the lines of an event stream end."""

Gzip: TypeAlias = Literal["whole", "flushed", "truncated", "corrupt"]
"""How a body is compressed. The HTTP framing around it is always in order.

`whole` is one block, which ends with the body; `flushed` can be read as it comes, piece by piece; `truncated` is
flushed, and stops half way; `corrupt` is flushed, with one byte inverted half way.
"""


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
    gzip: Gzip | None = None
    """Compress the body, and say so in the headers."""


class Chunk(Struct, frozen=True):
    """One piece of a body with `Transfer-Encoding: chunked`; an empty one ends the body."""

    data: bytes = b""


class Comment(Struct, frozen=True):
    """A line of an event stream that says nothing, as servers send to keep a connection alive."""

    text: str = "ping"


class Named(Struct, frozen=True):
    """An event of a type of its own, such as `event: error`."""

    event: str
    data: bytes | str | Mapping[str, Any]


SseItem: TypeAlias = bytes | str | Mapping[str, Any] | Named | Comment
"""One item of an event stream: the data of an event, of which a mapping becomes JSON; a named one; or a comment."""


class Sse(Struct, frozen=True):
    """A reply that streams server-sent events, one write each."""

    events: Sequence[SseItem]
    ending: Literal["done", "end", "fin", "rst", "stall"] = "done"
    """`done` adds `[DONE]` and ends the body, `end` ends it without, `fin` and `rst` cut it, `stall` says no more."""
    framing: Literal["chunked", "close"] = "chunked"
    """With `close` the end of the connection is the end of the body, so that nobody can tell a cut from an end."""
    headers: Mapping[str, str] = {}
    """In addition to those that make it an event stream."""
    every_s: float = 0
    """Seconds to wait after each write, that of `[DONE]` aside."""
    pings: Sequence[SseItem] = ()
    """Sent before each event and before the end: a `Comment`, or what relays send as data, such as `"ping"`."""
    newline: Newline = "\n"
    bom: bool = False
    """Whether the stream opens with a byte order mark."""
    gzip: Gzip | None = None
    """Compress the body, and say so in the headers."""
    at_once: bool = False
    """Send all of the body in one write, which a `Slice` before it then cuts anywhere."""
    status: int = 200


class Slice(Struct, frozen=True):
    """From here on, send every byte in pieces of `size`, `wait_s` seconds apart."""

    size: int | tuple[int, ...]
    """Bytes a piece; of several sizes, each in its turn, and then the first one again."""
    wait_s: float = 0

    def __post_init__(self) -> None:
        sizes = (self.size,) if isinstance(self.size, int) else self.size
        if not sizes or min(sizes) < 1:
            raise ValueError(f"a slice has at least one byte; got size={self.size!r}")


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

_WORDS: Mapping[str, type[Struct]] = {
    word.__name__: word for word in (Chunk, Comment, Fin, HalfClose, Named, Pause, Rst, Slice, Sse, Stall, Status)
}


def parse_script(text: str) -> list[Op]:
    """The script whose `repr` is `text`. Runs no code; raises `ValueError` for anything else.

    For the script of a `FaultyServer`; a list of scripts has a `repr` for each of them.
    """
    tree = ast.parse(text.strip(), mode="eval").body
    if not isinstance(tree, ast.List | ast.Tuple):
        raise ValueError("a script is a list of steps")  # noqa: TRY004  # what is wrong is the text
    return [cast("Op", _build(step)) for step in tree.elts]


def _build(node: ast.expr) -> object:
    match node:
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords) if name in _WORDS:
            named = {word.arg: _build(word.value) for word in keywords if word.arg}
            return _WORDS[name](*map(_build, args), **named)
        case ast.List(elts=items):
            return [_build(item) for item in items]
        case ast.Tuple(elts=items):
            return tuple(_build(item) for item in items)
        case _:
            return ast.literal_eval(node)
