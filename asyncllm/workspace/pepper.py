"""The secret under which a workspace keeps its keys' hashes, in a file beside the database."""

from __future__ import annotations

import hmac
import os
import secrets
from contextlib import suppress
from pathlib import Path

from asyncllm.errors import StoreError
from asyncllm.workspace.folder import sync_folder

__all__ = ["PEPPER_FILE", "Pepper", "digest_of"]

PEPPER_FILE = "pepper"
_BYTES = 32


class Pepper:
    """Made with the first key, and read once. It does not change as long as there are keys."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / PEPPER_FILE
        self._bytes = b""

    def read(self, *, make: bool = False) -> bytes:
        """The secret, made if there is none and `make` says so. Raises `StoreError`, `OSError`."""
        if not self._bytes:
            if make and not self._file.exists():
                _make(self._file)
            try:
                read = self._file.read_bytes()
            except FileNotFoundError:
                raise StoreError(
                    f"{self._file}: the secret of the workspace's keys is not there: put it back, or revoke the keys "
                    "and begin with another --store"
                ) from None
            if len(read) != _BYTES:
                raise StoreError(f"{self._file}: this is not the secret that the workspace's keys were made with")
            self._bytes = read
        return self._bytes

    def digest(self, token: str, *, make: bool = False) -> bytes:
        """What the store has of a key. Raises as `read` does."""
        return digest_of(token, self.read(make=make))


def digest_of(token: str, pepper: bytes) -> bytes:
    """The keyed hash of a key's whole text."""
    return hmac.digest(pepper, token.encode("utf-8", "surrogatepass"), "sha256")


def _make(path: Path) -> None:
    """Make the file: whole or not at all, and the same for all who make it at once."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    file = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(file, "wb") as out:
            out.write(secrets.token_bytes(_BYTES))
            out.flush()
            os.fsync(out.fileno())
        with suppress(FileExistsError):  # another process was faster, and its secret is the one
            os.link(draft, path)
    finally:
        draft.unlink()
    sync_folder(path.parent)
