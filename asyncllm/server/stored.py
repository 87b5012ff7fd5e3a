"""What the routes of files and batches have in common: their store, places in lists, and what is not there."""

from __future__ import annotations

from abc import ABC

from asyncllm.errors import InvalidRequestError, NotFoundError
from asyncllm.server.batches.work import BatchWork
from asyncllm.server.endpoint import Endpoint
from asyncllm.server.incoming import Incoming
from asyncllm.workspace.served import ServerStore
from asyncllm.workspace.tenants import StoredFile, is_id

__all__ = ["BATCH", "FILE", "Stored", "missing", "place_after"]

FILE = "file-"
BATCH = "batch_"


class Stored(Endpoint, ABC):
    """A route that needs a store."""

    needs = "files"

    @property
    def store(self) -> ServerStore:
        """The store. Raises `NotFoundError` where the server has none."""
        if self.service.store is None:
            raise NotFoundError(
                "this server keeps no files: start it with --store and a folder", status=404, code="no_store"
            )
        return self.service.store

    @property
    def work(self) -> BatchWork:
        """Who works on batches."""
        assert self.service.batches is not None  # as there is a store
        return self.service.batches

    async def file_of(self, incoming: Incoming, id_: str, param: str = "id") -> StoredFile:
        """A file of the caller's tenant. Raises `NotFoundError`, whether it is another's or nobody's."""
        file = await self.store.tenants.file(incoming.caller.tenant, id_) if is_id(FILE, id_) else None
        if file is None:
            raise missing("file", id_, param)
        return file


def missing(what: str, id_: str, param: str = "id") -> NotFoundError:
    """The error of what is not there, for whoever asks."""
    return NotFoundError(f"there is no such {what}: {id_[:60]!r}", status=404, code="not_found", param=param)


def place_after(kind: str, id_: str | None) -> str:
    """From where on a list is asked for; empty for all of it. Raises `InvalidRequestError` for what is no id."""
    if id_ is not None and not is_id(kind, id_):
        raise InvalidRequestError("after is the id of the last one that you have", field="after")
    return id_ or ""
