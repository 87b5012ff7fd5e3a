"""The server's description of itself says all that it takes, and nothing that it does not hold to."""

from __future__ import annotations

import asyncio
import queue
import re
import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
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

from asyncllm import Client
from asyncllm.backend import EmbedRequest
from asyncllm.events import (
    Event,
    Events,
    Finished,
    LogprobsDelta,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    UsageReport,
)
from asyncllm.server import ServerSettings, app
from asyncllm.types import Embeddings, PromptCheck, Request, TokenLogprob, Usage
from served import served, server_of

CHECKS = [
    not_a_server_error, response_schema_conformance, content_type_conformance, status_code_conformance,
    negative_data_rejection,
]  # fmt: skip
SOME, MANY = 12, 1000  # examples of a route, of which the longer form has 20 in all


class Anything:
    """A backend that takes whatever it is asked and answers with all there is."""

    @asynccontextmanager
    async def open(self, request: Request, /) -> AsyncGenerator[Events]:
        yield self._events(request)

    async def _events(self, request: Request) -> AsyncGenerator[Event]:
        for index in range(request.sampling.n if isinstance(request.sampling.n, int) else 1):
            yield ReasoningDelta("hm", index)
            yield TextDelta("hi\u2028", index)
            if request.sampling.logprobs is True:
                yield LogprobsDelta((TokenLogprob("hi", -0.5, top=(TokenLogprob("ho", -1.5),)),), index)
            if request.tools:
                yield ToolCallDelta(0, "call_1", request.tools[0].name, "{}", index)
            yield Finished("stop", None, index, "END")
        yield UsageReport(Usage(input_tokens=3, output_tokens=2, cached_tokens=1))

    async def embed(self, request: EmbedRequest, /) -> Embeddings:
        return Embeddings(vectors=tuple((0.5, 1.0) for _ in request.texts), usage=Usage(input_tokens=3))

    async def check_prompt(self, request: Request, /) -> PromptCheck:
        return PromptCheck(tokens=len(request.messages), limit=None)

    async def aclose(self) -> None:
        pass


def client_of(kind: str) -> Client:
    return Client(model="echo:x") if kind == "echo" else Client(backend=Anything())


@contextmanager
def running(kind: str) -> Generator[str]:
    """The address of a server in a thread: what asks of it blocks."""
    told: queue.Queue[Any] = queue.Queue()

    async def run() -> None:
        over = asyncio.Event()
        async with client_of(kind) as client, served(client, models={"m": "echo:x" if kind == "echo" else ""}) as url:
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
def url(request: pytest.FixtureRequest) -> Generator[str]:
    with running(request.param) as url:
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
    for (method, _), one in told.items():
        assert one["summary"]
        assert one["responses"]["200"]["content"]
        assert method != "POST" or one["requestBody"]["content"]
    schemathesis.openapi.from_dict(document).validate()


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


def check_route(url: str, path: str, mode: GenerationMode, count: int) -> None:
    """Ask a route for `count` things that its schema allows, or forbids, and look at what comes."""
    document = requests.get(f"{url}/openapi.json", timeout=30).json()
    (method,) = document["paths"][path]
    operation = schemathesis.openapi.from_dict(document)[path][method]
    session = requests.Session()

    @settings(max_examples=count, suppress_health_check=list(HealthCheck), deadline=None, phases=[Phase.generate])
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Case[Any]) -> None:
        if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
            del case.body["model"]  # there is hardly ever one of that name
        reply = case.call(base_url=url, session=session, timeout=30)
        case.validate_response(reply, checks=CHECKS)
        if reply.status_code == 400:
            told = reply.json()["error"]
            assert told.get("param") or re.search(r" support |\)$", told["message"]), told

    with session:
        ask()


PATHS = [
    "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/messages", "/v1/messages/count_tokens",
]  # fmt: skip
PLAIN = ["/v1/models", "/v1/models/{id}", "/health", "/ready", "/version", "/openapi.json"]
GOOD, BAD = GenerationMode.POSITIVE, GenerationMode.NEGATIVE


@pytest.mark.parametrize("url", ["anything"], indirect=True)
@pytest.mark.parametrize("mode", [GOOD, BAD], ids=["good", "bad"])
@pytest.mark.parametrize("path", PATHS)
def test_no_request_makes_the_server_fail(url: str, path: str, mode: GenerationMode) -> None:
    check_route(url, path, mode, SOME)


@pytest.mark.parametrize("url", ["echo"], indirect=True)
@pytest.mark.parametrize("path", PLAIN)
def test_no_way_to_look_at_the_server_makes_it_fail(url: str, path: str) -> None:
    check_route(url, path, GOOD, SOME if "{" in path else 2)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("url", ["echo", "anything"], indirect=True)
@pytest.mark.parametrize("mode", [GOOD, BAD], ids=["good", "bad"])
@pytest.mark.parametrize("path", PATHS)
def test_no_request_of_many_makes_the_server_fail(url: str, path: str, mode: GenerationMode) -> None:
    check_route(url, path, mode, MANY)
