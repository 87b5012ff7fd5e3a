"""Time that tests move: the manual clock, and the loop on which waiting takes none."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncllm.client import Client
from asyncllm.errors import EventIdleTimeoutError, FirstEventTimeoutError, InternalServerError, TotalTimeoutError
from asyncllm.events import TextDelta
from asyncllm.middleware.retry import Retry
from asyncllm.testing import (
    FaultyServer,
    ManualClock,
    Op,
    Script,
    ScriptedBackend,
    Sse,
    Stall,
    StuckError,
    VirtualTimeLoop,
    openai_chunks,
    run_virtual,
)
from asyncllm.types import Timeouts

# -- ManualClock -----------------------------------------------------------------------------------------------------


async def test_a_manual_clock_wakes_sleepers_in_order_at_their_times() -> None:
    clock = ManualClock(start_s=100)
    woken: list[tuple[str, float]] = []

    async def sleeper(name: str, *naps: float) -> None:
        for nap in naps:
            await clock.sleep(nap)
            woken.append((name, clock.time()))

    async with asyncio.TaskGroup() as group:
        group.create_task(sleeper("a", 5, 5))
        group.create_task(sleeper("b", 2, 2, 20))
        await clock.advance(3)
        assert woken == [("b", 102)]
        assert clock.sleeping == 2
        await clock.advance(7)
        assert woken == [("b", 102), ("b", 104), ("a", 105), ("a", 110)]
        assert clock.time() == 110
        await clock.advance(1000)

    assert woken[-1] == ("b", 124)
    assert clock.time() == 1110
    assert clock.sleeping == 0


async def test_a_cancelled_sleeper_is_forgotten() -> None:
    clock = ManualClock()
    sleeper = asyncio.create_task(clock.sleep(5))
    await asyncio.sleep(0)
    assert clock.sleeping == 1

    sleeper.cancel()
    await clock.advance(10)

    assert sleeper.cancelled()
    assert clock.sleeping == 0


async def test_an_instant_clock_keeps_nobody_and_notes_what_was_asked() -> None:
    clock = ManualClock(instant=True)
    backend = ScriptedBackend([InternalServerError("down", retry_after_s=10)])

    async with Client(backend=backend, retry=Retry(attempts=4), clock=clock) as client:
        with pytest.raises(InternalServerError):
            await client.chat("hi")

    assert len(clock.sleeps) == 3
    assert all(10 <= slept <= 11 for slept in clock.sleeps)
    assert clock.time() == pytest.approx(sum(clock.sleeps))


async def test_a_clock_never_goes_back() -> None:
    with pytest.raises(ValueError, match="forward"):
        await ManualClock().advance(-1)


# -- VirtualTimeLoop -------------------------------------------------------------------------------------------------


async def fails_with(error: type[Exception], call: Callable[[], Awaitable[object]]) -> float:
    """Virtual seconds until `call` failed with `error`."""
    began = asyncio.get_running_loop().time()
    with pytest.raises(error):
        await call()
    return asyncio.get_running_loop().time() - began


@pytest.mark.parametrize(
    ("timeouts", "script", "error", "after_s"),
    [
        (Timeouts(first_event_s=600), [Stall()], FirstEventTimeoutError, 600),
        (Timeouts(first_event_s=600), Stall(), FirstEventTimeoutError, 600),
        (Timeouts(event_idle_s=300), [TextDelta("hi"), 299, TextDelta("you"), Stall()], EventIdleTimeoutError, 599),
        (Timeouts(total_s=86_400), [*[TextDelta("hi"), 250] * 500], TotalTimeoutError, 86_400),
    ],
)
def test_deadlines_of_minutes_pass_at_once(
    timeouts: Timeouts, script: Script, error: type[Exception], after_s: float
) -> None:
    async def main() -> float:
        backend = ScriptedBackend([script])
        async with Client(backend=backend, model="any", env={}, retry=None, timeouts=timeouts) as client:

            async def call() -> None:
                async for _ in client.stream_text("hello"):
                    pass

            took = await fails_with(error, call)
        assert backend.opened == backend.closed == 1
        return took

    began = time.monotonic()

    assert run_virtual(main()) == pytest.approx(after_s, abs=0.1)
    assert time.monotonic() - began < 20


@given(naps=st.lists(st.floats(0, 1e9), max_size=20))
def test_everyone_wakes_at_the_time_they_asked_for(naps: list[float]) -> None:
    async def main() -> list[tuple[float, float]]:
        loop = asyncio.get_running_loop()
        woken: list[tuple[float, float]] = []

        async def nap(seconds: float) -> None:
            await asyncio.sleep(seconds)
            woken.append((seconds, loop.time()))

        await asyncio.gather(*map(nap, naps))
        return woken

    woken = run_virtual(main())

    assert [asked for asked, _ in woken] == sorted(naps)
    assert all(at == pytest.approx(asked, abs=1e-5) for asked, at in woken)


def test_years_pass_too() -> None:
    async def main() -> float:
        for _ in range(20):
            await asyncio.sleep(1e7)
            await asyncio.sleep(1e-9)
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == pytest.approx(2e8)


def test_waiting_for_what_nobody_can_bring_is_an_error_that_says_who_waits() -> None:
    async def forgetful() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(forgetful(), name="the forgetful one")
            await asyncio.sleep(30)

    with pytest.raises(StuckError, match=r"at 30 s; .*the forgetful one in .*forgetful:\d+ > Event\.wait:\d+"):
        run_virtual(main())


def test_a_silent_socket_without_a_timer_is_an_error_after_a_while() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            await asyncio.get_running_loop().sock_recv(ours, 1)

    with pytest.raises(StuckError):
        run_virtual(main(), patience_s=0.05)


def test_a_server_on_the_same_loop_answers_before_a_deadline_strikes() -> None:
    scripts: list[list[Op]] = [[Sse(openai_chunks(["Hel", "lo"]), every_s=50)], [Stall()]]

    async def main() -> tuple[str, float]:
        timeouts = Timeouts(first_event_s=600)
        async with (
            FaultyServer(scripts) as server,
            Client(model="openai:any", base_url=server.url, env={}, retry=None, timeouts=timeouts) as client,
        ):
            text = "".join([piece async for piece in client.stream_text("hello")])
            took = await fails_with(FirstEventTimeoutError, lambda: client.chat("hello"))
            await server.aborted()
        return text, took

    text, took = run_virtual(main())

    assert text == "Hello"
    assert took == pytest.approx(600, abs=1)


def test_the_clock_waits_for_threads_of_an_executor() -> None:
    def work() -> str:
        time.sleep(0.05)
        return "done"

    async def main() -> tuple[str, float]:
        async with asyncio.timeout(600):
            answer = await asyncio.to_thread(work)
        return answer, asyncio.get_running_loop().time()

    assert run_virtual(main()) == ("done", 0)


def test_a_thread_that_waits_for_the_clock_holds_it_up_only_for_a_while() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        await asyncio.to_thread(lambda: asyncio.run_coroutine_threadsafe(asyncio.sleep(600), loop).result())
        return loop.time()

    assert run_virtual(main(), patience_s=0.05) == 600


def test_a_runner_takes_the_loop_as_its_factory() -> None:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(asyncio.sleep(3600))
        assert runner.get_loop().time() == 3600
