"""Calls cancelled at every one of their steps: the cancellation comes out, and nothing of the call stays behind."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, TypeAlias

import pytest

import asyncllm
from asyncllm import Client, Retry, TextDelta
from asyncllm.testing import (
    FaultyServer,
    Op,
    ScriptedBackend,
    ScriptedTransport,
    SeenRequest,
    Sse,
    Status,
    openai_chunks,
    openai_reply,
)
from leftovers import idle, nothing_unseen, settle, tasks
from steps import interrupted

Call: TypeAlias = Callable[[Client], Coroutine[Any, Any, None]]

STEPS = 200  # more than any call has; the loop ends at the first step that a call does not reach
REPLY = openai_reply("whole")
VECTORS = b'{"data":[{"index":0,"embedding":[1.0]}]}'


def slowly(body: bytes) -> list[Op]:
    """A reply whose head and body arrive in several reads."""
    head = Status(200, {"Content-Type": "application/json", "Content-Length": str(len(body))}, None)
    return [head, 0.001, body[:9], 0.001, body[9:]]


def serve(request: SeenRequest) -> Sequence[Op]:
    """Answer by what is asked for; `fail` in place of a model's name fails."""
    if request.method == "GET":
        return slowly(b'{"data":[]}')
    document = request.json()
    if document["model"] == "fail":
        return [Status(503, {}, b'{"error":{"message":"busy"}}')]
    if request.path.endswith("/embeddings"):
        return slowly(VECTORS)
    if document.get("stream"):
        return [Sse(openai_chunks(["a", "b", "c"]), every_s=0.001)]
    return slowly(REPLY)


async def chat(client: Client) -> None:
    assert (await client.chat("hi")).text == "whole"


async def stream(client: Client) -> None:
    async with client.stream("hi") as stream:
        assert [event.text async for event in stream if isinstance(event, TextDelta)] == ["a", "b", "c"]


async def stream_text(client: Client) -> None:
    async with contextlib.aclosing(client.stream_text("hi")) as texts:
        assert [text async for text in texts] == ["a", "b", "c"]


async def stream_left_early(client: Client) -> None:
    async with client.stream("hi") as stream:
        async for event in stream:
            if isinstance(event, TextDelta):
                break


async def retry_that_sleeps(client: Client) -> None:
    with contextlib.suppress(asyncllm.OverloadedError):
        await client.chat("hi", model="openai:fail")


async def fallback(client: Client) -> None:
    async with client.stream("hi", model=["openai:fail", "openai:two"]) as stream:
        async for _ in stream:
            pass


async def embed(client: Client) -> None:
    assert len(await client.embed("hi")) == 1


async def is_alive(client: Client) -> None:
    assert await client.is_alive()


async def closing(client: Client) -> None:
    async with client.stream("hi"):
        await client.aclose()


async def after_another(client: Client) -> None:
    await client.chat("hi")
    await client.chat("hi")


CALLS: list[Call] = [
    chat, stream, stream_text, stream_left_early, retry_that_sleeps, fallback, embed, is_alive, closing, after_another
]  # fmt: skip


@pytest.fixture
async def server() -> AsyncIterator[FaultyServer]:
    async with FaultyServer(serve) as server:
        yield server


@pytest.mark.parametrize("late", [False, True], ids=["waiting", "woken"])
@pytest.mark.parametrize("way", ["task", "scope"])
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
async def test_a_call_cancelled_at_any_step_passes_it_on_and_leaves_nothing(
    server: FaultyServer, call: Call, way: str, late: bool
) -> None:
    before = tasks()
    with nothing_unseen(asyncio.get_running_loop()):
        for step in range(1, STEPS):
            async with Client(
                model="openai:m",
                base_url=server.url,
                env={},
                retry=Retry(attempts=2, backoff_s=0.002, throttled_s=0.002),
            ) as client:
                struck = await interrupted[way](call(client), step, late=late)
                await settle(client, before)
                assert not client._dog._looks, "a deadline is still watched"
                await server_has_let_go(server, client)
                if call is not closing:
                    await chat(client)
            if not struck:
                break
    assert 2 < step < STEPS - 1


async def server_has_let_go(server: FaultyServer, client: Client) -> None:
    """Return when the server serves no connection but those that the client keeps for its next calls."""
    async with asyncio.timeout(5):
        while len(server._tasks) > idle(client):  # noqa: ASYNC110  # both ends have to notice
            await asyncio.sleep(0.001)


class Slow(ScriptedBackend):
    """A backend that takes some steps to close."""

    async def aclose(self) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        await super().aclose()


@pytest.mark.parametrize("late", [False, True], ids=["waiting", "woken"])
@pytest.mark.parametrize("way", ["task", "scope"])
async def test_closing_that_is_cancelled_closes_all_the_same(way: str, late: bool) -> None:
    for step in range(1, STEPS):
        backend, transport = Slow([[]]), ScriptedTransport()
        client = Client(backend=backend)
        client._routes._owned = transport  # as the first call would have made one

        struck = await interrupted[way](client.aclose(), step, late=late)

        assert (backend.is_closed, transport.is_closed) == (True, True)
        if not struck:
            break
