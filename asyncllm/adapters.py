"""What becomes of a stream's text on its way to a reader: an even pace, and the lines of a web page's protocol."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable
from typing import Any

import msgspec

from asyncllm.errors import ConfigError, InvalidRequestError

__all__ = ["data_stream_part", "smooth"]

_WORD = re.compile(r"\s*\S+(?:\s+$)?|\s+")


async def smooth(
    texts: AsyncIterable[str], *, pause_s: float = 0.02, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
) -> AsyncGenerator[str]:
    """Hand out the words of `texts` one by one, with at least `pause_s` between two.

        async for word in smooth(client.stream_text("Tell me more")): ...

    Nothing is read ahead: while a reader waits, so does the stream behind. Whoever made the stream closes it.
    """
    if not (type(pause_s) in (int, float) and 0 <= pause_s < float("inf")):
        raise ConfigError(f"pause_s is a number of seconds from zero up; got {pause_s!r}", field="pause_s")
    time = asyncio.get_running_loop().time
    due = time()
    async for text in texts:
        for word in _WORD.findall(text):
            left_s = due - time()
            if left_s > 0:
                await sleep(left_s)
            due = time() + pause_s
            yield word


def data_stream_part(value: Any, code: str = "0") -> str:
    """A line of the Vercel AI SDK's data stream protocol: `0:"Hello"` for a piece of text, in `code` what else it is.

    A response that carries such lines has the header `x-vercel-ai-data-stream: v1`.

    Raises `InvalidRequestError` for what is not JSON, and for a code that is no single letter or digit.

    Source: the AI SDK's documentation, "Stream Protocols", data stream protocol of version 4.
    """
    if not isinstance(code, str) or len(code) != 1 or not (code.isascii() and code.isalnum()):
        raise InvalidRequestError("code is one letter or digit", field="code")
    try:
        return f"{code}:{msgspec.json.encode(value).decode()}\n"
    except (TypeError, ValueError, RecursionError):
        raise InvalidRequestError("value is not JSON", field="value") from None
