"""The keys that a server gives out: made once, kept as keyed hashes, and good for what was granted.

A key is `al_<id>_<secret>`. The store has its id and an HMAC of all of it under a secret of the workspace, which stands
in a file of its own: whoever reads the database alone cannot even try keys.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args

import msgspec
from msgspec import Meta, Struct

from asyncllm.errors import ConfigError, StoreError
from asyncllm.workspace.database import Db
from asyncllm.workspace.folder import sync_folder
from asyncllm.workspace.writer import Writer

__all__ = ["Grants", "Key", "KeyStore", "Scope"]

Scope: TypeAlias = Literal["calls", "files", "metrics", "admin"]
"""What a key opens: calls of models; files and batches; the figures of the server; everything of everybody."""

_PEPPER = "pepper"
_PEPPER_BYTES = 32
_SECRET_BYTES = 32
_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
_ID_LENGTH = 12
_TOKEN = re.compile(r"al_([0-9a-z]{12})_[A-Za-z0-9_-]{43}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._@-]{0,63}")
_Above: TypeAlias = Annotated[int, Meta(ge=1)]


class Grants(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a key is good for; `None` is without a limit. Raises `ConfigError` for what cannot be."""

    scopes: tuple[Scope, ...] = ("calls", "files")
    models: tuple[str, ...] | None = None
    """The names that its requests may use, of those that are served."""
    requests_per_minute: _Above | None = None
    tokens_per_minute: _Above | None = None
    """Input and output together."""
    concurrency: _Above | None = None
    """Calls under way at one time."""
    budget_usd: float | None = None
    budget_per: Literal["day", "month", "ever"] = "ever"
    """UTC."""

    def __post_init__(self) -> None:
        if not self.scopes or not set(self.scopes) <= set(get_args(Scope)):
            raise ConfigError(f"scopes are of {', '.join(get_args(Scope))}", field="scopes")
        if self.models is not None and not self.models:
            raise ConfigError("models names at least one, or is left out for all", field="models")
        for name in ("requests_per_minute", "tokens_per_minute", "concurrency"):
            value = getattr(self, name)
            if value is not None and not (type(value) is int and value >= 1):
                raise ConfigError(f"{name} is a whole number above zero", field=name)
        if self.budget_usd is not None and not 0 < self.budget_usd < float("inf"):
            raise ConfigError("budget_usd is above zero", field="budget_usd")


class Key(Struct, frozen=True, kw_only=True):
    """A key as everybody may see it."""

    id: str
    tenant: str
    name: str
    grants: Grants
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None

    def is_good(self, now: float) -> bool:
        """Whether it opens anything at `now`, a Unix time."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


class KeyStore:
    """Makes keys, knows them again, and takes them back."""

    def __init__(self, folder: Path, writer: Writer) -> None:
        self._folder = folder
        self._writer = writer
        self._pepper = b""

    async def add(
        self, name: str, *, tenant: str = "default", grants: Grants = Grants(), expires_at: float | None = None
    ) -> tuple[Key, str]:
        """Make a key. The text that is returned with it is never to be had again.

        Raises `ConfigError` for a name or tenant that is none, `StoreError`.
        """
        for field, value in (("name", name), ("tenant", tenant)):
            if not _NAME.fullmatch(value):
                raise ConfigError(
                    f"{field} is up to 64 letters, digits, spaces and ._@-, and begins with a letter or digit",
                    field=field,
                )
        now = time.time()
        if expires_at is not None and not now < expires_at < float("inf"):
            raise ConfigError("a key expires in the future", field="expires_at")
        id_ = "".join(secrets.choice(_ALPHABET) for _ in range(_ID_LENGTH))
        token = f"al_{id_}_{secrets.token_urlsafe(_SECRET_BYTES)}"
        key = Key(id=id_, tenant=tenant, name=name, grants=grants, created_at=now, expires_at=expires_at)

        def do(db: Db) -> None:
            digest = self._digest(token)
            db.execute(
                "INSERT INTO api_key (id, tenant, name, digest, grants, created_at, expires_at) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (id_, tenant, name, digest, msgspec.json.encode(grants), now, expires_at),
            )

        await self._writer.write(do)
        return key, token

    async def find(self, token: str) -> Key | None:
        """The key that `token` is, good or not any more; `None` for none. It takes as long for the one as the other."""
        told = _TOKEN.fullmatch(token)
        id_ = told[1] if told else ""

        def do(db: Db) -> Key | None:
            row = db.execute(f"SELECT {_COLUMNS}, digest FROM api_key WHERE id = ?", (id_,)).fetchone()
            expected = bytes(_PEPPER_BYTES) if row is None else row[-1]
            is_it = hmac.compare_digest(self._digest(token), expected)
            return _key(row) if row is not None and is_it else None

        return await self._writer.read(do)

    async def list(self, tenant: str | None = None) -> Sequence[Key]:
        """All keys, or those of one tenant, oldest first."""

        def do(db: Db) -> Sequence[Key]:
            rows = db.execute(
                f"SELECT {_COLUMNS} FROM api_key WHERE ? IS NULL OR tenant = ? ORDER BY created_at, id",
                (tenant, tenant),
            )
            return [_key(row) for row in rows]

        return await self._writer.read(do)

    async def revoke(self, id_: str) -> Key | None:
        """Take a key back, for good. Returns it, or `None` if there is none of that id."""

        def do(db: Db) -> Key | None:
            db.execute("UPDATE api_key SET revoked_at = coalesce(revoked_at, ?) WHERE id = ?", (time.time(), id_))
            row = db.execute(f"SELECT {_COLUMNS} FROM api_key WHERE id = ?", (id_,)).fetchone()
            return None if row is None else _key(row)

        return await self._writer.write(do)

    # -- on the store's thread

    def _digest(self, token: str) -> bytes:
        if not self._pepper:
            self._pepper = _read_pepper(self._folder / _PEPPER)
        return hmac.digest(self._pepper, token.encode("utf-8", "surrogatepass"), "sha256")


_COLUMNS = "id, tenant, name, grants, created_at, expires_at, revoked_at"


def _key(row: Sequence[Any]) -> Key:
    id_, tenant, name, grants, created_at, expires_at, revoked_at = row[:7]
    return Key(
        id=id_,
        tenant=tenant,
        name=name,
        grants=msgspec.json.decode(grants, type=Grants),
        created_at=created_at,
        expires_at=expires_at,
        revoked_at=revoked_at,
    )


def _read_pepper(path: Path) -> bytes:
    """The secret of the workspace, made if there is none: whole or not at all, and the same for all who ask."""
    if not path.exists():
        draft = path.with_name(f"{_PEPPER}.{secrets.token_hex(8)}")
        file = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(file, "wb") as out:
                out.write(secrets.token_bytes(_PEPPER_BYTES))
                out.flush()
                os.fsync(out.fileno())
            with suppress(FileExistsError):  # another process was faster, and its secret is the one
                os.link(draft, path)
        finally:
            draft.unlink()
        sync_folder(path.parent)
    pepper = path.read_bytes()
    if len(pepper) != _PEPPER_BYTES:
        raise StoreError(f"{path}: this is not the secret that the workspace's keys were made with")
    return pepper
