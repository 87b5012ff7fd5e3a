"""What every route does around its own work: a request's id, who asks, and an answer whatever happens."""

from __future__ import annotations

import logging
import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Awaitable
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar

from starlette.types import Message, Receive, Send
from starlette.types import Scope as Asgi

from asyncllm.calls import Model
from asyncllm.client import Client
from asyncllm.dialect.faults import write_error
from asyncllm.errors import AsyncLLMError, InternalServerError, StoreError
from asyncllm.server.described import Described
from asyncllm.server.http.departure import ClientGone, SlowReader
from asyncllm.server.incoming import Caller, Incoming, header_of
from asyncllm.server.limits.admission import Ticket
from asyncllm.server.limits.quota import Rates
from asyncllm.server.limits.rates import Headers, openai_headers
from asyncllm.server.replies import closing_headers, http_status, retry_headers, send_json, told_of
from asyncllm.server.service import Service
from asyncllm.workspace.keys import Scope

__all__ = ["Endpoint"]

_log = logging.getLogger("asyncllm.server")
_ID = re.compile(rb"[A-Za-z0-9_-]{1,64}")


class Endpoint(ABC):
    """One route, as an ASGI application."""

    id_header: ClassVar[bytes] = b"x-request-id"
    """Where a reply has the id of its request."""
    needs: ClassVar[Scope | None] = "calls"
    """What a key has to be for; `None` where anybody may ask."""
    takes_any_key: ClassVar[bool] = False
    """Whether it has to be for nothing in particular."""
    described: ClassVar[Described] = Described()
    """What it takes and answers, for the server's description."""

    def __init__(self, service: Service, path: str = "") -> None:
        self.service = service
        self.path = path
        """As the table of routes has it, which is how figures name it."""

    async def __call__(self, scope: Asgi, receive: Receive, send: Send) -> None:
        """Answer one request."""
        asked = header_of(scope, b"x-request-id") or b""
        id_ = asked if _ID.fullmatch(asked) else secrets.token_hex(16).encode()
        has_begun = False

        def told(message: Message) -> Awaitable[None]:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                message["headers"] = [*message["headers"], (self.id_header, id_), *self._more_headers(incoming)]
                self.service.figures.answered(self.path, incoming.model, message["status"])
            return send(message)

        request_id = id_.decode()
        incoming = Incoming(scope, receive, told, request_id, Caller())
        caller: Caller | None = None
        try:
            if self.needs is not None:
                needed = None if self.takes_any_key else self.needs
                incoming.caller = await self.service.access.identify(scope, needed)
            caller = incoming.caller
            with self.service.upstream.held():
                await self.answer(incoming)
        except ClientGone as gone:
            is_slow = isinstance(gone, SlowReader)
            self.service.figures.add("asyncllm_slow_readers_total" if is_slow else "asyncllm_clients_gone_total")
        except Exception as error:
            if has_begun or not isinstance(error, AsyncLLMError):
                # Its text may hold what was asked, and where the server keeps its files, and a path what is in it.
                _log.error("a request of %s failed by a %s", type(self).__name__, type(error).__name__)
            if has_begun:
                return  # a reply that is not completed is cut off; raised, its error would be logged, text and all
            known = _unexpected() if not isinstance(error, AsyncLLMError) else error
            if isinstance(known, StoreError):
                _log.error("a request of %s failed: %s", scope["path"], known.message)
            if caller is not None:  # or else it is the server itself that refuses
                known = told_of(known)
            headers = retry_headers(known) | closing_headers(known)
            await send_json(told, self.fault(known, request_id), http_status(known), headers)

    def fault(self, error: AsyncLLMError, request_id: str) -> dict[str, Any]:
        """The body of an error reply: OpenAI's."""
        del request_id
        return write_error(error)

    def rate_headers(self, rates: Rates) -> Headers:
        """What a reply tells of the minute of a key: OpenAI's."""
        return openai_headers(rates)

    def find(self, incoming: Incoming, name: str) -> tuple[str, Model, Client]:
        """The model that a request means by a name: the name, what the client calls the model, and that client.

        Another client may take its place at any moment. Raises `NotFoundError`, which says what there is for whoever
        asks.
        """
        key = incoming.caller.key
        upstream = self.service.upstream
        name, model = upstream.served.find(name, None if key is None else key.grants.models)
        incoming.model = name
        return name, model, upstream.client

    def admit(
        self, incoming: Incoming, model: str, tokens: int, input_tokens: int | None = None
    ) -> AbstractAsyncContextManager[Ticket]:
        """See `Admission.admit`."""
        return self.service.admission.admit(incoming, model, tokens, input_tokens)

    def _more_headers(self, incoming: Incoming) -> Headers:
        return [] if incoming.rates is None else self.rate_headers(incoming.rates)

    @abstractmethod
    async def answer(self, incoming: Incoming) -> None:
        """Do what the route does. Raises `AsyncLLMError`, `ClientGone`."""


def _unexpected() -> InternalServerError:
    return InternalServerError("the server failed; its log says more", status=500)
