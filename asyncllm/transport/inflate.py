"""Bodies that come compressed though `identity` was asked for: gzip and deflate, a bounded piece at a time.

Never left to aiohttp, which takes a gzip body that stops early for a whole one. Pure: no I/O, no clock, no asyncio.

Source: RFC 1952 for gzip and its members, RFC 9110 section 8.4.1 for the codings by name. What servers call `deflate`
is a zlib stream by the standard and a bare one in practice; the first byte tells them apart.
"""

from __future__ import annotations

import zlib

__all__ = ["CODINGS", "Inflater"]

CODINGS = frozenset({"gzip", "x-gzip", "deflate"})
"""What can be inflated, by the names of `Content-Encoding` in lower case."""

_PIECE_BYTES = 256 * 2**10
_GZIP, _ZLIB, _RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS


class Inflater:
    """Takes compressed bytes by `feed` and gives plain ones by `take`, at most 256 KiB at a time.

    However much a few bytes unfold to, no more than a piece of it is ever held.
    """

    def __init__(self, coding: str) -> None:
        self._bits = 0 if coding == "deflate" else _GZIP
        self._stream = zlib.decompressobj(_GZIP)
        self._input = b""
        self._has_more = False  # a full piece was taken: there may be more without another byte of input

    @property
    def is_complete(self) -> bool:
        """Whether the compressed stream has reached its own end, so that nothing was cut off."""
        return self._stream.eof and not self._input

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the body."""
        if not self._bits and data:
            self._bits = _ZLIB if data[0] & 0x0F == zlib.DEFLATED else _RAW
            self._stream = zlib.decompressobj(self._bits)
        self._input += data

    def take(self) -> bytes:
        """The next plain bytes, empty when more must be fed first. Raises `zlib.error` where the stream is corrupt."""
        while self._input or self._has_more:
            if self._stream.eof:
                self._stream = zlib.decompressobj(self._bits)  # gzip may have several members, one after the other
            data = self._stream.decompress(self._input, _PIECE_BYTES)
            self._input = self._stream.unused_data if self._stream.eof else self._stream.unconsumed_tail
            self._has_more = len(data) == _PIECE_BYTES and not self._stream.eof
            if data:
                return data
        return b""
