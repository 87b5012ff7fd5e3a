"""`GET /v1/models` and `/v1/models/{id}`, whose ids may have slashes."""

from __future__ import annotations

from typing import Any

from asyncllm.server.described import Described
from asyncllm.server.endpoint import Endpoint
from asyncllm.server.incoming import Incoming
from asyncllm.server.openai import shapes
from asyncllm.server.replies import send_json
from asyncllm.server.service import Service

__all__ = ["Model", "Models"]


class Models(Endpoint):
    """All models."""

    described = Described(reply=shapes.ModelPage)

    async def answer(self, incoming: Incoming) -> None:
        """See `Endpoint`."""
        key = incoming.caller.key
        names = self.service.upstream.served.names(None if key is None else key.grants.models)
        listed = [_written(name, self.service) for name in names]
        await send_json(incoming.send, {"object": "list", "data": listed})


class Model(Endpoint):
    """One model."""

    described = Described(reply=shapes.ModelObject, absent="model")

    async def answer(self, incoming: Incoming) -> None:
        """See `Endpoint`."""
        name, *_ = self.find(incoming, incoming.scope["path_params"]["id"])
        await send_json(incoming.send, _written(name, self.service))


def _written(name: str, service: Service) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": int(service.began_at), "owned_by": "asyncllm"}
