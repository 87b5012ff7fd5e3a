"""Bytes in, JSON documents out, one from each line: newline-delimited JSON.

Source: https://github.com/ndjson/ndjson-spec (NDJSON, JSON Lines). Pure: no I/O, no clock, no asyncio. Documents are
not decoded here: whoever knows their types does it, once.

What servers do besides, all of it taken: blank lines as a sign of life, CRLF, a byte order mark, a last line without
its end, and several objects on one line.
"""

from __future__ import annotations

import json
import re

from asyncllm.errors import EventTooLargeError

__all__ = ["NDJSONDecoder"]

_BOM = b"\xef\xbb\xbf"
_BLANK = b" \t\r"
_BLANKS = re.compile(r"[ \t\r]*")
_SEAM = re.compile(rb"\}[ \t\r]*\{")
_scanner = json.JSONDecoder(strict=False)


class NDJSONDecoder:
    """Decodes one stream of lines, fed in pieces of any size.

    `max_line_bytes` bounds one line before it is stored; `None` lifts the limit.
    """

    def __init__(self, *, max_line_bytes: int | None = 16 * 2**20) -> None:
        self._limit = max_line_bytes
        self._tail = bytearray()  # the start of a line that has no end yet
        self._at_start = True  # a byte order mark may still come

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next bytes of the stream and return the documents they complete, in order.

        Raises `EventTooLargeError`; the decoder is of no use after that.
        """
        *lines, rest = data.split(b"\n")
        documents: list[bytes] = []
        for line in lines:
            if self._tail:
                self._keep(line)
                line = bytes(self._tail)  # noqa: PLW2901  # the same line, whole
                self._tail.clear()
            documents += self._documents(line)
        self._keep(rest)
        return documents

    def close(self) -> list[bytes]:
        """End the stream: the documents of a last line without an end, which may be cut short."""
        line = bytes(self._tail)
        self._tail.clear()
        return self._documents(line)

    def _documents(self, line: bytes) -> list[bytes]:
        self._check(len(line))
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(_BOM)
        line = line.strip(_BLANK)
        if not line:
            return []
        return _split(line) if _SEAM.search(line) else [line]

    def _keep(self, piece: bytes) -> None:
        self._check(len(self._tail) + len(piece))
        self._tail += piece

    def _check(self, size: int) -> None:
        if self._limit is not None and size > self._limit:
            raise EventTooLargeError(
                f"a line is larger than max_line_bytes={self._limit}; raise the limit if the server is right to send it"
            )


def _split(line: bytes) -> list[bytes]:
    """The objects of a line that may hold several; what is no JSON is left together, for its reader to say so."""
    text = line.decode("latin-1")  # one character a byte; what JSON consists of is ASCII
    documents: list[bytes] = []
    start = 0
    try:
        while start < len(text):
            _, end = _scanner.raw_decode(text, start)
            documents.append(line[start:end])
            blanks = _BLANKS.match(text, end)
            start = blanks.end() if blanks else end
    except (ValueError, RecursionError):
        documents.append(line[start:])
    return documents
