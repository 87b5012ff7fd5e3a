"""Where a server keeps its keys and what they have used."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

__all__ = ["DEFAULT_STORE", "add_store", "has_store", "named_store", "store_folder"]

DEFAULT_STORE = "asyncllm-server"
_VARIABLE = "ASYNCLLM_STORE"
_FILE = "store.db"  # `workspace.database.FILE`, without importing what stands there


def add_store(add_argument: Callable[..., object], text: str) -> None:
    """The option that names it; `text` says what is there."""
    add_argument("--store", metavar="DIR", help=f"{text} (default: ${_VARIABLE}, else ./{DEFAULT_STORE})")


def named_store(given: str | None, env: Mapping[str, str] = os.environ) -> Path | None:
    """The folder that somebody has named, by the option or by the variable."""
    named = given if given is not None else env.get(_VARIABLE, "").strip()
    return Path(named) if named else None


def store_folder(given: str | None, env: Mapping[str, str] = os.environ) -> Path:
    """The folder, by its usual name where nobody has named one."""
    return named_store(given, env) or Path(DEFAULT_STORE)


def has_store(folder: Path) -> bool:
    """Whether a store is there."""
    return (folder / _FILE).exists()
