"""Comma-separated values with a header, by RFC 4180: quoted cells may hold commas, quotes and line breaks.

See `tables` for what the columns mean. Cells of options that are no texts hold JSON: numbers, `true`, lists. A row with
more or fewer cells than the header is an error of its own, as is one with a cell that Python's `csv` finds too large.
The output is UTF-8 with CRLF; a row's results are in six more columns, empty where there is nothing to say.

Cells are written as they are. A spreadsheet takes a cell that begins with `=`, `+`, `-` or `@` for a formula, and a
model can be made to write one: import the columns of an output as text.

Source: https://www.rfc-editor.org/rfc/rfc4180
"""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from asyncllm.batch.formats.lines import check_text, line_place, too_large
from asyncllm.batch.formats.protocol import Reading, Writer
from asyncllm.batch.formats.records import Record, RecordSplitter
from asyncllm.batch.formats.tables import Asking, cell_text, check_known, error_text, result_names, results
from asyncllm.batch.rows import Outcome, Row
from asyncllm.errors import InputError

__all__ = ["Csv"]

_LONGEST_BOM = 4


class Csv:
    """The format."""

    name = "csv"
    suffixes: Sequence[str] = (".csv",)
    repeats_input = True
    has_errors_file = False

    async def read(self, chunks: AsyncIterator[bytes], reading: Reading, /) -> AsyncIterator[Row]:
        """See `Format`."""
        asking = Asking(reading, cells_are_text=True)
        header: tuple[str, ...] | None = None
        index = 0
        async for record in _records(chunks, reading):
            if header is None:
                header = _header(record, reading)
                asking.check_header(header)
            else:
                yield _row(record, index, header, reading, asking)
                index += 1
        if header is None:
            raise InputError(f"{reading.name} is empty; its first line names the columns")

    def writer(self) -> Writer:
        """See `Format`."""
        return _Writer()


async def _records(chunks: AsyncIterator[bytes], reading: Reading) -> AsyncIterator[Record]:
    splitter = RecordSplitter(reading.max_row_bytes, reading.name)
    head = b""
    async for chunk in chunks:
        if len(head) < _LONGEST_BOM:
            head += chunk[:_LONGEST_BOM]
            check_text(head, reading.name)
        for record in splitter.feed(chunk):
            yield record
    for record in splitter.close():
        yield record


def _header(record: Record, reading: Reading) -> tuple[str, ...]:
    place = line_place(reading.name, record.line)
    try:
        names = tuple(_cells(record))
    except (csv.Error, UnicodeEncodeError):
        raise InputError(f"{place}: the header cannot be read; write the file as CSV in UTF-8") from None
    if "" in names:
        raise InputError(f"{place}: the header has a column without a name; name each column")
    if len(set(names)) < len(names):
        double = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{place}: the header has the column {double[:40]!r} twice; rename one")
    return names


def _row(record: Record, index: int, header: tuple[str, ...], reading: Reading, asking: Asking) -> Row:
    place = line_place(reading.name, record.line)
    fields: dict[str, Any] = dict.fromkeys(header)
    if record.too_long:
        error = too_large(index, place, reading.max_row_bytes).error
        return Row(index=index, place=place, error=error, fields=fields)
    if not record.closed:
        reason = "the file ends within quotes; write the file again"
        return asking.faulty(index, place, fields, reason, code="truncated_input")
    try:
        cells = _cells(record)
    except UnicodeEncodeError:
        return asking.faulty(index, place, fields, "it is not UTF-8; write the file as UTF-8", code="invalid_utf8")
    except csv.Error as error:
        return asking.faulty(index, place, fields, _explained(error), code="invalid_csv")
    fields.update(zip(header, cells, strict=False))
    if len(cells) != len(header):
        reason = (
            f"its number of cells is {len(cells)}, and the header names {len(header)} columns; quote cells with commas"
        )
        return asking.faulty(index, place, fields, reason, code="ragged_row")
    return asking.row(index, place, fields)


def _cells(record: Record) -> list[str]:
    if not record.text.isascii():
        record.text.encode()  # fails for bytes that were no UTF-8
    return next(csv.reader([record.text], strict=True))


def _explained(error: csv.Error) -> str:
    if "field limit" in str(error):
        return f"a cell is longer than {csv.field_size_limit()} characters; raise csv.field_size_limit, or use jsonl"
    return "its quotes do not match: a quoted cell ends before a comma, and a quote in it is written twice"


class _Writer:
    def __init__(self) -> None:
        self._columns: tuple[str, ...] | None = None
        self._text = io.StringIO(newline="")
        self._csv = csv.writer(self._text)

    def begin(self) -> bytes:
        return b""  # the first row tells what the columns are

    def write(self, outcome: Outcome, fields: Mapping[str, Any], /) -> tuple[bytes, bytes]:
        columns = self._columns
        if columns is None:
            columns = self._head(tuple(fields))
        values = results(outcome)
        values["error"] = error_text(outcome.error)
        check_known(outcome, fields, columns)
        cells = [cell_text(fields.get(name)) for name in columns]
        self._csv.writerow([*cells, *(cell_text(value) for value in values.values())])
        return self._taken(), b""

    def end(self) -> bytes:
        if self._columns is None:
            self._head(())
        return self._taken()

    def _head(self, columns: tuple[str, ...]) -> tuple[str, ...]:
        self._columns = columns
        self._csv.writerow([*columns, *result_names(columns).values()])
        return columns

    def _taken(self) -> bytes:
        text = self._text.getvalue()
        self._text.seek(0)
        self._text.truncate()
        return text.encode()
