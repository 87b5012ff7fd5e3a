"""How a batch tells how far it has come: a bar on a terminal, lines elsewhere, JSON for machines, or nothing."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import Any, Protocol, Self

import msgspec

from asyncllm.batch.report import BatchReport, RunProgress
from asyncllm.cli.output import note, print_json

__all__ = ["Teller", "duration", "facts", "report_line", "teller"]

_LINE_S = 10.0
_JSON_S = 1.0
_PACE_S = 30.0
_CLASSES = 3
_WITHOUT_CURSOR = ("dumb", "unknown")
"""Terminals on which nothing can be written over."""


class Teller(AbstractContextManager["Teller"], Protocol):
    """Tells of one run, within its block."""

    def progress(self, told: RunProgress, /) -> None:
        """Take note of how far it has come."""
        ...


def teller(name: str, *, json: bool, quiet: bool) -> Teller:
    """What tells of the batch called `name`, as it was asked for and as stderr allows."""
    if json:
        return _Json()
    if quiet:
        return _Silent()
    if sys.stderr.isatty() and os.environ.get("TERM") not in _WITHOUT_CURSOR:
        try:
            return _Bar(name)
        except ImportError:  # an extra; lines do as well
            pass
    return _Lines()


class _Silent:
    def progress(self, told: RunProgress, /) -> None:
        """Nothing is told."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing was opened."""


class _Now(_Silent):
    """Tells when the stage is another one, and every so often."""

    every_s: float

    def __init__(self) -> None:
        self._pace = _Pace()
        self._stage = ""
        self._next = time.monotonic() + self.every_s

    def progress(self, told: RunProgress, /) -> None:
        tokens_per_s = self._pace.add(told.output_tokens)
        now = time.monotonic()
        if told.stage != self._stage or now >= self._next:
            self._stage = told.stage
            self._next = now + self.every_s
            self.tell(told, tokens_per_s)

    def tell(self, told: RunProgress, tokens_per_s: float) -> None:
        raise NotImplementedError


class _Lines(_Now):
    every_s = _LINE_S

    def tell(self, told: RunProgress, tokens_per_s: float) -> None:
        if told.stage != "checking" or told.total:
            note(_line(told, tokens_per_s))


class _Json(_Now):
    every_s = _JSON_S

    def tell(self, told: RunProgress, tokens_per_s: float) -> None:
        print_json({"type": "progress", **facts(told), "tokens_per_s": tokens_per_s})


class _Bar(_Silent):
    def __init__(self, name: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[told]}", markup=False),
            console=Console(file=sys.stderr, highlight=False),
            redirect_stdout=False,
            transient=True,
        )
        self._task = self._bar.add_task(_printable(name), total=None, told="")
        self._pace = _Pace()
        self._opened = ExitStack()

    def progress(self, told: RunProgress, /) -> None:
        self._bar.update(
            self._task,
            total=told.total if told.stage != "checking" else None,
            completed=told.done + told.failed,
            told=_line(told, self._pace.add(told.output_tokens)),
        )

    def __enter__(self) -> Self:
        self._opened.enter_context(self._bar)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()


class _Pace:
    """Tokens a second, of the last half minute."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])

    def add(self, tokens: int) -> float:
        now = time.monotonic()
        self._seen.append((now, tokens))
        while len(self._seen) > 2 and now - self._seen[1][0] > _PACE_S:
            self._seen.popleft()
        first_at, first = self._seen[0]
        return (tokens - first) / (now - first_at) if now > first_at else 0.0


def facts(told: RunProgress | BatchReport) -> dict[str, Any]:
    """All fields, those too that have their default."""
    found: dict[str, Any] = {name: msgspec.to_builtins(getattr(told, name)) for name in told.__struct_fields__}
    return found


def _line(told: RunProgress, tokens_per_s: float) -> str:
    if told.stage == "checking":
        return f"checking the input: {told.total or 0:,} rows"
    total = "" if told.total is None else f" of {told.total:,}"
    parts = [f"{told.done + told.failed:,}{total} rows"]
    if told.failed:
        parts.append(f"{told.failed:,} failed{_classes(told.errors)}")
    if told.stage == "paused":
        parts.append("paused until the disk has room")
    elif told.stage == "exporting":
        parts.append("writing the output")
    elif told.rows_per_s:
        parts.append(f"{told.rows_per_s:.3g} rows/s")
        if tokens_per_s:
            parts.append(f"{tokens_per_s:.3g} tokens/s")
    if told.cost_usd:
        parts.append(f"${told.cost_usd:.4g}")
    if told.stage == "running" and told.eta_s is not None:
        parts.append(f"{duration(told.eta_s)} left")
    return ", ".join(parts)


def report_line(report: BatchReport, word: str) -> str:
    """What came of it, in one line that begins with `word`."""
    parts = [f"{word}: {report.done:,} of {report.total:,} rows answered"]
    if report.failed:
        parts.append(f"{report.failed:,} failed{_classes(report.errors)}")
    if report.left:
        parts.append(f"{report.left:,} not asked")
    if report.output_tokens:
        parts.append(f"{report.input_tokens + report.output_tokens:,} tokens")
    if report.cost_usd:
        parts.append(f"${report.cost_usd:.4g}")
    parts.append(duration(report.ran_s))
    where = f"; in {report.output}" if report.output is not None else ""
    apart = f", failed rows in {report.errors_output}" if report.errors_output is not None else ""
    return ", ".join(parts) + where + apart


def _classes(errors: dict[str, int]) -> str:
    """The classes of errors that are most frequent, in brackets."""
    found = sorted(errors.items(), key=lambda one: -one[1])
    told = [f"{name} {count:,}" for name, count in found[:_CLASSES]]
    return f" ({', '.join([*told, '...'] if len(found) > _CLASSES else told)})" if told else ""


def duration(seconds: float) -> str:
    """A time as people read it: `40 s`, `3:05 min`, `2:10 h`, `3 days`."""
    if seconds < 120:
        return f"{seconds:.3g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 120:
        return f"{minutes}:{rest:02} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02} h" if hours < 48 else f"{hours // 24} days"


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)
