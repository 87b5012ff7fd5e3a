"""However a call of the vLLM backend is left, the engine stops working on it, by the engine's own counters."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

import pytest

import asyncllm
from asyncllm import Client, TextDelta
from asyncllm_vllm.adapter import Core
from asyncllm_vllm.engine import Engine
from leftovers import lag, nothing_unseen, settle, tasks
from steps import interrupted
from test_abort import DEADLINES, LEAVES, STRIKES, Place, Way
from vllm_engines import client_of, stands_still, until

pytest_plugins = ["vllm_fixtures"]

AT_ONCE_S = 0.25
STEPS = 60  # more than a call has; the loop ends at the first step that a call does not reach
LONG: dict[str, Any] = {"max_tokens": 900, "ignore_eos": True}


@pytest.fixture
async def client(tiny_engine: Engine) -> AsyncGenerator[Client]:
    async with client_of(tiny_engine) as client:
        await client.chat("x", max_tokens=1)  # starts the engine's reader on this loop
        yield client


@pytest.fixture
def core(tiny_engine: Engine, client: Client) -> Core:
    return tiny_engine.core


@pytest.mark.parametrize("leave", [*LEAVES, *STRIKES, *DEADLINES], ids=lambda leave: leave.__name__)
async def test_however_a_call_is_left_the_engine_stops_at_once(
    client: Client, core: Core, leave: Way, caplog: pytest.LogCaptureFixture
) -> None:
    took: list[float] = []
    place = Place(client, lambda: core.unfinished > 0, LONG)
    before = tasks()
    with nothing_unseen(asyncio.get_running_loop()):
        for _ in range(2):
            made = core.generated
            async with lag() as held_up:
                await leave(place)
                await until(lambda: core.unfinished == 0)
                took.append(asyncio.get_running_loop().time() - place.left_at - held_up.worst_s)
            assert await stands_still(core)
            assert core.generated - made < 900
        await settle(client, before)

    assert min(took) < AT_ONCE_S
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_closing_the_client_during_a_stream_ends_it(client: Client, core: Core) -> None:
    with pytest.raises(asyncllm.APIError) as caught:
        async with client.stream("Go on.", **LONG) as stream:
            async for event in stream:
                if isinstance(event, TextDelta):
                    await client.aclose()
                    assert core.unfinished == 0

    assert caught.value.partial == stream.response
    assert stream.response.text
    assert not caught.value.retryable
    assert await stands_still(core)


async def test_closing_the_client_during_a_plain_call_ends_it(client: Client, core: Core) -> None:
    calls = [asyncio.create_task(client.chat("Go on.", **LONG)) for _ in range(5)]
    await until(lambda: core.unfinished == 5)
    await client.aclose()

    for error in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(error, asyncllm.APIError)
    assert await stands_still(core)


LENGTHY = "The capital of France is Paris. " * 65
"""More than is rendered on the spot, so that a call waits for its prompt too."""


async def chat(client: Client) -> None:
    await client.chat(LENGTHY, max_tokens=3)


async def several(client: Client) -> None:
    await client.chat(LENGTHY, max_tokens=3, n=3, temperature=1.0)


async def stream(client: Client) -> None:
    async with client.stream(LENGTHY, max_tokens=3, n=2) as stream:
        async for _ in stream:
            pass


async def stream_left_early(client: Client) -> None:
    async with client.stream(LENGTHY, **LONG) as stream:
        async for _ in stream:
            break


async def counting(client: Client) -> None:
    await client.check_prompt(LENGTHY)


CALLS: list[Callable[[Client], Coroutine[Any, Any, None]]] = [chat, several, stream, stream_left_early, counting]


@pytest.mark.parametrize("late", [False, True], ids=["waiting", "woken"])
@pytest.mark.parametrize("way", ["task", "scope"])
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
async def test_a_call_cancelled_at_any_step_leaves_nothing_in_the_engine(
    client: Client, core: Core, call: Callable[[Client], Coroutine[Any, Any, None]], way: str, late: bool
) -> None:
    before = tasks()
    with nothing_unseen(asyncio.get_running_loop()):
        for step in range(1, STEPS):
            struck = await interrupted[way](call(client), step, late=late)
            assert core.unfinished == 0
            if not struck:
                break
        await settle(client, before)
    assert await stands_still(core)
    assert 2 < step < STEPS - 1


async def test_leaving_some_calls_does_not_disturb_the_others(client: Client, core: Core) -> None:
    alone = (await client.chat("Say this.", temperature=0, max_tokens=60)).text
    staying = [asyncio.create_task(client.chat("Say this.", temperature=0, max_tokens=60)) for _ in range(8)]
    leaving = [asyncio.create_task(client.chat("Go on.", **LONG)) for _ in range(24)]
    for task in leaving:
        await asyncio.sleep(0.002)
        task.cancel()

    assert {reply.text for reply in await asyncio.gather(*staying)} == {alone}
    assert all(
        isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*leaving, return_exceptions=True)
    )
    assert await stands_still(core)


async def test_a_reader_that_stands_still_costs_the_engine_nothing_and_gets_all(client: Client, core: Core) -> None:
    async with client.stream("Go on.", max_tokens=300, ignore_eos=True, temperature=0) as stream:
        events = aiter(stream)
        pieces = [event.text for event in [await anext(events)] if isinstance(event, TextDelta)]
        await until(lambda: core.unfinished == 0)
        pieces += [event.text async for event in events if isinstance(event, TextDelta)]

    assert len(pieces) < 20  # what has come meanwhile comes as one
    assert stream.response.usage.output_tokens == 300
    assert "".join(pieces) == stream.response.text


async def test_dropped_generators_are_closed_by_the_loop(client: Client, core: Core) -> None:
    for _ in range(3):
        texts = client.stream_text("Go on.", **LONG)
        assert await anext(texts)
        del texts
    await until(lambda: core.unfinished == 0)
    assert await stands_still(core)


async def test_leaving_from_an_exit_stack_frees_every_call(client: Client, core: Core) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(20):
            await stack.enter_async_context(client.stream("Go on.", **LONG))
        assert core.unfinished == 20
    assert core.unfinished == 0
    assert await stands_still(core)
