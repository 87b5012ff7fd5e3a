"""Clients that go, at every moment of a call and in both ways: the work behind it ends, and nothing of it is left."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import socket
import statistics
import struct
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from asyncllm import Client, Finished, TextDelta
from asyncllm.events import Events
from asyncllm.server import ServerSettings
from asyncllm.server.app import application_of
from asyncllm.server.service import Service
from asyncllm.testing import FaultyServer, Op, ScriptedBackend, SeenRequest, Sse, Stall, Status, openai_chunks
from asyncllm.types import Request
from asyncllm_llamacpp import engine as engines
from asyncllm_llamacpp.options import Options, find_model
from leftovers import tasks
from served import listening

AT_ONCE_S = 0.25
PHASES = ("body", "queued", "begun", "streaming", "end", "plain", "plain end")


class Timed(ScriptedBackend):
    """Does what the first word of a message says, and knows when each call was left."""

    def __init__(self) -> None:
        super().__init__([[]])
        self.entered: set[str] = set()
        self.left: dict[str, float] = {}

    @asynccontextmanager
    async def open(self, request: Request, /) -> AsyncGenerator[Events]:
        """See `Backend`."""
        name = request.messages[0].text
        self.opened += 1
        self.entered.add(name)
        try:
            if name.startswith(("queued", "plain ")) and not name.startswith("plain end"):
                await asyncio.Event().wait()
            yield _steps(name)
        finally:
            self.closed += 1
            self.left[name] = asyncio.get_running_loop().time()


async def _steps(name: str) -> AsyncGenerator[Any]:
    if name.startswith("begun"):
        await asyncio.Event().wait()
    yield TextDelta("one")
    if name.startswith("streaming"):
        await asyncio.Event().wait()
    yield Finished("stop")


class Caller:
    """One request on a socket of its own, which is left at some moment."""

    def __init__(self, port: int, phase: str, number: int) -> None:
        self.port, self.phase, self.name = port, phase, f"{phase} {number}"
        self.left_at = 0.0

    async def ask(self) -> None:
        """Send it, all or in part."""
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        asked = {"messages": [{"role": "user", "content": self.name}], "stream": not self.phase.startswith("plain")}
        body = json.dumps(asked).encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
        self.writer.write(head + (body[: len(body) // 2] if self.phase == "body" else body))
        await self.writer.drain()
        if self.phase == "streaming":
            await self.reader.readuntil(b"one")
        elif self.phase == "end":
            await self.reader.readuntil(b"[DONE]")
        elif self.phase == "plain end":
            await self.reader.readuntil(b'"finish_reason"')

    def leave(self, *, reset: bool) -> None:
        """Go."""
        if reset:
            sock = self.writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.left_at = asyncio.get_running_loop().time()
        self.writer.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  # what it looks at tells nobody
            await asyncio.sleep(0.005)


@asynccontextmanager
async def serving(client: Client, model: str = "") -> AsyncGenerator[tuple[Service, int]]:
    known = ServerSettings(models={"m": model})
    service = Service(client, known, None)
    async with service, listening(application_of(service), known) as url:
        yield service, int(url.rpartition(":")[2])


@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
async def test_whenever_clients_go_their_calls_end_and_nothing_is_left_of_them(reset: bool) -> None:
    """Fifty at once, five times, of all phases: with both ways to go five hundred."""
    backend = Timed()
    took_s: list[float] = []
    async with Client(backend=backend, retry=None) as client, serving(client) as (service, port):
        before = tasks()
        for wave in range(5):
            callers = [Caller(port, PHASES[number % len(PHASES)], wave * 50 + number) for number in range(50)]
            await asyncio.gather(*[caller.ask() for caller in callers])
            asking = [caller for caller in callers if caller.phase != "body"]
            await until(lambda asking=asking: {caller.name for caller in asking} <= backend.entered)  # type: ignore[misc]
            for caller in callers:
                caller.leave(reset=reset)
            await until(lambda: backend.opened == backend.closed and not service.admission.live)
            took_s += [backend.left[caller.name] - caller.left_at for caller in asking]
        await until(lambda: not tasks() - before)

    assert len(took_s) > 200
    assert not any(name.startswith("body") for name in backend.entered)
    assert statistics.median(took_s) < AT_ONCE_S
    assert max(took_s) < 20 * AT_ONCE_S  # where the machine is busy with other things


@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
@pytest.mark.parametrize("count", [40, pytest.param(250, marks=pytest.mark.slow)])
async def test_a_service_that_is_asked_over_http_is_left_as_well(reset: bool, count: int) -> None:
    def ops(request: SeenRequest) -> Sequence[Op]:
        phase = request.json()["messages"][0]["content"].rpartition(" ")[0]
        chunks = openai_chunks(["one"])[:2]
        match phase:
            case "queued" | "plain":
                return [Stall()]
            case "begun":
                return [Sse([], "stall")]
            case "streaming":
                return [Sse(chunks, "stall")]
            case "end":
                return [Sse(openai_chunks(["one"]))]
            case _:
                body = {"choices": [{"index": 0, "message": {"content": "one"}, "finish_reason": "stop"}], "usage": {}}
                return [Status(body=json.dumps(body).encode())]

    async with FaultyServer(ops) as server:
        async with (
            Client(model="openai:m", base_url=f"{server.url}/v1", api_key="k", retry=None) as client,
            serving(client, "openai:m") as (service, port),
        ):
            before = tasks()
            callers = [Caller(port, PHASES[number % len(PHASES)], number) for number in range(count)]
            await asyncio.gather(*[caller.ask() for caller in callers])
            await server.received(sum(caller.phase != "body" for caller in callers))
            stalled = sum(caller.phase in ("queued", "begun", "streaming", "plain") for caller in callers)
            began = asyncio.get_running_loop().time()
            for caller in callers:
                caller.leave(reset=reset)
            left = await server.aborted(stalled)
            took_s = asyncio.get_running_loop().time() - began
            await until(lambda: not service.admission.live and not tasks() - before)

    assert len(left) == stalled
    assert took_s < 20 * AT_ONCE_S


@pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="needs xllamacpp")
async def test_an_engine_in_the_process_stops_as_well() -> None:
    options = Options(n_parallel=2, n_ctx=512, n_batch=64, n_threads=1)
    engine = engines.borrow(find_model("smollm2", backend="llamacpp"), options)
    try:
        async with (
            Client(model="llamacpp:smollm2", options=msgspec.structs.asdict(options), retry=None) as client,
            serving(client, "llamacpp:smollm2") as (service, port),
        ):
            await client.chat("x", max_tokens=1)
            for number, (stream, reset) in enumerate([(True, False), (True, True), (False, False), (False, True)]):
                asked = {
                    "messages": [{"role": "user", "content": f"Count to a thousand, {number}."}],
                    "stream": stream,
                    "max_tokens": 400,
                    "ignore_eos": True,
                }
                body = json.dumps(asked).encode()
                caller = Caller(port, "plain", number)
                caller.reader, caller.writer = await asyncio.open_connection("127.0.0.1", port)
                caller.writer.write(
                    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
                )
                caller.writer.write(body)
                await until(lambda: engine.slots.free < 2)
                if stream:
                    await caller.reader.readuntil(b"data: ")
                caller.leave(reset=reset)
                await until(lambda: engine.slots.free == 2 and not service.admission.live)
                took_s = asyncio.get_running_loop().time() - caller.left_at
                assert took_s < 20 * AT_ONCE_S
    finally:
        engines.give_back(engine)


async def test_a_client_that_takes_nothing_and_closes_its_side_is_gone_at_once() -> None:
    """What is still to be written would keep its connection, and so the call behind it, for as long as it likes."""
    backend = ScriptedBackend([[TextDelta("x" * 2**20), TextDelta("x" * 2**20), Stall()]])
    async with Client(backend=backend, retry=None) as client, serving(client) as (_, port):
        with socket.socket() as lazy:
            lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            lazy.connect(("127.0.0.1", port))
            body = json.dumps({"messages": [{"role": "user", "content": "x"}], "stream": True}).encode()
            lazy.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
                + body
            )
            await until(lambda: backend.opened == 1)
            await asyncio.sleep(0.1)  # so that it is in the middle of being sent
            lazy.shutdown(socket.SHUT_WR)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(5):
                    await until(lambda: backend.closed == 1)

    assert backend.closed == 1
