"""`GET /health`, `/ready` and `/version`."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

import asyncllm
from asyncllm.errors import AsyncLLMError
from asyncllm.server.described import Described
from asyncllm.server.endpoint import Endpoint
from asyncllm.server.incoming import Incoming
from asyncllm.server.openai import shapes
from asyncllm.server.replies import send_json
from asyncllm.server.service import Service
from asyncllm.server.upstream import Upstream
from asyncllm.upkeep import Condition

__all__ = ["Health", "Ready", "Version"]

_SEEN_S = 1.0
"""For which nobody is asked again."""


class _Seen(Struct, frozen=True):
    upstream: Upstream | None
    places: Mapping[str, Mapping[str, Condition]]
    """By model, and then by deployment or backend."""
    at: float


class Health(Endpoint):
    """Whether the server is there."""

    described = Described(reply=shapes.Health)

    needs = None

    async def answer(self, incoming: Incoming) -> None:
        """See `Endpoint`."""
        await send_json(incoming.send, {"status": "ok"})


class Ready(Endpoint):
    """Whether the models are: which of them only where anybody may ask those."""

    described = Described(reply=shapes.Readiness)

    needs = None

    def __init__(self, service: Service, path: str = "") -> None:
        super().__init__(service, path)
        self._looking = asyncio.Lock()
        self._seen = _Seen(None, {}, -math.inf)

    async def answer(self, incoming: Incoming) -> None:
        """See `Endpoint`. Which models and places there are is told to whoever may know."""
        seen = await self._look()
        models = {name: any(one != "down" for one in places.values()) for name, places in seen.places.items()}
        is_ready = any(models.values())
        told: dict[str, Any] = {"status": "ready" if is_ready else "down"}
        if await self._may_know(incoming):
            members = {label: state for places in seen.places.values() for label, state in places.items()}
            told |= {"models": models, "members": members}
        await send_json(incoming.send, told, 200 if is_ready else 503)

    async def _look(self) -> _Seen:
        async with self._looking:  # whoever comes meanwhile sees the same
            upstream = self.service.upstream
            if self._seen.upstream is not upstream or time.monotonic() > self._seen.at + _SEEN_S:
                names = upstream.served.names()
                found = await upstream.client.conditions(upstream.served.models())
                self._seen = _Seen(upstream, dict(zip(names, found, strict=True)), time.monotonic())
            return self._seen

    async def _may_know(self, incoming: Incoming) -> bool:
        if not self.service.settings.needs_key:
            return True
        try:
            await self.service.access.identify(incoming.scope, "admin")
        except AsyncLLMError:
            return False
        return True


class Version(Endpoint):
    """Which release this is."""

    described = Described(reply=shapes.Release)

    needs = None

    async def answer(self, incoming: Incoming) -> None:
        """See `Endpoint`."""
        await send_json(incoming.send, {"version": asyncllm.__version__})
