"""Batches of OpenAI and its like, against a service that keeps files and works batches off."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncllm import (
    BadRequestError,
    InternalServerError,
    InvalidRequestError,
    JsonSchema,
    NotFoundError,
    RateLimitError,
    UnsupportedError,
)
from asyncllm.backend import Batches, BatchItem, BatchOutcome, BatchRequest, Config, Context, HttpCall, Secret
from asyncllm.batch_http import lend_outcomes, write_items
from asyncllm.clock import LoopClock
from asyncllm.errors import (
    APIConnectionError,
    APIError,
    AsyncLLMError,
    JobFailedError,
    ResponseValidationError,
    RowAbandonedError,
    StreamInterrupted,
)
from asyncllm.registry import Registry
from asyncllm.testing import Op, Rst, ScriptedReply, ScriptedTransport, SeenRequest, Stall, Status
from asyncllm.types import Timeouts
from batch_talks import KEY, batch, chat, outcomes, serving, text
from openai_batch_server import OpenAIBatchServer, good, refusal

SECRET = "the canary sang in the mine"


def uploaded(service: OpenAIBatchServer) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for line in service.files["file-0"].splitlines()]


# -- what is sent ------------------------------------------------------------------------------------------------


async def test_a_batch_is_a_file_of_the_bodies_that_single_calls_have() -> None:
    service = OpenAIBatchServer()
    request = msgspec.structs.replace(
        chat("hi", max_tokens=3, seed=1), constraint=JsonSchema({"type": "object"}), extra={"user": "u"}
    )
    asked = BatchRequest(
        model="gpt-x",
        items=[BatchItem("a", msgspec.structs.replace(request, stream=True))],
        token="t-1",
        labels={"team": "x"},
        extra={"output_expires_after": {"anchor": "created_at", "seconds": 3600}},
    )
    async with serving(service, "openai", "/v1") as (server, backend):
        state = await backend.create_batch(asked)
        async with backend.open(request):
            pass

    assert uploaded(service) == [
        {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": server.requests[-1].json()}
    ]
    upload, create = server.requests[:2]
    assert (upload.path, create.path) == ("/v1/files", "/v1/batches")
    assert create.json() == {
        "input_file_id": "file-0",
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        "metadata": {"team": "x", "asyncllm_token": "t-1"},
        "output_expires_after": {"anchor": "created_at", "seconds": 3600},
    }
    assert {one.headers["authorization"] for one in (upload, create)} == {f"Bearer {KEY}"}
    assert (state.id, state.status, state.status_raw) == ("batch_1", "queued", "validating")


async def test_text_completions_have_an_endpoint_of_their_own() -> None:
    service = OpenAIBatchServer()
    async with serving(service, "openai", "/v1") as (server, backend):
        state = await backend.create_batch(batch("once upon", make=text))
        service.end()
        found = await outcomes(backend, state.id)

    assert server.requests[1].json()["endpoint"] == uploaded(service)[0]["url"] == "/v1/completions"
    assert found["row-0"].response.text == "once upon"


async def test_the_responses_api_works_off_batches_too() -> None:
    service = OpenAIBatchServer()
    async with serving(service, "openai", "/v1", api="responses") as (server, backend):
        await backend.create_batch(batch("hi"))

    (line,) = uploaded(service)
    assert line["url"] == server.requests[1].json()["endpoint"] == "/v1/responses"
    assert line["body"]["store"] is False


async def test_the_size_of_an_item_is_that_of_its_line() -> None:
    service = OpenAIBatchServer()
    async with serving(service, "openai", "/v1") as (_, backend):
        asked = batch("a", "ü" * 40)
        await backend.create_batch(asked)
        sizes = [backend.batch_item_size(item) for item in asked.items]

    assert sizes == [len(line) for line in service.files["file-0"].splitlines(keepends=True)]


async def test_writing_many_items_lets_other_tasks_have_their_turn() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    beside = asyncio.create_task(other())
    written = await write_items(batch(*["x"] * 1050).items, lambda item: item.id)
    beside.cancel()

    assert written == [f"row-{at}" for at in range(1050)]
    assert turns == 10


# -- what is refused before anything is sent ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (batch(), "items"),
        (BatchRequest(model="gpt-x", items=[BatchItem("a", chat("x")), BatchItem("a", chat("y"))], token="t"), "id"),
        (BatchRequest(model="gpt-x", items=[BatchItem("a b", chat("x"))], token="t"), "id"),
        (BatchRequest(model="gpt-x", items=[BatchItem("a" * 65, chat("x"))], token="t"), "id"),
        (BatchRequest(model="gpt-x", items=[BatchItem("a", chat("x", "gpt-y"))], token="t"), "model"),
        (BatchRequest(model="gpt-x", items=[BatchItem("a", chat("x")), BatchItem("b", text("y"))], token="t"), "items"),
        (batch("x", token=""), "token"),
        (batch("x", token="a\nb"), "token"),
        (BatchRequest(model="gpt-x", items=[BatchItem("a", chat("x"))] * 50_001, token="t"), "items"),
        (batch("x", labels={f"l{at}": "" for at in range(16)}), "labels"),
        (batch("x", labels={"l" * 65: ""}), "labels"),
        (batch("x", labels={"l": "v" * 513}), "labels"),
        (batch("x", labels={"asyncllm_token": "mine"}), "labels"),
        (batch("x", extra={"metadata": {}}), "extra"),
    ],
    ids=range(14),
)
async def test_what_cannot_be_right_is_refused_before_anything_is_sent(asked: BatchRequest, field: str) -> None:
    async with serving(OpenAIBatchServer(), "openai", "/v1") as (server, backend):
        with pytest.raises(InvalidRequestError) as caught:
            await backend.create_batch(asked)

    assert caught.value.field == field
    assert not server.requests


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (batch("x", priority="high"), "priority"),
        (batch("x", max_runtime_s=60), "max_runtime_s"),
        (BatchRequest(model="gpt-x", items=[BatchItem("a", chat("x", top_k=3))], token="t"), "top_k"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_the_service_lacks_is_refused_by_name(asked: BatchRequest, field: str) -> None:
    async with serving(OpenAIBatchServer(), "groq", "/openai/v1") as (server, backend):
        with pytest.raises(UnsupportedError) as caught:
            await backend.create_batch(asked)

    assert caught.value.field == field
    assert not server.requests


async def test_more_bytes_than_a_file_holds_are_refused() -> None:
    large = "x" * 50_000_000
    async with serving(OpenAIBatchServer(), "openai", "/v1") as (server, backend):
        with pytest.raises(InvalidRequestError, match="200000000 bytes"):
            await backend.create_batch(batch(large, large, large, large))

    assert not server.requests


# -- made once ---------------------------------------------------------------------------------------------------


async def test_an_upload_that_did_not_arrive_is_sent_again() -> None:
    service = OpenAIBatchServer()
    faults: list[Sequence[Op]] = [[Rst()], [Status(503)]]

    def flaky(request: SeenRequest) -> Sequence[Op]:
        return faults.pop(0) if faults else service(request)

    async with serving(flaky, "openai", "/v1") as (server, backend):
        state = await backend.create_batch(batch("hi"))

    assert [one.path for one in server.requests] == ["/v1/files"] * 3 + ["/v1/batches"]
    assert state.id == "batch_1"


@pytest.mark.parametrize("fault", [[Rst()], [Status(503)], [Status(413)]], ids=["lost", "busy", "too large"])
async def test_an_upload_that_fails_has_made_no_batch(fault: Sequence[Op]) -> None:
    async with serving(lambda _: fault, "openai", "/v1") as (server, backend):
        with pytest.raises(APIError) as caught:
            await backend.create_batch(batch("hi"))

    assert not caught.value.maybe_billed
    assert {one.path for one in server.requests} == {"/v1/files"}


@pytest.mark.parametrize(("fate", "made"), [("before", 0), ("after", 1), ("500", 1), ("503", 1)])
async def test_a_creation_whose_answer_is_lost_is_not_sent_again(fate: str, made: int) -> None:
    service = OpenAIBatchServer()
    service.lose = [fate]
    async with serving(service, "openai", "/v1") as (server, backend):
        with pytest.raises(APIError) as caught:
            await backend.create_batch(batch("hi"))
        found = await backend.find_batch("token-1")

    assert caught.value.maybe_billed
    assert not caught.value.retryable
    assert [one.path for one in server.requests].count("/v1/batches") == 1
    assert (found is not None, service.created) == (bool(made), made)


async def test_a_creation_has_a_connection_of_its_own() -> None:
    service = OpenAIBatchServer()
    async with serving(service, "openai", "/v1") as (server, backend):
        with pytest.raises(NotFoundError):
            await backend.get_batch("none")
        await backend.create_batch(batch("hi"))

    looked, uploads, creates = server.requests
    assert looked.connection == uploads.connection
    assert creates.connection != uploads.connection


async def test_a_creation_that_is_never_answered_ends_and_may_be_there() -> None:
    service = OpenAIBatchServer()

    def slow(request: SeenRequest) -> Sequence[Op]:
        return [Stall()] if request.path == "/v1/batches" else service(request)

    async with serving(slow, "openai", "/v1") as (_, backend):
        with pytest.raises(APIConnectionError, match="first_event_s") as caught:
            await backend.create_batch(batch("hi", timeouts=Timeouts(first_event_s=0.2)))

    assert caught.value.maybe_billed


async def test_a_refusal_of_a_creation_says_that_nothing_was_made() -> None:
    service = OpenAIBatchServer()

    def busy(request: SeenRequest) -> Sequence[Op]:
        return refusal(429, "token_limit", "later") if request.path == "/v1/batches" else service(request)

    async with serving(busy, "openai", "/v1") as (_, backend):
        with pytest.raises(RateLimitError) as caught:
            await backend.create_batch(batch("hi"))

    assert not caught.value.maybe_billed
    assert caught.value.retryable


async def test_a_reply_without_a_batch_may_have_made_one() -> None:
    service = OpenAIBatchServer()

    def odd(request: SeenRequest) -> Sequence[Op]:
        return good({"object": "batch"}) if request.path == "/v1/batches" else service(request)

    async with serving(odd, "openai", "/v1") as (_, backend):
        with pytest.raises(ResponseValidationError) as caught:
            await backend.create_batch(batch("hi"))

    assert caught.value.maybe_billed


async def test_a_batch_is_found_by_its_token_on_any_page() -> None:
    service = OpenAIBatchServer(page=2)
    async with serving(service, "openai", "/v1") as (server, backend):
        for number in range(5):
            await backend.create_batch(batch("hi", token=f"token-{number}"))
        before = len(server.requests)
        found = await backend.find_batch("token-0")
        pages = len(server.requests) - before
        missing = await backend.find_batch("token-9")

    assert found.id == "batch_1"
    assert pages == 3
    assert missing is None


async def test_a_list_that_turns_in_circles_ends() -> None:
    page = good({"data": [{"id": "b", "status": "completed", "metadata": []}], "has_more": True, "last_id": "b"})
    async with serving(lambda _: page, "openai", "/v1") as (server, backend):
        assert await backend.find_batch("t") is None

    assert len(server.requests) == 2


# -- how it stands -----------------------------------------------------------------------------------------------


async def test_a_batch_goes_through_its_states() -> None:
    service = OpenAIBatchServer()
    async with serving(service, "openai", "/v1") as (_, backend):
        made = await backend.create_batch(batch("a", "refuse b", "c"))
        seen = [await backend.get_batch(made.id) for _ in range(3)]

    assert [(one.status, one.status_raw) for one in seen] == [
        ("running", "in_progress"),
        ("running", "finalizing"),
        ("succeeded", "completed"),
    ]
    last = seen[-1]
    assert (last.total, last.done, last.failed, last.progress) == (3, 2, 1, 1.0)
    assert seen[0].total is seen[0].progress is None


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("validating", "queued"), ("in_progress", "running"), ("InProgress", "running"), ("finalizing", "running"),
        ("cancelling", "running"), ("Canceling", "running"), ("completed", "succeeded"), ("Completed", "succeeded"),
        ("failed", "failed"), ("expired", "expired"), ("cancelled", "cancelled"), ("canceled", "cancelled"),
        ("dreaming", "running"),
    ],
)  # fmt: skip
async def test_each_word_for_a_state_is_understood(word: str, status: str) -> None:
    async with serving(lambda _: good({"id": "b", "status": word}), "openai", "/v1") as (_, backend):
        state = await backend.get_batch("b")

    assert (state.status, state.status_raw) == (status, word)


async def test_a_file_that_was_refused_says_why_and_not_what_was_in_it() -> None:
    service = OpenAIBatchServer()
    async with serving(service, "openai", "/v1") as (_, backend):
        made = await backend.create_batch(batch("a", "b"))
        service.end("failed")
        state = await backend.get_batch(made.id)

    assert state.status == "failed"
    assert isinstance(state.error, JobFailedError)
    assert state.error.code == "invalid_json_line"
    assert "line 2" in state.error.message
    assert "secret" not in str(state.error)


async def test_cancelling_asks_the_service_to_stop() -> None:
    service = OpenAIBatchServer()
    async with serving(service, "openai", "/v1") as (server, backend):
        made = await backend.create_batch(batch("a", "b"))
        stopping = await backend.cancel_batch(made.id)
        stopped = await backend.get_batch(made.id)
        found = await outcomes(backend, made.id)

    assert (server.requests[2].method, server.requests[2].path) == ("POST", "/v1/batches/batch_1/cancel")
    assert (stopping.status, stopped.status) == ("running", "cancelled")
    assert found["row-0"].response.text == "a"
    assert isinstance(found["row-1"].error, RowAbandonedError)
    assert found["row-1"].error.code == "cancelled"


@pytest.mark.parametrize("id_", ["", ".", ".."])
async def test_an_id_that_is_none_is_refused(id_: str) -> None:
    async with serving(OpenAIBatchServer(), "openai", "/v1") as (server, backend):
        with pytest.raises(InvalidRequestError):
            await backend.get_batch(id_)

    assert not server.requests


async def test_an_id_stays_one_part_of_the_path() -> None:
    async with serving(OpenAIBatchServer(), "openai", "/v1") as (server, backend):
        with pytest.raises(NotFoundError):
            await backend.get_batch("../files/x?y")

    assert server.requests[0].path == "/v1/batches/..%2Ffiles%2Fx%3Fy"


# -- what became of it -------------------------------------------------------------------------------------------


async def test_outcomes_belong_to_their_items_in_whatever_order() -> None:
    service = OpenAIBatchServer()
    asked = batch("one", "refuse two", "break", "late", "five")
    async with serving(service, "openai", "/v1") as (_, backend):
        made = await backend.create_batch(asked)
        service.end()
        found = await outcomes(backend, made.id, asked)

    assert set(found) == {f"row-{at}" for at in range(5)}
    assert [found[f"row-{at}"].response.text for at in (0, 4)] == ["one", "five"]
    usage = found["row-0"].response.usage
    assert (usage.input_tokens, usage.output_tokens) == (3, 2)
    assert found["row-0"].response.backend == "openai"
    refused, broken, late = (found[f"row-{at}"].error for at in (1, 2, 3))
    assert isinstance(refused, BadRequestError)
    assert (refused.status, refused.code, refused.retryable) == (400, "bad_words", False)
    assert isinstance(broken, InternalServerError)
    assert broken.retryable
    assert isinstance(late, RowAbandonedError)
    assert late.code == "expired"


async def test_an_error_is_told_without_what_it_repeats_of_the_item() -> None:
    service = OpenAIBatchServer()
    asked = batch(f"refuse {SECRET}")
    async with serving(service, "openai", "/v1") as (_, backend):
        made = await backend.create_batch(asked)
        service.end()
        known = (await outcomes(backend, made.id, asked))["row-0"].error
        unknown = (await outcomes(backend, made.id))["row-0"].error

    assert known is not None
    assert unknown is not None
    assert known.message.startswith("bad words: ")
    for error in (known, unknown):
        assert SECRET not in str(error) + repr(error)
        assert (error.status, error.code) == (400, "bad_words")
        assert SECRET.encode() in (error.body or b"")


async def test_an_upload_that_is_refused_does_not_repeat_its_lines() -> None:
    def echo(request: SeenRequest) -> Sequence[Op]:
        return refusal(400, "bad_file", f"cannot read line: {request.body.decode()[200:]}")

    async with serving(echo, "openai", "/v1") as (_, backend):
        with pytest.raises(BadRequestError) as caught:
            await backend.create_batch(batch(SECRET))

    assert SECRET not in str(caught.value)
    assert caught.value.message.startswith("cannot read line")


async def test_a_batch_that_goes_on_has_no_outcomes_yet() -> None:
    service = OpenAIBatchServer()
    async with serving(service, "openai", "/v1") as (_, backend):
        made = await backend.create_batch(batch("a"))
        with pytest.raises(InvalidRequestError, match="has not ended"):
            await outcomes(backend, made.id)


async def test_a_batch_that_failed_has_no_outcomes() -> None:
    service = OpenAIBatchServer()
    async with serving(service, "openai", "/v1") as (_, backend):
        made = await backend.create_batch(batch("a"))
        service.end("failed")
        assert await outcomes(backend, made.id) == {}


async def test_results_that_break_off_are_an_interruption_after_what_had_come() -> None:
    service = OpenAIBatchServer()
    found: list[BatchOutcome] = []
    async with serving(service, "openai", "/v1") as (_, backend):
        made = await backend.create_batch(batch("a", "b"))
        service.end()
        file = service.files["batch_1-output_file_id"]
        service.truncate = [file.index(b"\n") + 20]
        with pytest.raises(StreamInterrupted) as caught:
            async with backend.batch_outcomes(made.id) as lent:
                async for outcome in lent:
                    found.append(outcome)  # noqa: PERF401  # what came before the error is the point

    assert caught.value.retryable
    assert [one.id for one in found] == ["row-1"]


async def test_results_with_fewer_lines_than_were_counted_are_an_interruption() -> None:
    service = OpenAIBatchServer()
    async with serving(service, "openai", "/v1") as (_, backend):
        made = await backend.create_batch(batch("a", "b"))
        service.end()
        name = "batch_1-output_file_id"
        service.files[name] = service.files[name].splitlines(keepends=True)[0]
        with pytest.raises(StreamInterrupted, match="1 lines of 2"):
            await outcomes(backend, made.id)


async def test_a_line_that_cannot_be_read_does_not_cost_the_others() -> None:
    service = OpenAIBatchServer()
    seen: list[str] = []
    async with serving(service, "openai", "/v1") as (_, backend):
        made = await backend.create_batch(batch("a", "b", "c"))
        service.end()
        name = "batch_1-output_file_id"
        first, second, third = service.files[name].splitlines(keepends=True)
        service.files[name] = first + second[:30] + b"\n" + third
        with pytest.raises(ResponseValidationError, match="line 2"):
            async with backend.batch_outcomes(made.id) as lent:
                async for outcome in lent:
                    seen.append(outcome.id)  # noqa: PERF401  # what came before the error is the point

    assert seen == ["row-2", "row-0"]


async def test_an_error_in_place_of_results_is_that_error() -> None:
    service = OpenAIBatchServer()
    async with serving(service, "openai", "/v1") as (_, backend):
        made = await backend.create_batch(batch("a"))
        service.end()
        service.files["batch_1-output_file_id"] = b'{"error": {"message": "gone", "code": "rate_limit_exceeded"}}'
        with pytest.raises(RateLimitError):
            await outcomes(backend, made.id)


async def test_leaving_early_ends_the_download() -> None:
    service = OpenAIBatchServer()

    def endless(request: SeenRequest) -> Sequence[Op]:
        if not request.path.endswith("/content"):
            return service(request)
        data = service.files["batch_1-output_file_id"]
        return [Status(200, {"Content-Length": str(len(data) + 1000)}, None), data, Stall()]

    async with serving(endless, "openai", "/v1") as (server, backend):
        made = await backend.create_batch(batch("a", "b"))
        service.end()
        async with backend.batch_outcomes(made.id) as lent:
            first = await anext(lent)
        left = await server.aborted()

    assert first.response.text == "b"
    assert left[-1].path.endswith("/content")


async def test_results_are_read_as_they_come() -> None:
    piece = b'{"n": 1}\n' * 1000
    read = 0

    def line(_: bytes) -> BatchOutcome:
        nonlocal read
        read += 1
        return BatchOutcome(id="a", error=JobFailedError("x"))

    transport = ScriptedTransport([ScriptedReply(body=[piece] * 1000)])
    async with lend_outcomes(transport, [HttpCall(url="http://x/y")], line) as lent:
        async for _ in lent:
            break

    assert read == 1000


@given(cut=st.integers(0, 400), size=st.integers(1, 90))
@settings(max_examples=60, deadline=None)
async def test_results_cut_anywhere_are_never_taken_for_whole(cut: int, size: int) -> None:
    lines = [msgspec.json.encode({"custom_id": f"row-{at}", "text": "ü{}" * 5}) + b"\n" for at in range(8)]
    whole = b"".join(lines)
    data = whole[:cut]

    def line(document: bytes) -> BatchOutcome:
        try:
            told = msgspec.json.decode(document)
        except msgspec.DecodeError as error:
            raise ResponseValidationError("no line") from error
        return BatchOutcome(id=told["custom_id"], error=JobFailedError("x"))

    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    transport = ScriptedTransport([ScriptedReply(body=pieces)])
    found: list[str] = []
    failure: AsyncLLMError | None = None
    try:
        async with lend_outcomes(transport, [HttpCall(url="http://x/y")], line, expected=8) as lent:
            async for outcome in lent:
                found.append(outcome.id)  # noqa: PERF401  # what came before the error is the point
    except AsyncLLMError as error:
        failure = error

    assert found == [f"row-{at}" for at in range(len(found))]
    assert (failure is None) == (len(found) == 8)
    assert failure is None or isinstance(failure, StreamInterrupted)


# -- azure and gateways ------------------------------------------------------------------------------------------


async def test_azure_has_the_same_under_its_own_addresses() -> None:
    service = OpenAIBatchServer("/openai", azure=True)
    async with serving(service, "azure", deployments={"gpt-x": "my-deployment"}) as (server, backend):
        made = await backend.create_batch(batch("a"))
        found = await backend.find_batch("token-1")
        service.end()
        told = await outcomes(backend, made.id)

    assert [one.path.partition("?")[0] for one in server.requests[:5]] == [
        "/openai/files", "/openai/files/file-0", "/openai/files/file-0", "/openai/batches", "/openai/batches",
    ]  # fmt: skip
    assert all("api-version=2024-10-21" in one.path for one in server.requests)
    assert server.requests[4].path.endswith("&limit=100")
    (line,) = uploaded(service)
    assert (line["url"], line["body"]["model"]) == ("/chat/completions", "my-deployment")
    assert server.requests[3].json()["endpoint"] == "/chat/completions"
    assert server.requests[3].headers["api-key"] == KEY
    assert found.id == made.id
    assert told["row-0"].response.text == "a"


async def test_azure_v1_has_the_paths_of_openai() -> None:
    service = OpenAIBatchServer("/openai/v1")
    async with serving(service, "azure", api_version="v1") as (server, backend):
        await backend.create_batch(batch("a"))

    assert [one.path for one in server.requests] == ["/openai/v1/files", "/openai/v1/batches"]
    assert uploaded(service)[0]["url"] == "/v1/chat/completions"


async def test_azure_refuses_a_model_that_is_not_deployed() -> None:
    async with serving(OpenAIBatchServer("/openai"), "azure", deployments={"gpt-y": "d"}) as (server, backend):
        with pytest.raises(ValueError, match="no deployment"):
            await backend.create_batch(batch("a"))

    assert not server.requests


async def test_azure_carries_the_token_of_a_provider() -> None:
    service = OpenAIBatchServer("/openai")

    def echo(request: SeenRequest) -> Sequence[Op]:
        if request.path.startswith("/openai/batches"):
            return refusal(400, "bad", f"you sent {request.headers['authorization']}")
        return service(request)

    async with serving(echo, "azure", key=None, token_provider=lambda: "entra-token-1") as (server, backend):
        with pytest.raises(BadRequestError) as caught:
            await backend.create_batch(batch("a"))

    assert {one.headers["authorization"] for one in server.requests} == {"Bearer entra-token-1"}
    assert "entra-token-1" not in str(caught.value)


async def test_a_file_that_the_service_cannot_use_is_an_error() -> None:
    async with serving(lambda _: good({"id": "f", "status": "error"}), "azure") as (_, backend):
        with pytest.raises(ResponseValidationError, match="it is error"):
            await backend.create_batch(batch("a"))


@pytest.mark.parametrize(("name", "has"), [("groq", True), ("cerebras", True), ("together", False), ("ollama", False)])
async def test_a_gateway_works_off_batches_where_its_row_says_so(name: str, has: bool) -> None:
    config = Config(backend=name, base_url="http://127.0.0.1:9", api_key=Secret(KEY))
    context = Context(transport=ScriptedTransport(), clock=LoopClock(), env={})

    assert isinstance(Registry().load(name)(config, context), Batches) == has
