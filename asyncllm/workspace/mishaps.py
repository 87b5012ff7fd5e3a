"""What SQLite raises, as our own errors: the disk, the file, or what stands in it."""

from __future__ import annotations

import errno
from pathlib import Path

from asyncllm.errors import AsyncLLMError, CorruptStoreError, StoreError

__all__ = ["corrupt", "is_full", "store_error"]

_FULL = (errno.ENOSPC, errno.EDQUOT)


def store_error(error: Exception, file: Path) -> Exception:
    """What `error` means to whoever works with the store in `file`. One that is not of SQLite or the disk stays."""
    if isinstance(error, AsyncLLMError):
        return error
    if isinstance(error, OSError):
        return _unusable(file, error.strerror or type(error).__name__, error)
    try:
        import apsw  # there unless it is what is missing
    except ImportError:
        return error
    if is_full(error):
        told: AsyncLLMError = StoreError(f"{file}: the disk is full: make room, and run it again")
    elif isinstance(error, _of_damage()):
        told = corrupt(file)
    elif isinstance(error, apsw.BusyError):
        return _unusable(file, "another process is writing to it and does not end, perhaps as it was stopped", error)
    elif isinstance(error, apsw.Error):
        return _unusable(file, str(error), error)
    else:
        return error
    told.__cause__ = error
    return told


def corrupt(file: Path, what: str = "the store") -> CorruptStoreError:
    """The error of a store in which `what` is damaged."""
    return CorruptStoreError(
        f"{file}: {what} is damaged, and nothing was changed. Keep a copy; what can be read of it comes out with "
        f"`sqlite3 {file.name} .recover`, or begin again with another --store"
    )


def is_full(error: Exception) -> bool:
    """Whether there was no room on the disk."""
    import apsw

    return isinstance(error, apsw.FullError) or (isinstance(error, OSError) and error.errno in _FULL)


def _unusable(file: Path, why: str, error: Exception) -> StoreError:
    told = StoreError(f"{file}: the store cannot be used: {why}")
    told.__cause__ = error
    return told


def _of_damage() -> tuple[type[Exception], ...]:
    """Errors that our statements meet only where the file holds what they have not written."""
    import apsw

    return (
        apsw.CorruptError,
        apsw.NotADBError,
        apsw.ConstraintError,
        apsw.MismatchError,
        apsw.RangeError,
        apsw.SQLError,
        apsw.TooBigError,
        UnicodeDecodeError,
    )
