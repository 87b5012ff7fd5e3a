"""Checks of batches: made once, found again, and each outcome that of its item."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Protocol, runtime_checkable
from urllib.parse import urlsplit

import msgspec

from asyncllm.backend import Batches, BatchItem, BatchOutcome, BatchRequest, BatchState, FiledBatches
from asyncllm.errors import (
    APIError,
    ConfigError,
    InvalidRequestError,
    NotFoundError,
    ResponseValidationError,
    StreamInterrupted,
    UnsupportedError,
)
from asyncllm.testing.conformance.harness import run_clean
from asyncllm.testing.conformance.subject import Subject
from asyncllm.testing.ops import Op
from asyncllm.testing.seen import SeenRequest
from asyncllm.testing.server import FaultyServer

__all__ = ["BatchChecks", "BatchService"]

_CANARY = "the canary sang in the mine"


class BatchService(Protocol):
    """The service behind a backend that has `Batches`, as a `FaultyServer` plays it.

    Its model repeats the last message of an item. An item whose last message begins with `refuse` is answered with an
    error that repeats the message.
    """

    created: int
    """How many batches were made."""
    lose: list[str]
    """What happens to the next creations, one each: the connection goes `before` the batch is made, or `after` it."""
    truncate: list[int]
    """After how many bytes the next results break off, one each."""

    def __call__(self, request: SeenRequest, /) -> Sequence[Op]:
        """What a request is answered with."""
        ...

    def finish(self) -> None:
        """Work off every batch."""
        ...


@runtime_checkable
class FilingService(BatchService, Protocol):
    """The service behind a backend that has `FiledBatches`."""

    files: Mapping[str, bytes]
    """What it has written, by the addresses that batches give."""


class BatchChecks(Subject):
    """pytest does not collect these for a subject without a `batch_service`."""

    def test_each_outcome_of_a_batch_is_that_of_its_item(self) -> None:
        """Answers and an error, by the ids that the items were given, or refused by name."""

        async def body(backend: Batches, service: BatchService, _: FaultyServer) -> None:
            asked = self._batch("one", f"refuse {_CANARY}", "three")
            made = await _create(backend, asked)
            assert made.id, "a batch has no id"
            service.finish()
            found = await self._outcomes(backend, service, made.id, asked)
            if found is None:
                return
            assert sorted(one.id for one in found) == ["a-0", "a-1", "a-2"], "outcomes are missing, or too many"
            for one in found:
                assert (one.response is None) != (one.error is None), "an outcome is not one of response and error"
            told = {one.id: one.response.text for one in found if one.response is not None}
            assert told == {"a-0": "one", "a-2": "three"}, f"items are answered with {told}"

        self._with_service(body)

    def test_an_item_that_failed_says_nothing_private(self) -> None:
        """The error of an item does not repeat it, whether or not the backend is told what it was."""

        async def body(backend: Batches, service: BatchService, _: FaultyServer) -> None:
            asked = self._batch(f"refuse {_CANARY}")
            made = await _create(backend, asked)
            service.finish()
            for known in (asked,) if isinstance(backend, FiledBatches) else (asked, self._batch()):
                for one in await self._outcomes(backend, service, made.id, known) or ():
                    assert one.error is not None, "an item that was refused has no error"
                    said = f"{one.error} {one.error!r} {one!r}"
                    assert _CANARY not in said, "the error of an item repeats the prompt"

        self._with_service(body)

    def test_a_batch_is_found_by_its_token_or_the_search_refused(self) -> None:
        """The one that was made with it, and none for another token."""

        async def body(backend: Batches, _: BatchService, __: FaultyServer) -> None:
            made = await _create(backend, self._batch("one"))
            await _create(backend, self._batch("two", token="token-2"))  # noqa: S106  # a name
            try:
                found, none = await backend.find_batch("token-1"), await backend.find_batch("token-3")
            except UnsupportedError as error:
                assert error.field == "find_batch", "the search is refused without its name"  # noqa: PT017  # no pytest
                return
            assert found is not None, "a batch that was made is not found"
            assert found.id == made.id, "another batch is found than the one of the token"
            assert none is None, "a batch is found that was never made"

        self._with_service(body)

    def test_a_creation_that_is_not_answered_is_not_sent_again(self) -> None:
        """It is an error that says that the batch may be there."""

        async def body(backend: Batches, service: BatchService, _: FaultyServer) -> None:
            for made, fate in enumerate(("before", "after")):
                service.lose = [fate]
                failure: APIError | None = None
                try:
                    await _create(backend, self._batch("one"))
                except APIError as error:
                    failure = error
                assert failure is not None, f"a creation whose connection goes {fate} it succeeds"
                assert service.created == made, f"a creation whose connection goes {fate} it was sent again"
                assert failure.maybe_billed, "the error does not say that the batch may be there"
                assert not failure.retryable, "the error says that the batch may be made again"

        self._with_service(body)

    def test_a_batch_that_cannot_be_right_is_refused_before_anything_is_sent(self) -> None:
        """An id that is there twice, an id that is none, and no item at all."""

        async def body(backend: Batches, _: BatchService, server: FaultyServer) -> None:
            one = self.request("one", stream=False)
            for items in ([BatchItem("a", one), BatchItem("a", one)], [BatchItem("a b", one)], []):
                refusal: ConfigError | UnsupportedError | None = None
                try:
                    await _create(backend, self._batch(items=items))
                except (InvalidRequestError, UnsupportedError) as error:
                    refusal = error
                assert refusal is not None, f"a batch of {len(items)} items that cannot be right is sent"
                assert refusal.field, "the refusal of a batch names no field"
            assert not server.requests, "something is sent of a batch that is refused"

        self._with_service(body)

    def test_results_that_break_off_are_interrupted(self) -> None:
        """What is read of them is no whole."""

        async def body(backend: Batches, service: BatchService, _: FaultyServer) -> None:
            asked = self._batch("one", "two", "three")
            made = await _create(backend, asked)
            service.truncate = [40]
            service.finish()
            interruption: APIError | None = None
            broken = ResponseValidationError if isinstance(backend, FiledBatches) else StreamInterrupted
            try:
                found = await self._outcomes(backend, service, made.id, asked)
            except broken as error:
                interruption, found = error, []
            assert found is None or interruption is not None, "results that break off pass for whole ones"

        self._with_service(body)

    def test_a_batch_that_nobody_knows_is_not_found(self) -> None:
        """By an id that was never given."""

        async def body(backend: Batches, _: BatchService, __: FaultyServer) -> None:
            missing: NotFoundError | None = None
            try:
                await backend.get_batch("nobody-knows-it")
            except NotFoundError as error:
                missing = error
            assert missing is not None, "a batch is found that was never made"

        self._with_service(body)

    def _batch(
        self,
        *texts: str,
        items: Sequence[BatchItem] | None = None,
        token: str = "token-1",  # noqa: S107  # a name
    ) -> BatchRequest:
        made = [BatchItem(f"a-{at}", self.request(text, stream=False)) for at, text in enumerate(texts)]
        return BatchRequest(model=self.model, items=made if items is None else items, token=token)

    async def _outcomes(
        self, backend: Batches, service: BatchService, id_: str, asked: BatchRequest
    ) -> list[BatchOutcome] | None:
        """All outcomes, or `None` from a backend that refuses them by name."""
        requests = {item.id: item.request for item in asked.items}
        if isinstance(backend, FiledBatches):
            assert isinstance(service, FilingService), "the `batch_service` of `FiledBatches` has no files"
            (content,) = service.files.values()
            return list(backend.read_outcomes(content, requests))
        try:
            async with backend.batch_outcomes(id_, requests) as outcomes:
                return [outcome async for outcome in outcomes]
        except UnsupportedError as error:
            assert error.field == "batch_outcomes", "outcomes are refused without their name"  # noqa: PT017  # no pytest
            return None

    def _with_service(self, body: Callable[[Batches, BatchService, FaultyServer], Awaitable[None]]) -> None:
        run_clean(self._run(body))

    async def _run(self, body: Callable[[Batches, BatchService, FaultyServer], Awaitable[None]]) -> None:
        async with self._with_backend() as (backend, service, server):
            await body(backend, service, server)

    @asynccontextmanager
    async def _with_backend(self) -> AsyncGenerator[tuple[Batches, BatchService, FaultyServer]]:
        assert self.batch_service is not None, "this check needs a service: set `batch_service`"
        service = self.batch_service()
        path = urlsplit(self.base_url or "").path.rstrip("/")
        async with FaultyServer(service) as server, self.connected(base_url=server.url + path) as backend:
            assert isinstance(backend, Batches), "a subject with a `batch_service` has no batches"
            yield backend, service, server


async def _create(backend: Batches, batch: BatchRequest) -> BatchState:
    """Hand a batch over, which names its file where there is one."""
    if isinstance(backend, FiledBatches):
        batch = msgspec.structs.replace(batch, output=f"s3://bucket/{batch.token}.json")
    return await backend.create_batch(batch)
