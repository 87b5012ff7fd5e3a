"""The openai SDK with its own defaults, except that it may not retry: a retry would hide a failure as slowness."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from openai import AsyncOpenAI

from bench.peers import Counter


class OpenAISDK:
    """One `AsyncOpenAI` client over its default HTTP library."""

    def __init__(self, base_url: str, seen: Counter) -> None:
        self._client = AsyncOpenAI(base_url=base_url, api_key="k", max_retries=0)
        self.seen = seen
        self.chars = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._client.close()

    async def chat(self) -> None:
        """One plain call."""
        completion = await self._client.chat.completions.create(
            model="gpt-x", messages=[{"role": "user", "content": "Hello"}], max_tokens=200
        )
        self.chars += len(completion.choices[0].message.content or "")

    async def stream(self) -> None:
        """One stream, read to its end."""
        opened = await self._client.chat.completions.create(
            model="gpt-x",
            messages=[{"role": "user", "content": "Hello"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        async with opened as stream:
            async for chunk in stream:
                for choice in chunk.choices:
                    if choice.delta.content:
                        self.seen[0] += 1
                        self.chars += len(choice.delta.content)
