"""`POST /v1/messages` and `/v1/messages/count_tokens`."""

from __future__ import annotations

from typing import Any

from asyncllm.errors import AsyncLLMError
from asyncllm.server.anthropic import shapes
from asyncllm.server.anthropic.answers import EventWriter, write_fault, write_message
from asyncllm.server.anthropic.served import read_messages_request
from asyncllm.server.described import Described
from asyncllm.server.endpoint import Endpoint
from asyncllm.server.generation import Generation, check_asked
from asyncllm.server.http.bodies import read_body
from asyncllm.server.http.departure import Watched
from asyncllm.server.incoming import Incoming
from asyncllm.server.limits.quota import Rates
from asyncllm.server.limits.rates import Headers, anthropic_headers
from asyncllm.server.replies import send_json
from asyncllm.types import Request, Response

__all__ = ["CountTokens", "Messages"]


_LIMITS = {"messages": ("maxItems", "max_messages")}


class _Told(Endpoint):
    """A route that tells errors and ids in this API's form."""

    id_header = b"request-id"

    def fault(self, error: AsyncLLMError, request_id: str) -> dict[str, Any]:
        """See `Endpoint`."""
        return write_fault(error, request_id)

    def rate_headers(self, rates: Rates) -> Headers:
        """See `Endpoint`."""
        return anthropic_headers(rates)


class Messages(_Told, Generation):
    """Answers conversations."""

    described = Described(
        body=shapes.MessagesBody,
        reply=shapes.Answer,
        streams=True,
        limits=_LIMITS,
        absent="model",
        fault=shapes.Failure,
    )

    unmet = dict.fromkeys(("container", "context_management", "mcp_servers"), "leave it out")

    def read(self, body: bytes) -> Request:
        """See `Generation`."""
        return read_messages_request(body)

    def reply(self, body: bytes, response: Response, request_id: str, model: str) -> dict[str, Any]:
        """See `Generation`."""
        del body
        return write_message(response, id_=f"msg_{request_id}", model=model)

    def writer(self, body: bytes, request_id: str, model: str) -> EventWriter:
        """See `Generation`."""
        del body
        return EventWriter(id_=f"msg_{request_id}", model=model, request_id=request_id)


class CountTokens(_Told):
    """Counts the tokens of a conversation by the model's own tokenizer, where the backend can."""

    described = Described(
        body=shapes.CountBody, reply=shapes.Counted, limits=_LIMITS, absent="model", fault=shapes.Failure
    )

    async def answer(self, incoming: Incoming) -> None:
        """See `Endpoint`."""
        settings = self.service.settings
        asked = read_messages_request(await read_body(incoming, settings), is_counted=True)
        check_asked(asked, settings)
        name, model, client = self.find(incoming, asked.model)
        async with self.admit(incoming, name, 0), Watched(incoming.receive):
            counted = await client.check_prompt(list(asked.messages), model=model, tools=asked.tools)
        await send_json(incoming.send, {"input_tokens": counted.tokens})
