"""Rows 96 to 99 and 101 to 112: aiXplain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

import asyncllm
from aixplain_server import EXECUTE, MODEL, answer, page, result, service, streamed, told
from asyncllm import Client, JsonSchema, Limits, Message, Retry, TextDelta, Timeouts, UnsupportedError
from asyncllm.testing import Comment, FaultyServer, ManualClock, Op, Rst, SeenRequest, Sse, Stall, Status

KEY = "team-key"
Serve = Callable[[SeenRequest], Sequence[Op]]


@asynccontextmanager
async def serving(serve: Serve = service, **given: Any) -> AsyncIterator[tuple[FaultyServer, Client]]:
    """Both hosts in one server, and a client that tries once; `given` are the client's arguments."""
    options = given.pop("options", {})
    async with FaultyServer(serve) as server:
        settings = {
            "model": f"aixplain:{MODEL}",
            "base_url": server.url + EXECUTE,
            "api_key": KEY,
            "retry": None,
            "env": {},
            "options": {"backend_url": server.url, **options},
        }
        async with Client(**{**settings, **given}) as client:
            yield server, client


def polled(*states: Op | Sequence[Op]) -> Serve:
    """A run that is not done at once: each question after it gets the next of `states`, and the last one again."""
    asked = 0

    def serve(request: SeenRequest) -> Sequence[Op]:
        nonlocal asked
        if request.method == "POST":
            return [told(status="IN_PROGRESS", data=f"http://{request.headers['host']}/sdk/runs/run-1")]
        state = states[min(asked, len(states) - 1)]
        asked += 1
        return state if isinstance(state, Sequence) else [state]

    return serve


def refusing(status: int, body: bytes = b'{"error":"so it is"}') -> Serve:
    return lambda _: [Status(status, {"Content-Type": "application/json"}, body)]


GOING = told(completed=False)
DONE = answer(result("done"))


async def test_row_096_a_run_that_is_done_at_once() -> None:
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    async with serving(lambda _: [answer(result("Hello there", usage=usage))]) as (server, client):
        reply = await client.chat("Hi")

    (seen,) = server.requests
    assert (seen.method, seen.path, seen.headers["x-api-key"]) == ("POST", f"{EXECUTE}/{MODEL}", KEY)
    assert reply.text == "Hello there"
    assert (reply.raw["status"], reply.raw["usedCredits"], reply.raw["runTime"]) == ("SUCCESS", 0.0002, 1.25)
    assert (reply.usage.input_tokens, reply.usage.output_tokens, reply.usage.total_tokens) == (5, 2, 7)


async def test_row_097_a_run_that_is_done_later_is_asked_after_with_the_key() -> None:
    async with serving(polled(GOING, GOING, DONE), clock=ManualClock(instant=True)) as (server, client):
        reply = await client.chat("Hi")

    assert [request.method for request in server.requests] == ["POST", "GET", "GET", "GET"]
    assert all(request.headers["x-api-key"] == KEY for request in server.requests)
    assert (reply.text, reply.raw["usedCredits"]) == ("done", 0.0002)


async def test_row_098_every_parameter_reaches_the_wire_and_extra_wins_over_a_named_one() -> None:
    history = [Message("user", "One?"), Message("assistant", "Two.")]
    async with serving() as (server, client):
        await client.chat(
            [Message("system", "Be brief."), *history, Message("user", "Three?")],
            temperature=0.3, max_tokens=128, top_p=0.9, constraint=JsonSchema({"type": "object"}, name="a"),
            extra={"prompt": "Answer: ", "top_p": 0.5, "language": "en"},
        )  # fmt: skip

    assert server.requests[0].json() == {
        "data": "Three?",
        "context": "Be brief.",
        "history": [{"role": "user", "content": "One?"}, {"role": "assistant", "content": "Two."}],
        "prompt": "Answer: ",
        "temperature": 0.3,
        "max_tokens": 128,
        "top_p": 0.5,
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}},
        "language": "en",
    }


async def test_row_098_what_is_not_set_is_left_out_and_no_null() -> None:
    async with serving() as (server, client):
        await client.chat("Three?")

    assert server.requests[0].json() == {"data": "Three?"}


async def test_row_099_the_models_own_temperature_is_sent_where_a_call_has_none() -> None:
    async with serving(options={"catalog": True}) as (server, client):
        for temperature in ({}, {"temperature": 0.1}):
            await client.chat("Hi", **temperature)  # type: ignore[arg-type]

    runs = [request for request in server.requests if request.path.startswith(EXECUTE)]
    assert [run.json()["temperature"] for run in runs] == [0.7, 0.1]
    assert len(server.requests) == 3  # the catalogue is asked once


STATES: dict[str, tuple[Status, str | None]] = {
    "completed": (told(completed=True, data="done"), "done"),
    "a status that overrides": (told(completed=False, status="SUCCESS", data="done"), "done"),
    "an error message": (told(completed=True, error_message="too long"), None),
    "an error of the supplier": (told(completed=True, supplierError="too long"), None),
    "a status of failure": (told(completed=False, status="FAILED", error_message="too long"), None),
}


@pytest.mark.parametrize("name", STATES)
async def test_row_101_a_question_tells_where_the_run_stands(name: str) -> None:
    state, text = STATES[name]
    async with serving(polled(GOING, state), clock=ManualClock(instant=True)) as (server, client):
        if text is not None:
            assert (await client.chat("Hi")).text == text
        else:
            with pytest.raises(asyncllm.APIStatusError, match="too long") as caught:
                await client.chat("Hi")
            assert not caught.value.retryable

    assert len(server.requests) == 3  # submitted, under way, over


async def test_row_102_waits_grow_by_a_tenth_up_to_a_minute_with_jitter() -> None:
    clock = ManualClock(instant=True)
    async with serving(
        polled(*[GOING] * 70, DONE), clock=clock, options={"wait_time": 0.1}, timeouts=Timeouts(first_event_s=None)
    ) as (_, client):
        await client.chat("Hi")

    nominal = [min(0.2 * 1.1**count, 60) for count in range(71)]
    shares = [slept / wait for slept, wait in zip(clock.sleeps, nominal, strict=True)]
    assert all(0.79 < share < 1.21 for share in shares)
    assert len({round(share, 6) for share in shares}) > 60
    assert max(nominal) == 60


@pytest.mark.virtual_time
@pytest.mark.parametrize("timeouts", [Timeouts(first_event_s=30), Timeouts(total_s=30, first_event_s=None)])
async def test_row_102_no_wait_goes_past_the_deadline(timeouts: Timeouts) -> None:
    time = asyncio.get_running_loop().time
    async with serving(polled(GOING), timeouts=timeouts) as (server, client):
        started = time()
        with pytest.raises(asyncllm.APITimeoutError) as caught:
            await client.chat("Hi")

    assert 29 < time() - started <= 30.1
    assert not caught.value.retryable
    assert [request.method for request in server.requests].count("POST") == 1


@pytest.mark.virtual_time
async def test_row_102_other_tasks_run_meanwhile() -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.1)
            ticks += 1

    async with serving(polled(GOING, GOING, DONE)) as (_, client):
        task = asyncio.create_task(tick())
        await client.chat("Hi")
        task.cancel()

    assert ticks > 10


async def test_row_103_a_key_that_is_refused_ends_the_questions_at_once() -> None:
    refused = Status(401, {}, b'{"error":"no such key"}')
    async with serving(polled(GOING, refused), clock=ManualClock(instant=True)) as (server, client):
        with pytest.raises(asyncllm.AuthenticationError, match="no such key"):
            await client.chat("Hi")

    assert len(server.requests) == 3


@pytest.mark.parametrize("failure", [Status(502), [Rst()], Status(200, {"Content-Type": "text/html"}, b"<p>busy")])
async def test_row_103_one_failure_that_passes_is_let_pass(failure: Any) -> None:
    async with serving(polled(GOING, failure, GOING, DONE), clock=ManualClock(instant=True)) as (server, client):
        assert (await client.chat("Hi")).text == "done"

    assert [request.method for request in server.requests].count("POST") == 1


@pytest.mark.virtual_time
async def test_row_103_the_timeout_carries_the_last_failure() -> None:
    timeouts = Timeouts(first_event_s=5)
    async with serving(polled(Status(503, {"Retry-After": "2"}), GOING), timeouts=timeouts) as (_, client):
        with pytest.raises(asyncllm.FirstEventTimeoutError) as caught:
            await client.chat("Hi")

    assert isinstance(caught.value.__cause__, asyncllm.OverloadedError)


async def test_row_104_a_stream_comes_in_order_to_its_end() -> None:
    items = [Comment(), {"data": "a"}, "", {"data": {"text": " data: b"}}, {"data": {"output": " c"}}]
    async with serving(lambda _: streamed(*items)) as (server, client):
        async with client.stream("Hi", extra={"options": {"seed": 7}}) as stream:
            texts = [event.text async for event in stream if isinstance(event, TextDelta)]

    assert server.requests[0].json() == {"data": "Hi", "options": {"seed": 7, "stream": True}}
    assert texts == ["a", " data: b", " c"]


async def test_row_104_a_stream_needs_no_space_after_its_colon_and_may_be_openais() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    chunk = b'{"id":"c","model":"gpt","choices":[{"index":0,"delta":{"content":" b"},"finish_reason":"length"}]}'
    body = b'data:{"data":"a"}\n\ndata:' + chunk + b"\n\ndata:[DONE]\n\ndata:{}\n\n"
    async with serving(lambda _: [head, body, asyncllm.testing.Fin()]) as (_, client):
        async with client.stream("Hi") as stream:
            texts = [event.text async for event in stream if isinstance(event, TextDelta)]

    assert texts == ["a", " b"]
    assert stream.response.finish_reason == "length"


ENDS: dict[str, tuple[Sequence[Op], type[Exception]]] = {
    "a refusal": ([Status(429, {}, b'{"error":"slow down"}')], asyncllm.RateLimitError),
    "an error frame": (streamed({"data": "a"}, {"error": "broke"}), asyncllm.APIStatusError),
    "a frame of failure": (streamed({"data": "a"}, {"status": "FAILED", "errorMessage": "x"}), asyncllm.APIStatusError),
    "an end without its word": (streamed({"data": "a"}, ending="end"), asyncllm.StreamInterrupted),
    "a cut": (streamed({"data": "a"}, ending="fin"), asyncllm.StreamInterrupted),
}


@pytest.mark.parametrize("name", ENDS)
async def test_row_105_a_stream_that_fails_raises(name: str) -> None:
    ops, kind = ENDS[name]
    async with serving(lambda _: ops) as (_, client):
        with pytest.raises(kind):
            async with client.stream("Hi") as stream:
                async for _ in stream:
                    pass


async def test_row_106_a_model_that_cannot_stream_is_not_run() -> None:
    async with serving(options={"catalog": True}, model="aixplain:team/slashed/model") as (server, client):
        with pytest.raises(UnsupportedError, match="cannot stream") as caught:
            await client.stream("Hi").__aenter__()
        await client.chat("Hi")

    assert caught.value.field == "stream"
    assert [request.method for request in server.requests] == ["GET", "POST"]


async def test_row_107_a_model_that_generates_no_text_is_not_run() -> None:
    async with serving(options={"catalog": True}, model="aixplain:translator") as (server, client):
        with pytest.raises(UnsupportedError, match="translation"):
            await client.chat("Hi")

    assert [request.method for request in server.requests] == ["GET"]


ERRORS: dict[int, tuple[type[asyncllm.APIStatusError], str, bool]] = {
    400: (asyncllm.BadRequestError, "validation", False),
    401: (asyncllm.AuthenticationError, "authentication", False),
    402: (asyncllm.QuotaExceededError, "billing", False),
    403: (asyncllm.PermissionDeniedError, "resource", False),
    404: (asyncllm.NotFoundError, "resource", False),
    429: (asyncllm.RateLimitError, "rate_limit", True),
    460: (asyncllm.PermissionDeniedError, "subscription", False),
    469: (asyncllm.PermissionDeniedError, "subscription", False),
    475: (asyncllm.QuotaExceededError, "billing", False),
    481: (asyncllm.NotFoundError, "supplier", False),
    499: (asyncllm.UnprocessableEntityError, "validation", False),
    500: (asyncllm.InternalServerError, "internal", True),
    503: (asyncllm.OverloadedError, "service", True),
    504: (asyncllm.InternalServerError, "network", True),
}


@pytest.mark.parametrize("status", ERRORS)
async def test_row_108_each_status_has_its_category(status: int) -> None:
    kind, code, retryable = ERRORS[status]
    async with serving(refusing(status)) as (_, client):
        with pytest.raises(kind, match=r"\. Details: so it is") as caught:
            await client.chat("Hi")

    error = caught.value
    assert type(error) is kind
    assert (error.status, error.code, error.retryable) == (status, code, retryable)


async def test_row_109_a_reply_has_attributes_and_its_own_fields() -> None:
    async with serving(lambda _: [answer(result("a", extra_field=[1]))]) as (_, client):
        reply = await client.chat("Hi")

    assert reply.text == "a"
    assert {name: reply.raw[name] for name in ("usedCredits", "runTime", "extra_field")} == {
        "usedCredits": 0.0002, "runTime": 1.25, "extra_field": [1],
    }  # fmt: skip


async def test_row_110_the_key_is_taken_to_no_other_host_unless_it_is_named() -> None:
    async with FaultyServer([DONE]) as other:

        def serve(_: SeenRequest) -> Sequence[Op]:
            return [told(status="IN_PROGRESS", data=f"{other.url}/sdk/runs/1")]

        clock = ManualClock(instant=True)
        async with serving(serve, clock=clock) as (_, client):
            with pytest.raises(asyncllm.RedirectRefusedError, match="trusted_hosts"):
                await client.chat("Hi")
        assert not other.requests

        host = other.url.removeprefix("http://")
        async with serving(serve, clock=clock, options={"trusted_hosts": [host]}) as (_, client):
            assert (await client.chat("Hi")).text == "done"

    assert other.requests[0].headers["x-api-key"] == KEY


async def test_row_111_many_runs_share_a_pool_within_a_bound_and_fail_by_themselves() -> None:
    def serve(request: SeenRequest) -> Sequence[Op]:
        return refusing(490)(request) if request.json()["data"] == "7" else service(request)

    async with serving(serve, limits=Limits(concurrency=4)) as (server, client):
        replies = await asyncio.gather(*(client.chat(str(number)) for number in range(40)), return_exceptions=True)

    failed = [number for number, reply in enumerate(replies) if isinstance(reply, BaseException)]
    assert failed == [7]
    assert [reply.text for reply in replies if isinstance(reply, asyncllm.Response)] == [
        str(number) for number in range(40) if number != 7
    ]
    assert server.connections <= 6  # four at once, and one more for each that a refusal closes


async def test_row_112_a_model_is_got_by_its_id_or_by_its_name() -> None:
    async with serving() as (server, client):
        by_id = await client.get_model("aixplain:team/slashed/model")
        by_name = await client.get_model("aixplain:GPT-4o Mini")
        with pytest.raises(asyncllm.NotFoundError):
            await client.get_model("aixplain:none")

    assert (by_id.id, by_id.name, by_id.owned_by) == ("team/slashed/model", "Slashed", "meta")
    assert (by_name.id, by_name.name, by_name.owned_by) == (MODEL, "GPT-4o Mini", "openai")
    paths = [request.path for request in server.requests]
    assert paths[0] == "/sdk/models/team%2Fslashed%2Fmodel"
    assert paths[1:3] == ["/sdk/models/GPT-4o%20Mini", "/sdk/models/by-name/GPT-4o%20Mini"]
    assert server.requests[0].headers["authorization"] == f"Token {KEY}"
    assert "x-api-key" not in server.requests[0].headers


async def test_row_112_the_list_reads_every_page() -> None:
    def serve(request: SeenRequest) -> Sequence[Op]:
        return [page(request.json() | {"pageSize": 1})]  # a service that gives less at once than it was asked for

    async with serving(serve) as (server, client):
        models = await client.list_models()

    assert [model.id for model in models] == [MODEL, "team/slashed/model"]
    assert [request.json()["pageNumber"] for request in server.requests] == [0, 1]


async def test_row_103_a_run_that_was_accepted_is_never_submitted_again(instant_retries: list[float]) -> None:
    async with FaultyServer(polled(Status(503))) as server:
        async with Client(
            model="aixplain:m", base_url=server.url + EXECUTE, api_key=KEY, retry=Retry(attempts=5), env={}
        ) as client:
            with pytest.raises(asyncllm.OverloadedError) as caught:
                await client.chat("Hi")

    assert [request.method for request in server.requests] == ["POST", *["GET"] * 4]
    assert caught.value.maybe_billed
    assert len(instant_retries) == 4  # all of them between two questions


@pytest.mark.virtual_time
async def test_row_102_a_question_that_is_not_answered_ends_with_the_deadline() -> None:
    async with serving(polled([Stall()]), timeouts=Timeouts(first_event_s=5, byte_idle_s=None)) as (_, client):
        with pytest.raises(asyncllm.FirstEventTimeoutError) as caught:
            await client.chat("Hi")

    assert not caught.value.retryable


async def test_row_104_leaving_a_stream_closes_its_connection() -> None:
    async with serving(lambda _: [Sse([{"data": "a"}], "stall")]) as (server, client):
        async with client.stream("Hi") as stream:
            async for _ in stream:
                break
        assert len(await server.aborted()) == 1
