"""`POST /v1/responses`."""

from __future__ import annotations

import time
from typing import Any

from asyncllm.server.described import Described
from asyncllm.server.generation import Generation
from asyncllm.server.responses import shapes
from asyncllm.server.responses.answers import write_head, write_reply
from asyncllm.server.responses.events import ResponseWriter
from asyncllm.server.responses.served import read_responses_request
from asyncllm.types import Request, Response

__all__ = ["Responses"]


class Responses(Generation):
    """Answers conversations, each of which comes whole: nothing of it is kept."""

    described = Described(
        body=shapes.ResponsesBody,
        reply=shapes.ResponseObject,
        streams=True,
        limits={"input": ("maxItems", "max_messages")},
        absent="model",
    )

    def read(self, body: bytes) -> Request:
        """See `Generation`."""
        return read_responses_request(body, self.service.settings)

    def reply(self, body: bytes, response: Response, request_id: str, model: str) -> dict[str, Any]:
        """See `Generation`."""
        return write_reply(_head(body, request_id, model), response, id_=request_id)

    def writer(self, body: bytes, request_id: str, model: str) -> ResponseWriter:
        """See `Generation`."""
        return ResponseWriter(_head(body, request_id, model), id_=request_id)


def _head(body: bytes, request_id: str, model: str) -> dict[str, Any]:
    return write_head(body, id_=f"resp_{request_id}", model=model, created=int(time.time()))
