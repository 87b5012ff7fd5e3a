"""An engine of vLLM from start to end: who shares it, what becomes of its calls, and that nothing outlives it."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest

import asyncllm
from asyncllm import Client, TextDelta
from asyncllm.testing.conformance.harness import comes_down, open_files
from asyncllm_vllm.backend import VLLM
from asyncllm_vllm.engine import Engine
from leftovers import nothing_unseen, settle, tasks
from vllm_engines import QUICK, client_of, processes_of, tiny, until

pytest_plugins = ["vllm_fixtures"]

LONG: dict[str, Any] = {"max_tokens": 900, "ignore_eos": True}


def client_with(*, retry: asyncllm.Retry | None = None, **options: Any) -> Client:
    """A client whose engine no other test has."""
    return Client(model=f"vllm:{tiny()}", options={**QUICK, **options}, retry=retry, env={})


def engine_of(client: Client) -> Engine:
    backend: Any = client._target(None).place.backend
    assert isinstance(backend, VLLM)
    engine = backend.engine(tiny())
    assert engine is not None
    return engine


# -- sleeping ----------------------------------------------------------------------------------------------------


async def test_an_engine_that_sleeps_gives_its_calls_up_and_answers_once_it_is_awake(tiny_engine: Engine) -> None:
    """On a processor the memory stays where it is; what the engine is told, and its calls, is the same."""
    async with client_of(tiny_engine) as client, client.stream("Go on.", **LONG) as stream:
        with pytest.raises(asyncllm.StreamInterrupted):
            async for event in stream:
                if isinstance(event, TextDelta):
                    await tiny_engine.core.sleep(1)
        await tiny_engine.core.wake_up()
        assert (await client.chat("x", max_tokens=2, ignore_eos=True)).usage.output_tokens == 2


# -- sharing -----------------------------------------------------------------------------------------------------


async def test_clients_with_one_configuration_share_an_engine_and_the_last_one_ends_it() -> None:
    before = processes_of(os.getpid())
    first, second, other = client_with(seed=1), client_with(seed=1), client_with(seed=1, max_num_seqs=7)
    async with second, other:
        async with first:
            await asyncio.gather(
                *(client.chat("x", max_tokens=2, ignore_eos=True) for client in (first, second, other))
            )
            assert engine_of(first) is engine_of(second) is not engine_of(other)
            assert engine_of(first).users == 2
            assert len(processes_of(os.getpid()) - before) == 2
        assert (await second.chat("x", max_tokens=2, ignore_eos=True)).usage.output_tokens == 2
        with pytest.raises(asyncllm.AsyncLLMError):
            await first.chat("x")
    assert processes_of(os.getpid()) == before


async def test_the_order_and_the_spelling_of_options_do_not_matter(tiny_engine: Engine) -> None:
    twin = {"restart": False, "start_s": 600, **{name: QUICK[name] for name in reversed(list(QUICK))}}
    async with Client(model=f"vllm:{tiny()}", options=twin, env={}) as client:
        await client.chat("x", max_tokens=1)
        assert engine_of(client) is tiny_engine


async def test_starts_and_ends_leave_no_process_no_thread_and_no_file() -> None:
    await _starts_and_ends(5)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_twenty_starts_and_ends_leave_no_process_no_thread_and_no_file() -> None:
    await _starts_and_ends(20)


async def _starts_and_ends(times: int) -> None:
    processes = processes_of(os.getpid())
    counts: list[tuple[int, int]] = []
    for _ in range(times):
        async with client_with(seed=9) as client:
            await client.chat("x", max_tokens=2, ignore_eos=True)
            assert len(processes_of(os.getpid()) - processes) == 1
        assert processes_of(os.getpid()) == processes
        threads, files = counts[0] if counts else (threading.active_count(), files_in_use())
        assert comes_down(threading.active_count, threads)
        assert comes_down(files_in_use, files)
        counts.append((threading.active_count(), files_in_use()))


def files_in_use() -> int:
    gc.collect()  # vLLM's objects hold each other, and a pipe, when its last thread has just ended
    return open_files()


# -- loops -------------------------------------------------------------------------------------------------------


async def test_a_second_event_loop_is_refused_while_the_first_one_lives(tiny_engine: Engine) -> None:
    async def elsewhere() -> None:
        async with client_of(tiny_engine) as other:
            await other.chat("x", max_tokens=1)

    async with client_of(tiny_engine) as client:
        await client.chat("x", max_tokens=1)
        with pytest.raises(asyncllm.WrongLoopError, match="loop"):
            await asyncio.to_thread(asyncio.run, elsewhere())
        assert (await client.chat("x", max_tokens=3, ignore_eos=True)).usage.output_tokens == 3


def test_what_a_closed_loop_left_under_way_is_given_up_on_the_next_one(tiny_engine: Engine) -> None:
    held: list[Any] = []

    async def leave() -> None:
        client = client_of(tiny_engine)
        stream = client.stream("Go on.", **LONG)
        await stream.__aenter__()
        held.extend((client, stream))

    async def go_on() -> int | None:
        async with client_of(tiny_engine) as client:
            return (await client.chat("x", max_tokens=3, ignore_eos=True)).usage.output_tokens

    asyncio.run(leave())
    assert asyncio.run(go_on()) == 3
    assert tiny_engine.core.unfinished == 0
    del held[:]
    tiny_engine.users -= 1  # of the client that nobody has closed


async def test_two_event_loops_have_engines_of_their_own_by_options_of_their_own(tiny_engine: Engine) -> None:
    async def elsewhere() -> int | None:
        async with client_with(seed=2) as other:
            return (await other.chat("x", max_tokens=3, ignore_eos=True)).usage.output_tokens

    async with client_of(tiny_engine) as client:
        other = asyncio.create_task(asyncio.to_thread(asyncio.run, elsewhere()))
        while not other.done():
            assert (await client.chat("x", max_tokens=3, ignore_eos=True)).usage.output_tokens == 3
        assert await other == 3


# -- death -------------------------------------------------------------------------------------------------------


def kill(engine: Engine) -> None:
    manager: Any = engine.core._engine.engine_core.resources.engine_manager
    for process in manager.processes:
        os.kill(process.pid, signal.SIGKILL)


async def fail(call: Awaitable[Any]) -> asyncllm.AsyncLLMError:
    with pytest.raises(asyncllm.AsyncLLMError) as caught:
        await call
    return caught.value


async def test_every_call_of_a_killed_engine_is_told_and_the_next_one_may_start_another() -> None:
    begun = asyncio.Event()
    texts: list[str] = []

    async def stream(client: Client) -> None:
        async with client.stream("Go on.", **LONG) as stream:
            async for event in stream:
                if isinstance(event, TextDelta):
                    texts.append(event.text)
                    begun.set()

    before = tasks()
    with nothing_unseen(asyncio.get_running_loop()):
        async with client_with(restart=True) as client:
            await client.chat("x", max_tokens=1)
            engine = engine_of(client)
            streaming = asyncio.create_task(fail(stream(client)))
            plain = [asyncio.create_task(fail(client.chat("Go on.", **LONG))) for _ in range(3)]
            several = asyncio.create_task(fail(client.chat("Go on.", n=2, **LONG)))
            await begun.wait()
            await until(lambda: engine.core.unfinished == 6)
            kill(engine)
            errors = await asyncio.wait_for(asyncio.gather(streaming, several, *plain), 10)

            assert {type(error) for error in errors} == {asyncllm.EngineDeadError}
            assert all(error.retryable and error.maybe_billed for error in errors)
            assert errors[0].partial is not None
            assert errors[0].partial.text == "".join(texts)
            assert (await client.chat("x", max_tokens=3, ignore_eos=True)).usage.output_tokens == 3
            assert engine_of(client) is not engine
            async with client_with(restart=True, retry=asyncllm.Retry(backoff_s=0.01)) as patient:
                await patient.chat("x", max_tokens=1)
                kill(engine_of(patient))
                assert (await patient.chat("x", max_tokens=3, ignore_eos=True)).usage.output_tokens == 3
        await settle(client, before)


async def test_without_restart_a_killed_engine_stays_dead_and_says_so() -> None:
    before = processes_of(os.getpid())
    async with client_with(seed=4) as client:
        await client.chat("x", max_tokens=1)
        kill(engine_of(client))
        await until(lambda: engine_of(client).core.is_dead)
        for call in (client.chat("x"), client.complete("x"), client.stream("x").whole(), client.check_prompt("x")):
            error = await fail(call)
            assert type(error) is asyncllm.EngineDeadError
            assert "restart=True" in str(error)
            assert not error.retryable
        assert not await client.is_alive()
    assert processes_of(os.getpid()) == before


# -- the start ---------------------------------------------------------------------------------------------------


async def test_a_start_that_its_caller_gives_up_goes_on_for_the_others_and_says_how_far_it_is(
    capfd: pytest.CaptureFixture[str],
) -> None:
    async with client_with(seed=6, progress=True) as client:
        hasty = asyncio.create_task(client.chat("x", max_tokens=1))
        patient = asyncio.create_task(client.chat("x", max_tokens=2, ignore_eos=True))
        await asyncio.sleep(0.05)
        hasty.cancel()
        await asyncio.wait([hasty], timeout=1)
        assert hasty.cancelled()
        assert (await patient).usage.output_tokens == 2
    out, said = capfd.readouterr()
    assert out == ""
    name = f"asyncllm: vllm:{Path(tiny()).name}"
    assert [line.split(" (")[0] for line in said.splitlines()] == [f"{name} starts the engine", f"{name} is ready"]


async def test_closing_a_client_whose_engine_is_starting_ends_it() -> None:
    before = processes_of(os.getpid())
    client = client_with(seed=7)
    call = asyncio.create_task(client.chat("x", max_tokens=1))
    await asyncio.sleep(0.05)
    await client.aclose()

    assert isinstance(await fail(call), asyncllm.AsyncLLMError)
    await until(lambda: processes_of(os.getpid()) == before, 30)


async def test_a_start_that_takes_too_long_is_a_typed_error() -> None:
    async with client_with(seed=8, start_s=0.01) as client:
        error = await fail(client.chat("x"))
        assert isinstance(error, asyncllm.ConfigError)
        assert error.field == "start_s"


# -- processes of their own --------------------------------------------------------------------------------------

PRELUDE = f"""
import asyncio, os, sys, time
import asyncllm

def make():
    return asyncllm.Client(model="vllm:" + sys.argv[1], options={dict(QUICK)!r}, retry=None, env={{}})
"""
STREAMS = """
async def main():
    async with make() as client, client.stream("Go on.", max_tokens=900, ignore_eos=True) as stream:
        async for event in stream:
            print("begun", flush=True)
            while True:
                async with client.stream("Go on.", max_tokens=900, ignore_eos=True) as other:
                    async for _ in other:
                        pass

asyncio.run(main())
"""


def run(script: str) -> subprocess.Popen[str]:
    """Start a program that has no `if __name__ == "__main__"`, every warning an error."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PRELUDE + textwrap.dedent(script), tiny()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def are_gone(processes: set[int], seconds: float = 15) -> bool:
    """Whether all of `processes` end in time."""
    deadline = time.monotonic() + seconds
    while any(_lives(process) for process in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _lives(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_however_a_process_ends_its_engine_ends_with_it() -> None:
    killed, interrupted = run(STREAMS), run(STREAMS)
    try:
        for process in (killed, interrupted):
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
        theirs = {process: processes_of(process.pid) for process in (killed, interrupted)}
        assert all(theirs.values())

        killed.kill()
        os.killpg(interrupted.pid, signal.SIGINT)  # as a terminal does it

        assert are_gone(theirs[killed], 5)
        said, complaint = interrupted.communicate(timeout=30)
        assert are_gone(theirs[interrupted], 1)
        assert said == ""
        assert interrupted.returncode == -signal.SIGINT
        assert complaint.endswith("KeyboardInterrupt\n")
        assert complaint.count("Traceback") <= 2  # of the cancellation and of the interrupt
    finally:
        for process in (killed, interrupted):
            process.kill()
            process.communicate()


def test_a_script_works_in_silence_though_it_forks_and_forgets_to_close() -> None:
    process = run("""
        import atexit

        async def main():
            global client, stream
            client = make()
            await client.chat("hi", max_tokens=1)
            child = os.fork()
            if child == 0:
                try:
                    await client.chat("hi")
                except asyncllm.WrongLoopError:
                    print("refused", flush=True)
                atexit._run_exitfuncs()  # what else an interpreter does at its end would spoil the parent's event loop
                os._exit(0)
            os.waitpid(child, 0)
            print((await client.chat("hi", max_tokens=3, ignore_eos=True)).usage.output_tokens, flush=True)
            stream = client.stream("Go on.", max_tokens=900, ignore_eos=True)
            await stream.__aenter__()
            sys.stdin.readline()

        asyncio.run(main())
    """)
    try:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["refused\n", "3\n"]
        theirs = processes_of(process.pid)
        said, complaint = process.communicate(timeout=60)
        assert (process.returncode, said, complaint) == (0, "", "")
        assert theirs
        assert are_gone(theirs, 1)
    finally:
        process.kill()
        process.communicate()
