"""The server's description of itself says all that it takes, and nothing that it does not hold to."""

from __future__ import annotations

import asyncio
import queue
import re
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.routing import Route

from anything_backend import Anything
from asyncllm import Client
from asyncllm.server import ServerSettings, app
from asyncllm.workspace.served import ServerStore
from served import served, server_of

WITHOUT_BODY = {("POST", "/v1/batches/{id}/cancel")}  # which says all
CHECKS = [
    not_a_server_error, response_schema_conformance, content_type_conformance, status_code_conformance,
    negative_data_rejection,
]  # fmt: skip
SOME, FEW, MANY = 7, 4, 270  # examples of a route, of which the longer form has 76 in all


def client_of(kind: str) -> Client:
    return Client(model="echo:x") if kind == "echo" else Client(backend=Anything())


@contextmanager
def running(kind: str, folder: Path) -> Generator[str]:
    """The address of a server in a thread: what asks of it blocks."""
    told: queue.Queue[Any] = queue.Queue()

    async def run() -> None:
        over = asyncio.Event()
        async with ServerStore(folder) as store, client_of(kind) as client:
            async with served(client, store=store, models={"m": "echo:x" if kind == "echo" else ""}) as url:
                told.put((url, asyncio.get_running_loop(), over))
                await over.wait()

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    url, loop, over = told.get(timeout=30)
    try:
        yield url
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(30)


@pytest.fixture(scope="module")
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    with running(request.param, tmp_path_factory.mktemp("store")) as url:
        yield url


async def test_every_route_is_described() -> None:
    async with Client(model="echo:x") as client:
        routes = [
            (method, route.path)
            for route in app(client).routes
            if isinstance(route, Route)
            for method in (route.methods or set()) - {"HEAD"}
        ]
        async with served(client) as url, aiohttp.ClientSession() as http, http.get(f"{url}/openapi.json") as reply:
            document = await reply.json()

    paths = document["paths"].items()
    told = {(method.upper(), path): one for path, methods in paths for method, one in methods.items()}
    assert set(told) == {(method, path.replace(":path", "")) for method, path in routes}
    for (method, path), one in told.items():
        assert one["summary"]
        assert all(kind["schema"] for kind in list(one["responses"]["200"]["content"].values())[:1]), path
        assert (method == "POST") == ("requestBody" in one) or (method, path) in WITHOUT_BODY
        assert "{" not in path or one["responses"]["404"]
    schemathesis.openapi.from_dict(document).validate()
    asked = {(method.upper(), path) for method, path in (*ASKED, *PLAIN, *SAME)}
    assert asked == set(told)  # each is tried out


async def test_the_settings_of_a_server_are_in_its_description() -> None:
    limits = {"max_messages": 7, "max_choices": 3, "max_body_bytes": 12345}
    async with server_of("echo:x", limits) as url, aiohttp.ClientSession() as http:
        async with http.get(f"{url}/openapi.json") as reply:
            document = await reply.json()

    fields = document["components"]["schemas"]["ChatBody"]["properties"]
    assert (fields["messages"]["maxItems"], fields["n"]["maximum"]) == (7, 3)
    assert "12345" in document["paths"]["/v1/chat/completions"]["post"]["requestBody"]["description"]
    assert document["paths"]["/v1/chat/completions"]["post"]["security"][0] == {}
    assert ServerSettings().max_messages == 2000


def check_route(url: str, method: str, path: str, mode: GenerationMode, count: int) -> None:
    """Ask a route for `count` things that its schema allows, or forbids, and look at what comes."""
    document = requests.get(f"{url}/openapi.json", timeout=30).json()
    operation = schemathesis.openapi.from_dict(document)[path][method]
    session = requests.Session()
    is_form = "multipart/form-data" in document["paths"][path][method].get("requestBody", {"content": {}})["content"]
    # In a form everything is text, also what a schema would not call that.
    checks = [check for check in CHECKS if not (is_form and check is negative_data_rejection)]

    @settings(max_examples=count, suppress_health_check=list(HealthCheck), deadline=None, phases=[Phase.generate])
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Case[Any]) -> None:
        if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
            del case.body["model"]  # there is hardly ever one of that name
        reply = case.call(base_url=url, session=session, timeout=30)
        case.validate_response(reply, checks=checks)
        if reply.status_code == 400:
            told = reply.json()["error"]
            assert told.get("param") or re.search(r" support |\)$", told["message"]), told

    with session:
        ask()


GENERATING = [
    "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings", "/v1/messages",
    "/v1/messages/count_tokens",
]  # fmt: skip
OTHERS = [
    ("post", "/v1/audio/speech"), ("post", "/v1/audio/transcriptions"), ("post", "/v1/images/generations"),
    ("post", "/v1/images/edits"), ("post", "/v1/moderations"), ("post", "/v1/rerank"), ("post", "/tokenize"),
    ("post", "/detokenize"), ("post", "/v1/files"), ("post", "/v1/batches"), ("get", "/v1/files"),
    ("get", "/v1/batches"), ("get", "/server/usage"),
]  # fmt: skip
ASKED = [*(("post", path) for path in GENERATING), *OTHERS]
PLAIN = [
    ("get", "/v1/models"), ("get", "/v1/models/{id}"), ("get", "/health"), ("get", "/ready"), ("get", "/version"),
    ("get", "/openapi.json"), ("get", "/server/live"), ("get", "/metrics"), ("get", "/"), ("get", "/page/{name}"),
    ("get", "/v1/files/{id}"), ("delete", "/v1/files/{id}"), ("get", "/v1/files/{id}/content"),
    ("get", "/v1/batches/{id}"), ("post", "/v1/batches/{id}/cancel"),
]  # fmt: skip
SAME = [("post", "/v2/rerank"), ("post", "/rerank")]  # as another of the routes
GOOD, BAD = GenerationMode.POSITIVE, GenerationMode.NEGATIVE


@pytest.mark.parametrize("url", ["anything"], indirect=True)
@pytest.mark.parametrize("mode", [GOOD, BAD], ids=["good", "bad"])
@pytest.mark.parametrize(("method", "path"), ASKED)
def test_no_request_makes_the_server_fail(url: str, method: str, path: str, mode: GenerationMode) -> None:
    check_route(url, method, path, mode, SOME if path in GENERATING else FEW)


@pytest.mark.parametrize("url", ["echo"], indirect=True)
@pytest.mark.parametrize(("method", "path"), PLAIN)
def test_no_way_to_look_at_the_server_makes_it_fail(url: str, method: str, path: str) -> None:
    check_route(url, method, path, GOOD, FEW if "{" in path else 2)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("url", ["echo", "anything"], indirect=True)
@pytest.mark.parametrize("mode", [GOOD, BAD], ids=["good", "bad"])
@pytest.mark.parametrize(("method", "path"), ASKED)
def test_no_request_of_many_makes_the_server_fail(url: str, method: str, path: str, mode: GenerationMode) -> None:
    check_route(url, method, path, mode, MANY)
