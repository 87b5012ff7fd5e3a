"""Forms with files: counted while they come, and written to a private folder instead of held in memory.

The length that a request claims is never trusted. Whoever sends too slowly is cut off, and whatever way the block ends,
what was written for it is gone, unless somebody has linked it elsewhere.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from msgspec import Struct

from asyncllm.batch.threads import in_thread
from asyncllm.errors import APITimeoutError, BadRequestError, InvalidRequestError
from asyncllm.server.http.departure import ClientGone
from asyncllm.server.http.parts import Part, PartReader, boundary_of
from asyncllm.server.incoming import Incoming, header_of
from asyncllm.server.settings import ServerSettings

__all__ = ["Form", "Upload", "read_form"]

_TOGETHER = 256 * 2**10
"""Bytes of a file that are written in one go."""
_BESIDE = 2**20
"""Bytes of a form beside its files."""


class Upload(Struct, frozen=True, eq=False):
    """A file of a form."""

    filename: str
    """As it was sent. It names nothing here."""
    content_type: str
    path: Path
    """Where its bytes are until the form is left."""
    size: int
    sha256: bytes

    def __repr__(self) -> str:
        return f"Upload({self.size} bytes)"  # its name is private

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("bytes", self.size)]


class Form(Struct, frozen=True, eq=False):
    """A form that has arrived whole. What is asked for and is not there as asked raises `InvalidRequestError`."""

    values: Sequence[tuple[str, str]]
    """Texts by their names, in their order."""
    uploads: Sequence[tuple[str, Upload]]

    def __repr__(self) -> str:
        return f"Form({len(self.values)} texts, {len(self.uploads)} files)"  # which are private

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("texts", len(self.values)), ("files", len(self.uploads))]

    def text(self, name: str) -> str | None:
        """The one text of that name, `None` where there is none."""
        found = self.texts(name)
        if len(found) > 1:
            raise InvalidRequestError(f"{name} is given more than once", field=name)
        return found[0] if found else None

    def texts(self, name: str) -> Sequence[str]:
        """All texts of that name."""
        if any(told == name for told, _ in self.uploads):
            raise InvalidRequestError(f"{name} is a text, and was sent as a file", field=name)
        return [value for told, value in self.values if told == name]

    def file(self, name: str) -> Upload:
        """The one file of that name."""
        found = [upload for told, upload in self.uploads if told == name]
        if len(found) != 1:
            told = "is given more than once" if found else "is missing: send it as a part that has a filename"
            raise InvalidRequestError(f"{name} {told}", field=name)
        return found[0]


@asynccontextmanager
async def read_form(
    incoming: Incoming, settings: ServerSettings, *, max_file_bytes: int, folder: Path | None = None
) -> AsyncGenerator[Form]:
    """The form of a request, for the length of the block. Its files are in `folder`, or in one of their own.

    Raises `InvalidRequestError` for what is no form, or a broken one; `BadRequestError` with status 413 for one that is
    too large, `APITimeoutError` for one that does not come, and `ClientGone`.
    """
    spool = _Spool(folder)
    try:
        yield await _read(incoming, settings, max_file_bytes, spool)
    finally:
        await in_thread(spool.clear)


async def _read(incoming: Incoming, settings: ServerSettings, max_file_bytes: int, spool: _Spool) -> Form:
    reader = PartReader(boundary_of(header_of(incoming.scope, b"content-type")))
    body = _Body(incoming, settings)
    waiting: list[tuple[Part, bytes]] = []
    waiting_bytes = file_bytes = 0
    while (data := await body.receive()) is not None:
        found = reader.feed(data)
        size = sum(len(piece) for _, piece in found)
        file_bytes += size
        waiting_bytes += size
        if file_bytes > max_file_bytes or body.size - file_bytes > _BESIDE:
            raise BadRequestError(
                f"files of more than {max_file_bytes} bytes are not taken", status=413, code="request_too_large"
            )
        waiting += found
        if waiting_bytes >= _TOGETHER:
            pieces, waiting, waiting_bytes = waiting, [], 0
            await in_thread(lambda pieces=pieces: spool.write(pieces))  # type: ignore[misc]
    reader.end()
    uploads = await in_thread(lambda: spool.end(waiting, [part for part in reader.parts if part.filename is not None]))
    texts = [(part.name, _text(part)) for part in reader.parts if part.filename is None]
    return Form(texts, uploads)


def _text(part: Part) -> str:
    try:
        return part.text.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidRequestError(f"{part.name} is not UTF-8", field=part.name) from None


class _Body:
    """Takes a body in, which may take longer the more has come of it."""

    def __init__(self, incoming: Incoming, settings: ServerSettings) -> None:
        self.size = 0
        self._incoming = incoming
        self._settings = settings
        self._waited_s = 0.0
        self._is_over = False

    async def receive(self) -> bytes | None:
        """What comes next; `None` after the last of it."""
        if self._is_over:
            return None
        settings = self._settings
        allowed_s = settings.body_timeout_s + self.size / settings.min_upload_bytes_per_s
        began = time.monotonic()
        try:
            async with asyncio.timeout(allowed_s - self._waited_s):
                message = await self._incoming.receive()
        except TimeoutError:
            raise APITimeoutError(
                f"the body of the request did not arrive within {settings.body_timeout_s} seconds, and one more for "
                f"every {settings.min_upload_bytes_per_s} bytes",
                status=408,
            ) from None
        self._waited_s += time.monotonic() - began
        if message["type"] == "http.disconnect":
            raise ClientGone
        data: bytes = message.get("body", b"")
        self.size += len(data)
        self._is_over = not message.get("more_body", False)
        return data


class _File:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self.digest = hashlib.sha256()
        self.out = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def write(self, data: bytes) -> None:
        self.digest.update(data)
        self.size += len(data)
        left = memoryview(data)
        while left:
            left = left[os.write(self.out, left) :]


class _Spool:
    """The files of one form, on a thread."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._own: Path | None = None
        self._files: dict[int, _File] = {}

    def write(self, pieces: Sequence[tuple[Part, bytes]]) -> None:
        for part, data in pieces:
            self._file(part).write(data)

    def end(self, pieces: Sequence[tuple[Part, bytes]], parts: Sequence[Part]) -> Sequence[tuple[str, Upload]]:
        """Write the rest, and say what there is: also a file of no bytes."""
        self.write(pieces)
        uploads: list[tuple[str, Upload]] = []
        for part in parts:
            file = self._file(part)
            upload = Upload(part.filename or "", part.content_type, file.path, file.size, file.digest.digest())
            uploads.append((part.name, upload))
        return uploads

    def clear(self) -> None:
        for file in self._files.values():
            os.close(file.out)
            with suppress(FileNotFoundError):
                file.path.unlink()
        self._files.clear()
        if self._own is not None:
            shutil.rmtree(self._own, ignore_errors=True)

    def _file(self, part: Part) -> _File:
        file = self._files.get(id(part))
        if file is None:
            if self._folder is None:
                self._folder = self._own = Path(tempfile.mkdtemp(prefix="asyncllm-"))
            file = self._files[id(part)] = _File(self._folder / f"upload-{secrets.token_hex(16)}")
        return file
