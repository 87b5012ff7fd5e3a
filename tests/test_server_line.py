"""Who may begin, and when: the line of a server, by itself and before real calls. Time is virtual where it can be."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncllm import Client, TextDelta
from asyncllm.errors import RateLimitError
from asyncllm.events import Finished
from asyncllm.server.limits.line import Line
from asyncllm.testing import Pause, ScriptedBackend, run_virtual
from asyncllm.workspace.keys import Grants
from asyncllm.workspace.served import ServerStore
from served import served

BODY = {"messages": [{"role": "user", "content": "hello"}]}
_STEPS = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.floats(0, 4),  # comes after
        st.floats(0, 3),  # takes
        st.none() | st.floats(0, 6),  # is cancelled after
    ),
    max_size=40,
)


@given(_STEPS, st.integers(1, 4), st.integers(0, 8), st.randoms())
def test_a_line_keeps_its_room_and_its_order_and_leaks_nothing(
    steps: list[tuple[str, float, float, float | None]], room: int, places: int, chance: random.Random
) -> None:
    line = Line(room, places, 5.0)
    order: dict[str, list[int]] = {key: [] for key in "abc"}
    came: dict[str, list[int]] = {key: [] for key in "abc"}
    told: Counter[str] = Counter()

    async def call(number: int, key: str, takes_s: float) -> None:
        came[key].append(number)
        try:
            if not line.enter():
                assert line.in_flight == room or line.waiting
                await line.wait(key)
        except RateLimitError as error:
            told[str(error.code)] += 1 <= (error.retry_after_s or 0) <= 60
            return
        try:
            order[key].append(number)
            assert 0 < line.in_flight <= room
            await asyncio.sleep(takes_s)
        finally:
            line.leave()
            assert line.waiting <= places
            assert line.waiting == 0 or line.in_flight == room

    async def main() -> None:
        tasks: list[asyncio.Task[None]] = []
        for number, (key, after_s, takes_s, cancelled_s) in enumerate(steps):
            await asyncio.sleep(after_s * chance.random())
            task = asyncio.create_task(call(number, key, takes_s))
            if cancelled_s is not None:
                asyncio.get_running_loop().call_later(cancelled_s, task.cancel)
            tasks.append(task)
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert result is None or isinstance(result, asyncio.CancelledError)
        assert (line.in_flight, line.waiting) == (0, 0)
        assert line.enter()

    run_virtual(main())

    for key, numbers in order.items():
        assert numbers == [number for number in came[key] if number in numbers]
    assert set(told) <= {"queue_full", "queue_timeout"}
    assert all(told.values())


def test_keys_take_turns_however_many_calls_one_of_them_has() -> None:
    line = Line(1, 100, 60)
    begun: list[str] = []

    async def call(key: str) -> None:
        await line.wait(key)
        begun.append(key)
        line.leave()

    async def main() -> None:
        assert line.enter()
        tasks = [asyncio.create_task(call(key)) for key in "aaaaaabbc"]
        await asyncio.sleep(0)
        line.leave()
        await asyncio.gather(*tasks)

    run_virtual(main())

    assert "".join(begun) == "abcabaaaa"


def test_a_full_line_makes_room_for_a_key_that_has_less_than_its_share() -> None:
    line = Line(1, 6, 60)

    async def main() -> list[str]:
        line.enter()
        greedy = [asyncio.create_task(line.wait("a")) for _ in range(7)]
        await asyncio.sleep(0)
        modest = [asyncio.create_task(line.wait("b")) for _ in range(3)]
        await asyncio.sleep(0)
        more = asyncio.create_task(line.wait("b"))
        for _ in range(6):
            await asyncio.sleep(0)
            line.leave()
        found = await asyncio.gather(*greedy, *modest, more, return_exceptions=True)
        return ["in" if one is None else str(getattr(one, "code", one)) for one in found]

    assert run_virtual(main()) == ["in"] * 3 + ["queue_full"] * 4 + ["in"] * 3 + ["queue_full"]


def slow(seconds: float) -> ScriptedBackend:
    return ScriptedBackend([[Pause(seconds), TextDelta("hi"), Finished("stop")]])


@asynccontextmanager
async def slow_server(seconds: float, **settings: Any) -> AsyncGenerator[tuple[str, ScriptedBackend]]:
    backend = slow(seconds)
    async with Client(backend=backend) as client, served(client, models={"m": ""}, **settings) as url:
        yield url, backend


async def test_a_call_that_finds_no_place_is_told_when_to_ask_again() -> None:
    async with (
        slow_server(0.3, max_in_flight=1, max_queued=1) as (url, backend),
        aiohttp.ClientSession() as http,
    ):

        async def ask() -> tuple[int, str | None, str | None]:
            async with http.post(f"{url}/v1/chat/completions", json=BODY) as reply:
                code = (await reply.json()).get("error", {}).get("code")
                return reply.status, code, reply.headers.get("retry-after")

        found = sorted(await asyncio.gather(*(ask() for _ in range(4))), key=lambda one: one[0])

    assert found == [(200, None, None)] * 2 + [(429, "queue_full", "1")] * 2
    assert backend.opened == 2


async def test_a_call_whose_turn_does_not_come_is_told_so_and_a_plain_503_is_never_sent() -> None:
    async with (
        slow_server(5, max_in_flight=1, queue_timeout_s=0.1) as (url, _),
        aiohttp.ClientSession() as http,
    ):
        first = asyncio.ensure_future(http.post(f"{url}/v1/chat/completions", json=BODY))
        await asyncio.sleep(0.1)
        async with http.post(f"{url}/v1/messages", json={**BODY, "max_tokens": 5}) as reply:
            told = await reply.json()
        first.cancel()
        await asyncio.wait([first])

    assert (reply.status, told["type"], told["error"]["type"]) == (429, "error", "rate_limit_error")
    assert int(reply.headers["retry-after-ms"]) >= 1000


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_while_it_waits_leaves_the_line(stream: bool) -> None:
    async with (
        slow_server(0.5, max_in_flight=1) as (url, backend),
        aiohttp.ClientSession() as http,
    ):

        async def waiting() -> int:
            async with http.get(f"{url}/metrics") as reply:
                lines = (await reply.text()).splitlines()
            return int(next(line for line in lines if line.startswith("asyncllm_requests_waiting ")).split()[1])

        first = asyncio.ensure_future(http.post(f"{url}/v1/chat/completions", json=BODY))
        await asyncio.sleep(0.05)
        second = asyncio.ensure_future(http.post(f"{url}/v1/chat/completions", json={**BODY, "stream": stream}))
        async with asyncio.timeout(10):
            while await waiting() != 1:  # noqa: ASYNC110  # the server tells nobody
                await asyncio.sleep(0.005)
            second.cancel()
            while await waiting() != 0:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        (await first).close()

    assert backend.opened == 1


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def _overload(url: str, headers: dict[str, str], per_s: float, seconds: float) -> Counter[int]:
    """Calls that come at a rate, whether those before have been answered or not."""
    found: Counter[int] = Counter()
    loop = asyncio.get_running_loop()

    async def ask(http: aiohttp.ClientSession) -> None:
        with contextlib.suppress(aiohttp.ClientError):
            async with http.post(f"{url}/v1/chat/completions", json=BODY, headers=headers) as reply:
                await reply.read()
                found[reply.status] += 1

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http, asyncio.TaskGroup() as group:
        began = loop.time()
        for number in itertools.count():
            due = began + number / per_s
            if due > began + seconds:
                break
            await asyncio.sleep(max(0.0, due - loop.time()))
            group.create_task(ask(http))
    return found


async def _peak(url: str, headers: dict[str, str], room: int, seconds: float) -> float:
    """Answers a second where as many ask as there is room for, each once it has its answer."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    answers = 0

    async def ask(http: aiohttp.ClientSession) -> None:
        nonlocal answers
        while loop.time() < began + seconds:
            async with http.post(f"{url}/v1/chat/completions", json=BODY, headers=headers) as reply:
                await reply.read()
                answers += reply.status == 200

    async with aiohttp.ClientSession() as http, asyncio.TaskGroup() as group:
        for _ in range(room):
            group.create_task(ask(http))
    return answers / (loop.time() - began)


@pytest.mark.parametrize(
    ("seconds", "part"), [(3.0, 0.8), pytest.param(60.0, 0.9, marks=pytest.mark.slow)], ids=["short", "long"]
)
async def test_five_times_too_many_calls_cost_no_answers_and_keep_nobody_else_out(
    seconds: float, part: float, tmp_path: Path
) -> None:
    room, takes_s = 4, 0.2
    capacity = room / takes_s
    settings = {"models": {"m": ""}, "max_in_flight": room, "max_queued": 2 * room}
    held: list[int] = []
    async with ServerStore(tmp_path) as store:
        greedy, modest = [
            {"authorization": f"Bearer {token}"}
            for _, token in [await store.keys.add(name, grants=Grants()) for name in ("greedy", "modest")]
        ]
        async with Client(backend=slow(takes_s)) as client, served(client, store=store, **settings) as url:
            peak = await _peak(url, greedy, room, seconds / 2)
            loop = asyncio.get_running_loop()
            began = loop.time()
            loop.call_later(seconds / 2, lambda: held.append(resident()))
            many, few = await asyncio.gather(
                _overload(url, greedy, 5 * capacity, seconds), _overload(url, modest, capacity / 4, seconds)
            )
            took_s = loop.time() - began

    assert resident() - held[0] < 20 * 2**20
    assert set(many) == {200, 429}
    assert set(few) == {200}
    assert (many[200] + few[200]) / took_s >= part * peak
