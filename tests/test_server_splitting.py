"""Nothing that anybody says becomes a header, a status or an event of its own; and what is asked oddly is answered."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import aiohttp
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from asyncllm import Client, Finished, TextDelta
from asyncllm.errors import BadRequestError, OverloadedError, RateLimitError
from asyncllm.events import ToolCallDelta
from asyncllm.server import ServerSettings, app
from asyncllm.testing import ScriptedBackend
from served import server_of
from sse_reference import reference

VALUE = re.compile(rb"[\t\x20-\x7e]*")
NAME = re.compile(rb"[a-z0-9-]+")
EVIL = (
    "a\r\nSet-Cookie: x=y", "a\nb", "a\rb", "a\0b", "\r\n\r\n<html>", "data: x\n\n", "\nevent: error\ndata: {}\n\n",
    "\r\ndata: [DONE]\r\n\r\n", "\u2028\u2029\u0085\x0b\x0c\x1c\x1d\x1e", "\ufeff",
    "id: 1\nretry: 0\n", ": ping\n", "é\u0130", "\\r\\n", "%0d%0a", "嘊嘍",
)  # fmt: skip
TEXTS = st.sampled_from(EVIL) | st.text(max_size=40) | st.text(st.sampled_from("\r\n\0 :ade\u2028\ufeff"), max_size=20)


async def ask(application: Any, path: str, body: Any, id_: str) -> tuple[dict[str, Any], bytes]:
    """What an application says, as it hands it to the network."""
    sent: list[dict[str, Any]] = []
    received = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

    async def receive() -> dict[str, Any]:
        if received:
            return received.pop()
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "POST",
        "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
        "headers": [(b"host", b"localhost"), (b"x-request-id", id_.encode("utf-8", "replace"))], "server": None,
        "client": ("127.0.0.1", 1), "state": {},
    }  # fmt: skip
    await application(scope, receive, send)
    return sent[0], b"".join(message.get("body", b"") for message in sent[1:])


def check_head(head: dict[str, Any]) -> None:
    for name, value in head["headers"]:
        assert NAME.fullmatch(name), name
        assert VALUE.fullmatch(value), (name, value)


PATHS: dict[str, Callable[[str], dict[str, Any]]] = {
    "/v1/chat/completions": lambda text: {"messages": [{"role": "user", "content": text}]},
    "/v1/completions": lambda text: {"prompt": text or "x"},
    "/v1/messages": lambda text: {"messages": [{"role": "user", "content": text or "x"}], "max_tokens": 5},
    "/v1/responses": lambda text: {"input": text or "x"},
}


class Said(NamedTuple):
    """What may come from anywhere."""

    model: str
    id: str
    text: str
    tool: str
    arguments: str


@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=40, phases=(Phase.explicit, Phase.generate))
@given(said=st.builds(Said, TEXTS, TEXTS, TEXTS, TEXTS, TEXTS), stream=st.booleans())
@example(said=Said(EVIL[0], EVIL[0], EVIL[5], EVIL[6], EVIL[7]), stream=True)
def test_what_is_said_comes_out_as_said_and_as_nothing_else(path: str, said: Said, stream: bool) -> None:
    async def run() -> None:
        call = ToolCallDelta(index=0, id=said.id or "t", name=said.tool or "f", arguments=said.arguments)
        script: list[Any] = [TextDelta(said.text), call, Finished("stop")]
        async with Client(backend=ScriptedBackend([script]), retry=None) as client:
            application = app(client, ServerSettings(models={said.model or "m": ""}))
            asked = {"model": said.model or "m", "stream": stream, **PATHS[path](said.text)}
            head, body = await ask(application, path, asked, said.id)
        check_head(head)
        assert head["status"] in (200, 400, 502)
        told = dict(head["headers"])
        if told[b"content-type"].startswith(b"text/event-stream"):
            check_events(body, said.text)
        elif head["status"] == 200:
            assert said.text in "".join(_texts(json.loads(body)))

    asyncio.run(run())


def check_events(body: bytes, said: str) -> None:
    read = reference(body).events
    documents = [json.loads(data) for _, data, *_ in read if data != "[DONE]"]
    assert documents
    assert sum(data == "[DONE]" for _, data, *_ in read) <= 1
    for (kind, *_), document in zip(read, documents, strict=False):
        assert kind in ("message", document.get("type"))
    assert not said or said in "".join(_texts(documents))


def _texts(found: Any) -> list[str]:
    """Every text in documents, in order."""
    if isinstance(found, str):
        return [found]
    if isinstance(found, dict):
        found = found.values()
    return [text for one in found for text in _texts(one)] if not isinstance(found, int | float | None) else []


@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=20, phases=(Phase.explicit, Phase.generate))
@given(told=st.tuples(TEXTS, TEXTS, st.floats(allow_nan=True)), stream=st.booleans(), late=st.booleans())
def test_what_an_error_says_stays_in_it(path: str, told: tuple[str, str, float], stream: bool, late: bool) -> None:
    text, code, wait_s = told

    async def run() -> None:
        for error in (
            BadRequestError(text, status=400, code=code, param=text),
            RateLimitError(text, status=429, retry_after_s=wait_s),
            OverloadedError(text, status=503, retry_after_s=wait_s, request_id=code),
        ):
            script: Any = [[TextDelta("one"), error]] if late else [error]
            async with Client(backend=ScriptedBackend(script), retry=None) as client:
                asked = {"model": "m", "stream": stream, **PATHS[path]("x")}
                head, body = await ask(app(client, ServerSettings(models={"m": ""})), path, asked, "")
            check_head(head)
            if dict(head["headers"])[b"content-type"].startswith(b"text/event-stream"):
                check_events(body, "")
            else:
                assert "error" in json.loads(body)

    asyncio.run(run())


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/v1/models/echo:x", "/version"])
async def test_the_head_of_what_can_be_got_is_told(path: str) -> None:
    async with server_of("echo:x") as url, aiohttp.ClientSession() as http:
        async with http.get(f"{url}{path}") as whole, http.head(f"{url}{path}") as head:
            assert (head.status, await head.read()) == (200, b"")
            assert head.headers["content-length"] == whole.headers["content-length"] or path == "/health"


@pytest.mark.parametrize(
    ("method", "path", "status", "allowed"),
    [
        ("OPTIONS", "/v1/chat/completions", 204, "OPTIONS, POST"),
        ("OPTIONS", "/v1/files/x", 204, "DELETE, GET, HEAD, OPTIONS"),
        ("OPTIONS", "/nowhere", 404, None),
        ("HEAD", "/v1/chat/completions", 405, "OPTIONS, POST"),
        ("PUT", "/v1/files", 405, "GET, HEAD, OPTIONS, POST"),
        ("PATCH", "/v1/models", 405, "GET, HEAD, OPTIONS"),
        ("DELETE", "/health", 405, "GET, HEAD, OPTIONS"),
        ("TRACE", "/health", 405, "GET, HEAD, OPTIONS"),
        ("PROPFIND", "/health", 405, "GET, HEAD, OPTIONS"),
        ("GET", "/v1/../health", 404, None),
        ("GET", "//health", 404, None),
        ("GET", "/health/", 307, None),
    ],
)
async def test_a_method_that_is_not_for_a_place_is_answered_with_those_that_are(
    method: str, path: str, status: int, allowed: str | None
) -> None:
    async with server_of("echo:x") as url:
        port = int(url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()

    lines = head.decode().split("\r\n")
    told = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
    assert (int(lines[0].split()[1]), told.get("allow")) == (status, allowed)
    assert not body or method not in ("HEAD", "OPTIONS") or status == 404
    assert "TRACE" not in body.decode()


async def test_ranges_are_not_looked_at_however_many() -> None:
    ranges = ",".join(f"{at}-{at}" for at in range(5000))
    async with server_of("echo:x") as url, aiohttp.ClientSession() as http:
        began = time.perf_counter()
        for told in (f"bytes={ranges}", "bytes=0-0", "bytes=-1", "bytes=9-1"):
            async with http.get(f"{url}/v1/models", headers={"Range": told}) as reply:
                assert reply.status == 200
                assert (await reply.json())["object"] == "list"
        took_s = time.perf_counter() - began

    assert took_s < 2
