"""`POST /v1/embeddings`."""

from __future__ import annotations

import msgspec
from starlette.types import Receive, Scope, Send

from asyncllm.dialect.answers import write_embeddings_reply
from asyncllm.dialect.served import read_embeddings_request
from asyncllm.server.bodies import read_body
from asyncllm.server.departure import Watched
from asyncllm.server.endpoint import CallEndpoint
from asyncllm.server.replies import send_json

__all__ = ["Embeddings"]


class _Form(msgspec.Struct):
    encoding_format: str | None = None


_form = msgspec.json.Decoder(_Form)


class Embeddings(CallEndpoint):
    """Vectors of texts."""

    async def answer(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        """See `Endpoint`."""
        del request_id
        body = await read_body(scope, receive, self._settings)
        asked = read_embeddings_request(body)
        name, model = self._served.find(asked.model)
        dimensions = asked.dimensions if isinstance(asked.dimensions, int) else None
        async with Watched(receive):
            found = await self._client.embed(asked.texts, model=model, dimensions=dimensions)
        in_base64 = _form.decode(body).encoding_format == "base64"
        known = msgspec.structs.replace(found, model=None)
        await send_json(send, write_embeddings_reply(known, model=name, in_base64=in_base64))
