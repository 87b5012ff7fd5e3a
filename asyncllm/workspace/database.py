"""The SQLite file of a workspace: opened, checked, and brought to the version of this code.

SQLite comes with apsw, never from the system, whose older versions can lose commits when a write-ahead log is reset.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, Protocol, cast

from asyncllm.errors import ConfigError, CorruptStoreError, StoreError
from asyncllm.workspace.points import Points

__all__ = ["APPLICATION_ID", "Db", "FILE", "connect"]

FILE = "store.db"
APPLICATION_ID = 0x61736C6D
"""`aslm`, in the header of the file, so that nobody takes another database for a store."""
_OLDEST = 3_051_003
_CHECKED_BYTES = 256 * 2**20
"""A larger file is not checked page by page when it is opened; what is read from it is, row by row."""


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

    def set_busy_timeout(self, milliseconds: int, /) -> None:
        """How long to wait for another process that writes."""
        ...

    def close(self) -> None:
        """Let go of the file."""
        ...


def connect(folder: Path, migrations: Sequence[str], points: Points, *, vfs: str | None = None) -> Db:
    """Open the store in `folder`, made if it is not there, at the version that `migrations` lead to.

    Raises `ConfigError` if apsw is missing, `CorruptStoreError`, and `StoreError` for a file that is no store, that a
    newer version has written, or that this user may not write.
    """
    try:
        import apsw  # an extra, and heavy
    except ImportError:
        raise ConfigError("batches are kept by apsw: pip install 'asyncllm[batch]'", field="store") from None
    if apsw.SQLITE_VERSION_NUMBER < _OLDEST:
        raise ConfigError("apsw is too old: pip install --upgrade 'asyncllm[batch]'", field="store")
    file = folder / FILE
    try:
        _make(file)
        connection = cast("Db", apsw.Connection(str(file), vfs=vfs))
        try:
            _prepare(connection, file, migrations, points)
        except BaseException:
            connection.close()
            raise
    except (apsw.NotADBError, apsw.CorruptError) as error:
        raise _corrupt(file) from error
    except (apsw.CantOpenError, apsw.ReadOnlyError, OSError) as error:
        raise StoreError(f"{file}: the store cannot be opened for writing: {error}") from error
    return connection


def _make(file: Path) -> None:
    """Make the file before SQLite does, so that it is never readable by others."""
    with suppress(FileExistsError):
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))


def _prepare(connection: Db, file: Path, migrations: Sequence[str], points: Points) -> None:
    connection.set_busy_timeout(5000)
    for pragma in ("trusted_schema=OFF", "cell_size_check=ON", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")
    is_new = not file.stat().st_size
    if not is_new:
        _check(connection, file, len(migrations))
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    _migrate(connection, file, migrations, points)


def _check(connection: Db, file: Path, version: int) -> None:
    app, found = connection.pragma("application_id"), connection.pragma("user_version")
    if app != APPLICATION_ID and (app or found):
        raise StoreError(f"{file}: this is another program's database, not a store")
    if found > version:
        raise StoreError(
            f"{file}: this store was written by a newer asyncllm (its version {found}, here {version}); upgrade"
        )
    if file.stat().st_size <= _CHECKED_BYTES and connection.pragma("quick_check") != "ok":
        raise _corrupt(file)


def _corrupt(file: Path) -> CorruptStoreError:
    return CorruptStoreError(
        f"{file}: the store is damaged, and nothing was changed. Keep a copy; what can be read of it comes out with "
        f"`sqlite3 {FILE} .recover`, or begin again with another --store"
    )


def _migrate(connection: Db, file: Path, migrations: Sequence[str], points: Points) -> None:
    """Take the steps that are missing, each as one transaction."""
    while True:
        points.reach("store.migrate.before")
        connection.execute("BEGIN IMMEDIATE")  # another process may be about to take the same step
        try:
            version = int(connection.pragma("user_version"))
            if version < len(migrations):
                connection.execute(migrations[version])
                connection.execute(f"PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={version + 1}")
                points.reach("store.migrate.within")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        points.reach("store.migrate.after")
        if version >= len(migrations):
            _check(connection, file, len(migrations))
            return
