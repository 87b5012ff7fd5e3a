"""The folder of a workspace: private, and on a disk of this machine."""

from __future__ import annotations

import os
from pathlib import Path

from asyncllm.errors import StoreError

__all__ = ["free_bytes", "make_folder"]

_MOUNTS = Path("/proc/self/mountinfo")
_REMOTE = ("nfs", "cifs", "smb", "9p", "fuse", "afs", "ceph", "lustre", "gpfs", "beegfs", "glusterfs", "ocfs2", "gfs2")
"""Beginnings of the names of file systems on which locks do not hold, or hold for one machine of several."""


def make_folder(path: Path, *, create: bool) -> Path:
    """Make `path` a folder that only its owner may enter, if it is not there, and return it in full.

    Raises `StoreError` where it cannot be made, is no folder, or is on a network file system.
    """
    path = path.absolute()
    try:
        if create:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.is_dir():
            raise StoreError(f"{path}: there is no workspace here")
    except OSError as error:
        raise StoreError(f"{path}: the folder of the workspace cannot be made: {error.strerror}") from error
    kind = _file_system(path)
    if kind.startswith(_REMOTE):
        raise StoreError(
            f"{path}: this is a network file system ({kind}), on which SQLite's locks do not hold; keep the workspace "
            "on a disk of this machine"
        )
    return path


def free_bytes(path: Path) -> int:
    """How much an ordinary user can still write there."""
    told = os.statvfs(path)
    return told.f_bavail * told.f_frsize


def _file_system(path: Path) -> str:
    """The kind of file system that `path` is on, or an empty text where the system does not tell."""
    try:
        mounts = _MOUNTS.read_text("utf-8", "surrogateescape").splitlines()
        device = path.stat().st_dev
    except OSError:
        return ""
    kinds = {fields[2]: after.split()[0] for fields, after in map(_fields, mounts)}
    return kinds.get(f"{os.major(device)}:{os.minor(device)}", "")


def _fields(line: str) -> tuple[list[str], str]:
    before, _, after = line.partition(" - ")
    return before.split(), after
