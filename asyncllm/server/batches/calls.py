"""The calls that rows of a batch are: as those of requests are, except that they stand in line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, NoReturn

import msgspec

from asyncllm.batch.rows import Answer, AnyAsk
from asyncllm.calls import Model
from asyncllm.client import Client
from asyncllm.errors import (
    BadRequestError,
    InvalidRequestError,
    OverloadedError,
    PermissionDeniedError,
    PoolTimeoutError,
    QuotaExceededError,
    RateLimitError,
)
from asyncllm.estimate import estimated_input, estimated_tokens
from asyncllm.server.admission import Ticket
from asyncllm.server.generation import check_asked
from asyncllm.server.incoming import Caller, Incoming
from asyncllm.server.replies import told_of
from asyncllm.server.upstream import Upstream
from asyncllm.types import Request
from asyncllm.workspace.keys import Key
from asyncllm.workspace.tenants import StoredBatch

if TYPE_CHECKING:
    from asyncllm.server.service import Service

__all__ = ["RowCalls"]

_AGAIN_S = 1.0


class RowCalls:
    """Asks the rows of one batch. `places` bounds how many are under way, of all batches."""

    def __init__(self, service: Service, batch: StoredBatch, places: asyncio.Semaphore, key: Key | None) -> None:
        self.key = key
        """The key of the batch as it is now: what it may be used for can have changed."""
        self._service = service
        self._places = places
        self._incoming = Incoming(
            {"type": "http", "path": batch.endpoint, "headers": []}, _nothing, _nothing, batch.id, Caller(batch.tenant)
        )

    async def ask(self, asked: AnyAsk, _: Model | None) -> Answer:
        """What a row asks. Raises `APIError`: a row is refused for what a request would be refused for."""
        name, _ = self._find(asked, self._service.upstream)
        async with self._places:
            while True:
                try:
                    async with self._admitted(asked, name) as ticket:
                        upstream = self._service.upstream  # another than before, it may be, after so long a wait
                        with upstream.held():
                            answer = await self._answer(asked, self._find(asked, upstream)[1], upstream.client)
                        ticket.count(answer)
                        return answer
                except PoolTimeoutError:  # nothing was sent: it stands in line again
                    continue
                except PermissionDeniedError as error:
                    raise told_of(error) from None

    def _find(self, asked: AnyAsk, upstream: Upstream) -> tuple[str, Model]:
        return upstream.served.find(asked.model, None if self.key is None else self.key.grants.models)

    async def _answer(self, asked: AnyAsk, model: Model, client: Client) -> Answer:
        settings = self._service.settings
        if not isinstance(asked, Request):
            dimensions = asked.dimensions if isinstance(asked.dimensions, int) else None
            found = await client.embed(asked.texts, model=model, dimensions=dimensions)
            return msgspec.structs.replace(found, model=None)
        try:
            check_asked(asked, settings)
        except InvalidRequestError as error:
            _refuse(error)
        extra = {field: asked.extra[field] for field in settings.passed_fields & asked.extra.keys()}
        call = client.ask(msgspec.structs.replace(asked, model="", stream=False, extra=extra), model=model)
        return msgspec.structs.replace(await call.whole(), request_id=None, model=None)

    @asynccontextmanager
    async def _admitted(self, asked: AnyAsk, name: str) -> AsyncGenerator[Ticket]:
        """The account of one call, which waits for as long as its key has no room for it."""
        tokens = estimated_tokens(asked) if isinstance(asked, Request) else estimated_input(asked)
        incoming = msgspec.structs.replace(
            self._incoming, caller=msgspec.structs.replace(self._incoming.caller, key=self.key)
        )
        async with AsyncExitStack() as entered:
            while True:
                try:
                    ticket = await entered.enter_async_context(self._service.admission.admit(incoming, name, tokens))
                    break
                except QuotaExceededError:
                    raise
                except (RateLimitError, OverloadedError) as error:
                    await asyncio.sleep(error.retry_after_s or _AGAIN_S)
            yield ticket


def _refuse(error: InvalidRequestError) -> NoReturn:
    raise BadRequestError(error.message, status=400, code=error.code or "invalid_request", param=error.field) from None


async def _nothing(*_: object) -> NoReturn:
    raise AssertionError("a row has no connection of its own")
