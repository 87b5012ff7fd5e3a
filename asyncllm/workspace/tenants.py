"""Files and batches of the tenants of a server. Every statement here has the tenant in its key or its WHERE.

An id grows with time, and nobody can guess one. A list goes on after an id, whether or not there is such a thing: what
other tenants have cannot be told from what never was.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Struct

from asyncllm.errors import BadRequestError, RateLimitError
from asyncllm.workspace.blobs import Blobs
from asyncllm.workspace.database import Db
from asyncllm.workspace.writer import Writer

__all__ = [
    "BatchFault", "BatchState", "Change", "STATUSES_OVER", "Status", "StoredBatch", "StoredFile", "TenantStore",
    "has_digest", "is_id", "new_id",
]  # fmt: skip

Status: TypeAlias = Literal[
    "validating", "in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled"
]
STATUSES_OVER: Final = frozenset({"completed", "failed", "expired", "cancelled"})
_ALPHABET: Final = "0123456789abcdefghijklmnopqrstuvwxyz"
_OF_TIME: Final = 9
_AT_RANDOM: Final = 17
_ID: Final = re.compile(r"[a-z]+[-_][0-9a-z]{26}")


class StoredFile(Struct, frozen=True, kw_only=True):
    """What is known of a file."""

    id: str
    purpose: str
    filename: str
    """For people: it is no part of any path."""
    size: int
    digest: str
    created_at: float
    expires_at: float | None = None


class BatchFault(Struct, frozen=True, omit_defaults=True):
    """What is wrong with a batch as a whole."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class BatchState(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far a batch has come."""

    status: Status = "validating"
    at: Mapping[str, float] = {}
    """When it came to a status, for the first time."""
    total: int = 0
    done: int = 0
    failed: int = 0
    usage: Mapping[str, int] | None = None
    faults: Sequence[BatchFault] = ()
    output_file: str | None = None
    error_file: str | None = None


class StoredBatch(Struct, frozen=True, kw_only=True):
    """What is known of a batch."""

    tenant: str
    id: str
    key: str
    """Id of the key that made it, empty without one."""
    endpoint: str
    input_file: str
    digest: str
    size: int
    window: str
    metadata: Mapping[str, str] | None
    output_expires_s: float | None
    created_at: float
    expires_at: float
    state: BatchState = BatchState()

    def having(self, status: Status | None = None, **known: Any) -> StoredBatch:
        """The same, further on."""
        if status is not None and status != self.state.status:
            known.update(status=status, at={**self.state.at, status: time.time()})
        return msgspec.structs.replace(self, state=msgspec.structs.replace(self.state, **known))


Change: TypeAlias = Callable[[StoredBatch], StoredBatch | None]
"""What becomes of a batch that is not over; `None` where it stays as it is."""


def new_id(kind: str) -> str:
    """An id: `kind`, the time, and what nobody can guess."""
    now, told = int(time.time() * 1000), ""
    for _ in range(_OF_TIME):
        now, rest = divmod(now, len(_ALPHABET))
        told = _ALPHABET[rest] + told
    return f"{kind}{told}{''.join(secrets.choice(_ALPHABET) for _ in range(_AT_RANDOM))}"


def is_id(kind: str, given: str) -> bool:
    """Whether it could be one of `new_id`."""
    return given.startswith(kind) and _ID.fullmatch(given) is not None


class TenantStore:
    """What tenants have."""

    def __init__(self, writer: Writer, blobs: Blobs) -> None:
        self._writer = writer
        self.blobs = blobs

    # -- files

    async def add_file(self, tenant: str, file: StoredFile, draft: Path, *, max_bytes: int, max_files: int) -> None:
        """Keep the bytes of `draft` as a file, which then is gone from there.

        Raises `BadRequestError` with status 413 where the tenant has no room for it, `StoreError`.
        """

        def do(db: Db) -> None:
            count, size = self._held(db, tenant)
            if size + file.size > max_bytes or count >= max_files:
                raise _full(max_bytes, max_files)
            self._keep(db, tenant, file, draft)

        await self._writer.write(do)

    async def check_room(self, tenant: str, *, max_bytes: int, max_files: int) -> None:
        """Raise `BadRequestError` with status 413 where the tenant has no room for any file."""

        def do(db: Db) -> None:
            count, size = self._held(db, tenant)
            if size >= max_bytes or count >= max_files:
                raise _full(max_bytes, max_files)

        await self._writer.read(do)

    async def file(self, tenant: str, id_: str) -> StoredFile | None:
        """A file of the tenant, unless it has expired."""

        def do(db: Db) -> StoredFile | None:
            row = db.execute(
                f"SELECT {_FILE} FROM tenant_file WHERE tenant = ? AND id = ? AND {_ALIVE}", (tenant, id_, time.time())
            ).fetchone()
            return None if row is None else _file(row)

        return await self._writer.read(do)

    async def files(
        self, tenant: str, *, after: str = "", count: int, is_descending: bool, purpose: str | None = None
    ) -> Sequence[StoredFile]:
        """At most `count` files of the tenant, in the order of their ids, from the one behind `after` on."""
        beyond, order = ("<", "DESC") if is_descending else (">", "ASC")

        def do(db: Db) -> Sequence[StoredFile]:
            rows = db.execute(
                f"SELECT {_FILE} FROM tenant_file WHERE tenant = ?1 AND (?2 = '' OR id {beyond} ?2) "
                f"AND (?3 IS NULL OR purpose = ?3) AND (expires_at IS NULL OR expires_at > ?4) "
                f"ORDER BY id {order} LIMIT ?5",
                (tenant, after, purpose, time.time(), count),
            )
            return [_file(row) for row in rows]

        return await self._writer.read(do)

    async def remove_file(self, tenant: str, id_: str) -> bool:
        """Remove a file; its bytes as well, unless another file or a batch that is not over has them."""

        def do(db: Db) -> str | None:
            row = db.execute("SELECT digest FROM tenant_file WHERE tenant = ? AND id = ?", (tenant, id_)).fetchone()
            db.execute("DELETE FROM tenant_file WHERE tenant = ? AND id = ?", (tenant, id_))
            return None if row is None else row[0]

        digest = await self._writer.write(do)
        if digest is None:
            return False
        await self._drop(tenant, digest)
        return True

    # -- batches

    async def add_batch(self, batch: StoredBatch, *, max_active: int) -> None:
        """Keep a new batch. Raises `RateLimitError` where the tenant has `max_active` that are not over."""

        def do(db: Db) -> None:
            count = db.execute(
                "SELECT count(*) FROM tenant_batch WHERE tenant = ? AND NOT is_over", (batch.tenant,)
            ).fetchone()[0]
            if count >= max_active:
                raise RateLimitError(
                    f"at most {max_active} batches are under way at one time: wait for one, or cancel it",
                    status=429,
                    code="batch_limit_exceeded",
                )
            db.execute(
                "INSERT INTO tenant_batch (tenant, id, is_over, digest, body) VALUES (?, ?, 0, ?, ?)",
                (batch.tenant, batch.id, batch.digest, msgspec.json.encode(batch)),
            )

        await self._writer.write(do)

    async def batch(self, tenant: str, id_: str) -> StoredBatch | None:
        """A batch of the tenant."""
        return await self._writer.read(lambda db: _batch(db, tenant, id_))

    async def batches(self, tenant: str, *, after: str = "", count: int) -> Sequence[StoredBatch]:
        """At most `count` batches of the tenant, the newest first, from the one behind `after` on."""

        def do(db: Db) -> Sequence[StoredBatch]:
            rows = db.execute(
                "SELECT body FROM tenant_batch WHERE tenant = ?1 AND (?2 = '' OR id < ?2) ORDER BY id DESC LIMIT ?3",
                (tenant, after, count),
            )
            return [msgspec.json.decode(body, type=StoredBatch) for (body,) in rows]

        return await self._writer.read(do)

    async def change_batch(
        self, tenant: str, id_: str, change: Change, outputs: Sequence[tuple[StoredFile, Path]] = ()
    ) -> StoredBatch | None:
        """Have a batch changed, unless it is over, together with files that came of it, and say how it is then.

        `change` may be called again. What a batch has written is kept whatever room its tenant has.
        """

        def do(db: Db) -> tuple[StoredBatch | None, bool]:
            batch = _batch(db, tenant, id_)
            if batch is None or batch.state.status in STATUSES_OVER:
                return batch, False
            changed = change(batch)
            if changed is None:
                return batch, False
            for file, draft in outputs:
                self._keep(db, tenant, file, draft)
            is_over = changed.state.status in STATUSES_OVER
            db.execute(
                "UPDATE tenant_batch SET is_over = ?, body = ? WHERE tenant = ? AND id = ?",
                (is_over, msgspec.json.encode(changed), tenant, id_),
            )
            return changed, is_over

        batch, is_newly_over = await self._writer.write(do)
        if batch is not None and is_newly_over:
            await self._drop(tenant, batch.digest)
        return batch

    # -- on the store's thread, or there in the end

    def _keep(self, db: Db, tenant: str, file: StoredFile, draft: Path) -> None:
        # Within the transaction, so that nobody removes the same bytes meanwhile.
        self.blobs.keep(tenant, file.digest, draft)
        db.execute(
            f"INSERT INTO tenant_file (tenant, {_FILE}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (tenant, *msgspec.structs.astuple(file)),
        )

    def _held(self, db: Db, tenant: str) -> tuple[int, int]:
        count, size = db.execute("SELECT count(*), total(size) FROM tenant_file WHERE tenant = ?", (tenant,)).fetchone()
        return count, int(size)

    async def _drop(self, tenant: str, digest: str) -> None:
        """Remove bytes that nothing has any more. A transaction of its own: only what is gone for good is removed."""

        def do(db: Db) -> None:
            if not has_digest(db, tenant, digest):
                self.blobs.remove(tenant, digest)

        await self._writer.write(do)


_FILE: Final = "id, purpose, filename, size, digest, created_at, expires_at"
_ALIVE: Final = "(expires_at IS NULL OR expires_at > ?)"


def has_digest(db: Db, tenant: str, digest: str) -> bool:
    """Whether a file of the tenant, or a batch that is not over, has those bytes."""
    found = db.execute(
        "SELECT 1 FROM tenant_file WHERE tenant = ?1 AND digest = ?2 "
        "UNION ALL SELECT 1 FROM tenant_batch WHERE tenant = ?1 AND digest = ?2 AND NOT is_over",
        (tenant, digest),
    )
    return found.fetchone() is not None


def _batch(db: Db, tenant: str, id_: str) -> StoredBatch | None:
    row = db.execute("SELECT body FROM tenant_batch WHERE tenant = ? AND id = ?", (tenant, id_)).fetchone()
    return None if row is None else msgspec.json.decode(row[0], type=StoredBatch)


def _file(row: Sequence[Any]) -> StoredFile:
    return StoredFile(**dict(zip(StoredFile.__struct_fields__, row, strict=True)))


def _full(max_bytes: int, max_files: int) -> BadRequestError:
    return BadRequestError(
        f"there is room for {max_files} files of {max_bytes} bytes in all: delete some", status=413, code="storage_full"
    )
