"""Batches of Anthropic's Messages API, against a service that works them off."""

from __future__ import annotations

import pytest

from anthropic_batch_server import AnthropicBatchServer
from asyncllm import BadRequestError, InvalidRequestError, NotFoundError, OverloadedError, UnsupportedError
from asyncllm.backend import BatchItem, BatchOutcome, BatchRequest
from asyncllm.errors import APIError, RedirectRefusedError, RowAbandonedError, StreamInterrupted
from batch_talks import KEY, batch, chat, outcomes, serving, text

SECRET = "the canary sang in the mine"


async def test_a_batch_is_the_bodies_that_single_calls_have() -> None:
    service = AnthropicBatchServer()
    asked = batch("hi", "there")
    async with serving(service, "anthropic", cache="auto", beta="files-1") as (server, backend):
        state = await backend.create_batch(asked)
        for item in asked.items:
            async with backend.open(item.request):
                pass

    create, *single = server.requests
    assert (create.method, create.path) == ("POST", "/v1/messages/batches")
    assert create.json() == {
        "requests": [{"custom_id": f"row-{at}", "params": one.json()} for at, one in enumerate(single)]
    }
    for name in ("x-api-key", "anthropic-version", "anthropic-beta", "content-type"):
        assert create.headers[name] == single[0].headers[name]
    assert (state.id, state.status, state.total, state.progress) == ("msgbatch_1", "running", 2, None)


async def test_options_of_the_batch_stand_beside_its_requests() -> None:
    async with serving(AnthropicBatchServer(), "anthropic") as (server, backend):
        await backend.create_batch(batch("hi", extra={"user_profile_id": "u"}))

    assert server.requests[0].json()["user_profile_id"] == "u"


async def test_the_size_of_an_item_is_what_it_adds_to_the_body() -> None:
    async with serving(AnthropicBatchServer(), "anthropic") as (server, backend):
        asked = batch("a", "ü" * 40)
        sizes = [backend.batch_item_size(item) for item in asked.items]
        await backend.create_batch(asked)

    assert sum(sizes) - 1 + len('{"requests":[]}') == len(server.requests[0].body)


@pytest.mark.parametrize(
    ("asked", "kind", "field"),
    [
        (batch(), InvalidRequestError, "items"),
        (batch("x", extra={"requests": []}), InvalidRequestError, "extra"),
        (
            BatchRequest(model="gpt-x", items=[BatchItem("a", chat("x"))] * 100_001, token="t"),
            InvalidRequestError,
            "items",
        ),
        (batch("x", labels={"a": "b"}), UnsupportedError, "labels"),
        (batch("x", priority="high"), UnsupportedError, "priority"),
        (batch("x", max_runtime_s=60), UnsupportedError, "max_runtime_s"),
        (batch("x", make=text), UnsupportedError, "complete"),
        (BatchRequest(model="gpt-x", items=[BatchItem("a", chat("x", n=2))], token="t"), UnsupportedError, "n"),
    ],
    ids=range(8),
)
async def test_what_cannot_be_sent_is_refused_by_name(
    asked: BatchRequest, kind: type[UnsupportedError | InvalidRequestError], field: str
) -> None:
    async with serving(AnthropicBatchServer(), "anthropic") as (server, backend):
        with pytest.raises(kind) as caught:
            await backend.create_batch(asked)

    assert caught.value.field == field
    assert not server.requests


@pytest.mark.parametrize(("fate", "made"), [("before", 0), ("after", 1), ("500", 1)])
async def test_a_creation_whose_answer_is_lost_is_not_sent_again(fate: str, made: int) -> None:
    service = AnthropicBatchServer()
    service.lose = [fate]
    async with serving(service, "anthropic") as (server, backend):
        with pytest.raises(APIError) as caught:
            await backend.create_batch(batch("hi"))

    assert caught.value.maybe_billed
    assert not caught.value.retryable
    assert (len(server.requests), service.created) == (1, made)


async def test_nobody_can_ask_whether_a_batch_was_made() -> None:
    async with serving(AnthropicBatchServer(), "anthropic") as (server, backend):
        with pytest.raises(UnsupportedError) as caught:
            await backend.find_batch("token-1")

    assert caught.value.field == "find_batch"
    assert not server.requests


async def test_outcomes_belong_to_their_items_in_whatever_order() -> None:
    service = AnthropicBatchServer()
    asked = batch("one", f"refuse {SECRET}", "overload", "late", "stop", "six")
    async with serving(service, "anthropic") as (server, backend):
        made = await backend.create_batch(asked)
        running, ended = await backend.get_batch(made.id), await backend.get_batch(made.id)
        known, unknown = await outcomes(backend, made.id, asked), await outcomes(backend, made.id)

    assert (running.status, ended.status) == ("running", "expired")
    assert (ended.total, ended.done, ended.failed, ended.progress) == (6, 2, 4, 1.0)
    first = known["row-0"].response
    assert (first.text, first.usage.input_tokens, first.usage.output_tokens) == ("one", 3, 2)
    assert known["row-5"].response.text == "six"
    assert isinstance(known["row-1"].error, BadRequestError)
    assert isinstance(known["row-2"].error, OverloadedError)
    for name, code in (("row-3", "expired"), ("row-4", "cancelled")):
        error = known[name].error
        assert isinstance(error, RowAbandonedError)
        assert error.code == code
    assert known["row-1"].error.message.startswith("bad words")
    assert unknown["row-1"].error.code == "invalid_request_error"
    for found in (known, unknown):
        assert SECRET not in str(found["row-1"].error)
    assert server.requests[-1].headers["x-api-key"] == KEY


async def test_a_batch_that_was_cancelled_says_so() -> None:
    service = AnthropicBatchServer()
    async with serving(service, "anthropic") as (server, backend):
        made = await backend.create_batch(batch("one", "stop"))
        stopping = await backend.cancel_batch(made.id)
        service.end(made.id)
        stopped = await backend.get_batch(made.id)

    assert (server.requests[1].method, server.requests[1].path) == ("POST", "/v1/messages/batches/msgbatch_1/cancel")
    assert (stopping.status, stopping.status_raw) == ("running", "canceling")
    assert stopped.status == "cancelled"


async def test_results_at_another_address_are_not_fetched_with_the_key() -> None:
    service = AnthropicBatchServer(host="http://results.example")
    async with serving(service, "anthropic") as (server, backend):
        made = await backend.create_batch(batch("one"))
        service.end(made.id)
        before = len(server.requests)
        with pytest.raises(RedirectRefusedError):
            await outcomes(backend, made.id)

    assert [one.path for one in server.requests[before:]] == ["/v1/messages/batches/msgbatch_1"]


async def test_results_that_are_not_kept_any_more_are_not_found() -> None:
    service = AnthropicBatchServer()
    async with serving(service, "anthropic") as (_, backend):
        made = await backend.create_batch(batch("one"))
        service.end(made.id)
        service.batches[made.id]["results_url"] = None
        with pytest.raises(NotFoundError) as caught:
            await outcomes(backend, made.id)

    assert caught.value.code == "no_results"


async def test_a_batch_that_goes_on_has_no_outcomes_yet() -> None:
    async with serving(AnthropicBatchServer(), "anthropic") as (_, backend):
        made = await backend.create_batch(batch("one"))
        with pytest.raises(InvalidRequestError, match="has not ended"):
            await outcomes(backend, made.id)


@pytest.mark.parametrize("whole_lines", [True, False])
async def test_results_that_end_early_are_an_interruption(whole_lines: bool) -> None:
    service = AnthropicBatchServer()
    found: list[BatchOutcome] = []
    async with serving(service, "anthropic") as (_, backend):
        made = await backend.create_batch(batch("a", "b"))
        service.end(made.id)
        data = service.results[made.id]
        first = data.index(b"\n") + 1
        if whole_lines:
            service.results[made.id] = data[:first]
        else:
            service.truncate = [first + 10]
        with pytest.raises(StreamInterrupted):
            async with backend.batch_outcomes(made.id) as lent:
                async for outcome in lent:
                    found.append(outcome)  # noqa: PERF401  # what came before the error is the point

    assert [one.id for one in found] == ["row-1"]
