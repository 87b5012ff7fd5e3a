"""The table of rows and the tests below agree."""

from __future__ import annotations

import re
from pathlib import Path

from bench.contracts import read_rows, row_of

HERE = Path(__file__).parent


def test_rows_are_numbered_without_a_gap() -> None:
    assert [row.number for row in read_rows()] == list(range(1, 116))


def test_every_contract_test_carries_the_number_of_a_row() -> None:
    files = [path for path in HERE.glob("test_*.py") if path != Path(__file__)]
    names = [
        name
        for path in files
        for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text("utf-8"), re.MULTILINE)
    ]
    numbers = {row.number for row in read_rows()}

    strays = [name for name in names if (found := row_of(name)) is None or found[0] not in numbers]

    assert not strays
