"""`GET /health`, `/ready` and `/version`."""

from __future__ import annotations

import asyncllm
from asyncllm.server.described import Described
from asyncllm.server.endpoint import Endpoint
from asyncllm.server.incoming import Incoming
from asyncllm.server.openai import shapes
from asyncllm.server.replies import send_json

__all__ = ["Health", "Ready", "Version"]


class Health(Endpoint):
    """Whether the server is there."""

    described = Described(reply=shapes.Health)

    needs = None

    async def answer(self, incoming: Incoming) -> None:
        """See `Endpoint`."""
        await send_json(incoming.send, {"status": "ok"})


class Ready(Endpoint):
    """Whether the models are."""

    described = Described(reply=shapes.Readiness)

    needs = None

    async def answer(self, incoming: Incoming) -> None:
        """See `Endpoint`."""
        client, served = self.service.upstream.client, self.service.upstream.served
        found = {name: await client.is_alive(model=served.find(name)[1]) for name in served.names()}
        is_ready = any(found.values())
        await send_json(
            incoming.send, {"status": "ready" if is_ready else "down", "models": found}, 200 if is_ready else 503
        )


class Version(Endpoint):
    """Which release this is."""

    described = Described(reply=shapes.Release)

    needs = None

    async def answer(self, incoming: Incoming) -> None:
        """See `Endpoint`."""
        await send_json(incoming.send, {"version": asyncllm.__version__})
