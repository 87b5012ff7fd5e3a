"""The aixplain backend over real sockets: what it sends where, what it refuses, and what it makes of the replies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from traceback import format_exception
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import asyncllm
from aixplain_server import EXECUTE, MODEL, answer, result, service, streamed, told
from asyncllm import (
    APIError,
    Client,
    ConfigError,
    InvalidRequestError,
    Message,
    RedirectRefusedError,
    ResponseValidationError,
    Retry,
    ToolCall,
    UnsupportedError,
)
from asyncllm.backend import Config, Context, HttpCall, Secret
from asyncllm.errors import AsyncLLMError
from asyncllm.testing import FaultyServer, ManualClock, Op, ScriptedTransport, SeenRequest, Status
from asyncllm.trusted import Trusted
from asyncllm_aixplain import connect
from asyncllm_aixplain.replies import PendingError, RunStream, is_over, read_result

KEY = "team-key-5e1f"
PROMPT = "my canary is blue"
CALL = HttpCall(url="https://models.aixplain.com/x", body=b'{"data":"my canary is blue"}')
Serve = Callable[[SeenRequest], Sequence[Op]]


@asynccontextmanager
async def serving(serve: Serve | Sequence[Op] = service, **given: Any) -> AsyncIterator[tuple[FaultyServer, Client]]:
    """A server, and a client of it that tries once; `given` are the client's arguments."""
    async with FaultyServer(serve) as server:
        settings: dict[str, Any] = {
            "model": f"aixplain:{MODEL}",
            "base_url": server.url + EXECUTE,
            "api_key": KEY,
            "retry": None,
            "env": {},
        }
        async with Client(**{**settings, **given}) as client:
            yield server, client


async def test_a_slash_in_an_id_is_no_slash_of_the_address() -> None:
    async with serving(model="aixplain:team/a b/model?") as (server, client):
        await client.chat(PROMPT)

    assert server.requests[0].path == f"{EXECUTE}/team%2Fa%20b%2Fmodel%3F"


async def test_an_id_that_an_address_would_swallow_is_refused() -> None:
    async with serving(model="aixplain:..") as (server, client):
        with pytest.raises(InvalidRequestError):
            await client.chat(PROMPT)

    assert not server.requests


async def test_the_address_of_v1_stands_for_that_of_v2() -> None:
    async with FaultyServer(service) as server:
        env = {"MODELS_RUN_URL": f"{server.url}/api/v1/execute", "AIXPLAIN_API_KEY": KEY}
        async with Client(model="aixplain:m", env=env) as client:
            await client.chat(PROMPT)

    (seen,) = server.requests
    assert (seen.path, seen.headers["x-api-key"]) == (f"{EXECUTE}/m", KEY)


KEYS: list[tuple[dict[str, str], str | None]] = [
    ({"TEAM_API_KEY": "a"}, "a"),
    ({"AIXPLAIN_API_KEY": "b"}, "b"),
    ({"TEAM_API_KEY": "a", "AIXPLAIN_API_KEY": "a"}, "a"),
    ({"TEAM_API_KEY": "a", "AIXPLAIN_API_KEY": "b"}, None),
    ({}, None),
]


@pytest.mark.parametrize(("env", "key"), KEYS)
async def test_the_key_has_two_names_and_one_value(env: dict[str, str], key: str | None) -> None:
    async with serving(env=env, api_key=None) as (server, client):
        if key is None:
            with pytest.raises(ConfigError, match="TEAM_API_KEY") as caught:
                await client.chat(PROMPT)
            assert caught.value.field == "api_key"
        else:
            await client.chat(PROMPT)
            assert server.requests[0].headers["x-api-key"] == key


async def test_a_key_that_is_given_needs_no_peace_in_the_environment() -> None:
    async with serving(env={"TEAM_API_KEY": "a", "AIXPLAIN_API_KEY": "b"}) as (server, client):
        await client.chat(PROMPT)

    assert server.requests[0].headers["x-api-key"] == KEY


async def test_system_turns_at_the_start_are_the_context_and_later_ones_history() -> None:
    messages = [
        Message("system", "A."), Message("developer", "B."), Message("user", "c"), Message("system", "D."),
        Message("assistant", "", refusal="no"), Message("user", "e"),
    ]  # fmt: skip
    async with serving() as (server, client):
        await client.chat(messages)

    assert server.requests[0].json() == {
        "data": "e",
        "context": "A.\n\nB.",
        "history": [
            {"role": "user", "content": "c"},
            {"role": "system", "content": "D."},
            {"role": "assistant", "content": "no"},
        ],
    }


@pytest.mark.parametrize("text", ['{"data": "x", "temperature": 2}', "7", "/etc/hostname", "https://h/p"])
async def test_a_text_is_sent_as_the_text_it_is(text: str) -> None:
    async with serving() as (server, client):
        await client.chat(text)

    assert server.requests[0].json() == {"data": text}


TURNS: dict[str, tuple[list[Message], type[Exception], str]] = {
    "an answer at the end": ([Message("user", "a"), Message("assistant", "b")], InvalidRequestError, "messages"),
    "instructions alone": ([Message("system", "a")], InvalidRequestError, "messages"),
    "a name": ([Message("user", "a", name="ann")], UnsupportedError, "name"),
    "a tool's result": (
        [Message("tool", "a", tool_call_id="c"), Message("user", "b")], UnsupportedError, "tools"
    ),
    "a call of a tool": (
        [Message("assistant", "", (ToolCall("c", "f", "{}"),)), Message("user", "b")], UnsupportedError, "tools"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TURNS)
async def test_a_conversation_without_a_place_in_a_run_is_refused(name: str) -> None:
    messages, kind, field = TURNS[name]
    async with serving() as (server, client):
        with pytest.raises(kind) as caught:
            await client.chat(messages)

    assert isinstance(caught.value, AsyncLLMError)
    assert caught.value.field == field
    assert not server.requests


@pytest.mark.parametrize(
    ("stream", "options"), [(False, {"stream": True}), (True, {"stream": False}), (True, "fast"), (False, [])]
)
async def test_how_a_run_answers_is_decided_by_the_call(stream: bool, options: Any) -> None:
    async with serving() as (server, client):
        with pytest.raises(InvalidRequestError) as caught:
            if stream:
                await client.stream(PROMPT, extra={"options": options}).__aenter__()
            else:
                await client.chat(PROMPT, extra={"options": options})

    assert caught.value.field == "options"
    assert not server.requests


async def test_options_of_a_model_reach_it() -> None:
    async with serving() as (server, client):
        await client.chat(PROMPT, extra={"options": {"fast": True}, "context": None})

    assert server.requests[0].json() == {"data": PROMPT, "options": {"fast": True}, "context": None}


RESULTS: dict[str, tuple[bytes, str, str | None]] = {
    "a text": (result("a"), "a", None),
    "a text inside": (result({"text": "a"}), "a", None),
    "an output inside": (result({"output": "a"}), "a", None),
    "a document": (result({"b": [1]}), '{"b":[1]}', None),
    "a number": (result(7), "7", None),
    "the supplier's reason": (result("a", finish="length"), "a", "length"),
    "a count below the limit": (result("a", usage={"completion_tokens": 9}), "a", "stop"),
    "a count at the limit": (result("a", usage={"completion_tokens": 10}), "a", "length"),
    "a count that is none": (result("a", usage={"completion_tokens": "many"}), "a", None),
    "openai's form": (b'{"choices":[{"message":{"content":"a"},"finish_reason":"stop"}]}', "a", "stop"),
}


@pytest.mark.parametrize("name", RESULTS)
async def test_a_result_is_read_in_every_form(name: str) -> None:
    body, text, reason = RESULTS[name]
    async with serving([answer(body)]) as (_, client):
        reply = await client.chat(PROMPT, max_tokens=10)

    assert (reply.text, reply.finish_reason) == (text, reason)


UNREADABLE = {
    "a list": b"[]",
    "nothing of a run": b"{}",
    "a run under way and no address": b'{"status":"IN_PROGRESS"}',
    "an address that is none": b'{"status":"IN_PROGRESS","data":"run-1"}',
    "a text without a state": b'{"data":"hello"}',
    "a page": b"<html>busy</html>",
}


@pytest.mark.parametrize("name", UNREADABLE)
async def test_what_is_no_reply_to_a_run_is_refused_and_not_tried_again(name: str) -> None:
    async with serving([answer(UNREADABLE[name])], retry=Retry(attempts=3)) as (server, client):
        with pytest.raises(ResponseValidationError):
            await client.chat(PROMPT)

    assert len(server.requests) == 1


FAILURES: dict[str, tuple[dict[str, Any], type[APIError], str]] = {
    "AX-AUTH-1000": ({"error_code": "AX-AUTH-1000"}, asyncllm.AuthenticationError, "authentication"),
    "AX-VAL-1000": ({"error_code": "AX-VAL-1000"}, asyncllm.UnprocessableEntityError, "validation"),
    "AX-BIL-1000": ({"error_code": "AX-BIL-1000"}, asyncllm.QuotaExceededError, "billing"),
    "AX-SVC-1000": ({"error_code": "AX-SVC-1000"}, asyncllm.OverloadedError, "service"),
    "a supplier": ({"supplierError": {"message": "dead"}}, asyncllm.APIStatusError, "supplier"),
    "a status": ({"statusCode": 404}, asyncllm.NotFoundError, "failed"),
    "nothing": ({}, asyncllm.APIStatusError, "failed"),
}


@pytest.mark.parametrize("name", FAILURES)
async def test_a_run_that_failed_is_an_error_of_its_kind_and_is_not_tried_again(name: str) -> None:
    fields, kind, code = FAILURES[name]
    body = {"status": "FAILED", "error_message": f"{PROMPT} {KEY}", **fields}
    async with serving([told(**body)], retry=Retry(attempts=3)) as (server, client):
        with pytest.raises(kind) as caught:
            await client.chat(PROMPT)

    error = caught.value
    assert type(error) is kind
    assert (error.code, error.retryable, error.maybe_billed) == (code, False, True)
    assert error.message == ("… *** - dead" if name == "a supplier" else "… ***")
    assert error.body is not None
    assert msgspec.json.decode(error.body) == body
    assert len(server.requests) == 1


async def test_an_error_without_a_state_is_the_error() -> None:
    async with serving([told(error={"message": "overloaded", "code": "overloaded"})], retry=Retry()) as (
        server,
        client,
    ):
        with pytest.raises(asyncllm.OverloadedError) as caught:
            await client.chat(PROMPT)

    assert not caught.value.retryable
    assert len(server.requests) == 1


async def test_a_refused_run_that_was_not_accepted_is_tried_again(instant_retries: list[float]) -> None:
    def serve(request: SeenRequest) -> Sequence[Op]:
        return [Status(503)] if len(server.requests) == 1 else service(request)

    async with serving(serve, retry=Retry()) as (server, client):
        assert (await client.chat("a")).text == "a"

    assert len(server.requests) == 2
    assert instant_retries


async def test_a_stream_that_dies_before_its_first_word_is_not_begun_again() -> None:
    async with serving(streamed({"data": ""}, ending="fin"), retry=Retry(attempts=3)) as (server, client):
        with pytest.raises(asyncllm.StreamInterrupted) as caught:
            await client.stream(PROMPT).__aenter__()

    assert not caught.value.retryable
    assert len(server.requests) == 1


async def test_a_model_that_does_not_stream_is_asked_after_in_a_stream() -> None:
    def serve(request: SeenRequest) -> Sequence[Op]:
        if request.method == "GET":
            return [answer(result("later"))]
        return [told(status="IN_PROGRESS", data=f"http://{request.headers['host']}/run")]

    async with serving(serve, clock=ManualClock(instant=True)) as (_, client):
        assert [text async for text in client.stream_text(PROMPT)] == ["later"]


@pytest.mark.parametrize("status", [400, 503])
async def test_a_refusal_of_a_question_after_a_run_does_not_repeat_the_prompt(status: int) -> None:
    def serve(request: SeenRequest) -> Sequence[Op]:
        if request.method == "GET":
            body = msgspec.json.encode({"error": f"cannot run {PROMPT}"})
            return [Status(status, {"Content-Type": "application/json"}, body)]
        return [told(status="IN_PROGRESS", data=f"http://{request.headers['host']}/run")]

    async with serving(serve, clock=ManualClock(instant=True)) as (_, client):
        with pytest.raises(asyncllm.APIStatusError) as caught:
            await client.chat(PROMPT)

    assert caught.value.message.startswith("cannot run")
    assert (caught.value.status, caught.value.maybe_billed, caught.value.retryable) == (status, True, False)
    assert PROMPT not in "".join(format_exception(caught.value))


SAID_TO_FAIL: dict[str, dict[str, Any]] = {
    "by a message": {"error_message": "boom", "completed": True},
    "by a message alone": {"error_message": "boom"},
    "by the supplier": {"data": "", "supplierError": {"message": "boom"}},
}


@pytest.mark.parametrize("name", SAID_TO_FAIL)
async def test_a_run_that_is_said_to_have_failed_is_no_answer(name: str) -> None:
    for ops in (streamed(SAID_TO_FAIL[name]), [told(**SAID_TO_FAIL[name])]):
        async with serving(ops) as (_, client):
            with pytest.raises(asyncllm.APIStatusError) as caught:
                [text async for text in client.stream_text(PROMPT)]

        assert caught.value.message == "boom"
        assert not caught.value.retryable


async def test_a_stream_that_is_done_before_it_has_said_anything_is_interrupted() -> None:
    async with serving(streamed()) as (_, client):
        with pytest.raises(asyncllm.StreamInterrupted, match="without any output"):
            await client.stream(PROMPT).__aenter__()


async def test_the_choices_of_a_run_that_has_no_data_are_its_answer() -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}
    async with serving([told(status="SUCCESS", completed=True, data=None, choices=[choice])]) as (_, client):
        reply = await client.chat(PROMPT)

    assert (reply.text, reply.finish_reason) == ("hello", "stop")


ENDS: dict[str, list[Any]] = {
    "a state of success": [{"data": "a"}, {"status": "SUCCESS", "data": ""}],
    "a finish reason": [{"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]}],
    "the word as data": [{"data": "a"}, {"data": "[DONE]"}],
}


@pytest.mark.parametrize("name", ENDS)
async def test_a_stream_may_end_by_another_word_than_done(name: str) -> None:
    async with serving(streamed(*ENDS[name], ending="end")) as (_, client):
        assert [text async for text in client.stream_text(PROMPT)] == ["a"]


@pytest.mark.parametrize("item", ["nonsense", "7", "[]", '"text"', {"data": {"other": 1}}, {"data": 7}])
async def test_a_frame_that_is_none_is_no_answer(item: Any) -> None:
    async with serving(streamed({"data": "a"}, item)) as (_, client):
        with pytest.raises(ResponseValidationError):
            assert [text async for text in client.stream_text(PROMPT)]


async def test_a_finish_reason_of_error_is_an_error() -> None:
    chunk = {"choices": [{"delta": {}, "finish_reason": "error"}], "message": "the supplier died"}
    async with serving(streamed({"data": "a"}, chunk)) as (_, client):
        with pytest.raises(asyncllm.APIStatusError, match="the supplier died"):
            assert [text async for text in client.stream_text(PROMPT)]


async def test_the_catalogue_of_another_address_is_not_aixplains() -> None:
    async with serving() as (server, client):
        for ask in (client.list_models, client.get_model):
            with pytest.raises(ConfigError, match="BACKEND_URL") as caught:
                await ask()
            assert caught.value.field == "backend_url"
        assert await client.is_alive()  # of which nothing can be asked

    assert not server.requests


@pytest.mark.parametrize("counted", [{}, {"total": 10**9}], ids=["a total that is not told", "a total that is wrong"])
async def test_a_catalogue_is_read_until_a_page_brings_nothing_new(counted: dict[str, Any]) -> None:
    def serve(request: SeenRequest) -> Sequence[Op]:
        return [told(items=[{"id": f"model-{min(request.json()['pageNumber'], 2)}"}], **counted)]

    async with FaultyServer(serve) as server:
        async with Client(
            model="aixplain:m", base_url=server.url, api_key=KEY, options={"backend_url": server.url}, env={}
        ) as client:
            models = await client.list_models()

    assert [model.id for model in models] == ["model-0", "model-1", "model-2"]
    assert len(server.requests) == 4


async def test_a_catalogue_that_is_to_be_asked_is_missed_when_connecting() -> None:
    async with serving(options={"catalog": True}) as (_, client):
        with pytest.raises(ConfigError, match="BACKEND_URL"):
            await client.chat(PROMPT)


async def test_the_catalogue_of_aixplains_own_address_is_known() -> None:
    transport = ScriptedTransport([])
    config = Config(backend="aixplain", api_key=Secret(KEY))
    connect(config, Context(transport=transport, clock=ManualClock(), env={}))
    options = {"catalog": True}
    connect(msgspec.structs.replace(config, options=options), Context(transport=transport, clock=ManualClock(), env={}))

    assert not transport.calls


async def test_the_catalogue_is_asked_once_for_many_calls_at_once() -> None:
    async with FaultyServer(service) as server:
        options = {"catalog": True}
        env = {"BACKEND_URL": server.url}
        async with Client(
            model=f"aixplain:{MODEL}", base_url=server.url + EXECUTE, api_key=KEY, options=options, env=env
        ) as client:
            await asyncio.gather(*(client.chat(PROMPT) for _ in range(5)))

    assert [request.method for request in server.requests].count("GET") == 1


async def test_the_catalogue_is_asked_whether_the_service_is_alive() -> None:
    async with FaultyServer(service) as server, FaultyServer([Status(401)]) as refusing:
        for catalog, alive in ((server, True), (refusing, False)):
            async with Client(
                model="aixplain:m", base_url=server.url, api_key=KEY, options={"backend_url": catalog.url}, env={}
            ) as client:
                assert await client.is_alive() is alive


async def test_a_model_is_got_without_an_event_loop_too() -> None:
    def call(url: str) -> str | None:
        options = {"backend_url": url}
        with asyncllm.sync.Client(
            model=f"aixplain:{MODEL}", base_url=url, api_key=KEY, options=options, env={}
        ) as client:
            return client.get_model().name

    async with FaultyServer(service) as server:
        assert await asyncio.to_thread(call, server.url) == "GPT-4o Mini"


async def test_a_backend_without_a_catalogue_cannot_be_asked_for_a_model() -> None:
    async with Client(model="echo:x", env={}) as client:
        with pytest.raises(UnsupportedError) as caught:
            await client.get_model()

    assert caught.value.field == "get_model"


@pytest.mark.parametrize("page", [b"{}", b'{"items":7}', b"[]"])
async def test_a_page_that_is_none_is_refused(page: bytes) -> None:
    async with FaultyServer([answer(page)]) as server:
        async with Client(
            model="aixplain:m", base_url=server.url, api_key=KEY, options={"backend_url": server.url}, env={}
        ) as client:
            with pytest.raises(ResponseValidationError):
                await client.list_models()


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"trusted_hosts": "h"}, "trusted_hosts"), ({"trusted_hosts": ["https://h"]}, "trusted_hosts"),
        ({"wait_time": -1}, "wait_time"), ({"wait_time": "1"}, "wait_time"), ({"catalog": 1}, "catalog"),
        ({"backend_url": "h"}, "base_url"), ({"unknown": 1}, "unknown"),
    ],
)  # fmt: skip
async def test_an_option_that_cannot_be_right_is_named(options: dict[str, Any], field: str) -> None:
    async with serving(options=options) as (_, client):
        with pytest.raises(ConfigError) as caught:
            await client.chat(PROMPT)

    assert caught.value.field == field


TRUSTED = Trusted("https://models.aixplain.com/api/v2/execute", ["polls.example", "other.example:8443"])


@pytest.mark.parametrize(
    "url",
    [
        "https://models.aixplain.com/sdk/runs/1",
        "https://models.aixplain.com:443/x",
        "HTTPS://MODELS.AIXPLAIN.COM/x",
        "https://polls.example/x",
        "https://other.example:8443/x",
    ],
)
def test_an_address_of_the_service_or_of_a_named_host_gets_the_key(url: str) -> None:
    TRUSTED.check(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://models.aixplain.com/x",
        "https://models.aixplain.com:8443/x",
        "https://models.aixplain.com.evil.example/x",
        "https://evil.example/models.aixplain.com",
        "https://models.aixplain.com@evil.example/x",
        "https://user@models.aixplain.com/x",
        "https://evil.example\\@models.aixplain.com/x",
        "http://polls.example/x",
        "https://polls.example:444/x",
        "https://other.example/x",
        "ftp://models.aixplain.com/x",
        "https://[models.aixplain.com/x",
        "https://models.aixplain.com:port/x",
        "https://",
    ],
)
def test_no_other_address_gets_the_key(url: str) -> None:
    with pytest.raises(RedirectRefusedError) as caught:
        TRUSTED.check(url)

    assert not caught.value.retryable


@given(st.binary(max_size=200) | st.text().map(str.encode))
def test_no_bytes_make_a_reply_raise_anything_else(body: bytes) -> None:
    with pytest.raises((AsyncLLMError, PendingError)):
        read_result(body, model="m", limit=None, call=CALL)
    with pytest.raises(AsyncLLMError):
        is_over(body)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
_NAMES = ("status", "completed", "data", "usage", "details", "error", "error_message", "supplierError", "choices")


@given(st.dictionaries(st.sampled_from(_NAMES), _JSON))
def test_no_document_makes_a_reply_or_a_frame_raise_anything_else(document: dict[str, Any]) -> None:
    body = msgspec.json.encode(document)
    try:
        read_result(body, model="m", limit=1, call=CALL)
    except (AsyncLLMError, PendingError):
        pass
    stream = RunStream(model="m", limit=1, call=CALL)
    stream.feed(b"data: " + body + b"\n\n")
    assert stream.error is None or isinstance(stream.error, AsyncLLMError)
