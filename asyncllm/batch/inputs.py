"""What a batch reads its rows from: a place through a format, or requests of a program."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol, TypeAlias, cast

import msgspec

from asyncllm.batch.codec import digest
from asyncllm.batch.fanout import Source
from asyncllm.batch.formats.protocol import Format, Reading
from asyncllm.batch.places.protocol import Place
from asyncllm.batch.rows import Row
from asyncllm.calls import CallOptions, chat_request, completion_request
from asyncllm.errors import AsyncLLMError, InputError, InvalidRequestError
from asyncllm.types import Message, Request, Timeouts

__all__ = ["BatchInput", "FileInput", "GivenInput", "Input", "parted", "request_of"]

BatchInput: TypeAlias = str | Sequence[Message | Mapping[str, Any]] | Mapping[str, Any] | Request
"""A user's text or a conversation, as `chat` takes them; a dict with `messages` (a chat) or `prompt` (a completion) and
options of that call; or a `Request`, whose `model` is one that the client takes, or empty."""


class Input(Protocol):
    """Where rows come from."""

    name: str
    chunk: int
    """Rows that may be taken before the first of them is asked."""
    can_be_checked: bool
    """Whether all of it can be read before the first row is asked, and again afterwards."""

    async def fingerprint(self) -> str | None:
        """Tells one content from another; `None` where that cannot be told. Raises `InputError`, `APIError`."""
        ...

    def rows(self) -> AbstractAsyncContextManager[AsyncIterator[Row]]:
        """Lend the rows, in order. Raises, on entering and while iterating, `InputError` and `APIError`."""
        ...


class FileInput:
    """The rows of a file."""

    chunk = 1000
    can_be_checked = True

    def __init__(self, place: Place, format_: Format, reading: Reading) -> None:
        self.name = place.name
        self._place = place
        self.format = format_
        self._reading = reading

    async def fingerprint(self) -> str | None:
        """Of the place. Raises `InputError` if nothing is there."""
        told = await self._place.fingerprint()
        if told is None:
            raise InputError(f"{self.name}: there is no such input")
        return told

    @asynccontextmanager
    async def rows(self) -> AsyncGenerator[AsyncIterator[Row]]:
        """Rows as the format reads them."""
        async with self._place.read() as chunks:
            yield self.format.read(chunks, self._reading)


class GivenInput:
    """The requests of a program."""

    chunk = 1
    can_be_checked = False

    name = "requests"

    def __init__(self, source: Source[BatchInput], options: CallOptions) -> None:
        self._source = source
        self._options = options

    async def fingerprint(self) -> str | None:
        """Nothing is known of them before they come."""
        return None

    @asynccontextmanager
    async def rows(self) -> AsyncGenerator[AsyncIterator[Row]]:
        """Rows as they come."""
        yield self._rows()

    async def _rows(self) -> AsyncIterator[Row]:
        index = 0
        if isinstance(self._source, AsyncIterable):
            async for item in self._source:
                yield self._row(index, item)
                index += 1
        else:
            for item in self._source:
                yield self._row(index, item)
                index += 1

    def _row(self, index: int, item: BatchInput) -> Row:
        place = f"{self.name}[{index}]"
        try:
            asked = request_of(item, self._options)
            digest(asked)  # or nobody could tell it from another row
        except AsyncLLMError as error:
            error.message = f"{place}: {error.message}"
            return Row(index=index, place=place, error=error)
        except TypeError as error:
            return Row(index=index, place=place, error=InputError(f"{place}: it holds what is no data: {error}"))
        return Row(index=index, place=place, request=asked)


def parted(item: Mapping[str, Any]) -> tuple[bool, Any, dict[str, Any]]:
    """Of a request that is a dict: whether it is a chat, its prompt, its options. Raises `InvalidRequestError`."""
    own = dict(item)
    if ("messages" in own) == ("prompt" in own):
        raise InvalidRequestError(
            "a request that is a dict has either messages, for a chat, or prompt, for a completion", field="messages"
        )
    is_chat = "messages" in own
    return is_chat, own.pop("messages" if is_chat else "prompt"), own


def request_of(item: BatchInput, options: CallOptions) -> Request:
    """What an item asks, where it does not say otherwise by `options`. Raises `InvalidRequestError`."""
    if isinstance(item, Request):
        return item
    if not isinstance(item, Mapping):
        return chat_request(item, options, stream=False, timeouts=Timeouts())
    is_chat, prompt, own = parted(item)
    merged = cast("CallOptions", {**options, **own})
    make = chat_request if is_chat else completion_request
    asked = make(prompt, merged, stream=False, timeouts=Timeouts())
    model = own.get("model", "")
    if not isinstance(model, str):
        raise InvalidRequestError("the model of a row is one text", field="model")
    return msgspec.structs.replace(asked, model=model)
