"""The folder of a workspace: private, and on a disk of this machine."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from asyncllm.errors import StoreError

__all__ = ["free_bytes", "make_folder", "sync_folder"]

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
            _make(path)
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
    """How much an ordinary user can still write there. Raises `StoreError`."""
    try:
        told = os.statvfs(path)
    except OSError as error:
        raise StoreError(f"{path}: the folder of the workspace is not there any more: {error.strerror}") from error
    return told.f_bavail * told.f_frsize


def sync_folder(path: Path) -> None:
    """Have the names in a folder outlive a loss of power, as far as its file system can."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno != errno.EINVAL:  # the answer of file systems that have nothing to sync there
            raise
    finally:
        os.close(folder)


def _make(path: Path) -> None:
    """Make the folder and those above it that are missing, for good."""
    if path.is_dir():
        return
    missing = [path, *(above for above in path.parents if not above.exists())]
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    for made in reversed(missing):
        sync_folder(made.parent)


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
