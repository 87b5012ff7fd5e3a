"""Bytes in, records of CSV out, each whole: a line break within quotes ends none.

A quote opens a cell only at its beginning and closes it before a comma or a line's end, as Python's `csv` reads them;
what the cells are is its business. No more is kept than one record that is still open, up to its limit.
"""

from __future__ import annotations

import codecs
import re

from msgspec import Struct

from asyncllm.errors import InputError

__all__ = ["Record", "RecordSplitter"]

# Possessive, so that no text makes them try again: what is matched once is never given back.
_CELL = r'(?:"[^"]*+(?:""[^"]*+)*+"[^,\r\n]*+|[^",\r\n][^,\r\n]*+)?+'
_RECORD = re.compile(rf"{_CELL}(?:,{_CELL})*+(\r\n|\n|\r)")
_CELLS = re.compile(rf"(?:{_CELL},)*+")
_QUOTED = re.compile(r'"[^"]*+(?:""[^"]*+)*+')
_BREAK = re.compile(r"\r\n|\n|\r")


class Record(Struct, frozen=True, gc=False):
    """One record that is not an empty line."""

    line: int
    """The line it begins in, from 1."""
    text: str
    """Without its end; empty for one that is too long. Bytes that are no UTF-8 are lone surrogates."""
    too_long: bool = False
    closed: bool = True
    """Whether it was whole when the content ended."""


class RecordSplitter:
    """Splits one content, fed in pieces of any size.

    Raises `InputError` at the end for quotes that stay open over several lines: which rows they hold cannot
    be told.
    """

    def __init__(self, max_bytes: int, name: str) -> None:
        self._limit = max_bytes
        self._name = name
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        self._text = ""
        self._line = 1
        self._lost_lines = 0  # line breaks of the open record that are no longer in `_text`
        self._too_long = False
        self._next_try = 0  # an open record is looked at again when it has grown by half, so that no byte is seen often

    def feed(self, data: bytes) -> list[Record]:
        """Take the next bytes and return the records they complete."""
        self._text += self._decoder.decode(data)
        return self._taken(ended=False) if len(self._text) >= self._next_try else []

    def close(self) -> list[Record]:
        """End the content: the last record, if no line break ended it."""
        self._text += self._decoder.decode(b"", final=True)
        return self._taken(ended=True)

    def _taken(self, *, ended: bool) -> list[Record]:
        records: list[Record] = []
        position = 0
        if ended and (self._text or self._too_long) and not self._text.endswith(("\r", "\n")):
            self._text += "\n"  # the last line needs none of its own
            closed_at = len(self._text) - 1
        else:
            closed_at = len(self._text)
        while found := _RECORD.match(self._text, position):
            if not ended and found.end() == len(self._text) and found[1] == "\r":
                break  # which may be the first half of a line break
            self._add(records, self._text[position : found.start(1)])
            position = found.end()
        self._text = self._text[position:]
        if ended and self._text:
            self._add(records, self._left_open(self._text[: closed_at - position]), closed=False)
            self._text = ""
        elif len(self._text) - self._text.endswith("\r") > self._limit:
            self._shorten()
        self._next_try = len(self._text) + len(self._text) // 2
        return records

    def _add(self, records: list[Record], text: str, *, closed: bool = True) -> None:
        too_long = self._too_long or len(text) > self._limit or (
            len(text) * 4 > self._limit and len(text.encode(errors="surrogateescape")) > self._limit
        )  # fmt: skip
        if text or too_long:
            records.append(Record(self._line, "" if too_long else text, too_long, closed))
        self._line += 1 + self._lost_lines + len(_BREAK.findall(text))
        self._lost_lines, self._too_long = 0, False

    def _left_open(self, text: str) -> str:
        if self._lost_lines or _BREAK.search(text):
            raise InputError(
                f"{self._name}, line {self._line}: quotes that open in this row are never closed, so that the rows "
                "after it cannot be told apart; close them, or write the file again",
                code="truncated_input",
            )
        return text

    def _shorten(self) -> None:
        """Keep of an open record that is too long what its end is found by."""
        cells = _CELLS.match(self._text)
        assert cells is not None  # it matches nothing at all, too
        last = self._text[cells.end() :]
        half = "\r" if last.endswith("\r") else ""  # perhaps the first half of a line break
        if len(last) > self._limit:
            quoted = _QUOTED.match(last)
            if quoted is None or quoted.end() < len(last) - 1:
                last = f"x{half}"  # any cell that has no quotes, or has closed them
            else:
                last = '"' * (1 + len(last) - quoted.end()) + half  # in quotes, or after one that may close them
        self._lost_lines += len(_BREAK.findall(self._text)) - len(_BREAK.findall(last))
        self._too_long = True
        self._text = last
