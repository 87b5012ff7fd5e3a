"""JSON Lines: an object of columns a line, or a text, which is a prompt.

    {"prompt": "What is the capital of France?", "max_tokens": 20, "ticket": 17}
    "What is the capital of Peru?"

See `tables` for what the columns mean. A line of the output repeats its columns and adds the results, of which
`message` is left out where it says no more than `text`; an error is an object. A line that could not be read adds its
error alone.

Source: https://jsonlines.org
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, cast

import msgspec

from asyncllm.batch.formats.lines import Line, line_place, read_lines, too_large, unreadable
from asyncllm.batch.formats.protocol import Reading, Writer
from asyncllm.batch.formats.tables import Asking, error_object, result_names, results
from asyncllm.batch.rows import Outcome, Row

__all__ = ["Jsonl"]

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class Jsonl:
    """The format."""

    name = "jsonl"
    suffixes: Sequence[str] = (".jsonl", ".ndjson")
    repeats_input = True
    has_errors_file = False

    async def read(self, chunks: AsyncIterator[bytes], reading: Reading, /) -> AsyncIterator[Row]:
        """See `Format`."""
        asking = Asking(reading)
        index = 0
        async for line in read_lines(chunks, reading.max_row_bytes, reading.name):
            yield _row(line, index, reading, asking)
            index += 1

    def writer(self) -> Writer:
        """See `Format`."""
        return _Writer()


def _row(line: Line, index: int, reading: Reading, asking: Asking) -> Row:
    place = line_place(reading.name, line.number)
    if line.too_long:
        return too_large(index, place, reading.max_row_bytes)
    try:
        value = _decode(line.data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return unreadable(index, place, ended=line.ended)
    if isinstance(value, str):
        value = {"prompt": value}
    if not isinstance(value, dict):
        return asking.faulty(index, place, {}, "a line is a JSON object, or a text which is the prompt")
    return asking.row(index, place, cast("dict[str, Any]", value))


class _Writer:
    def begin(self) -> bytes:
        return b""

    def write(self, outcome: Outcome, fields: Mapping[str, Any], /) -> tuple[bytes, bytes]:
        values = results(outcome)
        values["error"] = error_object(outcome.error)
        names = result_names(fields)
        added = {names[name]: value for name, value in values.items() if name != "message" or value is not None}
        return _encode({**fields, **added}) + b"\n", b""

    def end(self) -> bytes:
        return b""
