"""What the five systems can do, row by row, and whether asyncllm does it: from the results of tests/contracts.

A test belongs to the row whose number its name carries: `test_row_026_...`. One that shows only a part of its row says
so: `test_row_026_partly_...`.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import Literal, TypeAlias
from xml.etree import ElementTree as ET

import msgspec

from bench.report import heading, table

__all__ = ["Outcome", "Row", "measure", "read_rows", "row_of", "text"]

State: TypeAlias = Literal["works", "partly", "not yet", "broken"]

_FOLDER = Path(__file__).parent.parent / "tests" / "contracts"
_NAME = re.compile(r"test_row_(\d{3})_(partly_)?")


class Row(msgspec.Struct, frozen=True):
    """One capability of one system."""

    number: int
    system: str
    capability: str
    sees: str
    """What a test must see before it counts as working."""


class Outcome(msgspec.Struct, frozen=True):
    """A row, and what its tests say."""

    row: Row
    state: State
    passed: int
    failed: int


def read_rows() -> list[Row]:
    """Every row, in order."""
    document = tomllib.loads((_FOLDER / "rows.toml").read_text("utf-8"))
    return msgspec.convert(document["row"], list[Row])


def row_of(test: str) -> tuple[int, bool] | None:
    """The row that a test's name carries, and whether the test shows only a part of it."""
    found = _NAME.match(test)
    return None if found is None else (int(found[1]), found[2] is not None)


def measure(*, quick: bool) -> list[Outcome]:
    """Run the tests and say what each row has come to; `quick` leaves out those marked slow."""
    passed: dict[int, list[bool]] = defaultdict(list)  # whether each test that passed shows only a part
    failed: dict[int, int] = defaultdict(int)
    for name, ok in _results(quick=quick):
        found = row_of(name)
        if found is None:
            continue
        number, partly = found
        if ok:
            passed[number].append(partly)
        else:
            failed[number] += 1
    return [
        Outcome(row, _state(passed[row.number], failed[row.number]), len(passed[row.number]), failed[row.number])
        for row in read_rows()
    ]


def _state(passed: list[bool], failed: int) -> State:
    if failed:
        return "broken"
    if not passed:
        return "not yet"
    return "partly" if any(passed) else "works"


def _results(*, quick: bool) -> list[tuple[str, bool]]:
    """Each test of the folder by name, and whether it passed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        slow = "not slow" if quick else "slow or not slow"
        command = [sys.executable, "-m", "pytest", "-q", "-m", slow, f"--junitxml={report}", str(_FOLDER)]
        print(f"running the tests in {_FOLDER.name}/ ...", file=sys.stderr)
        subprocess.run(command, cwd=_FOLDER.parent.parent, stdout=sys.stderr, check=False)
        cases = ET.parse(report).iter("testcase")  # noqa: S314  # our own test run wrote it
        return [
            (case.get("name", ""), not any(case.find(word) is not None for word in ("failure", "error", "skipped")))
            for case in cases
        ]


def text(outcomes: list[Outcome]) -> str:
    """The table, and the sum of it."""
    cells = [
        (f"{one.row.number} {one.row.system} {one.row.capability}", one.state, str(one.passed), str(one.failed))
        for one in outcomes
    ]
    states = [one.state for one in outcomes]
    counted = ", ".join(f"{states.count(state)} {state}" for state in ("works", "partly", "not yet", "broken"))
    return "\n".join(
        (
            heading("What the five systems can do, by the results of tests/contracts."),
            table(("row, system, capability", "state", "passed", "failed"), cells),
            counted,
        )
    )
