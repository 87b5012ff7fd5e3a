"""`GET /health`, `/ready` and `/version`."""

from __future__ import annotations

from typing import Any

import asyncllm
from asyncllm.server.endpoint import Endpoint
from asyncllm.server.incoming import Incoming
from asyncllm.server.replies import send_json

__all__ = ["Health", "Ready", "Version"]


class Health(Endpoint):
    """Whether the server is there."""

    needs = None

    async def answer(self, incoming: Incoming) -> None:
        """See `Endpoint`."""
        await send_json(incoming.send, {"status": "ok"})


class Ready(Endpoint):
    """Whether the models are: which of them only where anybody may ask those."""

    needs = None

    async def answer(self, incoming: Incoming) -> None:
        """See `Endpoint`."""
        client, served = self.service.upstream.client, self.service.upstream.served
        found = {name: await client.is_alive(model=served.find(name)[1]) for name in served.names()}
        is_ready = any(found.values())
        told: dict[str, Any] = {"status": "ready" if is_ready else "down"}
        if not self.service.settings.needs_key:
            told["models"] = found
        await send_json(incoming.send, told, 200 if is_ready else 503)


class Version(Endpoint):
    """Which release this is."""

    needs = None

    async def answer(self, incoming: Incoming) -> None:
        """See `Endpoint`."""
        await send_json(incoming.send, {"version": asyncllm.__version__})
