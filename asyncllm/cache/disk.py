"""A cache in a folder, on LMDB: several processes may share it, and no way of dying corrupts it.

LMDB copies on write and commits by one page, so a process that is killed half way leaves the last whole state. Readers
take no lock. What blocks runs in a thread of the folder's own, and the event loop goes on.
"""

from __future__ import annotations

import asyncio
import os
import struct
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakValueDictionary

from asyncllm.cache.bounds import check_bounds
from asyncllm.errors import ConfigError

if TYPE_CHECKING:
    import lmdb

__all__ = ["DiskCache"]

T = TypeVar("T")

_LEAST_BYTES = 1024 * 1024
_LARGEST_SHARE = 16
"""A value takes no more than this part of the file: its pages lie together, and room is made of small pieces."""

# What stands in the database, by the first byte of the key. Numbers sort last, the newest at the very end.
_COMMIT = b"c"
_ENTRY = b"e"
_NUMBER = b"n"

_HEAD = struct.Struct(">8sd")
"""Before each value: its number in the order of putting, and the wall-clock time it was put at."""


class DiskCache:
    """Answers in the folder `path`, whose data file never grows over `max_bytes`: the oldest go when room is needed.

    The folder is made with mode 0700, its files with 0600. It must be on a disk of this machine, not on a network. What
    is older than `ttl_s` seconds is not given out. Several caches of one folder in a process share it, with the
    `max_bytes` of the first. One that is open does not follow into a forked process: fork first.

    Answers stand in the file as they are, and prompts and keys not at all: what is asked is known by a digest alone.
    Nothing is opened before the first use, and using a closed one opens it again.

    Raises `ConfigError` for limits that cannot be right, or where `pip install 'asyncllm[cache]'` is missing.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, max_bytes: int = 1024 * 1024 * 1024, ttl_s: float | None = None
    ) -> None:
        check_bounds(max_bytes, ttl_s, least_bytes=_LEAST_BYTES)
        if find_spec("lmdb") is None:
            raise ConfigError("DiskCache needs LMDB: pip install 'asyncllm[cache]'", field="cache")
        self._path = Path(path).expanduser().absolute()
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._folder: _Folder | None = None

    async def get(self, key: str) -> bytes | None:
        """See `Cache`. Reading does not write: what is used often leaves in its turn all the same."""
        entry = await self._opened().run(lambda env: _read(env, key.encode()))
        if entry is None:
            return None
        _, put_at = _HEAD.unpack_from(entry)
        if self._ttl_s is not None and time() - put_at >= self._ttl_s:
            return None
        return entry[_HEAD.size :]

    async def put(self, key: str, value: bytes) -> None:
        """See `Cache`. A value larger than a sixteenth of the cache is not kept."""
        folder = self._opened()
        if len(value) <= folder.max_bytes // _LARGEST_SHARE:
            await folder.run(lambda env: _put(env, key.encode(), value, folder.max_bytes))

    async def aclose(self) -> None:
        """Leave the folder, which is closed with the last that uses it. Idempotent."""
        self._folder = None

    def _opened(self) -> _Folder:
        if self._folder is None:
            self._folder = _Folder.at(self._path, self._max_bytes)
        if self._folder.pid != os.getpid():
            raise ConfigError("a DiskCache that was open before a fork cannot be used after it; fork first")
        return self._folder

    def __repr__(self) -> str:
        return f"<DiskCache of {self._max_bytes} bytes>"


class _Folder:
    """One LMDB environment, which a process may open but once. Everything that touches it runs in its one thread."""

    _here: WeakValueDictionary[Path, _Folder] = WeakValueDictionary()
    _here_lock = threading.Lock()

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.pid = os.getpid()
        self.max_bytes = max_bytes
        self._path = path
        self._thread = ThreadPoolExecutor(1, "asyncllm-cache")
        self._env: lmdb.Environment | None = None

    @classmethod
    def at(cls, path: Path, max_bytes: int) -> _Folder:
        """The folder at `path`: the one that is open in this process, or a new one."""
        with cls._here_lock:
            path = path.resolve()
            folder = cls._here.get(path)
            if folder is None:
                folder = cls._here[path] = cls(path, max_bytes)
            return folder

    async def run(self, step: Callable[[lmdb.Environment], T]) -> T:
        """Await `step` in the folder's thread. Who stops waiting does not stop it."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._take, step)

    def _take(self, step: Callable[[lmdb.Environment], T]) -> T:
        import lmdb

        if self._env is None:
            self._env = self._open()
        try:
            return step(self._env)
        except lmdb.MapResizedError:  # by another process, with a larger `max_bytes`
            self._env.set_mapsize(0)
            return step(self._env)

    def _open(self) -> lmdb.Environment:
        import lmdb

        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        # With half the flushes a crash of the machine may cost the last entries, but never the rest.
        env = lmdb.open(str(self._path), map_size=self.max_bytes, mode=0o600, metasync=False)
        env.reader_check()  # frees what processes that were killed while reading still seem to read
        return env


def _read(env: lmdb.Environment, key: bytes) -> bytes | None:
    with env.begin() as txn:
        return txn.get(_ENTRY + key)


def _put(env: lmdb.Environment, key: bytes, value: bytes, max_bytes: int) -> None:
    """Write an entry in the place of the oldest ones."""
    import lmdb

    for divisor in (4, 2, 1):
        try:
            return _write(env, key, value, max_bytes)
        except lmdb.MapFullError:
            # The file is full all the same, of free pages that do not lie together or that somebody still reads.
            _thin_out(env, divisor)
    return _write(env, key, value, max_bytes)


def _write(env: lmdb.Environment, key: bytes, value: bytes, max_bytes: int) -> None:
    with env.begin(write=True) as txn:
        _drop(txn, key)
        # A quarter stays free: pages cannot be written over in the transaction that frees them, nor while somebody
        # reads them, and freeing takes a few pages itself.
        while _used_bytes(txn) + len(value) > max_bytes * 3 // 4 and _drop_oldest(txn):
            pass
        number = _next_number(txn)
        txn.put(_ENTRY + key, _HEAD.pack(number, time()) + value)
        txn.put(_NUMBER + number, key)


def _next_number(txn: lmdb.Transaction[bytes]) -> bytes:
    with txn.cursor() as cursor:
        newest = cursor.key()[1:] if cursor.last() and cursor.key().startswith(_NUMBER) else b""
    return (int.from_bytes(newest) + 1).to_bytes(8)


def _drop(txn: lmdb.Transaction[bytes], key: bytes) -> None:
    entry = txn.pop(_ENTRY + key)
    if entry is not None:
        number, _ = _HEAD.unpack_from(entry)
        txn.delete(_NUMBER + number)


def _drop_oldest(txn: lmdb.Transaction[bytes]) -> bool:
    """Drop one entry, and say whether there was one."""
    with txn.cursor() as cursor:
        if not cursor.set_range(_NUMBER):
            return False
        oldest = cursor.value()
    _drop(txn, oldest)
    return True


def _used_bytes(txn: lmdb.Transaction[bytes]) -> int:
    stat = txn.stat()
    return stat["psize"] * (stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"])


def _thin_out(env: lmdb.Environment, divisor: int) -> None:
    """Drop one entry in `divisor`, oldest first."""
    env.reader_check()
    with env.begin(write=True) as txn:
        count = txn.stat()["entries"] // 2
        for _ in range(-(-count // divisor)):
            _drop_oldest(txn)
    with env.begin(write=True) as txn:
        # Pages can be written over from the second commit after they were freed.
        txn.put(_COMMIT, txn.id().to_bytes(8))
