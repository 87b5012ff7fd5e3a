"""asyncllm, used as its README shows."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import asyncllm
from bench.peers import Counter


class Ours:
    """One `Client` with its defaults: timeouts, retries and error mapping included."""

    def __init__(self, base_url: str, seen: Counter) -> None:
        self._client = asyncllm.Client(model="openai:gpt-x", base_url=base_url, api_key="k")
        self.seen = seen
        self.chars = 0

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._client.__aexit__(kind, error, traceback)

    async def chat(self) -> None:
        """One plain call."""
        reply = await self._client.chat("Hello", max_tokens=200)
        self.chars += len(reply.text)

    async def stream(self) -> None:
        """One stream, read to its end."""
        async with self._client.stream("Hello") as stream:
            async for event in stream:
                if isinstance(event, asyncllm.TextDelta):
                    self.seen[0] += 1
                    self.chars += len(event.text)
