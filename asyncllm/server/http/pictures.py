"""Pictures that a request names by their addresses: fetched here, guarded, so that no backend fetches anything."""

from __future__ import annotations

import asyncio

import msgspec

from asyncllm.errors import InvalidRequestError
from asyncllm.server.settings import ServerSettings
from asyncllm.transport.fetch import Budget, Fetcher, FetchError
from asyncllm.types import ContentPart, ImagePart, Message, Request

__all__ = ["Pictures"]

_AT_ONCE = 32
_MARKS = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)


class Pictures:
    """Puts pictures in the place of their addresses."""

    def __init__(self, settings: ServerSettings, fetcher: Fetcher | None = None) -> None:
        self._settings = settings
        self._fetcher = fetcher or Fetcher(hosts=settings.fetch_hosts, timeout_s=settings.fetch_timeout_s)
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def fetch(self, asked: Request) -> Request:
        """What is asked, with no address left in it. Raises `InvalidRequestError`."""
        count = sum(_is_named(part) for message in asked.messages for part in _parts(message))
        if not count:
            return asked
        if count > self._settings.max_fetches:
            raise InvalidRequestError(f"at most {self._settings.max_fetches} pictures are fetched", field="messages")
        budget = Budget(self._settings.max_fetch_bytes)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = {
                    (row, column): group.create_task(self._fetch(part, f"messages[{row}].content", budget))
                    for row, message in enumerate(asked.messages)
                    for column, part in enumerate(_parts(message))
                    if isinstance(part, ImagePart) and _is_named(part)
                }
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        messages = tuple(
            message
            if isinstance(message.content, str)
            else msgspec.structs.replace(
                message,
                content=tuple(
                    tasks[row, column].result() if (row, column) in tasks else part
                    for column, part in enumerate(message.content)
                ),
            )
            for row, message in enumerate(asked.messages)
        )
        return msgspec.structs.replace(asked, messages=messages)

    async def _fetch(self, part: ImagePart, field: str, budget: Budget) -> ImagePart:
        async with self._turns:
            try:
                data = await self._fetcher.fetch(str(part.url), budget)
            except FetchError as error:
                raise InvalidRequestError(str(error), field=field) from None
        kind = _kind(data)
        if kind is None:
            raise InvalidRequestError("what is there is no picture of PNG, JPEG, GIF or WebP", field=field)
        return ImagePart(data=data, media_type=kind, detail=part.detail)


def _parts(message: Message) -> tuple[ContentPart, ...]:
    return () if isinstance(message.content, str) else tuple(message.content)


def _is_named(part: ContentPart) -> bool:
    return isinstance(part, ImagePart) and isinstance(part.url, str) and not part.url.startswith("data:")


def _kind(data: bytes) -> str | None:
    """By what it is, whatever it was told to be."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for mark, kind in _MARKS if data.startswith(mark)), None)
