"""A file without a name that holds what has to be whole before it is used: random access, or all or nothing."""

from __future__ import annotations

import errno
import os
import tempfile
import weakref
from collections.abc import AsyncIterator
from functools import partial
from types import TracebackType
from typing import IO, Self

from asyncllm.batch.threads import in_thread
from asyncllm.errors import WriteError

__all__ = ["PIECE", "Spool"]

PIECE = 1024 * 1024
"""Bytes that are read or written at once."""


class Spool:
    """Bytes on the disk of this machine (`TMPDIR`). Whatever way the process ends, they are gone with it."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self._file: weakref.finalize[..., Spool] | None = None
        self._descriptor = -1
        self.size = 0
        """Bytes written so far."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        self.close()

    def close(self) -> None:
        """Forget everything. Idempotent."""
        if self._file is not None:
            self._file()

    async def write(self, data: bytes) -> None:
        """Put `data` at the end. Raises `WriteError` where the disk is full."""
        self._pending += data
        self.size += len(data)
        if len(self._pending) >= PIECE:
            await in_thread(self._flush)

    async def whole(self) -> IO[bytes]:
        """The file, at its beginning, for as long as this is there."""
        await in_thread(self._flush)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        return open(self._descriptor, "rb", closefd=False)  # noqa: ASYNC230  # it is open already

    async def pieces(self, size: int = PIECE) -> AsyncIterator[bytes]:
        """What was written, `size` bytes at a time."""
        await in_thread(self._flush)
        for start in range(0, self.size, size):
            yield await in_thread(partial(os.pread, self._descriptor, size, start))

    def _open(self) -> None:
        with tempfile.TemporaryFile(prefix="asyncllm-") as file:
            self._descriptor = os.dup(file.fileno())
        # So that one which nobody closes is closed with the last that uses it.
        self._file = weakref.finalize(self, os.close, self._descriptor)

    def _flush(self) -> None:
        try:
            if self._file is None:
                self._open()
            while self._pending:
                del self._pending[: os.write(self._descriptor, self._pending)]
        except OSError as error:
            raise WriteError(
                f"the folder for temporary files cannot take more ({os.strerror(error.errno or 0)}): make room there, "
                "or set TMPDIR to a folder that has some",
                code=errno.errorcode.get(error.errno or 0),
            ) from error
