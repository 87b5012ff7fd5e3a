"""Tables read from bytes in memory and written into them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

from asyncllm.batch.formats.protocol import Format, Reading
from asyncllm.batch.rows import Outcome, Row
from asyncllm.types import Message, Request, Response, ResponseChoice, Usage

__all__ = ["answered", "asked", "content_of", "pieces", "rows_of"]


async def pieces(content: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


async def rows_of(format_: Format, content: bytes, *, size: int = 1000, **reading: Any) -> list[Row]:
    asked = Reading(**{"name": "in", **reading})
    return [row async for row in format_.read(pieces(content, size), asked)]


def asked(row: Row) -> str:
    """The text that a row asks with."""
    assert isinstance(row.request, Request), row.error
    return row.request.messages[-1].text


def answered(index: int, text: str = "yes", **message: Any) -> Outcome:
    choice = ResponseChoice(0, Message("assistant", text, **message), "stop")
    return Outcome(index=index, answer=Response(choices=(choice,), usage=Usage(input_tokens=3, output_tokens=1)))


def content_of(format_: Format, rows: Sequence[Row], outcomes: Iterable[Outcome]) -> bytes:
    """The output of the rows with these outcomes."""
    writer = format_.writer()
    content = writer.begin()
    for outcome in outcomes:
        row, errors = writer.write(outcome, rows[outcome.index].fields)
        assert errors == b""
        content += row
    return content + writer.end()
