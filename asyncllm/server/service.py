"""What all routes of a server share."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Self

import msgspec

from asyncllm.client import Client
from asyncllm.errors import ConfigError
from asyncllm.server.http.pictures import Pictures
from asyncllm.server.keys.access import Access
from asyncllm.server.keys.keyring import Keyring
from asyncllm.server.limits.admission import Admission
from asyncllm.server.models import Served
from asyncllm.server.monitoring.figures import Figures
from asyncllm.server.settings import LIVE, ServerSettings
from asyncllm.server.upstream import Upstream
from asyncllm.watchdog import Watchdog
from asyncllm.workspace.served import ServerStore

if TYPE_CHECKING:
    from asyncllm.server.batches.work import BatchWork

__all__ = ["Service"]

_log = logging.getLogger("asyncllm.server")


class Service:
    """Works on batches inside `async with`; or from the first request for one on, for as long as its loop runs.

    Raises `ConfigError` where a model is not there, or where keys are needed and there is no store of them.
    """

    def __init__(self, client: Client, settings: ServerSettings, store: ServerStore | None) -> None:
        if settings.needs_key and store is None:
            raise ConfigError("keys are needed, and there is no store of them: give one", field="store")
        self.settings: ServerSettings = settings
        self.store = store
        self.upstream = Upstream(client, Served(client, settings.models))
        """What requests go to; each holds it for as long as it lasts."""
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

    async def replace(self, client: Client, settings: ServerSettings | None = None) -> None:
        """Answer with `client` from now on, by `settings` where they are given, those of `LIVE` that is.

        What is the same of both clients is taken over as it is, engines and connections included. This returns once no
        request uses the one before, or after `handover_s`; whoever gave that one closes it then.

        Raises `ConfigError` where a model is not there; then everything is as it was.
        """
        await self.released(self.swap(client, settings))

    def swap(self, client: Client, settings: ServerSettings | None = None) -> Upstream:
        """What `replace` does at first. Returns what requests went to before, for `released`."""
        before = self.upstream
        asked = settings or self.settings
        settings = msgspec.structs.replace(self.settings, **{name: getattr(asked, name) for name in LIVE})
        upstream = Upstream(client, Served(client, settings.models))
        client.take_over(before.client, upstream.served.models())
        upstream.follow(before)
        self.upstream, self.settings = upstream, settings
        return before

    async def released(self, before: Upstream) -> None:
        """Return once no request uses `before`, or after `handover_s`."""
        seconds = self.settings.handover_s
        try:
            async with asyncio.timeout(seconds):
                await before.unused()
        except TimeoutError:
            _log.warning("calls go on %s seconds after the configuration was read: where they go is closed", seconds)
