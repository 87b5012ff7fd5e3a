"""What an event costs our server: the echo backend behind it, 64 clients, the server on a core of its own.

Beside it, with the same events made by the same client of asyncllm: sse_starlette's stock response, and an ASGI
application written by hand, which frames its events once and says nothing else. The clients count the events on raw
sockets, so that they cost little. `python -m bench.gateway WAY CORE [UPSTREAM]` is the server; it prints its port and
ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import os
import socket
import statistics
import subprocess
import sys
import time
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias, cast, get_args

import msgspec

import asyncllm
from bench.processes import bytecode_cache
from bench.report import Judged, Target, heading, judge, number, progress, table

Way: TypeAlias = Literal["asyncllm", "sse_starlette", "bare ASGI"]

_ROOT = Path(__file__).parents[1]
CLIENTS = 64
"""How many ask at one time."""
_WORDS = 256
_CALLS, _QUICK_CALLS = 8, 2
_TARGET = Target(bound=60_000, at_least=True, unit="/s")
_END = b"data: [DONE]"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One way of serving; medians of the rounds."""

    way: str
    per_s: Judged
    """Events a second."""
    first_ms: float
    """Milliseconds to the first event of a reply."""


def measure(*, quick: bool, rounds: int) -> list[Row]:
    """Every way in turn, `rounds` times."""
    calls = _QUICK_CALLS if quick else _CALLS
    taken: dict[Way, list[tuple[float, float]]] = {way: [] for way in get_args(Way)}
    cores = sorted(os.sched_getaffinity(0))
    with bytecode_cache() as environment:
        for turn in range(rounds):
            progress(f"server: round {turn + 1} of {rounds}")
            for way, samples in taken.items():
                samples.append(asyncio.run(_sample(way, cores, environment, calls)))
    return [
        Row(
            way=way,
            per_s=judge(statistics.median(rate for rate, _ in samples), _TARGET if way == "asyncllm" else None),
            first_ms=statistics.median(first for _, first in samples),
        )
        for way, samples in taken.items()
    ]


def text(rows: list[Row]) -> str:
    """The rows as a table."""
    return "\n".join(
        (
            heading(f"Events a second through a server on one core: echo, {CLIENTS} clients, {_WORDS} words a reply."),
            table(
                ("", "events/s", "target", "", "first event, ms"),
                [(row.way, *row.per_s.cells(), number(row.first_ms)) for row in rows],
            ),
        )
    )


async def _sample(way: Way, cores: list[int], environment: dict[str, str], calls: int) -> tuple[float, float]:
    async with started([sys.executable, "-m", "bench.gateway", way, str(cores[-1])], environment) as (_, port):
        try:
            os.sched_setaffinity(0, {cores[0]})
            await asyncio.gather(*(_client(port, 1) for _ in range(CLIENTS)))
            began = time.perf_counter()
            firsts = await asyncio.gather(*(_client(port, calls) for _ in range(CLIENTS)))
            took_s = time.perf_counter() - began
        finally:
            os.sched_setaffinity(0, set(cores))
    return CLIENTS * calls * _WORDS / took_s, statistics.median(first for own in firsts for first in own) * 1e3


@asynccontextmanager
async def started(command: list[str], environment: dict[str, str]) -> AsyncGenerator[tuple[Process, int]]:
    """A server that prints its port, for the length of the block."""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=_ROOT, env=environment
    )
    try:
        assert process.stdout is not None
        yield process, int(await process.stdout.readline())
    finally:
        process.kill()
        await process.wait()


class Connection:
    """One connection of a client that does no more than count events."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    @asynccontextmanager
    async def open(cls, port: int) -> AsyncGenerator[Self]:
        """A connection, for the length of the block."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            yield cls(reader, writer)
        finally:
            writer.close()

    async def ask(self, path: str, model: str, words: int, prompt: str = "Hello") -> float:
        """Seconds to the first event of a streamed chat, once all of it has come. Raises where an event is missing."""
        messages = [{"role": "user", "content": prompt}]
        body = msgspec.json.encode({"model": model, "messages": messages, "stream": True})
        head = b"POST %b HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        began = time.perf_counter()
        self._writer.write(head % (path.encode(), len(body)) + body)
        first_s, count, tail = 0.0, 0, b""
        while not tail.endswith(b"\r\n0\r\n\r\n"):
            data = await self._reader.read(262144)
            if not data:
                raise RuntimeError(f"the server has closed the connection after {tail[-200:]!r}")
            joined = tail[-6:] + data
            count += joined.count(b"data: {") - tail[-6:].count(b"data: {")
            tail = joined
            if not first_s and count:
                first_s = time.perf_counter() - began
        if count < words:
            raise RuntimeError(f"{count} events came of {words}")
        return first_s


async def _client(port: int, calls: int) -> list[float]:
    async with Connection.open(port) as connection:
        prompt = "word " * _WORDS
        return [await connection.ask("/v1/chat/completions", "word", _WORDS, prompt) for _ in range(calls)]


# -- the server ------------------------------------------------------------------------------------------------------


async def _serve(way: Way, upstream: str | None) -> None:
    uvicorn: Any = import_module("uvicorn")
    behind: dict[str, Any] = {"model": "echo:x"}
    if upstream is not None:
        behind = {"model": "openai:word", "base_url": upstream, "api_key": "k"}
    async with asyncllm.Client(**behind) as client, _application(way, client) as application:
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", 0))
        listening.listen(CLIENTS)
        config = uvicorn.Config(
            application, log_config=None, access_log=False, proxy_headers=False, lifespan="off", ws="none"
        )
        print(listening.getsockname()[1], flush=True)
        await uvicorn.Server(config).serve([listening])


@asynccontextmanager
async def _application(way: Way, client: asyncllm.Client) -> AsyncGenerator[Any]:
    if way == "asyncllm":
        server: Any = import_module("asyncllm.server")
        yield server.app(client, server.ServerSettings(models={"word": client.resolve_model()}))
        return
    make: Callable[[asyncllm.Client], Any] = {"sse_starlette": _stock, "bare ASGI": _bare}[way]
    yield make(client)


def _chunk(text: str) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "x", "choices": [choice]}


async def _prompt_of(receive: Any) -> str:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return cast("str", msgspec.json.decode(body)["messages"][0]["content"])


def _stock(client: asyncllm.Client) -> Any:
    """The library's response as its examples use it: a text an event."""
    import json

    response: Any = import_module("sse_starlette").EventSourceResponse

    async def application(scope: Any, receive: Any, send: Any) -> None:
        prompt = await _prompt_of(receive)

        async def events() -> AsyncGenerator[str]:
            async for text_ in client.stream_text(prompt):
                yield json.dumps(_chunk(text_))
            yield "[DONE]"

        await response(events(), sep="\n")(scope, receive, send)

    return application


def _bare(client: asyncllm.Client) -> Any:
    """No SSE library, no headers to speak of, no watch for who goes: the floor."""
    encode = msgspec.json.Encoder().encode
    start = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}

    async def application(_: Any, receive: Any, send: Any) -> None:
        prompt = await _prompt_of(receive)
        await send(start)
        async for text_ in client.stream_text(prompt):
            body = b"data: %b\n\n" % encode(_chunk(text_))
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": _END + b"\n\n"})

    return application


async def _until_parent_goes() -> None:
    serving = asyncio.create_task(_serve(cast("Way", sys.argv[1]), sys.argv[3] if len(sys.argv) > 3 else None))
    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await asyncio.wait([serving, ended], return_when=asyncio.FIRST_COMPLETED)
    serving.cancel()


def main() -> None:
    """Be the server that the command line names."""
    os.sched_setaffinity(0, {int(sys.argv[2])})
    import_module("uvloop").run(_until_parent_goes())


if __name__ == "__main__":
    main()
