"""What keys are allowed: alone, by several processes together, and while the store fails."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import aiohttp
import anthropic
import apsw
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncllm import Client, Price, TextDelta
from asyncllm.errors import AsyncLLMError, BudgetExceededError, RateLimitError, StoreError
from asyncllm.events import Finished, UsageReport
from asyncllm.server.limits.quota import Quotas
from asyncllm.testing import Pause, ScriptedBackend, run_virtual
from asyncllm.types import Usage
from asyncllm.workspace.books import Books
from asyncllm.workspace.database import Db
from asyncllm.workspace.keys import Grants, Key
from asyncllm.workspace.records import MIGRATIONS
from asyncllm.workspace.served import ServerStore
from asyncllm.workspace.shares import Portion, Report, exchange
from served import served

BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}
HERE = Path(__file__).parent


def key_of(**grants: Any) -> Key:
    return Key(id="k", tenant="t", name="n", grants=Grants(**grants), created_at=0)


class Shared(Books):
    """A store in memory, at the time of the event loop, which takes a while to answer."""

    def __init__(self, db: Db, chance: random.Random) -> None:
        self.db = db
        self.chance = chance

    async def exchange(self, report: Report) -> Portion:
        await asyncio.sleep(self.chance.random() * 0.05)
        return exchange(self.db, report, now(), 1e9)

    def forget(self, key: str) -> None:
        pass


def now() -> float:
    return asyncio.get_running_loop().time() + 1000


def tables() -> Db:
    db = cast("Db", apsw.Connection(":memory:"))
    db.execute(";".join(MIGRATIONS))
    return db


def most_in(times: list[tuple[float, int]], seconds: float) -> int:
    """The most that falls into any such time."""
    times = sorted(times)
    return max((sum(n for at, n in times if began <= at < began + seconds) for began, _ in times), default=0)


_CALLS = st.lists(
    st.tuples(
        st.integers(0, 2),  # by which worker
        st.floats(0, 3),  # after the one before
        st.floats(0, 90) | st.just(0.0),  # takes
        st.integers(1, 60),  # tokens
        st.integers(0, 80),  # in truth
        st.none() | st.floats(0, 2),  # is cancelled after
    ),
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(_CALLS, st.integers(1, 12), st.integers(40, 300), st.integers(1, 5), st.integers(0, 2**32))
def test_workers_keep_limits_together_whatever_comes(
    steps: list[tuple[int, float, float, int, int, float | None]],
    requests: int,
    tokens: int,
    concurrency: int,
    seed: int,
) -> None:
    chance = random.Random(seed)
    key = key_of(requests_per_minute=requests, tokens_per_minute=tokens, concurrency=concurrency)
    db = tables()
    begun: list[tuple[float, int]] = []
    taken: list[tuple[float, int]] = []
    told: list[tuple[str, float]] = []
    running = 0

    async def call(quotas: Quotas, takes_s: float, least: int, real: int) -> None:
        nonlocal running
        account = quotas.find(key)
        assert account is not None
        try:
            leave = account.enter(least) or await account.ask(least)
        except RateLimitError as error:
            told.append((str(error.code), error.retry_after_s or 0.0))
            return
        running += 1
        try:
            assert running <= concurrency
            begun.append((now(), 1))
            taken.append((now(), min(least, real, tokens)))
            await asyncio.sleep(takes_s)
        finally:
            running -= 1
            account.leave(leave, real, None)

    async def main() -> None:
        workers = [Quotas(Shared(db, chance), now) for _ in range(3)]
        tasks: list[asyncio.Task[None]] = []
        for worker, after_s, takes_s, least, real, cancelled_s in steps:
            await asyncio.sleep(after_s)
            tasks.append(asyncio.create_task(call(workers[worker], takes_s, least, real)))
            if cancelled_s is not None:
                asyncio.get_running_loop().call_later(cancelled_s, tasks[-1].cancel)
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert result is None or isinstance(result, asyncio.CancelledError), result
        await asyncio.sleep(2)
        assert db.execute("SELECT * FROM key_share").fetchall() == []
        await asyncio.sleep(63)
        if not any(real > least for _, _, _, least, real, _ in steps):
            account = workers[0].find(key)
            assert account is not None
            leave = account.enter(1) or await account.ask(1)  # all of it is there again
            account.leave(leave, 1, None)
        for quotas in workers:
            await quotas.aclose()

    run_virtual(main())

    assert all(code in ("requests_per_minute", "tokens_per_minute", "concurrency") for code, _ in told)
    assert all(0 <= wait_s < 62 for _, wait_s in told)
    assert most_in(begun, 60) <= requests
    assert most_in(taken, 60) <= tokens


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.floats(0, 1), st.floats(0, 2), st.floats(0, 0.4)), max_size=60),
    st.integers(0, 2**32),
)
def test_a_budget_is_gone_over_by_calls_that_were_under_way_alone(
    steps: list[tuple[int, float, float, float]], seed: int
) -> None:
    chance = random.Random(seed)
    key = key_of(budget_usd=1.0)
    db = tables()
    spent = 0.0
    running = [0.0, 0.0, 0.0]
    most = [0.0, 0.0, 0.0]

    async def call(worker: int, quotas: Quotas, takes_s: float, usd: float) -> None:
        nonlocal spent
        account = quotas.find(key)
        assert account is not None
        try:
            leave = account.enter(1) or await account.ask(1)
        except BudgetExceededError:
            assert spent + sum(running) >= 0.5  # others may have what is left in hand
            return
        running[worker] += usd
        most[worker] = max(most[worker], running[worker])
        await asyncio.sleep(takes_s)
        running[worker] -= usd
        spent += usd
        account.leave(leave, None, usd)

    async def main() -> None:
        workers = [Quotas(Shared(db, chance), now) for _ in range(3)]
        async with asyncio.TaskGroup() as group:
            for worker, after_s, takes_s, usd in steps:
                await asyncio.sleep(after_s)
                group.create_task(call(worker, workers[worker], takes_s, usd))
        for quotas in workers:
            await quotas.aclose()
        assert db.execute("SELECT * FROM key_share").fetchall() == []
        told = db.execute("SELECT usd FROM key_spent").fetchone()
        assert abs((told[0] if told else 0) - spent) < 1e-9

    run_virtual(main())

    assert spent <= 1.0 + sum(most) + 1e-9  # what was under way as the share of a worker ran out


def start(folder: Path, token: str, seconds: float, usd: float, hold_s: float) -> subprocess.Popen[str]:
    line = [sys.executable, str(HERE / "quota_worker.py"), str(folder), token, *map(str, (seconds, usd, hold_s))]
    worker = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    assert worker.stdout.readline() == "ready\n"
    return worker


def calls_of(worker: subprocess.Popen[str]) -> list[tuple[float, float]]:
    with worker:
        told, _ = worker.communicate(timeout=60)
    assert worker.returncode == 0
    return [(began, ended) for began, ended in json.loads(told)]


def most_at_once(calls: list[tuple[float, float]]) -> int:
    marks = sorted([(began, 1) for began, _ in calls] + [(ended, -1) for _, ended in calls])
    most = count = 0
    for _, step in marks:
        count += step
        most = max(most, count)
    return most


async def test_three_processes_keep_the_limits_of_a_key_together(tmp_path: Path) -> None:
    async with ServerStore(tmp_path) as store:
        _, token = await store.keys.add("k", grants=Grants(requests_per_minute=200, concurrency=5))
        workers = await asyncio.gather(*(asyncio.to_thread(start, tmp_path, token, 2, 0, 0.01) for _ in range(3)))
        found = [await asyncio.to_thread(calls_of, worker) for worker in workers]
        calls = [call for own in found for call in own]

    assert all(found)
    assert len(calls) <= 200
    assert most_at_once(calls) <= 5


async def test_three_processes_keep_a_budget_together_and_a_killed_one_gives_back(tmp_path: Path) -> None:
    async with ServerStore(tmp_path) as store:
        _, token = await store.keys.add("k", grants=Grants(concurrency=3, budget_usd=1.0))
        killed = await asyncio.to_thread(start, tmp_path, token, 60, 0, 60)  # it holds all three calls
        await asyncio.sleep(0.5)
        with killed:
            killed.kill()
        workers = await asyncio.gather(*(asyncio.to_thread(start, tmp_path, token, 2, 0.01, 0.01) for _ in range(3)))
        calls = [call for worker in workers for call in await asyncio.to_thread(calls_of, worker)]

    assert len(calls) <= 100 + 3  # calls of a cent each, three at one time
    assert most_at_once(calls) <= 3


async def test_a_thousand_calls_of_a_key_cost_the_store_few_commits(tmp_path: Path) -> None:
    async with ServerStore(tmp_path) as store:
        grants = Grants(requests_per_minute=10**6, tokens_per_minute=10**9, concurrency=1000, budget_usd=100.0)
        key, _ = await store.keys.add("k", grants=grants)
        quotas = Quotas(store.books)
        before = store.commits
        for number in range(2000):
            account = quotas.find(key)
            assert account is not None
            account.leave(account.enter(10) or await account.ask(10), 12, 0.001)
            if number % 10 == 0:
                await asyncio.sleep(0)
        await quotas.aclose()

        assert store.commits - before < 200


async def test_limits_are_kept_by_the_process_alone_while_the_store_fails(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with ServerStore(tmp_path) as store:
        key, _ = await store.keys.add("k", grants=Grants(requests_per_minute=3, budget_usd=1.0))

        async def fail(_: Callable[[Db], Any]) -> Any:
            raise StoreError("the disk is full")

        store.books._writer.write = fail  # type: ignore[method-assign, assignment]
        quotas = Quotas(store.books)
        account = quotas.find(key)
        assert account is not None
        for _ in range(3):
            account.leave(account.enter(1) or await account.ask(1), 1, 0.1)
        with pytest.raises(RateLimitError) as caught:
            await account.ask(1)
        del store.books._writer.write
        await asyncio.sleep(1.1)
        account.leave(account.enter(1) or await account.ask(1), 1, 0.2)
        await quotas.aclose()
        with sqlite3.connect(tmp_path / "store.db") as db:
            (spent,) = db.execute("SELECT usd FROM key_spent").fetchone()
        db.close()

    assert caught.value.code == "requests_per_minute"
    assert store.books.failures >= 1
    assert abs(spent - 0.5) < 1e-9
    assert caplog.text.count("the limits of keys are kept by each process for itself") == 1


async def test_headers_tell_what_is_left_in_either_api_s_form(tmp_path: Path) -> None:
    async with ServerStore(tmp_path) as store:
        _, token = await store.keys.add("k", grants=Grants(requests_per_minute=3, tokens_per_minute=1000))
        async with Client(model="echo:x") as client, served(client, store=store, needs_key=True) as url:
            async with (
                openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=token, max_retries=0) as sdk,
                anthropic.AsyncAnthropic(base_url=url, api_key=token, max_retries=0) as other,
            ):
                first = await sdk.chat.completions.with_raw_response.create(model="echo:x", messages=BODY["messages"])
                second = await other.messages.with_raw_response.create(model="echo:x", **BODY)
                await other.messages.create(model="echo:x", **BODY)
                with pytest.raises(openai.RateLimitError) as caught:
                    await sdk.chat.completions.create(model="echo:x", messages=BODY["messages"])

    assert first.headers["x-ratelimit-limit-requests"] == "3"
    assert first.headers["x-ratelimit-remaining-requests"] == "2"
    assert 900 < int(first.headers["x-ratelimit-remaining-tokens"]) < 1000
    assert second.headers["anthropic-ratelimit-requests-remaining"] == "1"
    assert second.headers["anthropic-ratelimit-tokens-reset"].endswith("Z")
    refused = caught.value.response.headers
    assert caught.value.code == "requests_per_minute"
    assert 55 < int(refused["retry-after"]) <= 61
    assert abs(int(refused["retry-after-ms"]) / 1000 - int(refused["retry-after"])) <= 1


@pytest.mark.parametrize("cut", [False, True])
async def test_real_tokens_take_the_place_of_estimates_also_of_a_call_that_breaks_off(
    cut: bool, tmp_path: Path
) -> None:
    end = [UsageReport(Usage(input_tokens=5, output_tokens=195)), Finished("stop")]
    script: list[Any] = [TextDelta("x" * 400), Pause(0.01), *([RuntimeError("it broke")] if cut else end)]
    async with ServerStore(tmp_path) as store:
        _, token = await store.keys.add("k", grants=Grants(tokens_per_minute=1000))
        async with Client(backend=ScriptedBackend([script])) as client:
            async with (
                served(client, store=store, models={"m": ""}) as url,
                aiohttp.ClientSession(headers={"authorization": f"Bearer {token}"}) as http,
            ):
                left: list[int] = []
                for _ in range(2):
                    asked = {**BODY, "max_tokens": 500, "stream": True}
                    async with http.post(f"{url}/v1/chat/completions", json=asked) as reply:
                        left.append(int(reply.headers["x-ratelimit-remaining-tokens"]))
                        with suppress(aiohttp.ClientPayloadError):
                            await reply.read()

    assert 490 <= left[0] <= 500
    assert 290 <= left[1] <= 400  # and not 0


async def test_a_budget_that_is_used_up_is_402_and_not_tried_again(tmp_path: Path) -> None:
    prices = {"echo:x": Price(input_usd=100_000, output_usd=100_000)}
    async with ServerStore(tmp_path) as store:
        _, token = await store.keys.add("k", grants=Grants(budget_usd=0.3, budget_per="day"))
        async with Client(model="echo:x", prices=prices) as client, served(client, store=store) as url:
            async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=token, max_retries=0) as sdk:
                await sdk.chat.completions.create(model="echo:x", messages=BODY["messages"])
                await sdk.chat.completions.create(model="echo:x", messages=BODY["messages"])
                with pytest.raises(openai.APIStatusError, match="budget for today is used up") as caught:
                    await sdk.chat.completions.create(model="echo:x", messages=BODY["messages"])

    assert (caught.value.status_code, caught.value.code) == (402, "budget_usd")
    assert not isinstance(caught.value, AsyncLLMError)
