"""`GET /health`, `/ready` and `/version`."""

from __future__ import annotations

from starlette.types import Receive, Scope, Send

import asyncllm
from asyncllm.client import Client
from asyncllm.server.endpoint import Endpoint
from asyncllm.server.models import Served
from asyncllm.server.replies import send_json

__all__ = ["Health", "Ready", "Version"]


class Health(Endpoint):
    """Whether the server is there."""

    async def answer(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        """See `Endpoint`."""
        del scope, receive, request_id
        await send_json(send, {"status": "ok"})


class Ready(Endpoint):
    """Whether the models are."""

    def __init__(self, client: Client, served: Served) -> None:
        self._client = client
        self._served = served

    async def answer(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        """See `Endpoint`."""
        del scope, receive, request_id
        found = {name: await self._client.is_alive(model=self._served.find(name)[1]) for name in self._served.names}
        is_ready = any(found.values())
        await send_json(send, {"status": "ready" if is_ready else "down", "models": found}, 200 if is_ready else 503)


class Version(Endpoint):
    """Which release this is."""

    async def answer(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        """See `Endpoint`."""
        del scope, receive, request_id
        await send_json(send, {"version": asyncllm.__version__})
