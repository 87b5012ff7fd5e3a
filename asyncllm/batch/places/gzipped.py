"""A place whose content is packed by gzip (RFC 1952), as a name that ends in `.gz` says."""

from __future__ import annotations

import zlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from asyncllm.batch.places.protocol import Place, Write
from asyncllm.batch.spool import PIECE
from asyncllm.batch.threads import in_thread
from asyncllm.errors import InputError

__all__ = ["GzippedPlace"]

_GZIP = 31  # zlib's number for "with gzip's header and checksum"


class GzippedPlace:
    """Unpacks what is read and packs what is written, a piece at a time."""

    def __init__(self, place: Place) -> None:
        self.name = place.name
        self._place = place

    async def fingerprint(self) -> str | None:
        """That of the packed file."""
        return await self._place.fingerprint()

    @asynccontextmanager
    async def read(self) -> AsyncGenerator[AsyncIterator[bytes]]:
        """See `Place`."""
        async with self._place.read() as pieces:
            yield self._unpacked(pieces)

    @asynccontextmanager
    async def write(self, *, overwrite: bool) -> AsyncGenerator[Write]:
        """See `Place`. The same content makes the same bytes: no name and no time are kept."""
        packer = zlib.compressobj(wbits=_GZIP)
        pending = bytearray()
        async with self._place.write(overwrite=overwrite) as write:

            async def pack(data: bytes) -> None:
                pending.extend(data)
                if len(pending) >= PIECE:
                    await write(await in_thread(lambda: packer.compress(pending)))
                    pending.clear()

            yield pack
            await write(packer.compress(pending) + packer.flush())

    async def _unpacked(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        unpacker = zlib.decompressobj(_GZIP)
        begun = False
        async for piece in pieces:
            data, unpacked = piece, b""
            while data or len(unpacked) == PIECE:  # a full piece may have more behind it that needs no more input
                if unpacker.eof:  # one file may be several, one after another
                    data, unpacked, begun = data.lstrip(b"\0"), b"", False
                    unpacker = zlib.decompressobj(_GZIP)
                    continue
                begun = True
                try:
                    # Bounded, as little may unpack to very much.
                    unpacked = await in_thread(partial(unpacker.decompress, data, PIECE))
                except zlib.error as error:
                    raise InputError(
                        f"{self.name} is damaged, or not packed by gzip though it is named .gz: {error}"
                    ) from error
                data = unpacker.unconsumed_tail or unpacker.unused_data
                if unpacked:
                    yield unpacked
        if begun and not unpacker.eof:
            raise InputError(f"{self.name} ends in the middle; write or fetch it again")
