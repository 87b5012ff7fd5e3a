"""The calls that rows of a batch are: as those of requests are, except that they stand in line."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from typing import TYPE_CHECKING, NoReturn

import msgspec

from asyncllm.batch.lost import NoWorkerError
from asyncllm.batch.rows import Answer, AnyAsk
from asyncllm.calls import Model
from asyncllm.client import Client
from asyncllm.errors import (
    BadRequestError,
    InternalServerError,
    InvalidRequestError,
    OverloadedError,
    PermissionDeniedError,
    PoolTimeoutError,
    QuotaExceededError,
    RateLimitError,
)
from asyncllm.estimate import estimated_input, estimated_tokens
from asyncllm.server.generation import check_asked
from asyncllm.server.incoming import Caller, Incoming
from asyncllm.server.limits.admission import Ticket
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
    """Asks the rows of one batch. `places` bounds how many are under way, of all batches.

    Once the server is `stopping`, those that only wait end at once.
    """

    def __init__(
        self,
        service: Service,
        batch: StoredBatch,
        places: asyncio.Semaphore,
        stopping: asyncio.Event,
        key: Key | None,
    ) -> None:
        self.key = key
        """The key of the batch as it is now: what it may be used for can have changed."""
        self._service = service
        self._places = places
        self._stopping = stopping
        self._incoming = Incoming(
            {"type": "http", "path": batch.endpoint, "headers": []}, _stays, _nothing, batch.id, Caller(batch.tenant)
        )

    async def ask(self, asked: AnyAsk, _: Model | None) -> Answer:
        """What a row asks. Raises `APIError`: a row is refused for what a request would be refused for."""
        name, _ = self._find(asked, self._service.upstream)
        self._check(asked)
        while True:
            wait_s = _AGAIN_S
            try:
                async with AsyncExitStack() as entered:
                    await entered.enter_async_context(self._places)
                    try:
                        ticket = await entered.enter_async_context(self._admitted(asked, name))
                    except QuotaExceededError:
                        raise
                    except (RateLimitError, OverloadedError) as error:  # its key, or the server, has no room for it
                        wait_s = error.retry_after_s or _AGAIN_S
                    else:
                        upstream = self._service.upstream  # another than before, it may be, after so long a wait
                        entered.enter_context(upstream.held())
                        answer = await self._answer(asked, self._find(asked, upstream)[1], upstream.client)
                        ticket.begin()
                        ticket.count(answer)
                        return answer
            except PoolTimeoutError:  # nothing was sent: it stands in line again
                pass
            except PermissionDeniedError as error:
                raise told_of(error) from None
            await self._pause(wait_s)  # while others have its place

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
            raise NoWorkerError(InternalServerError("the server stops"))  # so that the row is as if never begun

    def _check(self, asked: AnyAsk) -> None:
        if isinstance(asked, Request):
            try:
                check_asked(asked, self._service.settings)
            except InvalidRequestError as error:
                _refuse(error)

    def _admitted(self, asked: AnyAsk, name: str) -> AbstractAsyncContextManager[Ticket]:
        """The account of one call: the one place where rows meet what holds for all calls."""
        caller = msgspec.structs.replace(self._incoming.caller, key=self.key)
        incoming = msgspec.structs.replace(self._incoming, caller=caller)
        return self._service.admission.admit(incoming, name, estimated_tokens(asked), estimated_input(asked))

    def _find(self, asked: AnyAsk, upstream: Upstream) -> tuple[str, Model]:
        return upstream.served.find(asked.model, None if self.key is None else self.key.grants.models)

    async def _answer(self, asked: AnyAsk, model: Model, client: Client) -> Answer:
        settings = self._service.settings
        if not isinstance(asked, Request):
            dimensions = asked.dimensions if isinstance(asked.dimensions, int) else None
            found = await client.embed(asked.texts, model=model, dimensions=dimensions)
            return msgspec.structs.replace(found, model=None)
        try:
            asked = await self._service.pictures.fetch(asked)
        except InvalidRequestError as error:
            _refuse(error)
        if settings.fetch_urls:
            try:
                asked = await self._service.pictures.fetch(asked)
            except InvalidRequestError as error:
                _refuse(error)
        extra = {field: asked.extra[field] for field in settings.passed_fields & asked.extra.keys()}
        call = client.ask(msgspec.structs.replace(asked, model="", stream=False, extra=extra), model=model)
        return msgspec.structs.replace(await call.whole(), request_id=None, model=None)


def _refuse(error: InvalidRequestError) -> NoReturn:
    raise BadRequestError(error.message, status=400, code=error.code or "invalid_request", param=error.field) from None


async def _stays() -> NoReturn:
    """Nobody goes away while a row waits."""
    await asyncio.Future()
    raise AssertionError


async def _nothing(*_: object) -> NoReturn:
    raise AssertionError("a row has no connection of its own")
