"""What every route does around its own work: a request's id, and an answer whatever happens."""

from __future__ import annotations

import logging
import re
import secrets
from abc import ABC, abstractmethod
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from asyncllm.client import Client
from asyncllm.dialect.faults import write_error
from asyncllm.errors import AsyncLLMError, InternalServerError
from asyncllm.server.departure import ClientGone
from asyncllm.server.models import Served
from asyncllm.server.replies import http_status, retry_headers, send_json, told_of
from asyncllm.server.settings import ServerSettings

__all__ = ["CallEndpoint", "Endpoint"]

_log = logging.getLogger("asyncllm.server")
_ID = re.compile(rb"[A-Za-z0-9_-]{1,64}")


class Endpoint(ABC):
    """One route, as an ASGI application."""

    id_header = b"x-request-id"
    """Where a reply has the id of its request."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        asked = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        id_ = asked if _ID.fullmatch(asked) else secrets.token_hex(16).encode()
        has_begun = False

        async def told(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                message["headers"] = [*message["headers"], (self.id_header, id_)]
            await send(message)

        request_id = id_.decode()
        try:
            await self.answer(scope, receive, told, request_id)
        except ClientGone:
            return
        except Exception as error:
            if has_begun or not isinstance(error, AsyncLLMError):
                # Its text may hold what was asked, and where the server keeps its files.
                _log.error("a request of %s failed by a %s", scope["path"], type(error).__name__)
            if has_begun:
                return  # a reply that is not completed is cut off; raised, its error would be logged, text and all
            known = told_of(error) if isinstance(error, AsyncLLMError) else _unexpected()
            await send_json(told, self.fault(known, request_id), http_status(known), retry_headers(known))

    def fault(self, error: AsyncLLMError, request_id: str) -> dict[str, Any]:
        """The body of an error reply: OpenAI's."""
        del request_id
        return write_error(error)

    @abstractmethod
    async def answer(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        """Do what the route does. Raises `AsyncLLMError`, `ClientGone`."""


class CallEndpoint(Endpoint):
    """One route that makes calls."""

    def __init__(self, client: Client, served: Served, settings: ServerSettings) -> None:
        self._client = client
        self._served = served
        self._settings = settings


def _unexpected() -> InternalServerError:
    return InternalServerError("the server failed; its log says more", status=500)
