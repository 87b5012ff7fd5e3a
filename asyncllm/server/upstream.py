"""What stands behind the routes, and how another takes its place without a call noticing."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager

from asyncllm.client import Client
from asyncllm.server.models import Served

__all__ = ["Upstream"]


class Upstream:
    """A client, and those of its models that are served.

    A request that began while this was in force may use it until it ends, and may use what came after it as well. So
    what this one needs is in use until every request has ended that began before its successor came.
    """

    def __init__(self, client: Client, served: Served) -> None:
        self.client = client
        self.served = served
        self._before: Upstream | None = None
        self._held = 0
        self._waiting: list[asyncio.Future[None]] = []

    @contextmanager
    def held(self) -> Generator[None]:
        """The block is a request, or anything else that has to end before the client is closed."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
            if not self._held:
                for waiting in self._waiting:
                    if not waiting.done():
                        waiting.set_result(None)

    def follow(self, before: Upstream) -> None:
        """Take the place of `before`."""
        self._before = before

    async def unused(self) -> None:
        """Return once neither this nor one before it is held."""
        if self._before is not None:
            await self._before.unused()
            self._before = None
        while self._held:
            waiting = asyncio.get_running_loop().create_future()
            self._waiting.append(waiting)
            try:
                await waiting
            finally:
                self._waiting.remove(waiting)
