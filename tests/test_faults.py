"""Each fault of `fault_cases` becomes exactly the error that it is, and is tried again exactly where it may be."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

import asyncllm
from asyncllm import Client, Retry, TextDelta, Timeouts
from asyncllm.testing import FaultyServer, Fin, Rst, Stall
from asyncllm.testing.ops import Op
from fault_cases import CASES, Case, Mode, begin, good

CANARY = "canary-77f3"
IDS = [f"{case.name}-{case.mode}" for case in CASES]
AGAIN = Retry(attempts=2, backoff_s=0, throttled_s=0)


def client_of(url: str, **arguments: Any) -> Client:
    return Client(model="openai:x", base_url=url, api_key=f"{CANARY}-key", env={}, **arguments)


async def ask(client: Client, mode: Mode) -> str:
    """Make the call and return its text. For `after`, the first piece of text must have come before it fails."""
    if mode == "plain":
        return (await client.chat(f"{CANARY}-prompt")).text
    seen = ""
    try:
        async with client.stream(f"{CANARY}-prompt") as stream:
            async for event in stream:
                if isinstance(event, TextDelta):
                    seen += event.text
        return seen
    finally:
        assert seen.startswith("Hel") or mode == "before"


def shown(error: BaseException | None) -> str:
    """All that a log could show of an error and of what led to it."""
    if error is None:
        return ""
    return "\n".join([str(error), repr(error), shown(error.__cause__), shown(error.__context__)])


def address(server: FaultyServer, case: Case) -> str:
    return server.url.replace("http:", "https:") if case.tls else server.url


def test_the_table_is_whole() -> None:
    assert len(IDS) == len(set(IDS)) >= 130


@pytest.mark.parametrize("case", CASES, ids=IDS)
async def test_a_fault_is_told_as_what_it_is(case: Case) -> None:
    async with FaultyServer(case.script, on_connect=case.on_connect) as server:
        async with client_of(address(server, case), retry=None, timeouts=case.timeouts) as client:
            with pytest.raises(asyncllm.AsyncLLMError) as caught:
                async with asyncio.timeout(20):
                    await ask(client, case.mode)
        hits = len(server.requests)

    error = caught.value
    assert type(error) is case.error
    assert error.retryable is case.retryable
    assert error.maybe_billed is case.maybe_billed
    assert (error.partial.text if error.partial else None) == ("Hel" if case.mode == "after" else None)
    assert error.attempts == ()
    assert (error.backend, error.model) == ("openai", "x")
    assert hits == (0 if case.on_connect else 1)
    assert CANARY not in shown(error)


@pytest.mark.parametrize("case", [case for case in CASES if not case.on_connect], ids=lambda case: case.name)
async def test_a_fault_is_tried_again_where_that_may_help_and_nothing_was_seen(case: Case) -> None:
    scripts = [case.script, good(case.mode)]
    is_retried = case.retryable and case.mode != "after"

    async with FaultyServer(scripts) as server:
        async with client_of(server.url, retry=AGAIN, timeouts=case.timeouts) as client:
            async with asyncio.timeout(20):
                if is_retried:
                    assert await ask(client, case.mode) == "Hello"
                else:
                    with pytest.raises(case.error):
                        await ask(client, case.mode)
        hits = len(server.requests)

    assert hits == (2 if is_retried else 1)


@pytest.mark.parametrize("mode", ["plain", "before"])
@pytest.mark.parametrize("what", ["a name that does not exist", "nobody listening", "nobody accepting"])
async def test_no_connection_is_told_and_was_not_billed(mode: Mode, what: str) -> None:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    knocking: list[socket.socket] = []
    if what == "nobody accepting":
        listener.listen(0)
        for _ in range(4):  # a full backlog drops what knocks
            knock = socket.socket()
            knock.setblocking(False)
            knock.connect_ex(listener.getsockname())
            knocking.append(knock)
    host = "nowhere.invalid" if what == "a name that does not exist" else f"127.0.0.1:{listener.getsockname()[1]}"
    try:
        async with client_of(f"http://{host}/v1", retry=AGAIN, timeouts=Timeouts(connect_s=0.2)) as client:
            with pytest.raises(asyncllm.APIConnectionError, match=host) as caught:
                await ask(client, mode)
    finally:
        for one in [listener, *knocking]:
            one.close()

    kind = asyncllm.ConnectTimeoutError if what == "nobody accepting" else asyncllm.APIConnectionError
    assert [type(error) for error in caught.value.attempts] == [kind, kind]
    assert not caught.value.maybe_billed
    assert caught.value.partial is None


@pytest.mark.parametrize("mode", ["plain", "before"])
@pytest.mark.parametrize("end", [Fin(), Rst()], ids=["fin", "rst"])
async def test_a_stale_connection_is_no_attempt(mode: Mode, end: Op) -> None:
    scripts: list[list[Op]] = [good(mode), [end], good(mode), [end], [Fin()]]

    async with FaultyServer(scripts) as server:
        async with client_of(server.url, retry=None) as client:
            assert await ask(client, mode) == "Hello"
            assert await ask(client, mode) == "Hello"
            assert len(server.requests) == 3
            # The connection made for the second sending is of one call only, so the next call begins on a new one.
            with pytest.raises(asyncllm.APIConnectionError) as caught:
                await ask(client, mode)
            assert len(server.requests) == 4

    assert caught.value.attempts == ()
    assert caught.value.maybe_billed


@pytest.mark.parametrize("mode", ["plain", "before"])
async def test_an_early_refusal_wins_over_the_broken_upload(mode: Mode) -> None:
    body = b'{"error":{"message":"too large"}}'
    early = b"HTTP/1.1 413 X\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)

    async with FaultyServer([], on_connect=[0.02, early, Fin()]) as server:
        async with client_of(server.url, retry=None) as client:
            with pytest.raises(asyncllm.APIStatusError, match="too large") as caught:
                prompt = CANARY + "x" * (8 * 2**20)
                await (client.chat(prompt) if mode == "plain" else client.stream(prompt).whole())

    assert caught.value.status == 413
    assert not caught.value.retryable


@pytest.mark.parametrize("where", ["no connection", "no head", "body", "text"])
async def test_a_cancelled_call_ends_cancelled_and_cuts_its_connection(where: str) -> None:
    mode: Mode = "after" if where == "text" else "plain"
    script = {"no connection": [], "no head": [Stall()]}.get(where, [*begin(mode), Stall()])
    greeting: list[Op] = [Stall()] if where == "no connection" else []

    async with FaultyServer(script, on_connect=greeting) as server:
        url = server.url.replace("http:", "https:") if greeting else server.url
        async with client_of(url, retry=AGAIN) as client:
            task = asyncio.create_task(ask(client, mode))
            await asyncio.sleep(0.1)
            task.cancel()
            async with asyncio.timeout(10):
                with pytest.raises(asyncio.CancelledError):
                    await task
                if not greeting:
                    assert await server.aborted()
        assert len(server.requests) == (0 if greeting else 1)
