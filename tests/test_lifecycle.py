"""What outlives what: event loops, interpreters, forked processes and forgotten streams."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Sequence
from typing import Self

import anyio
import pytest

import asyncllm
from asyncllm import Client, Timeouts
from asyncllm.backend import HttpCall
from asyncllm.testing import Chunk, FaultyServer, Rst, ScriptedBackend, Sse, Stall, Status, openai_chunks, openai_reply
from asyncllm.testing.ops import Op
from asyncllm.transport import AiohttpTransport
from asyncllm.transport.connection import _open

CHUNKS = openai_chunks([f"{number} " for number in range(30)])
PRELUDE = """
import asyncio, gc, os, sys, threading
import asyncllm

def make():
    return asyncllm.Client(model="openai:x", base_url=sys.argv[1], env={}, retry=None, price_library=False)
"""


async def run(server: FaultyServer, script: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run a program as a process of its own, every warning shown, and check that it ends well."""
    program = PRELUDE + textwrap.dedent(script)
    arguments = [sys.executable, "-X", "dev", *flags, "-c", program, server.url]
    done = await asyncio.to_thread(
        lambda: subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    )
    assert done.returncode == 0, done.stderr
    return done


def quiet(text: str) -> list[str]:
    """The lines of what a program wrote to its standard error, without asyncio's remarks about a slow machine."""
    return [line for line in text.splitlines() if line and not line.startswith("Executing <")]


# -- the interpreter's end ---------------------------------------------------------------------------------------

LEFT_OPEN = {
    "a stream that is held": """
        async def main():
            global stream
            stream = make().stream("hi")
            await stream.__aenter__()
    """,
    "a stream that is half read": """
        async def main():
            global client, events
            client = make()
            stream = client.stream("hi")
            await stream.__aenter__()
            events = aiter(stream)
            await anext(events)
    """,
    "a text stream that was left": """
        async def main():
            global client
            client = make()
            async for text in client.stream_text("hi"):
                break
    """,
    "a client with idle connections": """
        async def main():
            global client
            client = make()
            await client.stream("hi").whole()
    """,
    "a cycle that holds a stream": """
        async def main():
            client = make()
            stream = client.stream("hi")
            await stream.__aenter__()
            cycle = [client, stream]
            cycle.append(cycle)
    """,
    "a call under way": """
        async def main():
            global client
            client = make()
            asyncio.create_task(client.stream("hi").whole())
            await asyncio.sleep(0.2)
    """,
}


RUN = """
        asyncio.run(main())
"""


@pytest.mark.parametrize("what", LEFT_OPEN)
async def test_an_interpreter_that_ends_with_something_open_says_nothing(what: str) -> None:
    async with FaultyServer([Sse(CHUNKS, every_s=0.02 if "idle" not in what else 0)]) as server:
        done = await run(server, LEFT_OPEN[what] + RUN, "-W", "error")

    assert quiet(done.stderr) == []
    assert len(server.requests) == 1


async def test_a_loop_that_ends_closes_the_connections_it_leaves() -> None:
    script = """
        async def main():
            global client
            client = make()
            stream = client.stream("hi")
            await stream.__aenter__()

        asyncio.run(main())
        print("over", flush=True)
        sys.stdin.read()
    """
    async with FaultyServer([Sse(CHUNKS, ending="stall")]) as server:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PRELUDE + textwrap.dedent(script), server.url,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None
        await process.stdout.readline()
        await server.aborted()  # the process still lives, its event loop does not
        await process.communicate(b"")

    assert process.returncode == 0


async def test_a_client_on_a_second_loop_is_refused_and_a_client_in_each_works() -> None:
    script = """
        async def ask(client):
            return (await client.stream("hi").whole()).finish_reason

        first = make()
        print(asyncio.run(ask(first)))
        try:
            asyncio.run(ask(first))
        except asyncllm.WrongLoopError as error:
            print("refused", "asyncllm.sync.Client" in str(error))
        print(asyncio.run(ask(make())))
    """
    async with FaultyServer([Sse(CHUNKS)]) as server:
        done = await run(server, script, "-W", "error")

    assert done.stdout.split() == ["stop", "refused", "True", "stop"]
    assert quiet(done.stderr) == []


def test_a_transport_on_a_second_loop_is_refused() -> None:
    transport = AiohttpTransport()

    async def use() -> None:
        with pytest.raises(asyncllm.APIConnectionError):
            async with transport.open(HttpCall(url="http://127.0.0.1:1")):
                pass

    async def use_again() -> None:
        transport.open(HttpCall(url="http://127.0.0.1:1"))

    asyncio.run(use())
    with pytest.raises(asyncllm.WrongLoopError, match="loop"):
        asyncio.run(use_again())


def test_a_client_without_a_loop_says_where_it_is_to_be_used() -> None:
    with pytest.raises(asyncllm.WrongLoopError, match=r"asyncio\.run"):
        Client(model="echo:x").stream("hi")


# -- processes that fork -----------------------------------------------------------------------------------------

FORK = """
    async def main():
        client = make()
        await client.stream("hi").whole()
        async with client.stream("hi") as stream, client.stream("hi") as other:
            events = aiter(stream)
            await anext(events)
            child = os.fork()
            if child == 0:
                try:
                    {child}
                except asyncllm.WrongLoopError as error:
                    print("child: WrongLoopError", flush=True)
                finally:
                    os._exit(0)
            os.waitpid(child, 0)
            async with asyncio.timeout(20):
                async for _ in events:
                    pass
                async for _ in other:
                    pass
        print("parent:", stream.response.text == other.response.text == "{text}", flush=True)
        await client.stream("hi").whole()
        await client.aclose()

    asyncio.run(main())
"""
CHILD = {
    "goes at once": "pass",
    "calls": "await client.chat('hi')",
    "closes": "await client.aclose()",
    "leaves the stream": "await stream.__aexit__(None, None, None); await client.chat('hi')",
    "runs a loop of its own": "asyncio.run(client.chat('hi'))",
    "collects everything": "del client, stream, other, events; gc.collect(); raise asyncllm.WrongLoopError('')",
}


@pytest.mark.parametrize("what", CHILD)
async def test_a_forked_child_is_refused_and_leaves_the_streams_of_its_parent_alone(what: str) -> None:
    script = FORK.replace("{child}", CHILD[what]).replace("{text}", "".join(f"{number} " for number in range(30)))

    async with FaultyServer([Sse(CHUNKS, every_s=0.01)]) as server:
        done = await run(server, script)

    assert done.stdout.splitlines() == [*(["child: WrongLoopError"] if what != "goes at once" else []), "parent: True"]
    assert len(server.requests) == 4


async def test_a_stream_that_its_parent_leaves_is_cut_though_a_child_lives_on() -> None:
    script = """
        async def main():
            client = make()
            async with client.stream("hi"):
                child = os.fork()
                if child == 0:
                    sys.stdin.read()
                    os._exit(0)
            print("left", flush=True)
            await client.aclose()
            os.waitpid(child, 0)

        asyncio.run(main())
    """
    async with FaultyServer([Sse(CHUNKS, ending="stall")]) as server:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PRELUDE + textwrap.dedent(script), server.url,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None
        await process.stdout.readline()
        await server.aborted()
        await process.communicate(b"")

    assert process.returncode == 0


async def test_a_client_that_was_made_and_not_used_before_a_fork_works_after_it() -> None:
    script = """
        client = make()
        child = os.fork()

        async def main():
            async with client:
                os.write(1, (await client.chat("hi")).text.encode() + b" ")

        asyncio.run(main())
        if child:
            os.waitpid(child, 0)
    """
    async with FaultyServer([Status(200, {}, openai_reply("hello"))]) as server:
        done = await run(server, script, "-W", "error")

    assert done.stdout.split() == ["hello", "hello"]
    assert quiet(done.stderr) == []


# -- streams that are forgotten ----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["dropped", "in a cycle"])
async def test_a_stream_that_nobody_holds_any_more_is_cut(how: str) -> None:
    async with FaultyServer([Sse(CHUNKS, ending="stall")]) as server:
        async with Client(model="openai:x", base_url=server.url, env={}) as client:
            stream = client.stream("hi")
            await stream.__aenter__()
            events = aiter(stream)
            await anext(events)
            cycle: list[object] = [stream, events]
            if how == "in a cycle":
                cycle.append(cycle)
            del stream, events, cycle
            gc.collect()

            await server.aborted()


async def test_a_client_that_nobody_holds_any_more_closes_its_connections() -> None:
    async with FaultyServer([Status(200, {}, openai_reply("hello"))]) as server:
        client = Client(model="openai:x", base_url=server.url, env={})
        await client.chat("hi")
        (session,) = client._routes._transport.sessions.values()  # type: ignore[union-attr]
        del client
        gc.collect()
        async with asyncio.timeout(5):
            while not session.closed:  # noqa: ASYNC110  # nobody else is told
                await asyncio.sleep(0.01)


# -- closing -----------------------------------------------------------------------------------------------------


async def test_closing_ends_what_is_under_way_with_an_error() -> None:
    async with FaultyServer([Sse(CHUNKS, ending="stall")]) as server:
        client = Client(model="openai:x", base_url=server.url, env={}, retry=None)
        task = asyncio.create_task(client.stream("hi").whole())
        await server.received()
        await asyncio.sleep(0.1)
        await client.aclose()

        with pytest.raises(asyncllm.APIConnectionError, match="closed") as caught:
            await task
        assert caught.value.partial is not None
        assert await server.aborted()


@pytest.mark.parametrize("turns", range(6))
async def test_no_cancellation_interrupts_the_closing_of_connections(turns: int) -> None:
    async with FaultyServer([Sse(CHUNKS, ending="stall")]) as server:
        transport = AiohttpTransport()
        exchange = transport.open(HttpCall(url=server.url, stream=True))
        reply = await exchange.__aenter__()
        await reply.receive()
        connector = transport.sessions[False].connector
        closing = asyncio.create_task(transport.aclose())
        await asyncio.sleep(0)
        for _ in range(turns):
            await asyncio.sleep(0)
        closing.cancel()
        await asyncio.gather(closing, return_exceptions=True)

        assert connector is not None
        assert connector.closed
        assert await server.aborted()


@pytest.mark.parametrize("turns", range(6))
async def test_no_cancellation_interrupts_the_closing_of_a_client(turns: int) -> None:
    class Slow(ScriptedBackend):
        async def aclose(self) -> None:
            await asyncio.sleep(0.05)
            await super().aclose()

    backend = Slow([[]])
    client = Client(backend=backend)
    closing = asyncio.create_task(client.aclose())
    for _ in range(turns + 1):
        await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing

    assert backend.is_closed


# -- loops that were held up -------------------------------------------------------------------------------------


class Blocking:
    """A server in a thread of its own, which goes on while the event loop of the test is held up."""

    def __init__(self, pieces: Sequence[bytes], every_s: float) -> None:
        import socket

        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, args=(pieces, every_s))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self._listener.close()

    def _serve(self, pieces: Sequence[bytes], every_s: float) -> None:
        connection, _ = self._listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(every_s)


EVENTS = [b"data: " + chunk + b"\n\n" for chunk in CHUNKS[:6]]
DONE = [b"data: " + chunk + b"\n\n" for chunk in CHUNKS[-1:]] + [b"data: [DONE]\n\n"]


@pytest.mark.parametrize("deadline", ["byte_idle_s", "event_idle_s"])
async def test_a_loop_that_was_held_up_does_not_blame_the_server(deadline: str) -> None:
    with Blocking([*EVENTS, *DONE], 0.1) as server:
        timeouts = Timeouts(**{deadline: 0.4})
        async with Client(model="openai:x", base_url=server.url, env={}, retry=None, timeouts=timeouts) as client:
            async with client.stream("hi") as stream:
                events = aiter(stream)
                await anext(events)
                # While this stream waits, something else has the loop for longer than the deadline.
                asyncio.get_running_loop().call_later(0.05, time.sleep, 0.8)
                async for _ in events:
                    pass

    assert stream.response.finish_reason == "stop"


@pytest.mark.parametrize("deadline", ["byte_idle_s", "event_idle_s", "first_event_s", "total_s"])
async def test_a_loop_that_was_held_up_still_notices_a_silent_server(deadline: str) -> None:
    script: list[Op] = [Stall()] if deadline == "first_event_s" else [Sse(CHUNKS[:3], ending="stall")]

    async with FaultyServer(script) as server:
        timeouts = Timeouts(**{deadline: 0.2})
        async with Client(model="openai:x", base_url=server.url, env={}, retry=None, timeouts=timeouts) as client:
            asyncio.get_running_loop().call_later(0.1, time.sleep, 0.5)
            with pytest.raises(asyncllm.APITimeoutError, match=deadline):
                async with asyncio.timeout(10):
                    await client.stream("hi").whole()
            assert await server.aborted()


# -- cancelling, over and over -----------------------------------------------------------------------------------


async def churn(rounds: int) -> None:
    """Rounds of twenty calls that are cancelled at every stage; then nothing is left and the next call works."""
    slow: list[Op] = [0.002, Status(200, {"Transfer-Encoding": "chunked"}, None), Chunk(b"data: x\n\n"), Stall()]
    scripts: list[list[Op]] = [slow, [Rst()], [Status(200, {}, b"hi")], slow, slow]
    ok: list[Op] = [Status(200, {}, b"hi")]
    is_over = False
    transport = AiohttpTransport()

    async def call(url: str, *, stream: bool) -> None:
        async with transport.open(HttpCall(url=url, body=b"{}", stream=stream)) as reply:
            while await reply.receive():
                pass

    async with FaultyServer(lambda _: ok if is_over else scripts[len(server.requests) % 5]) as server:
        for number in range(rounds):
            tasks = [asyncio.create_task(call(server.url, stream=position % 2 == 0)) for position in range(20)]
            for _ in range(number % 12):
                await asyncio.sleep(0)
            await asyncio.sleep(0.001 * (number % 4))
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        is_over = True
        await call(server.url, stream=False)

        for session in transport.sessions.values():
            assert session.connector is not None
            assert not session.connector._acquired
    await transport.aclose()


async def test_cancelling_twenty_calls_a_hundred_times_leaks_nothing() -> None:
    await churn(100)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_cancelling_twenty_calls_a_thousand_times_leaks_nothing() -> None:
    await churn(1000)


async def test_a_cancelled_upload_to_a_server_that_does_not_read_is_cut() -> None:
    async with FaultyServer([], on_connect=[Stall()]) as server:
        transport = AiohttpTransport()
        with anyio.move_on_after(0.2):
            async with transport.open(HttpCall(url=server.url, body=bytes(20 * 2**20))):
                raise AssertionError("answered")
        async with asyncio.timeout(5):
            while _open:  # noqa: ASYNC110  # nobody else is told
                await asyncio.sleep(0.01)
        await transport.aclose()
