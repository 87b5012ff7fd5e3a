"""What all routes of a server share."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self

from msgspec import Struct

from asyncllm.client import Client
from asyncllm.errors import ConfigError
from asyncllm.server.access import Access
from asyncllm.server.admission import Admission
from asyncllm.server.figures import Figures
from asyncllm.server.keyring import Keyring
from asyncllm.server.models import Served
from asyncllm.server.pictures import Pictures
from asyncllm.server.settings import ServerSettings
from asyncllm.watchdog import Watchdog
from asyncllm.workspace.served import ServerStore

if TYPE_CHECKING:
    from asyncllm.server.batches.work import BatchWork

__all__ = ["Service", "Upstream"]


class Upstream(Struct, frozen=True, eq=False):
    """What stands behind the routes: a client, and those of its models that are served."""

    client: Client
    served: Served


class Service:
    """Works on batches inside `async with`; or from the first request for one on, for as long as its loop runs.

    Raises `ConfigError` where a model is not there, or where keys are needed and there is no store of them.
    """

    def __init__(self, client: Client, settings: ServerSettings, store: ServerStore | None) -> None:
        if settings.needs_key and store is None:
            raise ConfigError("keys are needed, and there is no store of them: give one", field="store")
        self.settings = settings
        self.store = store
        self.upstream = Upstream(client, Served(client, settings.models))
        """A call goes by what it was when the call came."""
        self.access = Access(None if store is None else Keyring(store.keys), is_needed=settings.needs_key)
        self.figures = Figures()
        self.admission = Admission(settings, store, self.figures)
        self.pictures = Pictures(settings)
        self.dog = Watchdog()
        self.began_at = time.time()
        self.batches: BatchWork | None = None
        if store is not None:
            from asyncllm.server.batches.work import BatchWork  # what it takes is more than a server of calls needs

            self.batches = BatchWork(self, store)
            store.closing.insert(0, self.batches.aclose)  # before what its rows need

    async def __aenter__(self) -> Self:
        if self.batches is not None:
            self.batches.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.batches is not None:
            await self.batches.aclose()
