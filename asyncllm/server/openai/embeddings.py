"""`POST /v1/embeddings`."""

from __future__ import annotations

import msgspec

from asyncllm.dialect.answers import write_embeddings_reply
from asyncllm.dialect.served import read_embeddings_request
from asyncllm.errors import InvalidRequestError
from asyncllm.estimate import estimated_input
from asyncllm.server.described import Described
from asyncllm.server.endpoint import Endpoint
from asyncllm.server.http.bodies import read_body
from asyncllm.server.http.departure import Watched
from asyncllm.server.incoming import Incoming
from asyncllm.server.openai import shapes
from asyncllm.server.openai.wire import check_count
from asyncllm.server.replies import send_json

__all__ = ["Embeddings"]


class _Form(msgspec.Struct):
    encoding_format: str | None = None


_LIMITS = {"input": ("maxItems", "max_texts")}
_form = msgspec.json.Decoder(_Form)


class Embeddings(Endpoint):
    """Vectors of texts."""

    described = Described(body=shapes.EmbeddingsBody, reply=shapes.Vectors, limits=_LIMITS, absent="model")

    async def answer(self, incoming: Incoming) -> None:
        """See `Endpoint`."""
        body = await read_body(incoming, self.service.settings)
        asked = read_embeddings_request(body)
        check_count(asked.texts, "input", self.service.settings)
        if "" in asked.texts:
            place = f"[{asked.texts.index('')}]" if len(asked.texts) > 1 else ""
            raise InvalidRequestError("input: an empty text has no vector", field=f"input{place}")
        name, model, client = self.find(incoming, asked.model)
        dimensions = asked.dimensions if isinstance(asked.dimensions, int) else None
        async with self.admit(incoming, name, estimated_input(asked)) as ticket:
            async with Watched(incoming.receive):
                found = await client.embed(asked.texts, model=model, dimensions=dimensions)
            ticket.count(found)
        in_base64 = _form.decode(body).encoding_format == "base64"
        known = msgspec.structs.replace(found, model=None)
        await send_json(incoming.send, write_embeddings_reply(known, model=name, in_base64=in_base64))
