"""The cache as callers meet it: `Client(cache=...)`."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

import asyncllm
from asyncllm import Finished, Started, TextDelta, UsageReport
from asyncllm.backend import Config, Secret
from asyncllm.cache import Cache, DiskCache, MemoryCache
from asyncllm.hooks.logs import LogCalls
from asyncllm.identity import Noted, identify
from asyncllm.testing import (
    FaultyServer,
    Script,
    ScriptedBackend,
    SeenRequest,
    Sse,
    Stall,
    Status,
    Step,
    openai_chunks,
    openai_reply,
)
from asyncllm.types import Usage

USAGE = Usage(input_tokens=7, output_tokens=2)


def numbered() -> Callable[[SeenRequest], Sequence[Any]]:
    """A script that answers each request with its number, so that no two answers are alike."""
    numbers = itertools.count()

    def serve(request: SeenRequest) -> Sequence[Any]:
        text = f"answer {next(numbers)}"
        if request.json().get("stream"):
            return [Sse(openai_chunks([text, " streamed"], usage=USAGE))]
        return [Status(body=openai_reply(text, usage=USAGE))]

    return serve


def client(server: FaultyServer, cache: Cache | None, key: str = "sk-a", **options: Any) -> asyncllm.Client:
    url = f"{server.url}/v1"
    return asyncllm.Client(model="openai:m", base_url=url, api_key=key, cache=cache, env={}, **options)


async def test_the_same_chat_is_asked_once_and_costs_once() -> None:
    prices = {"openai:m": asyncllm.Price(input_usd=1, output_usd=1)}

    async with FaultyServer(numbered()) as server, client(server, MemoryCache(), prices=prices) as asked:
        first = await asked.chat("hi", temperature=0)
        second = await asked.chat("hi", temperature=0.0, timeouts=asyncllm.Timeouts(total_s=9))
        other = await asked.chat("ho", temperature=0)

    assert (first.cached, second.cached, other.cached) == (False, True, False)
    assert first.text == second.text != other.text
    assert (second.usage, second.raw, second.request_id) == (first.usage, first.raw, first.request_id)
    assert (first.cost_usd or 0) > 0 == second.cost_usd
    assert len(server.requests) == 2


async def test_a_stream_comes_again_as_the_same_stream_and_folded_for_who_wants_it_whole() -> None:
    async with FaultyServer(numbered()) as server, client(server, MemoryCache()) as asked:
        streams: list[list[asyncllm.Event]] = []
        for _ in range(2):
            async with asked.stream("hi") as stream:
                streams.append([event async for event in stream])
        whole = await asked.chat("hi")

    assert streams[0] == streams[1]
    assert sum(isinstance(event, TextDelta) for event in streams[1]) >= 2
    assert whole.text == "".join(event.text for event in streams[0] if isinstance(event, TextDelta))
    assert (stream.response.cached, whole.cached) == (True, True)
    assert len(server.requests) == 1


async def test_an_answer_outlives_its_client_in_a_folder_and_another_key_does_not_get_it(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "answers")

    async with FaultyServer(numbered()) as server:
        async with client(server, cache) as one:
            first = await one.chat("hi")
        async with client(server, cache) as again:
            second = await again.chat("hi")
        async with client(server, cache, key="sk-b") as stranger:
            third = await stranger.chat("hi")
    await cache.aclose()

    assert (second.text, second.cached) == (first.text, True)
    assert (third.text != first.text, third.cached) == (True, False)


async def test_another_address_is_another_deployment_wherever_it_is_said() -> None:
    cache = MemoryCache()

    async with FaultyServer(numbered()) as one, FaultyServer(numbered()) as two:
        for server in (one, two):
            env = {"OPENAI_BASE_URL": f"{server.url}/v1", "OPENAI_API_KEY": "sk-a"}
            async with asyncllm.Client(model="openai:m", cache=cache, env=env) as asked:
                assert not (await asked.chat("hi")).cached
                assert (await asked.chat("hi")).cached

    assert len(one.requests) == len(two.requests) == 1


async def test_two_backends_of_a_callers_own_never_share_an_answer() -> None:
    cache = MemoryCache()
    texts: list[str] = []

    for text in ("a", "b"):
        backend = ScriptedBackend([[TextDelta(text), Finished("stop")]])
        async with asyncllm.Client(backend=backend, model="m", cache=cache) as asked:
            texts += [(await asked.chat("hi")).text, (await asked.chat("hi")).text]
        assert backend.opened == 1

    assert texts == ["a", "a", "b", "b"]


async def test_an_answer_that_does_not_parse_is_asked_for_again() -> None:
    class Point(msgspec.Struct):
        x: int

    scripts: list[Script] = [[TextDelta('{"x": "no"}'), Finished("stop")], [TextDelta('{"x": 1}'), Finished("stop")]]

    async with asyncllm.Client(backend=ScriptedBackend(scripts), model="m", cache=MemoryCache()) as asked:
        with pytest.raises(asyncllm.ResponseValidationError):
            await asked.chat("hi", output_type=Point, repairs=0)
        good = await asked.chat("hi", output_type=Point)
        again = await asked.chat("hi", output_type=Point)

    assert (good.parsed, good.cached) == (Point(1), False)
    assert (again.parsed, again.cached) == (Point(1), True)


async def test_a_stream_that_is_left_or_dropped_half_way_is_not_kept() -> None:
    half: list[Step] = [TextDelta("a"), TextDelta("b"), Stall()]
    backend = ScriptedBackend([half, half, [TextDelta("whole"), Finished("stop")]])

    async with asyncllm.Client(backend=backend, model="m", cache=MemoryCache()) as asked:
        async with asked.stream("hi") as stream:
            async for _ in stream:
                break
        texts = asked.stream_text("hi")
        await anext(texts)
        del texts
        gc.collect()

        assert (await asked.chat("hi")).text == "whole"


async def test_a_hit_uses_up_no_slot_and_is_retried_by_nobody() -> None:
    backend = ScriptedBackend([[Started("m"), TextDelta("a"), UsageReport(USAGE), Finished("stop")], Stall()])
    limits = asyncllm.Limits(requests_per_minute=1)

    async with asyncllm.Client(backend=backend, model="m", cache=MemoryCache(), limits=limits) as asked:
        for _ in range(5):
            await asked.chat("hi")

    assert backend.opened == 1


async def test_hooks_are_told_of_a_hit(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "asyncllm.calls")
    backend = ScriptedBackend([[TextDelta("a"), Finished("stop")]])

    async with asyncllm.Client(backend=backend, model="m", cache=MemoryCache(), hooks=[LogCalls()]) as asked:
        for _ in range(2):
            await asked.chat("hi")

    assert [(vars(one)["llm_cached"], vars(one)["llm_attempts"]) for one in caplog.records] == [(False, 1), (True, 0)]


def test_a_client_without_a_loop_caches_too() -> None:
    backend = ScriptedBackend([[TextDelta("a"), Finished("stop")]])

    with asyncllm.sync.Client(backend=backend, model="m", cache=MemoryCache()) as asked:
        assert [asked.chat("hi").cached for _ in range(2)] == [False, True]


def test_what_is_no_cache_is_refused_by_name() -> None:
    with pytest.raises(asyncllm.ConfigError, match="MemoryCache") as caught:
        asyncllm.Client(model="echo:x", cache={})  # type: ignore[arg-type]

    assert caught.value.field == "cache"


async def test_no_prompt_and_no_key_is_written_to_the_folder(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path)

    async with FaultyServer(numbered()) as server, client(server, cache, key="sk-CANARY") as asked:
        await asked.chat("CANARY")
    await cache.aclose()

    written = b"".join((tmp_path / name).read_bytes() for name in ("data.mdb", "lock.mdb"))
    assert b"answer 0" in written
    assert b"CANARY" not in written


def test_a_deployment_is_what_its_backend_was_connected_with() -> None:
    def identity(environ: Mapping[str, str] = {}, **config: Any) -> str:
        env = Noted({"REGION": "eu", "OTHER": "x", **environ})
        assert env.get("REGION")
        return identify(Config(**{"backend": "b", "options": {"a": 1, "b": 2}, **config}), env)

    same = [identity(), identity(options={"b": 2, "a": 1}), identity({"OTHER": "y"})]
    different = [
        identity(backend="c"),
        identity(base_url="http://x"),
        identity(api_key=Secret("sk-a")),
        identity(api_key=Secret("sk-b")),
        identity(options={"a": 1}),
        identity({"REGION": "us"}),
        identity(options={"a": object()}),
        identity(options={"a": object()}),
    ]

    assert len(set(same)) == 1
    assert len({*same, *different}) == 1 + len(different)
