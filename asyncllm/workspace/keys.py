"""The keys that a server gives out: made once, kept as keyed hashes, and good for what was granted.

A key is `al_<id>_<secret>`. The store has its id and an HMAC of all of it under a secret of the workspace, which stands
in a file of its own: whoever reads the database alone cannot even try keys.
"""

from __future__ import annotations

import hmac
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args

import msgspec
from msgspec import Meta, Struct

from asyncllm.errors import ConfigError
from asyncllm.workspace.database import FILE, Db
from asyncllm.workspace.mishaps import corrupt
from asyncllm.workspace.pepper import Pepper, digest_of
from asyncllm.workspace.writer import Writer

__all__ = ["Grants", "Key", "KeyStore", "Ring", "Scope", "is_written_as_key"]

Scope: TypeAlias = Literal["calls", "files", "metrics", "admin"]
"""What a key opens: calls of models; files and batches; the figures of the server; everything of everybody."""

_SECRET_BYTES = 32
_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
_ID_LENGTH = 12
_TOKEN = re.compile(r"al_([0-9a-z]{12})_[A-Za-z0-9_-]{43}")
_NO_DIGEST = bytes(32)
"""What no key hashes to, as far as anybody will ever see."""
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


class _Secrets(Struct, frozen=True):
    """The hashes of a key, and of the secret before while that lasts."""

    digest: bytes
    old_digest: bytes | None = None
    old_until: float | None = None


_UNKNOWN = _Secrets(_NO_DIGEST)


class Ring:
    """The keys of a workspace that were not revoked at one moment, to know one by without asking the store.

    It has them by their ids, and no text of any.
    """

    __slots__ = ("_keys", "_pepper", "edition")

    def __init__(self, edition: int, pepper: bytes, keys: Mapping[str, tuple[Key, _Secrets]]) -> None:
        self.edition = edition
        """The number of the change that it was read after."""
        self._pepper = pepper
        self._keys = keys

    def find(self, token: str, now: float) -> Key | None:
        """The key that `token` is, if that opens anything at `now`, a Unix time.

        It does the same work for any text that is written as a key.
        """
        written = _TOKEN.fullmatch(token)
        if written is None:
            return None
        key, kept = self._keys.get(written[1], (None, _UNKNOWN))
        digest = digest_of(token, self._pepper)
        is_it = hmac.compare_digest(digest, kept.digest)
        was_it = hmac.compare_digest(digest, kept.old_digest or _NO_DIGEST)
        if was_it and kept.old_until is not None and now < kept.old_until:
            is_it = True
        return key if is_it and key is not None and key.is_good(now) else None


class KeyStore:
    """Makes keys, gives them new secrets, takes them back, and tells what there are."""

    def __init__(self, folder: Path, writer: Writer, reader: Writer) -> None:
        """`reader` is there so that who asks for keys never waits for what somebody writes."""
        self._file = folder / FILE
        self._writer = writer
        self._reader = reader
        self._pepper = Pepper(folder)

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
        token = _token(id_)
        key = Key(id=id_, tenant=tenant, name=name, grants=grants, created_at=now, expires_at=expires_at)

        def do(db: Db) -> None:
            has_keys = db.execute("SELECT 1 FROM api_key LIMIT 1").fetchone() is not None
            digest = self._pepper.digest(token, make=not has_keys)
            db.execute(
                "INSERT INTO api_key (id, tenant, name, digest, grants, created_at, expires_at) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (id_, tenant, name, digest, msgspec.json.encode(grants), now, expires_at),
            )

        await self._writer.write(do)
        return key, token

    async def rotate(self, id_: str, *, overlap_s: float = 0) -> tuple[Key, str] | None:
        """Give a key a new secret, which is returned with it. The one before opens doors for `overlap_s` seconds more.

        A secret that was to end for an earlier rotation ends now. `None` if there is no key of that id. Raises
        `ConfigError` for a key that opens nothing any more, `StoreError`.
        """
        if not 0 <= overlap_s < float("inf"):
            raise ConfigError("the overlap is not below zero", field="overlap_s")
        token = _token(id_)

        def do(db: Db) -> Key | None:
            now = time.time()
            row = db.execute(f"SELECT {_COLUMNS} FROM api_key WHERE id = ?", (id_,)).fetchone()
            if row is None:
                return None
            key = self._key(row)
            if not key.is_good(now):
                raise ConfigError("this key is revoked, or has expired: make another", field="id")
            digest = self._pepper.digest(token)
            db.execute(
                "UPDATE api_key SET old_digest = digest, old_until = ?, digest = ? WHERE id = ?",
                (now + overlap_s, digest, id_),
            )
            return key

        key = await self._writer.write(do)
        return None if key is None else (key, token)

    async def revoke(self, id_: str) -> Key | None:
        """Take a key back, for good. Returns it, or `None` if there is none of that id."""

        def do(db: Db) -> Key | None:
            db.execute("UPDATE api_key SET revoked_at = coalesce(revoked_at, ?) WHERE id = ?", (time.time(), id_))
            row = db.execute(f"SELECT {_COLUMNS} FROM api_key WHERE id = ?", (id_,)).fetchone()
            return None if row is None else self._key(row)

        return await self._writer.write(do)

    async def list(self, tenant: str | None = None) -> Sequence[Key]:
        """All keys, or those of one tenant, oldest first. Raises `StoreError`."""

        def do(db: Db) -> Sequence[Key]:
            rows = db.execute(
                f"SELECT {_COLUMNS} FROM api_key WHERE ? IS NULL OR tenant = ? ORDER BY created_at, id",
                (tenant, tenant),
            )
            return [self._key(row) for row in rows]

        return await self._reader.read(do)

    async def ring(self, known: Ring | None = None) -> Ring:
        """The keys that are not revoked: `known` itself where nothing has changed since. Raises `StoreError`."""

        def do(db: Db) -> Ring:
            edition = db.execute("SELECT number FROM api_key_edition").fetchone()[0]
            if known is not None and known.edition == edition:
                return known
            rows = db.execute(
                f"SELECT {_COLUMNS}, digest, old_digest, old_until FROM api_key WHERE revoked_at IS NULL"
            ).fetchall()
            found = {row[0]: (self._key(row), _Secrets(*row[7:])) for row in rows}
            return Ring(edition, self._pepper.read() if found else b"", found)

        return await self._reader.read(do)

    def _key(self, row: Sequence[Any]) -> Key:
        id_, tenant, name, grants, created_at, expires_at, revoked_at = row[:7]
        try:
            granted = msgspec.json.decode(grants, type=Grants)
        except (msgspec.DecodeError, ConfigError):
            raise corrupt(self._file, f"what the key {id_} is good for") from None
        return Key(
            id=id_,
            tenant=tenant,
            name=name,
            grants=granted,
            created_at=created_at,
            expires_at=expires_at,
            revoked_at=revoked_at,
        )


def is_written_as_key(text: str) -> bool:
    """Whether `text` has the form of a key, so that it may be one."""
    return _TOKEN.fullmatch(text) is not None


_COLUMNS = "id, tenant, name, grants, created_at, expires_at, revoked_at"


def _token(id_: str) -> str:
    return f"al_{id_}_{secrets.token_urlsafe(_SECRET_BYTES)}"
