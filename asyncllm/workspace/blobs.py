"""Bytes of tenants on the disk, by what they are: each tenant has a folder, and each content its SHA-256 as its name.

No name that came from outside is part of a path. Links are not followed, neither at the file nor at its folder.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from asyncllm.errors import CorruptStoreError
from asyncllm.workspace.folder import sync_folder

__all__ = ["Blobs"]

_FILES = "files"
_DRAFTS = "drafts"
_STALE_S = 86_400.0
"""Age of a draft that nobody writes any more: its process was killed."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class Blobs:
    """The bytes below one folder. Every method blocks."""

    def __init__(self, folder: Path) -> None:
        self._files = folder / _FILES
        self.drafts = folder / _DRAFTS
        """Where what is to be kept is written first."""

    def prepare(self) -> None:
        """Make the folders, and remove drafts that were left."""
        for folder in (self._files, self.drafts):
            folder.mkdir(mode=0o700, exist_ok=True)
        oldest = time.time() - _STALE_S
        for draft in self.drafts.iterdir():
            with suppress(FileNotFoundError):  # somebody else cleans up as well
                if draft.lstat().st_mtime < oldest:
                    draft.unlink()

    def keep(self, tenant: str, digest: str, draft: Path) -> None:
        """Have the bytes of `draft`, which is on this disk, for good. The draft is gone then."""
        folder = self._files / _folder_of(tenant)
        folder.mkdir(mode=0o700, exist_ok=True)
        with suppress(FileNotFoundError):  # it is there from the first time
            file = os.open(draft, _READ)
            try:
                os.fsync(file)
            finally:
                os.close(file)
            draft.replace(folder / digest)
        sync_folder(folder)
        sync_folder(self._files)

    def open(self, tenant: str, digest: str, size: int) -> int:
        """A descriptor of the bytes. Raises `CorruptStoreError` where they are not as they were kept."""
        try:
            folder = os.open(self._files / _folder_of(tenant), _FOLDER)
            try:
                file = os.open(digest, _READ, dir_fd=folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise CorruptStoreError("the bytes of a file are not where the store has put them") from error
        told = os.fstat(file)
        if not stat.S_ISREG(told.st_mode) or told.st_size != size:
            os.close(file)
            raise CorruptStoreError("the bytes of a file are not those that the store has put there")
        return file

    def remove(self, tenant: str, digest: str) -> None:
        """Remove the bytes, if they are there."""
        with suppress(FileNotFoundError):
            (self._files / _folder_of(tenant) / digest).unlink()

    def sweep(self, tenant: str, is_kept: Callable[[str], bool]) -> None:
        """Remove all bytes of a tenant that are not to be kept."""
        folder = self._files / _folder_of(tenant)
        for path in folder.iterdir() if folder.is_dir() else ():
            if not is_kept(path.name):
                path.unlink()


def _folder_of(tenant: str) -> str:
    return hashlib.sha256(tenant.encode("utf-8", "surrogatepass")).hexdigest()[:32]
