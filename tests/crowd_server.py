"""A server in a process of its own, for tests of crowds: it prints its port, and serves until its input ends."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from asyncllm import Client, Finished, TextDelta
from asyncllm.events import Events
from asyncllm.server import ServerSettings
from asyncllm.server.running.serving import serve
from asyncllm.types import Request


class Talker:
    """Says little, or, where it is asked for much, goes on for as long as it is listened to."""

    @asynccontextmanager
    async def open(self, request: Request, /) -> AsyncGenerator[Events]:
        """See `Backend`."""
        # What is much is so from its first word on, as filling thousands of buffers by words would take all the time.
        yield _talk(10_000, 4000) if request.messages[0].text == "much" else _talk(20, 24)

    async def aclose(self) -> None:
        """Nothing is held."""


async def _talk(count: int, size: int) -> AsyncGenerator[TextDelta | Finished]:
    text = "x" * size
    for _ in range(count):
        yield TextDelta(text)
        await asyncio.sleep(0)
    yield Finished("stop")


async def main() -> None:
    loop = asyncio.get_running_loop()

    def told(address: str) -> None:
        print(address.rpartition(":")[2], flush=True)

    def end() -> None:
        if not os.read(0, 1):
            loop.remove_reader(0)
            os.kill(os.getpid(), signal.SIGTERM)

    loop.add_reader(0, end)
    async with Client(backend=Talker()) as client:
        await serve(client, ServerSettings(models={"m": ""}, max_in_flight=5000), port=0, drain_s=1, tell=told)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
