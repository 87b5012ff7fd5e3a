"""A file system that writes down what is done to it, so that the disk as a loss of power leaves it can be made.

What was synced is there. Of what was written after that, any sectors may be there and others not, or hold garbage; the
size of a file may have changed or not; and names that were made or removed since their folder was synced may be as they
were before.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import apsw
from msgspec import Struct

__all__ = ["Disk", "Op", "Recorder"]

SECTOR: Final = 512
_LOG: Final = apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL
_KEPT: Final = _LOG | apsw.SQLITE_OPEN_MAIN_DB


class Op(Struct, frozen=True):
    """One thing that was done to a file: create, write, truncate, sync, delete or sync-folder."""

    kind: str
    file: str
    offset: int = 0
    data: bytes = b""


class Recorder(apsw.VFS):
    """Passes everything on to the real file system, and writes it down in `ops`."""

    def __init__(self, name: str, base: str = "unix") -> None:
        self.ops: list[Op] = []
        self._base = base
        super().__init__(name, base=base)

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802  # SQLite's name
        """Open a file."""
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        if path is None or not flags[0] & _KEPT:
            return apsw.VFSFile(self._base, name, flags)
        is_new = not Path(path).exists()
        file = _File(self, self._base, name, flags, os.path.basename(path))  # noqa: PTH119
        if is_new:
            self.ops.append(Op("create", file.file))
        return file

    def xDelete(self, name: str, syncdir: bool) -> None:  # noqa: N802
        """Remove a file."""
        super().xDelete(name, syncdir)
        self.ops.append(Op("delete", os.path.basename(name)))  # noqa: PTH119
        if syncdir:
            self.ops.append(Op("sync-folder", ""))


class _File(apsw.VFSFile):
    def __init__(self, recorder: Recorder, base: str, name: Any, flags: list[int], file: str) -> None:
        self.file = file
        self._ops = recorder.ops
        # SQLite syncs the folder of a log or a journal with the first sync of it after it was opened to be made.
        self._syncs_folder = bool(flags[0] & _LOG and flags[0] & apsw.SQLITE_OPEN_CREATE)
        super().__init__(base, name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        super().xWrite(data, offset)
        self._ops.append(Op("write", self.file, offset, bytes(data)))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        super().xTruncate(newsize)
        self._ops.append(Op("truncate", self.file, newsize))

    def xSync(self, flags: int) -> None:  # noqa: N802
        super().xSync(flags)
        self._ops.append(Op("sync", self.file))
        if self._syncs_folder:
            self._syncs_folder = False
            self._ops.append(Op("sync-folder", ""))


class _Inode:
    """A file, whatever its name is."""

    def __init__(self) -> None:
        self.synced = bytearray()
        self.since: list[Op] = []

    def sync(self) -> None:
        for op in self.since:
            _apply(self.synced, op)
        self.since.clear()

    def torn(self, chance: random.Random) -> bytes:
        """What a loss of power may leave of it."""
        left = bytearray(self.synced)
        share = chance.choice((0.0, 0.5, 0.9, 1.0))
        for op in (sector for whole in self.since for sector in _sectors(whole)):
            if chance.random() < share:
                _apply(left, op)
            elif op.kind == "write" and share and chance.random() < 0.1:
                _apply(left, Op("write", op.file, op.offset, chance.randbytes(len(op.data))))
        return bytes(left)


class Disk:
    """What a list of operations makes of a folder that held `files`, all of it synced."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self._names: dict[str, _Inode] = {}
        for name, content in files.items():
            self._names[name] = _Inode()
            self._names[name].synced[:] = content
        self._synced = dict(self._names)
        self._since: list[tuple[str, _Inode | None]] = []

    def do(self, op: Op) -> None:
        """One more operation."""
        match op.kind:
            case "create":
                self._names[op.file] = _Inode()
                self._since.append((op.file, self._names[op.file]))
            case "delete":
                del self._names[op.file]
                self._since.append((op.file, None))
            case "sync-folder":
                _rename(self._synced, self._since)
                self._since.clear()
            case "sync":
                self._names[op.file].sync()
            case _:
                self._names[op.file].since.append(op)

    def after_power_loss(self, chance: random.Random) -> dict[str, bytes]:
        """The files that may be there."""
        names = dict(self._synced)
        _rename(names, [change for change in self._since if chance.random() < 0.5])
        return {name: inode.torn(chance) for name, inode in names.items()}


def _rename(names: dict[str, _Inode], changes: list[tuple[str, _Inode | None]]) -> None:
    for name, inode in changes:
        if inode is None:
            names.pop(name, None)
        else:
            names[name] = inode


def _apply(content: bytearray, op: Op) -> None:
    if op.kind == "truncate":
        del content[op.offset :]
        content.extend(bytes(max(0, op.offset - len(content))))
    else:
        content.extend(bytes(max(0, op.offset - len(content))))
        content[op.offset : op.offset + len(op.data)] = op.data


def _sectors(op: Op) -> Iterator[Op]:
    if op.kind != "write":
        yield op
        return
    start = op.offset
    end = op.offset + len(op.data)
    while start < end:
        stop = min(end, (start // SECTOR + 1) * SECTOR)
        yield Op("write", op.file, start, op.data[start - op.offset : stop - op.offset])
        start = stop
