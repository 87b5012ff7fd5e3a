"""What a server does for all of its tenants at once: batches that are to be worked on, and what is left over."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec

from asyncllm.workspace.blobs import Blobs
from asyncllm.workspace.database import Db
from asyncllm.workspace.tenants import StoredBatch, has_digest
from asyncllm.workspace.writer import Writer

__all__ = ["Upkeep"]


class Upkeep:
    """The one place whose statements are not those of one tenant. Nothing of it goes into a reply."""

    def __init__(self, writer: Writer, blobs: Blobs) -> None:
        self._writer = writer
        self._blobs = blobs

    async def active(self) -> Sequence[StoredBatch]:
        """Batches that are not over, oldest first."""

        def do(db: Db) -> Sequence[StoredBatch]:
            rows = db.execute("SELECT body FROM tenant_batch WHERE NOT is_over ORDER BY id")
            return [msgspec.json.decode(body, type=StoredBatch) for (body,) in rows]

        return await self._writer.read(do)

    async def expire(self) -> None:
        """Remove files whose time is over."""

        def do(db: Db) -> Sequence[tuple[str, str]]:
            rows = db.execute("DELETE FROM tenant_file WHERE expires_at <= ? RETURNING tenant, digest", (time.time(),))
            return rows.fetchall()

        for tenant, digest in await self._writer.write(do):
            await self._writer.write(lambda db, tenant=tenant, digest=digest: self._drop(db, tenant, digest))  # type: ignore[misc]

    async def sweep(self) -> None:
        """Remove bytes that nothing has, which is left where a process is killed at the wrong moment."""
        tenants = await self._writer.read(
            lambda db: db.execute("SELECT tenant FROM tenant_file UNION SELECT tenant FROM tenant_batch").fetchall()
        )
        for (tenant,) in tenants:
            await self._writer.write(lambda db, tenant=tenant: self._sweep(db, tenant))  # type: ignore[misc]

    def _drop(self, db: Db, tenant: str, digest: str) -> None:
        if not has_digest(db, tenant, digest):
            self._blobs.remove(tenant, digest)

    def _sweep(self, db: Db, tenant: str) -> None:
        self._blobs.sweep(tenant, lambda digest: has_digest(db, tenant, digest))
