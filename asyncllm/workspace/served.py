"""What a server keeps in a workspace."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Self

from asyncllm.errors import StoreError
from asyncllm.workspace.blobs import Blobs
from asyncllm.workspace.board import Board
from asyncllm.workspace.books import Books
from asyncllm.workspace.database import FILE, Db, connect
from asyncllm.workspace.folder import make_folder
from asyncllm.workspace.keys import KeyStore
from asyncllm.workspace.points import Points
from asyncllm.workspace.records import MIGRATIONS
from asyncllm.workspace.tenants import TenantStore
from asyncllm.workspace.upkeep import Upkeep
from asyncllm.workspace.usage import UsageBook
from asyncllm.workspace.writer import Writer

__all__ = ["ServerStore"]


class ServerStore:
    """Keys, usage, files and batches of a server. Use it inside `async with`; several processes may, of one folder.

    Opening it raises as `connect` does, and `StoreError` if nothing is there and it is not to be made.
    """

    def __init__(self, folder: Path | str, *, create: bool = True, env: Mapping[str, str] | None = None) -> None:
        self.folder = Path(folder).absolute()
        self._create = create
        self._points = Points(os.environ if env is None else env)
        self._writer = Writer(self._connect, self.folder / FILE, self._points, waits=False)
        self._reader = Writer(self._connect, self.folder / FILE, self._points, waits=False)
        self.keys = KeyStore(self.folder, self._writer, self._reader)
        self.board = Board(self._writer)
        self.books = Books(self._writer)
        self.usage = UsageBook(self._writer)
        self._blobs = Blobs(self.folder)
        self.tenants = TenantStore(self._writer, self._blobs)
        self.upkeep = Upkeep(self._writer, self._blobs)
        self.closing: list[Callable[[], Awaitable[None]]] = []
        """What is done before it is closed, by whoever holds something of it."""

    async def __aenter__(self) -> Self:
        try:
            await self._writer.open()
            await self._reader.open()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            for close in self.closing:
                await close()
            await self.usage.aclose()
        finally:
            await self._reader.aclose()
            await self._writer.aclose()

    @property
    def commits(self) -> int:
        """Transactions that have been written."""
        return self._writer.commits

    def _connect(self) -> Db:
        if not self._create and not (self.folder / FILE).exists():
            raise StoreError(f"{self.folder}: there is no workspace here")
        db = connect(make_folder(self.folder, create=self._create), MIGRATIONS, self._points)
        self._blobs.prepare()
        return db
