"""Bytes in, numbered lines out: what formats with one row a line have in common.

Lines end in LF or CRLF, a byte order mark may come first, and blank lines are counted and skipped. No more of a line
is kept than its limit: of a longer one nothing is, and reading goes on after its end.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from msgspec import Struct

from asyncllm.batch.rows import Row
from asyncllm.errors import InputError

__all__ = ["Line", "LineSplitter", "check_text", "faulty_row", "line_place", "read_lines", "too_large", "unreadable"]

_BOM = b"\xef\xbb\xbf"
_BLANK = b" \t\r"
_KINDS = {
    b"\x1f\x8b": "is compressed with gzip; unpack it first",
    b"PK\x03\x04": "is a ZIP archive; unpack it first",
    b"\x28\xb5\x2f\xfd": "is compressed with zstd; unpack it first",
    b"PAR1": "is a Parquet file; say format='parquet'",
    b"\xff\xfe": "is UTF-16; write it as UTF-8",
    b"\xfe\xff": "is UTF-16; write it as UTF-8",
}
"""How contents begin that are no text in UTF-8."""


class Line(Struct, frozen=True, gc=False):
    """One line that is not blank."""

    number: int
    """Position in the file, from 1, blank lines counted."""
    data: bytes
    """Without its end and blanks around it; empty for one that is too long."""
    ended: bool = True
    """Whether it had an end: a last line without one may be cut short."""
    too_long: bool = False


class LineSplitter:
    """Splits one content, fed in pieces of any size. Nothing here raises."""

    def __init__(self, max_bytes: int) -> None:
        self._limit = max_bytes
        self._tail = bytearray()  # the start of a line that has no end yet
        self._dropping = False  # what comes until the next end belongs to a line that is too long
        self._number = 0

    def feed(self, data: bytes) -> list[Line]:
        """Take the next bytes and return the lines they complete."""
        *ends, rest = data.split(b"\n")
        lines: list[Line] = []
        for end in ends:
            self._finish(end, lines, ended=True)
        self._keep(rest)
        return lines

    def close(self) -> list[Line]:
        """End the content: the last line, if it had no end."""
        lines: list[Line] = []
        self._finish(b"", lines, ended=False)
        return lines

    def _finish(self, piece: bytes, lines: list[Line], *, ended: bool) -> None:
        self._number += 1
        if self._tail or self._dropping:
            self._keep(piece)
            piece = bytes(self._tail)
            self._tail.clear()
        if self._dropping or len(piece) > self._limit:
            self._dropping = False
            lines.append(Line(self._number, b"", ended, too_long=True))
            return
        if self._number == 1:
            piece = piece.removeprefix(_BOM)
        piece = piece.strip(_BLANK)
        if piece:
            lines.append(Line(self._number, piece, ended))

    def _keep(self, piece: bytes) -> None:
        if not self._dropping and len(self._tail) + len(piece) <= self._limit:
            self._tail += piece
        elif piece:
            self._dropping = True
            self._tail.clear()


async def read_lines(chunks: AsyncIterator[bytes], max_bytes: int, name: str) -> AsyncIterator[Line]:
    """The lines of a content. Raises `InputError` for one that is no text in UTF-8, where it begins like that."""
    splitter = LineSplitter(max_bytes)
    head: bytes | None = b""
    async for chunk in chunks:
        if head is not None:
            head += chunk[:4]
            check_text(head, name)
            head = None if len(head) >= 4 else head
        for line in splitter.feed(chunk):
            yield line
    for line in splitter.close():
        yield line


def check_text(head: bytes, name: str) -> None:
    """Raise `InputError` for a content that begins as nothing does that is text in UTF-8."""
    for start, kind in _KINDS.items():
        if head.startswith(start):
            raise InputError(f"{name} {kind}", code="not_text")


def line_place(name: str, number: int) -> str:
    """Where a line stands, for people."""
    return f"{name}, line {number}"


def faulty_row(
    index: int, place: str, reason: str, *, code: str, field: str | None = None, id_: str | None = None
) -> Row:
    """A row that cannot be asked, and why: `reason` says it with the fix."""
    return Row(index=index, place=place, id=id_, error=InputError(f"{place}: {reason}", code=code, field=field))


def too_large(index: int, place: str, limit: int, id_: str | None = None) -> Row:
    """A row over `limit`."""
    return faulty_row(
        index, place, f"it is larger than {limit} bytes; shorten it or raise max_row_bytes", code="row_too_large",
        id_=id_,
    )  # fmt: skip


def unreadable(index: int, place: str, *, ended: bool) -> Row:
    """A row that is not JSON; one without an end is cut short."""
    if ended:
        return faulty_row(index, place, "it is not JSON; each line is one JSON object", code="invalid_json")
    return faulty_row(
        index, place, "the file ends in the middle of it; write the file again", code="truncated_input"
    )  # fmt: skip
