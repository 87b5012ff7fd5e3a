"""What all routes of a server share."""

from __future__ import annotations

import time

from msgspec import Struct

from asyncllm.client import Client
from asyncllm.errors import ConfigError
from asyncllm.server.access import Access
from asyncllm.server.admission import Admission
from asyncllm.server.models import Served
from asyncllm.server.pictures import Pictures
from asyncllm.server.settings import ServerSettings
from asyncllm.watchdog import Watchdog
from asyncllm.workspace.served import ServerStore

__all__ = ["Service", "Upstream"]


class Upstream(Struct, frozen=True, eq=False):
    """What stands behind the routes: a client, and those of its models that are served."""

    client: Client
    served: Served


class Service:
    """Raises `ConfigError` where a model is not there, or where keys are needed and there is no store of them."""

    def __init__(self, client: Client, settings: ServerSettings, store: ServerStore | None) -> None:
        if settings.needs_key and store is None:
            raise ConfigError("keys are needed, and there is no store of them: give one", field="store")
        self.settings = settings
        self.store = store
        self.upstream = Upstream(client, Served(client, settings.models))
        """A call goes by what it was when the call came."""
        self.access = Access(None if store is None else store.keys, is_needed=settings.needs_key)
        self.admission = Admission()
        self.pictures = Pictures(settings)
        self.dog = Watchdog()
        self.began_at = time.time()
