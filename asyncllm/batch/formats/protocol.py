"""What a file format of batches has to do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol

from msgspec import Struct

from asyncllm.batch.rows import Outcome, Row

__all__ = ["Format", "Reading", "Writer"]


class Reading(Struct, frozen=True, kw_only=True):
    """What a format needs to know of an input to read it."""

    name: str
    """Name of the input, for `Row.place`."""
    template: Any = None
    """What makes a prompt of a row's columns, where the rows are not requests themselves."""
    options: Mapping[str, Any] = {}
    """Options of the call, by the names of `CallOptions`, for rows that do not say otherwise."""
    max_row_bytes: int = 16 * 2**20
    """A longer row is an error of its own."""


class Writer(Protocol):
    """Writes one output, outcome by outcome in input order. It is fed every row once, and nothing else."""

    def begin(self) -> bytes:
        """What stands before the first row."""
        ...

    def write(self, outcome: Outcome, fields: Mapping[str, Any], /) -> tuple[bytes, bytes]:
        """The bytes of one row, for the output and for the file of errors; either may be empty."""
        ...

    def end(self) -> bytes:
        """What stands after the last row."""
        ...


class Format(Protocol):
    """Reads inputs and writes outputs of one kind."""

    name: str
    """What `format=` and `--format` call it."""
    suffixes: Sequence[str]
    """Endings of file names that mean this format, such as `.csv`, where one does."""
    repeats_input: bool
    """Whether an output repeats the columns of the input, so that both are read to write it."""
    has_errors_file: bool
    """Whether failed rows go into a file of their own."""

    def read(self, chunks: AsyncIterator[bytes], reading: Reading, /) -> AsyncIterator[Row]:
        """Rows in order, from bytes cut anywhere. A row that cannot be read is a `Row` with an error and ends nothing.

        Raises `InputError` where nothing of the input can be read, or nothing after this point.
        """
        ...

    def writer(self) -> Writer:
        """A writer for one output."""
        ...
