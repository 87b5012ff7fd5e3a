"""What every route does around its own work: a request's id, and an answer whatever happens."""

from __future__ import annotations

import logging
import re
import secrets
from abc import ABC, abstractmethod

from starlette.types import Message, Receive, Scope, Send

from asyncllm.errors import AsyncLLMError, InternalServerError
from asyncllm.server.departure import ClientGone
from asyncllm.server.replies import send_error

__all__ = ["Endpoint"]

_log = logging.getLogger("asyncllm.server")
_ID = re.compile(rb"[A-Za-z0-9_-]{1,64}")


class Endpoint(ABC):
    """One route, as an ASGI application."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        asked = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        id_ = asked if _ID.fullmatch(asked) else secrets.token_hex(16).encode()
        has_begun = False

        async def told(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                message["headers"] = [*message["headers"], (b"x-request-id", id_)]
            await send(message)

        try:
            await self.answer(scope, receive, told, id_.decode())
        except ClientGone:
            return
        except AsyncLLMError as error:
            if has_begun:
                raise
            await send_error(told, error)
        except Exception as error:
            # Its text may hold what was asked, and where the server keeps its files.
            _log.error("a request of %s failed by a %s", scope["path"], type(error).__name__)
            if has_begun:
                raise
            await send_error(told, InternalServerError("the server failed; its log says more", status=500))

    @abstractmethod
    async def answer(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        """Do what the route does. Raises `AsyncLLMError`, `ClientGone`."""
