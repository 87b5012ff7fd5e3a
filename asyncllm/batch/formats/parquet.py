"""Parquet, through pyarrow (extra `parquet`): read by groups of rows, written with the schema of the input.

See `tables` for what the columns mean; `messages` and options that are no texts may also be JSON in a column of text.
The six columns of results follow those of the input: texts and whole numbers, null where there is nothing to say.

A Parquet file is read from its end, so what comes is spooled on this machine first.

Source: https://parquet.apache.org/docs/file-format
"""

from __future__ import annotations

import importlib
import io
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, cast

from asyncllm.batch.formats.lines import too_large
from asyncllm.batch.formats.protocol import Reading, Writer
from asyncllm.batch.formats.tables import RESULTS, Asking, cell_text, check_known, error_text, result_names, results
from asyncllm.batch.rows import Outcome, Row
from asyncllm.batch.spool import Spool
from asyncllm.batch.threads import in_thread
from asyncllm.errors import ConfigError, InputError, WriteError

__all__ = ["Parquet"]

_ROWS = 1024
_GROUP_ROWS = 16_384
_GROUP_BYTES = 16 * 1024 * 1024
_NUMBERS = {"input_tokens", "output_tokens"}


class Parquet:
    """The format. Raises `ConfigError` where `pip install 'asyncllm[parquet]'` is missing."""

    name = "parquet"
    suffixes: Sequence[str] = (".parquet",)
    repeats_input = True
    has_errors_file = False

    async def read(self, chunks: AsyncIterator[bytes], reading: Reading, /) -> AsyncIterator[Row]:
        """See `Format`."""
        asking = Asking(reading, cells_are_text=True)
        index = 0
        with Spool() as spool:  # which vanishes with this generator, whenever that is
            async for chunk in chunks:
                await spool.write(chunk)
            table = await self._opened(spool, reading)
            schema = table.schema_arrow
            if len(set(schema.names)) < len(schema.names):
                raise InputError(f"{reading.name} has two columns of one name; rename one")
            asking.check_header(schema.names)
            groups = table.iter_batches(_ROWS)
            while rows := await in_thread(lambda: _next(groups, reading)):
                for columns in rows:
                    yield _row(_Fields(columns, schema), index, reading, asking)
                    index += 1

    def writer(self) -> Writer:
        """See `Format`."""
        return _Writer()

    async def _opened(self, spool: Spool, reading: Reading) -> Any:
        arrow, file = _pyarrow("pyarrow.parquet"), await spool.whole()
        try:
            return await in_thread(lambda: arrow.ParquetFile(file))
        except (ValueError, OSError) as error:  # of which those of Arrow are made
            raise InputError(f"{reading.name} is not a Parquet file, or not whole; write it again") from error


class _Fields(dict[str, Any]):
    """The columns of a row, with what they are in the input."""

    def __init__(self, columns: Mapping[str, Any], schema: Any) -> None:
        super().__init__(columns)
        self.schema = schema


def _next(groups: Iterator[Any], reading: Reading) -> list[dict[str, Any]]:
    """The next rows. Groups without any are passed over."""
    try:
        for group in groups:
            if group.num_rows:
                return cast("list[dict[str, Any]]", group.to_pylist())
    except (ValueError, OSError, ArithmeticError, NotImplementedError) as error:
        raise InputError(
            f"{reading.name} cannot be read to its end: it is damaged, or holds what Python has no value for, such as "
            "times in nanoseconds; write it again, with times in microseconds"
        ) from error
    return []


def _row(fields: _Fields, index: int, reading: Reading, asking: Asking) -> Row:
    place = f"{reading.name}, row {index + 1}"
    size = sum(len(value) for value in fields.values() if isinstance(value, str | bytes))
    if size > reading.max_row_bytes:
        return Row(index=index, place=place, error=too_large(index, place, reading.max_row_bytes).error, fields=fields)
    return asking.row(index, place, fields)


class _Writer:
    """Rows are gathered into groups, as the format wants it. The first tells what the columns are."""

    def __init__(self) -> None:
        self._arrow = _pyarrow("pyarrow")
        self._sink = io.BytesIO()
        self._columns: frozenset[str] = frozenset()
        self._names: dict[str, str] = {}
        self._schema: Any = None
        self._as_text = False
        self._writer: Any = None
        self._rows: list[dict[str, Any]] = []
        self._size = 0

    def begin(self) -> bytes:
        return b""

    def write(self, outcome: Outcome, fields: Mapping[str, Any], /) -> tuple[bytes, bytes]:
        if self._writer is None:
            self._open(fields)
        check_known(outcome, fields, self._columns)
        values = results(outcome)
        values["error"], values["message"] = error_text(outcome.error), cell_text(values["message"])
        columns = {name: cell_text(value) for name, value in fields.items()} if self._as_text else fields
        self._rows.append({**columns, **{self._names[name]: value for name, value in values.items()}})
        self._size += sum(len(value) for value in self._rows[-1].values() if isinstance(value, str | bytes))
        full = len(self._rows) >= _GROUP_ROWS or self._size >= _GROUP_BYTES
        return self._group() if full else b"", b""

    def end(self) -> bytes:
        if self._writer is None:
            self._open({})
        last = self._group() if self._rows else b""
        cast("Any", self._writer).close()
        return last + self._taken()

    def _open(self, fields: Mapping[str, Any]) -> None:
        arrow = self._arrow
        if isinstance(fields, _Fields):
            schema = fields.schema
        else:  # from a format whose columns have no types
            schema, self._as_text = arrow.schema([(name, arrow.string()) for name in fields]), True
        self._columns, self._names = frozenset(fields), result_names(fields)
        for name in RESULTS:
            schema = schema.append(
                arrow.field(self._names[name], arrow.int64() if name in _NUMBERS else arrow.string())
            )
        self._schema = schema
        self._writer = _pyarrow("pyarrow.parquet").ParquetWriter(self._sink, schema)

    def _group(self) -> bytes:
        try:
            self._writer.write_table(self._arrow.Table.from_pylist(self._rows, schema=self._schema))
        except (ValueError, TypeError, NotImplementedError) as error:
            raise WriteError("a column cannot be written as what it is in the input; write jsonl") from error
        self._rows, self._size = [], 0
        return self._taken()

    def _taken(self) -> bytes:
        data = self._sink.getvalue()
        self._sink.seek(0)
        self._sink.truncate()
        return data


def _pyarrow(module: str) -> Any:
    if find_spec("pyarrow") is None:
        raise ConfigError("Parquet needs pyarrow: pip install 'asyncllm[parquet]'", field="format")
    return importlib.import_module(module)
