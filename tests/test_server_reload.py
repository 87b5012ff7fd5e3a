"""A server that answers by another configuration: no call is broken off, and what is the same stays as it is."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import asyncllm
from asyncllm import Client, ConfigError, Limits, Settings
from asyncllm.config import Group
from asyncllm.server import ServerSettings, Service
from asyncllm.server.running.reload import Kept
from asyncllm.server.upstream import Upstream
from asyncllm.testing import FaultyServer, Status, openai_reply
from fleet import Fleet, place


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> Fleet:
    return Fleet(monkeypatch)


def client_of(**names: str) -> Client:
    """A client of deployments, each of which is one engine of the fleet."""
    return Client(
        model=next(iter(names)),
        config=Settings(deployments={name: place(engine) for name, engine in names.items()}),
        env={},
        retry=None,
    )


@asynccontextmanager
async def held(fleet: Fleet, client: Client, name: str) -> AsyncGenerator[asyncio.Task[str]]:
    """A call that waits in the middle of its answer, until the block is left."""
    begun = asyncio.Event()

    async def call() -> str:
        text = ""
        async for piece in client.stream_text("hi", model=name):
            text += piece
            begun.set()
        return text

    fleet[name].go_on.clear()
    task = asyncio.create_task(call())
    await begun.wait()
    try:
        yield task
    finally:
        fleet[name].go_on.set()
        await task


async def test_what_is_the_same_is_taken_over_and_what_is_not_is_closed_with_the_client_before(fleet: Fleet) -> None:
    old, new = client_of(a="a", b="b"), client_of(a="a", b="b2", c="c")
    for name in ("a", "b"):
        await old.chat("hi", model=name)
    a, b = fleet["a"], fleet["b"]

    new.take_over(old, ["a", "b", "c"])
    texts = [(await new.chat("hi", model=name)).text for name in ("a", "b", "c")]
    await old.chat("hi", model="b")
    await old.aclose()
    still = (await new.chat("hi", model="a")).text
    closed_with_old = (a.is_closed, b.is_closed)
    await new.aclose()

    assert texts == ["a says so", "b2 says so", "c says so"]
    assert fleet.connected == {"a": 1, "b": 1, "b2": 1, "c": 1}
    assert (still, closed_with_old) == ("a says so", (False, True))
    assert a.is_closed
    assert fleet["b2"].is_closed


async def test_what_cannot_be_connected_takes_nothing_over(fleet: Fleet) -> None:
    old, new = client_of(a="a"), client_of(a="a", b="broken")
    await old.chat("hi")

    with pytest.raises(ConfigError, match="cannot be connected"):
        new.take_over(old, ["a", "b"])
    await new.aclose()

    assert (await old.chat("hi")).text == "a says so"
    await old.aclose()
    assert fleet["a"].is_closed
    assert fleet.connected == {"a": 1}


async def test_http_goes_on_over_the_same_connections() -> None:
    async with FaultyServer([Status(body=openai_reply("fine"))]) as server:
        settings: dict[str, Any] = {"model": "openai:m", "base_url": server.url, "api_key": "k", "env": {}}
        old, new = Client(**settings), Client(**settings)
        await old.chat("hi")
        new.take_over(old, ["openai:m"])
        await old.aclose()
        await new.chat("hi")
        connections = server.connections
        await new.aclose()

    assert connections == 1


async def test_a_place_keeps_its_limits_and_how_it_has_been_doing(fleet: Fleet) -> None:
    def limited() -> Client:
        deployments = {"a": place("a"), "b": place("b")}
        deployments["a"] = asyncllm.config.Deployment(
            backend="echo", model="m", options={"name": "a"}, limits=Limits(concurrency=1)
        )
        groups = {"both": Group(members=["a", "b"])}
        return Client(model="both", config=Settings(deployments=deployments, groups=groups), env={}, retry=None)

    old, new = limited(), limited()
    await old.chat("hi")
    await old.chat("hi", model=["a", "b"])
    fleet["b"].is_up = False
    await old.chat("hi", model=["b", "a"])
    async with held(fleet, old, "a"):
        new.take_over(old, ["both", "a"])
        waiting = asyncio.create_task(new.chat("hi", model="a"))
        await asyncio.sleep(0.05)
        calls = fleet["a"].calls
        under_way = waiting.done()
    await waiting
    asked = fleet["b"].calls
    await new.chat("hi", model=["b", "a"])
    await old.aclose()
    await new.aclose()

    assert not under_way
    assert fleet["a"].calls == calls + 2
    assert fleet["b"].calls == asked  # it still cools down


async def test_calls_end_where_they_began_and_new_ones_go_elsewhere(fleet: Fleet) -> None:
    old, new = client_of(a="a"), client_of(b="b")
    await old.chat("hi")
    service = Service(old, ServerSettings(models={"m": "a"}), None)

    async def request() -> str:
        with service.upstream.held():
            upstream = service.upstream
            return (await upstream.client.chat("hi", model=upstream.served.find("m")[1])).text

    fleet["a"].go_on.clear()
    early = asyncio.create_task(request())
    while fleet["a"].calls < 2:  # noqa: ASYNC110  # an engine tells nobody
        await asyncio.sleep(0)
    replacing = asyncio.create_task(service.replace(new, ServerSettings(models={"m": "b"})))
    await asyncio.sleep(0)
    late = await request()
    await asyncio.sleep(0.01)
    waits = not replacing.done()
    fleet["a"].go_on.set()
    await replacing
    await old.aclose()

    assert (await early, late, waits) == ("a says so", "b says so", True)
    await new.aclose()


async def test_a_call_that_does_not_end_is_not_waited_for_for_ever(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = client_of(a="a"), client_of(b="b")
    service = Service(old, ServerSettings(), None)
    with service.upstream.held():
        await service.replace(new, ServerSettings(handover_s=0.01))

    assert "go on 0.01 seconds after" in caplog.text
    await old.aclose()
    await new.aclose()
    assert not fleet.connected["a"]


async def test_a_model_that_is_not_there_changes_nothing() -> None:
    old, new = Client(model="echo:x", env={}), Client(model="echo:x", env={})
    service = Service(old, ServerSettings(), None)
    before = service.upstream

    with pytest.raises(ConfigError, match="nope"):
        await service.replace(new, ServerSettings(models={"m": "nope:x"}, max_choices=3))

    assert service.upstream is before
    assert service.settings == ServerSettings()


Step = st.one_of(st.just("begin"), st.just("swap"), st.integers(0, 20))


@given(st.lists(Step, max_size=40))
def test_an_upstream_is_unused_once_no_request_is_left_that_began_before_its_successor(steps: list[Any]) -> None:
    async def play() -> None:
        nobody: Any = None
        epoch, current = 0, Upstream(nobody, nobody)
        requests: list[tuple[int, Any]] = []
        retired: list[tuple[int, asyncio.Task[None]]] = []
        for step in steps:
            if step == "begin":
                block = current.held()
                block.__enter__()
                requests.append((epoch, block))
            elif step == "swap":
                successor = Upstream(nobody, nobody)
                successor.follow(current)
                retired.append((epoch, asyncio.create_task(current.unused())))
                epoch, current = epoch + 1, successor
            elif requests:
                requests.pop(step % len(requests))[1].__exit__(None, None, None)
            for _ in range(len(retired) + 3):
                await asyncio.sleep(0)
            for begun, task in retired:
                assert task.done() == all(since > begun for since, _ in requests)
        for _, block in requests:
            block.__exit__(None, None, None)
        await asyncio.gather(*(task for _, task in retired))

    asyncio.run(play())


async def test_a_hangup_has_the_configuration_read_again_and_a_wrong_one_is_one_line(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    first = client_of(a="a")
    coming: list[Any] = [
        ConfigError("the file is wrong"),
        (client_of(a="a", b="broken"), ServerSettings(models={"b": "b"})),
        (client_of(a="a", b="b"), ServerSettings(models={"b": "b"}, needs_key=True, max_choices=3)),
        (client_of(c="c"), ServerSettings(models={"c": "c"})),
    ]

    def renew() -> tuple[Client, ServerSettings]:
        given = coming.pop(0)
        if isinstance(given, Exception):
            raise given
        return given  # type: ignore[no-any-return]

    told: list[str] = []
    service = Service(first, ServerSettings(models={"a": "a"}), None)
    await first.chat("hi")
    async with Kept(service, service.settings, renew, told.append):
        for left in (3, 2, 1, 0):
            os.kill(os.getpid(), signal.SIGHUP)
            async with asyncio.timeout(10):
                while len(coming) > left:  # noqa: ASYNC110  # nobody tells that it has been read
                    await asyncio.sleep(0.001)
            await asyncio.sleep(0.02)
        await service.upstream.client.chat("hi")

    assert told == ["serving b from now on", "serving c from now on"]
    assert [record.getMessage() for record in caplog.records] == [
        "the configuration stays as it was: the file is wrong",
        "the configuration stays as it was: this one cannot be connected",
        "needs_key has changed, which counts from the next start on",
    ]
    assert not service.settings.needs_key
    assert all(engine.is_closed for engine in fleet.engines.values())
