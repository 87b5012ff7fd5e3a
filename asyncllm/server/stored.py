"""What the routes of files and batches have in common: their store, their queries, and what is not there."""

from __future__ import annotations

from abc import ABC
from urllib.parse import parse_qsl

from msgspec import Struct

from asyncllm.errors import InvalidRequestError, NotFoundError
from asyncllm.server.batches.work import BatchWork
from asyncllm.server.endpoint import Endpoint
from asyncllm.server.incoming import Incoming
from asyncllm.workspace.served import ServerStore
from asyncllm.workspace.tenants import StoredFile, is_id

__all__ = ["BATCH", "FILE", "Page", "Stored", "missing", "page_of"]

FILE = "file-"
BATCH = "batch_"
_MAX_QUERY = 32


class Page(Struct, frozen=True):
    """Which part of a list is asked for."""

    after: str
    """An id, or empty."""
    count: int
    is_descending: bool
    purpose: str | None


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


def page_of(incoming: Incoming, kind: str, *, most: int, usual: int) -> Page:
    """The part of a list that the query asks for. Raises `InvalidRequestError` naming what cannot be."""
    try:
        told = dict(parse_qsl(incoming.scope["query_string"].decode("latin-1"), max_num_fields=_MAX_QUERY))
    except ValueError:
        raise InvalidRequestError("the query has too many fields", field="query") from None
    after, limit, order = told.get("after", ""), told.get("limit", str(usual)), told.get("order", "desc")
    if after and not is_id(kind, after):
        raise InvalidRequestError("after is the id of the last one that you have", field="after")
    if not (limit.isascii() and limit.isdigit() and len(limit) <= 9 and 1 <= int(limit) <= most):
        raise InvalidRequestError(f"limit is a whole number from 1 to {most}", field="limit")
    if order not in ("asc", "desc"):
        raise InvalidRequestError("order is asc or desc", field="order")
    return Page(after, int(limit), order == "desc", told.get("purpose"))
