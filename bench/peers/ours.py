"""asyncllm, used as its README shows."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import asyncllm


class Ours:
    """One `Client` with its defaults: timeouts, retries and error mapping included."""

    def __init__(self, base_url: str) -> None:
        self._client = asyncllm.Client(model="openai:gpt-x", base_url=base_url, api_key="k")
        self.events = 0
        self.chars = 0

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._client.__aexit__(kind, error, traceback)

    async def chat(self) -> None:
        reply = await self._client.chat("Hello", max_tokens=200)
        self.chars += len(reply.text)

    async def stream(self) -> None:
        async with self._client.stream("Hello") as stream:
            async for event in stream:
                if isinstance(event, asyncllm.TextDelta):
                    self.events += 1
                    self.chars += len(event.text)
