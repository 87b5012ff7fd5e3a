"""A file on this machine: read in pieces, and written whole or not at all.

What is written goes to a draft beside the target, is synced, and takes the target's name in one step, so that whoever
looks, and whenever the process or the machine ends, finds the old content or the new. A draft is locked as long as its
writer lives; the next write to the same target removes those that nobody holds any more.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import NoReturn

from asyncllm.batch.places.protocol import Write
from asyncllm.batch.spool import PIECE
from asyncllm.batch.threads import in_thread
from asyncllm.errors import InputError, OutputExistsError, WriteError
from asyncllm.workspace.folder import sync_folder

__all__ = ["LocalPlace"]

_PRIVATE = 0o600
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe without a writer is refused rather than waited for
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_UNREADABLE = {
    errno.EACCES: "this user may not read it: change its permissions, or run as a user who may",
    errno.EPERM: "this user may not read it: change its permissions, or run as a user who may",
    errno.ENOENT: "nothing is there: check the name and the folder",
    errno.ENOTDIR: "a part of its path is a file, not a folder",
    errno.ELOOP: "its symbolic links lead in a circle",
    errno.ENAMETOOLONG: "its name is longer than the file system takes",
}

_UNWRITABLE = {
    errno.EACCES: "this user may not write there: change the folder's permissions, or take another",
    errno.EPERM: "this user may not write there: change the folder's permissions, or take another",
    errno.ENOENT: "its folder is not there: make it first",
    errno.ENOTDIR: "a part of its path is a file, not a folder",
    errno.ELOOP: "its symbolic links lead in a circle",
    errno.ENAMETOOLONG: "its name is longer than the file system takes",
    errno.ENOSPC: "the disk is full: make room and write it again",
    errno.EDQUOT: "the disk quota is used up: make room and write it again",
    errno.EFBIG: "the file would be larger than the file system, or the limit of this process, allows",
    errno.EROFS: "the file system is read-only",
}

_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""What file systems without hard links answer."""


class LocalPlace:
    """One file. A new one is for its owner alone (mode 0600); one that is written over keeps its permissions.

    Symbolic links are followed, for reading and for writing. Pipes and devices are refused, as they can be neither read
    twice nor replaced in one step.
    """

    def __init__(self, path: str) -> None:
        self.name = path
        self._path = Path(path).expanduser()

    async def fingerprint(self) -> str | None:
        """Size, time of change and inode."""
        return await in_thread(self._fingerprint)

    @asynccontextmanager
    async def read(self) -> AsyncGenerator[AsyncIterator[bytes]]:
        """See `Place`."""
        with ExitStack() as owned:
            yield self._pieces(await in_thread(lambda: self._opened(owned)))

    @asynccontextmanager
    async def write(self, *, overwrite: bool) -> AsyncGenerator[Write]:
        """See `Place`."""
        draft = _Draft(self.name, self._path, overwrite=overwrite)
        try:
            await in_thread(draft.begin)
            yield draft.write
            await in_thread(draft.publish)
        finally:
            draft.discard()

    def _fingerprint(self) -> str | None:
        with ExitStack() as owned:
            try:
                found = os.fstat(self._opened(owned))
            except InputError as error:
                if error.code == "ENOENT":
                    return None
                raise
        return f"{found.st_size}-{found.st_mtime_ns}-{found.st_ino}"

    def _opened(self, owned: ExitStack) -> int:
        try:
            file = os.open(self._path, _READ)
        except OSError as error:
            self._refuse_to_read(error)
        owned.callback(os.close, file)
        mode = os.fstat(file).st_mode
        if stat.S_ISDIR(mode):
            raise InputError(f"{self.name} is a folder; name a file in it", code="EISDIR")
        if not stat.S_ISREG(mode):
            raise InputError(f"{self.name} is a pipe or a device, which cannot be read twice; pass its content as -")
        return file

    async def _pieces(self, file: int) -> AsyncIterator[bytes]:
        try:
            while piece := await in_thread(lambda: os.read(file, PIECE)):
                yield piece
        except OSError as error:
            self._refuse_to_read(error)

    def _refuse_to_read(self, error: OSError) -> NoReturn:
        number = error.errno or 0
        why = _UNREADABLE.get(number, os.strerror(number))
        raise InputError(f"{self.name} cannot be read: {why}", code=errno.errorcode.get(number)) from error


class _Draft:
    """What is to be one file's content, under a name of its own until then."""

    def __init__(self, name: str, path: Path, *, overwrite: bool) -> None:
        self._name = name
        self._path = path
        self._overwrite = overwrite
        self._target = path
        self._draft: Path | None = None
        self._file = -1
        self._pending = bytearray()

    def begin(self) -> None:
        try:
            self._target = Path(os.path.realpath(self._path))
            mode = self._permissions()
            self._remove_leftovers()
            self._create()
            if mode is not None:
                os.fchmod(self._file, mode)
        except OSError as error:
            self._refuse(error)

    async def write(self, data: bytes) -> None:
        self._pending += data
        if len(self._pending) >= PIECE:
            await in_thread(self._flush)

    def publish(self) -> None:
        assert self._draft is not None
        self._flush()
        try:
            os.fsync(self._file)
            if self._overwrite:
                self._permissions()  # a folder may have come to stand there
                self._draft.replace(self._target)
            else:
                self._link()
                self._draft.unlink()
            self._draft = None
            sync_folder(self._target.parent)
        except OSError as error:
            self._refuse(error)

    def discard(self) -> None:
        if self._draft is not None:
            with suppress(OSError):  # the next write to the same target removes it
                self._draft.unlink()
            self._draft = None
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _permissions(self) -> int | None:
        """Those of the file that is there. Raises `OutputExistsError` if it has to stay, `WriteError` if it is none."""
        try:
            mode = self._target.stat().st_mode
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(mode):
            kind = "a folder; name a file in it" if stat.S_ISDIR(mode) else "a pipe or a device; use - for the output"
            raise WriteError(f"{self._name} is {kind}")
        if not self._overwrite:
            self._refuse_to_replace()
        return stat.S_IMODE(mode) & 0o777

    def _prefix(self) -> str:
        return f".asyncllm-{sha256(self._target.name.encode(errors='surrogateescape')).hexdigest()[:16]}-"

    def _create(self) -> None:
        while True:
            draft = self._target.with_name(f"{self._prefix()}{secrets.token_hex(8)}.tmp")
            self._file = os.open(draft, _CREATE, _PRIVATE)
            self._draft = draft
            if _lock(self._file) and _is_at(self._file, draft):
                return
            self.discard()  # somebody cleaning up was faster than the lock

    def _remove_leftovers(self) -> None:
        """Remove the drafts of this target whose writers were killed."""
        prefix = self._prefix()
        with os.scandir(self._target.parent) as entries:
            names = [entry.name for entry in entries if entry.name.startswith(prefix) and entry.name.endswith(".tmp")]
        for name in names:
            leftover = self._target.with_name(name)
            with suppress(OSError), ExitStack() as owned:  # what cannot be removed does no harm
                file = os.open(leftover, _READ | os.O_NOFOLLOW)
                owned.callback(os.close, file)
                if stat.S_ISREG(os.fstat(file).st_mode) and _lock(file, certain=True):
                    leftover.unlink()

    def _flush(self) -> None:
        try:
            while self._pending:
                del self._pending[: os.write(self._file, self._pending)]
        except OSError as error:
            self._refuse(error)

    def _link(self) -> None:
        """Give the draft the target's name, unless that is taken."""
        assert self._draft is not None
        try:
            os.link(self._draft, self._target)
        except FileExistsError:
            self._refuse_to_replace()
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            raise WriteError(
                f"{self._name} cannot be put there: its file system has no hard links, without which nothing is sure "
                "not to be written over; write with overwrite=True (--overwrite), or to another folder",
                code=errno.errorcode.get(error.errno),
            ) from error

    def _refuse_to_replace(self) -> NoReturn:
        raise OutputExistsError(
            f"{self._name} is there already: write to another name, or pass overwrite=True (--overwrite) to replace it"
        )

    def _refuse(self, error: OSError) -> NoReturn:
        number = error.errno or 0
        why = _UNWRITABLE.get(number, os.strerror(number))
        raise WriteError(f"{self._name} cannot be written: {why}", code=errno.errorcode.get(number)) from error


def _lock(file: int, *, certain: bool = False) -> bool:
    """Whether `file` is locked now, by this process; where no locks are to be had, whether that is no matter."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return not certain
    return True


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.lstat())
    except FileNotFoundError:
        return False
