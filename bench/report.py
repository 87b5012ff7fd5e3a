"""Figures as text for a terminal. Progress goes to standard error, so that the figures can be piped."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A bound from the project's issue on one figure."""

    bound: float
    at_least: bool = False
    """True for a figure that must reach the bound, false for one that must stay within it."""
    unit: str = "x"

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.bound:g}{self.unit}"

    def verdict(self, figure: float | None) -> str:
        """Whether `figure` keeps to the bound, judged on the figure itself, not on its rounded print."""
        if figure is None:
            return "no figure"
        return "met" if (figure >= self.bound if self.at_least else figure <= self.bound) else "NOT MET"


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """A figure beside its target; `target` and `verdict` are empty where the issue names none."""

    figure: float | None
    target: str = ""
    verdict: str = ""

    def cells(self) -> tuple[str, str, str]:
        """The three cells of a table."""
        return number(self.figure), self.target, self.verdict


def judge(figure: float | None, target: Target | None) -> Judged:
    """Put `figure` next to `target`."""
    if target is None:
        return Judged(figure=figure)
    return Judged(figure=figure, target=str(target), verdict=target.verdict(figure))


def number(figure: float | None, digits: int = 2, unit: str = "") -> str:
    """`figure` with as many decimals as it deserves; a dash where there is none."""
    if figure is None:
        return "-"
    return f"{figure:,.{0 if abs(figure) >= 1000 else 1 if abs(figure) >= 100 else digits}f}{unit}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns wide enough for their widest cell, the first to the left and the others to the right."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (header, *rows)
    ]
    return "\n".join((lines[0], "-" * max(map(len, lines)), *lines[1:]))


def surroundings() -> dict[str, str]:
    """What a reader needs to compare this run with another."""
    found = {"python": platform.python_version(), "cores": str(len(os.sched_getaffinity(0))), "cpu": _cpu_model()}
    for name in ("asyncllm", "aiohttp", "msgspec", "openai"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def heading(title: str) -> str:
    """The lines above a table: what it shows, and on what."""
    return f"{title}\n{' · '.join(f'{name} {value}' for name, value in surroundings().items())}\n"


def progress(line: str) -> None:
    """Say on standard error what is being measured."""
    print(line, file=sys.stderr, flush=True)
