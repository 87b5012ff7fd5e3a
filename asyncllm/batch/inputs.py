"""What a batch reads its rows from: a place through a format, or requests of a program."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from asyncllm.batch.codec import digest
from asyncllm.batch.fanout import Source
from asyncllm.batch.formats.protocol import Format, Reading
from asyncllm.batch.items import BatchInput, request_of
from asyncllm.batch.places.protocol import Place
from asyncllm.batch.rows import Row
from asyncllm.calls import CallOptions
from asyncllm.errors import AsyncLLMError, InputError

__all__ = ["FileInput", "GivenInput", "Input"]


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
