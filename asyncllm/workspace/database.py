"""The SQLite file of a workspace: opened, checked, and brought to the version of this code.

SQLite comes with apsw, never from the system, whose older versions can lose commits when a write-ahead log is reset.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, Protocol, cast

import msgspec

from asyncllm.errors import ConfigError, StoreError
from asyncllm.workspace.folder import sync_folder
from asyncllm.workspace.mishaps import corrupt
from asyncllm.workspace.points import Points

__all__ = ["APPLICATION_ID", "Db", "FILE", "connect"]

FILE = "store.db"
APPLICATION_ID = 0x61736C6D
"""`aslm`, in the header of the file, so that nobody takes another database for a store."""
_OLDEST = 3_051_003
_BUSY_MS = 5000
_AGAIN_S = 0.005
_CHECKED_BYTES = 256 * 2**20
"""A larger file is not checked page by page when it is opened; what is read from it is, row by row."""

_encode = msgspec.msgpack.Encoder().encode


class Rows(Protocol):
    """What a statement gives."""

    def __iter__(self) -> Iterator[Any]: ...

    def fetchone(self) -> Any:
        """The next row, a tuple, or `None`."""
        ...

    def fetchall(self) -> list[Any]:
        """All rows that are left."""
        ...


class Db(AbstractContextManager["Db"], Protocol):
    """An open store, as far as it is used here: what apsw says of its own types is more than a checker can follow.

    Its block is a savepoint.
    """

    @property
    def in_transaction(self) -> bool:
        """Whether one is open."""
        ...

    def execute(self, statements: str, bindings: Sequence[Any] = (), /) -> Rows:
        """Run statements."""
        ...

    def pragma(self, name: str, /) -> Any:
        """The value of a pragma."""
        ...

    def changes(self) -> int:
        """Rows that the last statement changed."""
        ...

    def last_insert_rowid(self) -> int:
        """The number of the row that was inserted last."""
        ...

    def create_scalar_function(
        self, name: str, function: Callable[..., Any], numargs: int = -1, /, *, deterministic: bool = False
    ) -> None:
        """Make a function known to statements."""
        ...

    def set_busy_timeout(self, milliseconds: int, /) -> None:
        """How long to wait for another process that writes."""
        ...

    def close(self) -> None:
        """Let go of the file."""
        ...


def connect(folder: Path, migrations: Sequence[str], points: Points, *, vfs: str | None = None) -> Db:
    """Open the store in `folder`, made if it is not there, at the version that `migrations` lead to.

    Its statements know `seal(...)`, a checksum of values: what stands beside its seal is what was written.

    Raises `ConfigError` if apsw is missing, `CorruptStoreError`, `StoreError` for a file that is no store or that a
    newer version has written, and what `mishaps.store_error` explains.
    """
    try:
        import apsw  # an extra, and heavy
    except ImportError:
        raise ConfigError("batches are kept by apsw: pip install 'asyncllm[batch]'", field="store") from None
    if apsw.SQLITE_VERSION_NUMBER < _OLDEST:
        raise ConfigError("apsw is too old: pip install --upgrade 'asyncllm[batch]'", field="store")
    file = folder / FILE
    _make(file)
    connection = cast("Db", apsw.Connection(str(file), vfs=vfs))
    due = time.monotonic() + _BUSY_MS / 1000
    try:
        while True:
            try:
                _prepare(connection, file, migrations, points)
            except apsw.BusyError:  # SQLite does not wait by itself where several make the same file at once
                if time.monotonic() >= due:
                    raise
                time.sleep(_AGAIN_S)
            else:
                return connection
    except BaseException:
        connection.close()
        raise


def _make(file: Path) -> None:
    """Make the file before SQLite does, so that it is never readable by others."""
    with suppress(FileExistsError):
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        sync_folder(file.parent)


def _prepare(connection: Db, file: Path, migrations: Sequence[str], points: Points) -> None:
    connection.set_busy_timeout(_BUSY_MS)
    for pragma in ("trusted_schema=OFF", "cell_size_check=ON", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")
    connection.create_scalar_function("seal", _seal, deterministic=True)
    _identify(connection, file, migrations)
    if 0 < file.stat().st_size <= _CHECKED_BYTES and connection.pragma("quick_check") != "ok":
        raise corrupt(file)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    _migrate(connection, migrations, points)
    _identify(connection, file, migrations)


def _seal(*values: object) -> int:
    return zlib.crc32(_encode(values))


def _identify(connection: Db, file: Path, migrations: Sequence[str]) -> None:
    """Raise unless this is a store that this code can read, or nothing yet."""
    with connection:  # as they are at one moment: another process may be making them
        app, version = connection.pragma("application_id"), connection.pragma("user_version")
        tables = _tables(connection)
    is_ours = app == APPLICATION_ID
    if not (app or version or tables):
        return
    if is_ours and 0 < version <= len(migrations) and tables >= _expected(migrations[:version]):
        return
    # A number in the header may be damaged as well as anything else, and then the tables are still ours.
    if tables >= _expected(migrations) or (is_ours and version <= len(migrations)):
        raise corrupt(file)
    if not is_ours:
        raise StoreError(f"{file}: this is another program's database, not a store")
    raise StoreError(
        f"{file}: this store was written by a newer asyncllm (its version {version}, here {len(migrations)}); upgrade"
    )


def _tables(connection: Db) -> set[str]:
    """The statements that make what is there."""
    return {sql for (sql,) in connection.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL")}


def _expected(migrations: Sequence[str]) -> set[str]:
    import apsw

    fresh = cast("Db", apsw.Connection(":memory:"))
    try:
        fresh.execute(";".join(migrations))
        return _tables(fresh)
    finally:
        fresh.close()


def _migrate(connection: Db, migrations: Sequence[str], points: Points) -> None:
    """Take the steps that are missing, each as one transaction."""
    while int(connection.pragma("user_version")) < len(migrations):
        points.reach("store.migrate.before")
        connection.execute("BEGIN IMMEDIATE")
        try:
            version = int(connection.pragma("user_version"))
            if version < len(migrations):  # or another process was faster with the same step
                connection.execute(migrations[version])
                connection.execute(f"PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={version + 1}")
                points.reach("store.migrate.within")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        points.reach("store.migrate.after")
