"""A backend that takes its time and writes down what it was asked; run as a program, our own server over it.

python slow_server.py STORE LOG SECONDS
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from asyncllm import Client
from asyncllm.events import Event, Events, Finished, TextDelta, UsageReport
from asyncllm.server import ServerSettings
from asyncllm.server.running.serving import serve
from asyncllm.types import Request, Usage
from asyncllm.workspace.served import ServerStore

__all__ = ["SlowEcho"]


class SlowEcho:
    """Repeats the last message after `seconds`."""

    def __init__(self, seconds: float, log: Path | None = None) -> None:
        self.seconds = seconds
        self.asked: list[str] = []
        self.busy = self.most = 0
        self.error: Exception | None = None
        self._log = log

    @asynccontextmanager
    async def open(self, request: Request, /) -> AsyncGenerator[Events]:
        yield self._events(request.messages[-1].text)

    async def aclose(self) -> None:
        pass

    async def _events(self, text: str) -> AsyncGenerator[Event]:
        self.asked.append(text)
        if self.error is not None:
            raise self.error
        self.busy += 1
        self.most = max(self.most, self.busy)
        try:
            await asyncio.sleep(self.seconds)
        finally:
            self.busy -= 1
        if self._log is not None:
            file = os.open(self._log, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
            os.write(file, f"{text}\n".encode())
            os.close(file)
        yield TextDelta(text)
        yield UsageReport(Usage(input_tokens=2, output_tokens=3))
        yield Finished("stop")


async def _main(folder: str, log: str, seconds: str) -> None:
    backend = SlowEcho(float(seconds), Path(log))
    settings = ServerSettings(models={"m": "slow:m"}, batch_concurrency=4)
    async with ServerStore(folder) as store, Client(backend=backend, model="slow:m") as client:
        await serve(client, settings, store=store, port=0, tell=lambda url: print(url, flush=True))


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
