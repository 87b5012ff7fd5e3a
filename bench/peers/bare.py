"""aiohttp and msgspec by hand: what a careful engineer writes for one server and one purpose, and the floor for us.

It decodes only the fields it uses, maps no error, has no timeout, and would take an interrupted stream for a whole one.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

import aiohttp
import msgspec

from bench.peers import Counter


class _Message(msgspec.Struct):
    content: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice]
    usage: _Usage | None = None


class _ChunkChoice(msgspec.Struct):
    delta: _Message
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_ChunkChoice]
    usage: _Usage | None = None


_encode = msgspec.json.Encoder().encode
_decode_completion = msgspec.json.Decoder(_Completion).decode
_decode_chunk = msgspec.json.Decoder(_Chunk).decode

_MESSAGES = [{"role": "user", "content": "Hello"}]
_PLAIN = {"model": "gpt-x", "messages": _MESSAGES, "max_tokens": 200}
_STREAM = {"model": "gpt-x", "messages": _MESSAGES, "stream": True, "stream_options": {"include_usage": True}}


class Bare:
    """One `ClientSession` without a connection limit."""

    def __init__(self, base_url: str, seen: Counter) -> None:
        self._url = f"{base_url}/chat/completions"
        self.seen = seen
        self.chars = 0
        self.usage: _Usage | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
            headers={"authorization": "Bearer k", "content-type": "application/json"},
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._session.close()

    async def chat(self) -> None:
        """One plain call."""
        async with self._session.post(self._url, data=_encode(_PLAIN)) as response:
            response.raise_for_status()
            completion = _decode_completion(await response.read())
        self.chars += len(completion.choices[0].message.content or "")

    async def stream(self) -> None:
        """One stream, read to its end."""
        parts: list[str] = []
        async with self._session.post(self._url, data=_encode(_STREAM)) as response:
            response.raise_for_status()
            rest = b""
            async for data in response.content.iter_any():
                *events, rest = (rest + data).split(b"\n\n")
                for event in events:
                    if event != b"data: [DONE]":
                        self._read(_decode_chunk(event[6:]), parts)
        self.chars += len("".join(parts))

    def _read(self, chunk: _Chunk, parts: list[str]) -> None:
        for choice in chunk.choices:
            if choice.delta.content:
                self.seen[0] += 1
                parts.append(choice.delta.content)
        if chunk.usage is not None:
            self.usage = chunk.usage
