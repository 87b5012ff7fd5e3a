"""`GET /v1/models` and `/v1/models/{id}`, whose ids may have slashes."""

from __future__ import annotations

from typing import Any

from starlette.types import Receive, Scope, Send

from asyncllm.server.endpoint import Endpoint
from asyncllm.server.models import Served
from asyncllm.server.replies import send_json

__all__ = ["Model", "Models"]


class Models(Endpoint):
    """All of them."""

    def __init__(self, served: Served, created: int) -> None:
        self._served = served
        self._created = created

    async def answer(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        """See `Endpoint`."""
        del scope, receive, request_id
        listed = [_written(name, self._created) for name in self._served.names]
        await send_json(send, {"object": "list", "data": listed})


class Model(Endpoint):
    """One of them."""

    def __init__(self, served: Served, created: int) -> None:
        self._served = served
        self._created = created

    async def answer(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        """See `Endpoint`."""
        del receive, request_id
        name, _ = self._served.find(scope["path_params"]["id"])
        await send_json(send, _written(name, self._created))


def _written(name: str, created: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "asyncllm"}
