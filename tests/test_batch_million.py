"""A million rows: memory does not grow with them, and a kill in the middle costs none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest

MIB = 2**20
FEW = 20_000
MANY = 1_000_000


class Run(NamedTuple):
    """One process at work on the batch."""

    lines: list[dict[str, Any]]
    """What it said, while the rows were checked and asked."""
    end: dict[str, Any]
    """What it said at the end; nothing if it was killed."""

    def rss_at(self, done: int) -> int:
        """The resident set when so many rows were done."""
        return next(int(line["rss"]) for line in self.lines if line["done"] >= done)

    @property
    def base(self) -> int:
        """The resident set before the batch began."""
        return int(self.lines[0]["rss"])


def start(folder: Path, rows: int, *, kill_at: int | None = None) -> Run:
    """Run it to its end, or until it is killed with so many rows done."""
    script = Path(__file__).with_name("many_rows.py")
    command = [sys.executable, str(script), str(folder), str(rows)]
    lines: list[dict[str, Any]] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(json.loads(line))
            if kill_at is not None and lines[-1].get("done", 0) >= kill_at:
                process.kill()
                return Run(lines, {})
    assert process.returncode == 0
    return Run(lines[:-1], lines[-1])


def check_output(folder: Path, rows: int) -> None:
    """Every row stands in the output, once, in order, with its own answer."""
    count = 0
    with (folder / "out.jsonl").open("rb") as lines:
        for count, line in enumerate(lines, 1):
            assert f'"custom_id":"row-{count - 1}",'.encode() in line
            assert f'"content":"{count - 1} xxx'.encode() in line
    assert count == rows
    assert not (folder / "out.errors.jsonl").exists()


def proof(folder: Path, rows: int) -> tuple[Run, Run]:
    """The batch, killed in the middle and run again."""
    first = start(folder, rows, kill_at=rows // 2)
    second = start(folder, rows)
    assert second.end["status"] == "completed"
    assert second.lines[-1]["done"] == rows
    check_output(folder, rows)
    return first, second


def test_a_large_batch_is_killed_and_ends_in_little_memory(tmp_path: Path) -> None:
    first, second = proof(tmp_path, FEW)

    assert first.lines[-1]["rss"] < first.base + 96 * MIB
    assert second.end["peak"] < second.base + 96 * MIB


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_memory_does_not_grow_with_a_million_rows() -> None:
    with tempfile.TemporaryDirectory(prefix="asyncllm-", dir=os.environ.get("TMPDIR")) as name:
        first, second = proof(Path(name), MANY)

    halves = [
        ("first half", first.lines[-1]["rss"] - first.rss_at(MANY // 10)),
        ("second half", second.lines[-1]["rss"] - second.rss_at(MANY * 6 // 10)),
    ]
    print({what: f"{grown / MIB:.1f} MiB" for what, grown in halves}, second.end, f"base {second.base / MIB:.0f} MiB")
    assert sum(grown for _, grown in halves) < 8 * MIB
    assert max(run.lines[-1]["rss"] - run.base for run in (first, second)) < 96 * MIB
    assert second.end["peak"] < second.base + 96 * MIB
