"""OpenAI's API as we serve it, to OpenAI's own SDK and on the wire."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import openai
import pytest
from starlette.types import ASGIApp, Message

import asyncllm
from asyncllm import Client, TextDelta
from asyncllm.server import app
from asyncllm.testing import FaultyServer, Op, ScriptedBackend, SeenRequest, Sse, Stall, Status
from served import served, server_of

ASKED: list[Any] = [{"role": "user", "content": "one two three"}]


@asynccontextmanager
async def sdk_of(url: str) -> AsyncGenerator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{url}/v1", api_key="k", max_retries=0, _strict_response_validation=True
    ) as sdk:
        yield sdk


@asynccontextmanager
async def echo(**settings: Any) -> AsyncGenerator[openai.AsyncOpenAI]:
    async with server_of("echo:x", settings) as url, sdk_of(url) as sdk:
        yield sdk


async def test_a_chat_is_answered() -> None:
    async with echo() as sdk:
        reply = await sdk.chat.completions.create(model="echo:x", messages=ASKED)

    assert reply.choices[0].message.content == "one two three"
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage is not None
    assert reply.usage.total_tokens == 6
    assert reply._request_id


async def test_a_chat_is_streamed() -> None:
    async with echo() as sdk:
        stream = await sdk.chat.completions.create(
            model="echo:x", messages=ASKED, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]

    assert [chunk.choices[0].delta.content for chunk in chunks if chunk.choices] == ["one", " two", " three", None]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 3
    assert len({chunk.id for chunk in chunks}) == 1


async def test_a_text_is_continued_whole_and_streamed() -> None:
    async with echo() as sdk:
        reply = await sdk.completions.create(model="echo:x", prompt="one two")
        sdk._strict_response_validation = False  # its type has a reason in every chunk, which OpenAI's have not either
        stream = await sdk.completions.create(model="echo:x", prompt="one two", stream=True)
        texts = [chunk.choices[0].text async for chunk in stream]

    assert reply.choices[0].text == "one two"
    assert "".join(texts) == "one two"


async def test_models_are_listed_and_may_have_slashes() -> None:
    async with echo(models={"org/model-a": "echo:x", "b": "echo:y"}) as sdk:
        listed = [model.id async for model in sdk.models.list()]
        one = await sdk.models.retrieve("org/model-a")
        reply = await sdk.chat.completions.create(model="org/model-a", messages=ASKED)

    assert listed == ["org/model-a", "b"]
    assert (one.id, reply.model) == ("org/model-a", "org/model-a")


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
async def test_the_limit_of_an_answer_has_two_names(field: str) -> None:
    limit: dict[str, Any] = {field: 2}
    async with echo() as sdk:
        reply = await sdk.chat.completions.create(model="echo:x", messages=ASKED, **limit)

    assert (reply.choices[0].message.content, reply.choices[0].finish_reason) == ("one two", "length")


async def test_a_model_that_is_not_there_is_refused_with_those_that_are() -> None:
    async with echo(models={"a": "echo:x"}) as sdk:
        with pytest.raises(openai.NotFoundError, match="there is a") as caught:
            await sdk.chat.completions.create(model="echo:x", messages=ASKED)

    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (b"{", 400, "body"),
        (b"[" * 100_000, 400, None),
        (b'{"messages": []}', 400, "messages"),
        (b'{"messages": 5}', 400, "messages"),
        (b'{"messages": [{"role": "user", "content": "x"}], "temperature": "hot"}', 400, "temperature"),
        (b'{"messages": [{"role": "user", "content": "x"}], "n": 9}', 400, "n"),
        (
            b'{"messages": [{"role": "user", "content": "x"}], "stream": true, "stream_options": {"include_usage": 5}}',
            400,
            "stream_options.include_usage",
        ),
        (
            b'{"messages": [' + b'{"role": "user", "content": "x"},' * 20 + b'{"role": "user", "content": "x"}]}',
            400,
            "messages",
        ),
        (b'{"messages": "' + b"x" * 5000 + b'"}', 413, None),
    ],
    ids=["json", "deep", "empty", "kind", "value", "n", "stream options", "many", "large"],
)
async def test_a_body_that_cannot_be_right_is_refused(body: bytes, status: int, param: str | None) -> None:
    settings = {"max_messages": 20, "max_body_bytes": 4000 if status == 413 else 200_000}
    async with server_of("echo:x", settings) as url, aiohttp.ClientSession() as http:
        async with http.post(f"{url}/v1/chat/completions", data=body) as reply:
            told = (await reply.json())["error"]

    assert (reply.status, told["param"]) == (status, param)
    assert told["type"] == "invalid_request_error"


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nowhere", 404), ("GET", "/v1/chat/completions", 405)])
async def test_a_route_that_is_not_there_is_an_error_like_any_other(method: str, path: str, status: int) -> None:
    async with (
        server_of("echo:x") as url,
        aiohttp.ClientSession() as http,
        http.request(method, f"{url}{path}") as reply,
    ):
        told = (await reply.json())["error"]

    assert (reply.status, told["code"]) == (status, "no_route")


async def test_a_form_of_the_answer_that_is_no_schema_is_not_dropped() -> None:
    body = b'{"choices": [{"index": 0, "message": {"content": "{}"}, "finish_reason": "stop"}]}'
    async with behind(Status(body=body)) as (url, upstream, _), sdk_of(url) as sdk:
        await sdk.chat.completions.create(model="m", messages=ASKED, response_format={"type": "json_object"})

    assert upstream.asked[0]["response_format"] == {"type": "json_object"}


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest"}},
        {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}},
        {"type": "file", "file": {"file_id": "file-of-somebody"}},
    ],
)
async def test_nothing_is_fetched_for_a_request(part: dict[str, Any]) -> None:
    asked = {"messages": [{"role": "user", "content": [{"type": "text", "text": "look"}, part]}]}
    async with behind() as (url, upstream, _), aiohttp.ClientSession() as http:
        async with http.post(f"{url}/v1/chat/completions", json=asked) as reply:
            told = (await reply.json())["error"]

    assert (reply.status, told["param"]) == (400, "messages[0].content")
    assert not upstream.asked


async def test_fields_that_nobody_knows_are_ignored() -> None:
    body = {"messages": ASKED, "surprise": {"deep": [1]}, "base_url": "http://elsewhere", "api_key": "k"}
    async with server_of("echo:x") as url, aiohttp.ClientSession() as http:
        async with http.post(f"{url}/v1/chat/completions", json=body) as reply:
            answered = await reply.json()

    assert answered["choices"][0]["message"] == {"role": "assistant", "content": "one two three", "refusal": None}


class Upstream:
    """A service in OpenAI's API that does as it is told, and sees who goes."""

    def __init__(self, *ops: Op) -> None:
        self.ops = ops
        self.asked: list[dict[str, Any]] = []

    def __call__(self, request: SeenRequest) -> Sequence[Op]:
        self.asked.append({**request.json(), "authorization": request.headers.get("authorization")})
        return self.ops


@asynccontextmanager
async def behind(*ops: Op, **settings: Any) -> AsyncGenerator[tuple[str, Upstream, FaultyServer]]:
    upstream = Upstream(*ops)
    async with (
        FaultyServer(upstream) as server,
        Client(model="openai:m", base_url=f"{server.url}/v1", api_key="the-server-s", retry=None) as client,
        served(client, models={"m": "openai:m"}, **settings) as url,
    ):
        yield url, upstream, server


def chunk(text: str) -> dict[str, Any]:
    return {"id": "up-1", "model": "secret-name", "choices": [{"index": 0, "delta": {"content": text}}]}


async def test_the_key_that_is_sent_on_is_the_server_s_own() -> None:
    body = b'{"choices": [{"index": 0, "message": {"content": "hi"}, "finish_reason": "stop"}]}'
    async with behind(Status(body=body)) as (url, upstream, _), sdk_of(url) as sdk:
        reply = await sdk.chat.completions.create(
            model="m", messages=ASKED, extra_body={"base_url": "http://elsewhere", "api_key": "mine", "model": "m"}
        )

    assert reply.choices[0].message.content == "hi"
    (asked,) = upstream.asked
    assert asked["authorization"] == "Bearer the-server-s"
    assert set(asked) == {"authorization", "model", "messages"}


@pytest.mark.parametrize(
    ("status", "told"), [(400, 400), (401, 502), (403, 502), (404, 404), (429, 429), (500, 500), (503, 503)]
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_before_the_first_word_is_a_status(status: int, told: int, stream: bool) -> None:
    refusal = Status(status, {"Retry-After": "7"}, b'{"error": {"message": "no"}}')
    async with behind(refusal) as (url, _, _), sdk_of(url) as sdk:
        with pytest.raises(openai.APIStatusError) as caught:
            await sdk.chat.completions.create(model="m", messages=ASKED, stream=stream)

    assert caught.value.status_code == told
    assert ("retry-after" in caught.value.response.headers) == (told != 502)


async def test_a_failure_after_the_first_word_is_an_event() -> None:
    broken = [chunk("one"), {"error": {"message": "it broke", "code": "server_error"}}]
    async with behind(Sse(broken, "end")) as (url, _, _), sdk_of(url) as sdk:
        stream = await sdk.chat.completions.create(model="m", messages=ASKED, stream=True)
        first = await anext(stream)
        with pytest.raises(openai.APIError, match="it broke"):
            await anext(stream)

    assert first.choices[0].delta.content == "one"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_ends_the_work_behind(stream: bool) -> None:
    ops = (Sse([chunk("one")], "stall"),) if stream else (Stall(),)
    async with behind(*ops) as (url, upstream, server), aiohttp.ClientSession() as http:
        asking = http.post(f"{url}/v1/chat/completions", json={"messages": ASKED, "stream": stream})
        if stream:
            reply = await asking
            await reply.content.readany()
            reply.close()
        else:
            task = asyncio.ensure_future(asking)
            while not upstream.asked:  # noqa: ASYNC110  # the request is on its way
                await asyncio.sleep(0.005)
            task.cancel()
            await asyncio.wait([task])
        async with asyncio.timeout(10):
            while server.requests[0].aborted_s is None:  # noqa: ASYNC110  # the server tells nobody
                await asyncio.sleep(0.005)


@pytest.mark.parametrize("late", [False, True])
async def test_a_mistake_of_a_backend_says_nothing_of_what_was_asked(
    late: bool, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("DEBUG")
    canary = "the canary sang in the mine"
    script: list[Any] = [[*([TextDelta("one")] if late else []), ValueError(f"cannot say {canary}")]]
    async with (
        Client(backend=ScriptedBackend(script)) as client,
        served(client, models={"m": ""}) as url,
        aiohttp.ClientSession() as http,
    ):
        asked = {"messages": [{"role": "user", "content": canary}], "stream": True}
        async with http.post(f"{url}/v1/chat/completions", json=asked) as reply:
            body = b""
            with contextlib.suppress(aiohttp.ClientPayloadError):
                async for piece in reply.content.iter_any():
                    body += piece

    assert reply.status == (200 if late else 500)
    assert b"[DONE]" not in body
    told = body.decode() + caplog.text + "".join(capfd.readouterr())
    assert canary not in told
    assert "ValueError" in caplog.text


async def test_a_silence_is_broken_by_chunks_that_say_nothing() -> None:
    async with behind(Sse([chunk("one")], "stall"), keep_alive_s=0.02) as (url, _, _), sdk_of(url) as sdk:
        stream = await sdk.chat.completions.create(model="m", messages=ASKED, stream=True)
        found = [(await anext(stream)).choices[0].delta for _ in range(4)]
        await stream.close()

    assert [one.content for one in found] == ["one", None, None, None]


async def test_a_client_that_takes_nothing_is_cut_off_and_its_work_ended() -> None:
    much = Sse([chunk("x" * 20_000)] * 2000, "end")
    async with behind(much, send_timeout_s=0.2) as (url, _, server):
        body = json.dumps({"messages": ASKED, "stream": True}).encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
        host, port = url.removeprefix("http://").split(":")
        with socket.socket() as lazy:
            lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            lazy.connect((host, int(port)))
            lazy.sendall(head + body)
            async with asyncio.timeout(20):
                while not server.requests or server.requests[0].aborted_s is None:  # noqa: ASYNC110  # it tells nobody
                    await asyncio.sleep(0.01)


async def test_a_stream_whose_next_event_is_always_there_leaves_others_their_turn() -> None:
    order: list[str] = []

    async def ask(application: ASGIApp, name: str, words: int) -> None:
        body = json.dumps({"messages": [{"role": "user", "content": "word " * words}], "stream": True}).encode()
        coming = iter([{"type": "http.request", "body": body}])

        async def receive() -> Message:
            message = next(coming, None)
            return message if message is not None else await asyncio.get_running_loop().create_future()

        async def send(_: Message) -> None:
            order.append(name)

        place = {"path": "/v1/chat/completions", "query_string": b"", "headers": []}
        await application({"type": "http", "method": "POST", **place}, receive, send)

    async with Client(model="echo:x") as client:
        application = app(client)
        await asyncio.gather(ask(application, "long", 500), ask(application, "short", 1))

    assert order.index("short") < 5
    assert order[-1] == "long"
    assert order.count("long") > 500


async def test_the_server_says_how_it_is() -> None:
    async with server_of("echo:x") as url, aiohttp.ClientSession() as http:
        async with http.get(f"{url}/health") as health, http.get(f"{url}/ready") as ready:
            told = {"status": "ready", "models": {"echo:x": True}, "members": {"echo": "up"}}
            assert (health.status, await ready.json()) == (200, told)
        async with http.get(f"{url}/version") as version:
            assert await version.json() == {"version": asyncllm.__version__}


async def test_an_id_that_the_client_gives_is_kept() -> None:
    async with server_of("echo:x") as url, aiohttp.ClientSession() as http:
        async with http.get(f"{url}/health", headers={"x-request-id": "mine-1"}) as kept:
            assert kept.headers["x-request-id"] == "mine-1"
        async with http.get(f"{url}/health", headers={"x-request-id": "a b"}) as odd:
            assert odd.headers["x-request-id"] != "a b"
