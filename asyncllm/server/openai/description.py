"""`GET /openapi.json`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from asyncllm.server.described import Described, describe
from asyncllm.server.endpoint import Endpoint
from asyncllm.server.incoming import Incoming
from asyncllm.server.replies import send_json
from asyncllm.server.service import Service

__all__ = ["Description"]


class Description(Endpoint):
    """What the server can be asked, as OpenAPI."""

    needs = None
    described = Described(reply=dict[str, Any])

    def __init__(self, service: Service, routes: Sequence[tuple[str, str, type[Endpoint]]]) -> None:
        super().__init__(service)
        self._routes = routes
        self._settings = service.settings
        self._document = describe(routes, service.settings)

    async def answer(self, incoming: Incoming) -> None:
        """See `Endpoint`. What has been read again since is in it."""
        settings = self.service.settings
        if settings is not self._settings:
            self._settings, self._document = settings, describe(self._routes, settings)
        await send_json(incoming.send, self._document)
