"""A disk that is full, or that fails, when a test says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import apsw

__all__ = ["Failing"]


class Failing(apsw.VFS):
    """Passes everything on, unless `fails` has an error for a write or a sync of that number, counted from 1."""

    def __init__(self, name: str) -> None:
        self.fails: Callable[[int], Exception | None] = lambda _: None
        self.writes = 0
        super().__init__(name, base="unix")

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802  # SQLite's name
        return _File(self, name, flags)

    def count(self) -> None:
        self.writes += 1
        if (error := self.fails(self.writes)) is not None:
            raise error


class _File(apsw.VFSFile):
    def __init__(self, disk: Failing, name: Any, flags: list[int]) -> None:
        self._disk = disk
        super().__init__("unix", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        self._disk.count()
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._disk.count()
        super().xSync(flags)
