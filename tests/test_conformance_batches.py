"""The suite's checks of batches fail a backend that breaks their contract, each in one way."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from asyncllm.backend import Backend, BatchOutcome, BatchRequest, BatchState, Config, Context, Secret, Transport
from asyncllm.clock import LoopClock
from asyncllm.errors import APIError, InvalidRequestError, NotFoundError, StreamInterrupted
from asyncllm.testing import BackendConformance
from asyncllm.types import Request
from asyncllm_openai.batches import OpenAIWithBatches
from openai_batch_server import OpenAIBatchServer


class Good(OpenAIWithBatches):
    pass


class Resends(Good):
    async def create_batch(self, batch: BatchRequest, /) -> BatchState:
        try:
            return await super().create_batch(batch)
        except APIError:
            return await super().create_batch(batch)


class SaysNothingWasMade(Good):
    async def create_batch(self, batch: BatchRequest, /) -> BatchState:
        try:
            return await super().create_batch(batch)
        except APIError as error:
            error.maybe_billed = False
            raise


class FindsAny(Good):
    async def find_batch(self, token: str, /) -> BatchState | None:
        return await super().find_batch("token-2")


class SendsAnything(Good):
    async def create_batch(self, batch: BatchRequest, /) -> BatchState:
        try:
            return await super().create_batch(batch)
        except InvalidRequestError:
            return BatchState(id="x", status="queued")


class FindsAll(Good):
    async def get_batch(self, batch_id: str, /) -> BatchState:
        try:
            return await super().get_batch(batch_id)
        except NotFoundError:
            return BatchState(id=batch_id, status="queued")


class Changes(Good):
    """Outcomes of which one thing is changed by `change`."""

    @asynccontextmanager
    async def batch_outcomes(
        self, batch_id: str, requests: Mapping[str, Request] = {}, /
    ) -> AsyncIterator[AsyncIterator[BatchOutcome]]:
        async with super().batch_outcomes(batch_id, requests) as outcomes:
            yield self.change(outcomes)

    async def change(self, outcomes: AsyncIterator[BatchOutcome]) -> AsyncIterator[BatchOutcome]:
        async for outcome in outcomes:
            yield outcome


class LosesTheFailed(Changes):
    async def change(self, outcomes: AsyncIterator[BatchOutcome]) -> AsyncIterator[BatchOutcome]:
        async for outcome in outcomes:
            if outcome.error is None:
                yield outcome


class Swaps(Changes):
    async def change(self, outcomes: AsyncIterator[BatchOutcome]) -> AsyncIterator[BatchOutcome]:
        other = {"a-0": "a-2", "a-2": "a-0"}
        async for outcome in outcomes:
            yield msgspec.structs.replace(outcome, id=other.get(outcome.id, outcome.id))


class EndsQuietly(Changes):
    async def change(self, outcomes: AsyncIterator[BatchOutcome]) -> AsyncIterator[BatchOutcome]:
        try:
            async for outcome in outcomes:
                yield outcome
        except StreamInterrupted:
            return


class Tells(Changes):
    async def change(self, outcomes: AsyncIterator[BatchOutcome]) -> AsyncIterator[BatchOutcome]:
        async for outcome in outcomes:
            if outcome.error is not None and isinstance(outcome.error, APIError):
                outcome.error.message = (outcome.error.body or b"").decode()
                outcome.error.args = (outcome.error.message,)
            yield outcome


class Suite(BackendConformance):
    name = "openai"
    base_url = "http://127.0.0.1:9/v1"
    batch_service = OpenAIBatchServer
    kind: type[Good] = Good

    def connect(self, transport: Transport, base_url: str | None = None) -> Backend:
        config = Config(backend="openai", base_url=base_url, api_key=Secret("sk-suite-0123456789"))
        return self.kind(config, Context(transport=transport, clock=LoopClock(), env={}))


BREAKAGES: list[tuple[str, type[Good], str]] = [
    ("each_outcome_of_a_batch_is_that_of_its_item", LosesTheFailed, "outcomes are missing"),
    ("each_outcome_of_a_batch_is_that_of_its_item", Swaps, "items are answered with"),
    ("an_item_that_failed_says_nothing_private", Tells, "repeats the prompt"),
    ("a_batch_is_found_by_its_token_or_the_search_refused", FindsAny, "another batch is found"),
    ("a_creation_that_is_not_answered_is_not_sent_again", Resends, "succeeds|sent again"),
    ("a_creation_that_is_not_answered_is_not_sent_again", SaysNothingWasMade, "may be there"),
    ("a_batch_that_cannot_be_right_is_refused_before_anything_is_sent", SendsAnything, "cannot be right is sent"),
    ("results_that_break_off_are_interrupted", EndsQuietly, "pass for whole ones"),
    ("a_batch_that_nobody_knows_is_not_found", FindsAll, "never made"),
]


@pytest.mark.parametrize(("check", "broken", "says"), BREAKAGES, ids=lambda value: getattr(value, "__name__", None))
def test_the_suite_fails_broken_batches(check: str, broken: type[Good], says: str) -> None:
    suite = Suite()
    suite.kind = broken

    with pytest.raises(AssertionError, match=says):
        getattr(suite, f"test_{check}")()


@pytest.mark.parametrize("check", sorted({check for check, _, _ in BREAKAGES}))
def test_the_suite_passes_good_batches(check: str) -> None:
    getattr(Suite(), f"test_{check}")()


def test_checks_of_batches_are_there_for_who_gives_a_service_alone() -> None:
    class Without(BackendConformance):
        name = "openai"

    found: Any = Without.test_results_that_break_off_are_interrupted
    assert found is None
    assert Suite.test_results_that_break_off_are_interrupted is not None
