"""Standard input and output, as `-`: read to its end before it is used, and written only when all is there."""

from __future__ import annotations

import errno
import os
import select
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from hashlib import sha256
from typing import IO, NoReturn

from asyncllm.batch.places.protocol import Write
from asyncllm.batch.spool import PIECE, Spool
from asyncllm.batch.threads import in_thread
from asyncllm.errors import InputError, WriteError

__all__ = ["StandardPlace"]

_LOOK_S = 0.1  # how long a cancellation may have to wait for the thread that reads


class StandardPlace:
    """What stands in for a file in a pipe of commands. As an input it can be read again and again.

    Nothing is looked for where the output goes, and `overwrite` makes no difference: there is nothing to replace.
    """

    name = "-"

    def __init__(self, source: IO[bytes] | None = None, sink: IO[bytes] | None = None) -> None:
        self._source = source
        self._sink = sink
        self._spool: Spool | None = None
        self._digest = ""

    async def fingerprint(self) -> str | None:
        """A digest of the input, which is read to its end."""
        await self._content()
        return self._digest

    @asynccontextmanager
    async def read(self) -> AsyncGenerator[AsyncIterator[bytes]]:
        """See `Place`."""
        yield (await self._content()).pieces()

    @asynccontextmanager
    async def write(self, *, overwrite: bool) -> AsyncGenerator[Write]:  # noqa: ARG002  # there is nothing to replace
        """See `Place`."""
        with Spool() as spool:
            yield spool.write
            async for piece in spool.pieces():
                await in_thread(partial(self._put, piece))
            await in_thread(self._flush)

    async def _content(self) -> Spool:
        if self._spool is None:
            file = self._descriptor()
            spool, digest = Spool(), sha256()
            try:
                while (piece := await in_thread(lambda: _look(file))) != b"":
                    if piece is not None:
                        digest.update(piece)
                        await spool.write(piece)
            except BaseException:
                spool.close()
                raise
            self._spool, self._digest = spool, f"sha256-{digest.hexdigest()}"
        return self._spool

    def _descriptor(self) -> int:
        source = self._source or (sys.stdin.buffer if sys.stdin is not None else None)
        try:
            return source.fileno() if source is not None else self._refuse_to_read()
        except (OSError, ValueError):
            self._refuse_to_read()

    def _refuse_to_read(self) -> NoReturn:
        raise InputError("the standard input is closed; pipe something into this command, or name a file")

    def _put(self, piece: bytes) -> None:
        try:
            self._output().write(piece)
        except (OSError, ValueError) as error:
            _refuse(error)

    def _flush(self) -> None:
        try:
            self._output().flush()
        except (OSError, ValueError) as error:
            _refuse(error)

    def _output(self) -> IO[bytes]:
        if self._sink is None and sys.stdout is None:
            raise WriteError("the standard output is closed; name a file")
        return self._sink or sys.stdout.buffer


def _look(file: int) -> bytes | None:
    """What has come, if anything has; empty at the end."""
    try:
        ready, _, _ = select.select([file], [], [], _LOOK_S)
        return os.read(file, PIECE) if ready else None
    except (OSError, ValueError) as error:
        raise InputError("the standard input cannot be read to its end; name a file") from error


def _refuse(error: Exception) -> NoReturn:
    number = error.errno if isinstance(error, OSError) else None
    raise WriteError(
        "the standard output was closed before all was written to it; name a file, or write it again",
        code=errno.errorcode.get(number or 0),
    ) from error
