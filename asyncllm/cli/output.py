"""What the command writes: the answer to stdout as it comes, everything else to stderr."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Iterable, Sequence
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from asyncllm.events import Event
    from asyncllm.types import Response

__all__ = [
    "Output",
    "OutputError",
    "discard_stdout",
    "flush_stdout",
    "note",
    "print_json",
    "print_table",
    "say",
    "tell",
]

_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"

# A model can be talked into writing escape sequences, and a terminal would obey them. A file gets what came.
_CONTROL = dict.fromkeys((*range(32), *range(127, 160)), "\N{REPLACEMENT CHARACTER}")
_HARMLESS = {ord("\n"): "\n", ord("\t"): "\t", ord("\r"): ""}
_FOR_TERMINAL = _CONTROL | _HARMLESS


class OutputError(Exception):
    """Writing failed, which is no error of the call.

    Not an `OSError`: on its way out it passes the backend, where one would look like a lost connection.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(f"the output cannot be written: {error.strerror or type(error).__name__}")
        self.closed = isinstance(error, BrokenPipeError)
        """Whether the reader left, rather than the disk being full or the like."""


class Output:
    """One answer after the other, and what goes with them.

    Reasoning goes to stderr, dimmed, where that is a terminal, or wherever it leads if `reasoning` asks for it.
    """

    def __init__(self, *, reasoning: bool = False) -> None:
        _forgive(sys.stdout)
        self._terminal = sys.stdout.isatty()
        self._reasoning = reasoning or sys.stderr.isatty()
        self._dim = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
        self._mid_line = False
        self._mid_thought = False

    def event(self, event: Event) -> None:
        """Write what an event brings, if it belongs to the first choice."""
        from asyncllm.events import ReasoningDelta, RefusalDelta, TextDelta  # `backends` does without

        if isinstance(event, TextDelta | RefusalDelta) and event.index == 0:
            self.text(event.text)
        elif isinstance(event, ReasoningDelta) and event.index == 0:
            self.thought(event.text)

    def text(self, text: str) -> None:
        """Write a piece of the answer, now."""
        if not text:
            return
        self._end_thought()
        _write(sys.stdout, text.translate(_FOR_TERMINAL) if self._terminal else text)
        self._mid_line = not text.endswith("\n")

    def thought(self, text: str) -> None:
        """Write a piece of the reasoning, if it is to be seen."""
        if not (self._reasoning and text):
            return
        if sys.stderr.isatty():
            text = text.translate(_FOR_TERMINAL)
        _write(sys.stderr, f"{_DIM}{text}{_PLAIN}" if self._dim else text)
        self._mid_thought = True

    def whole(self, response: Response) -> None:
        """Write an answer that came in one piece."""
        self.thought(response.reasoning or "")
        self.text(response.text or response.refusal or "")
        self.rest(response)

    def rest(self, response: Response) -> None:
        """End an answer: its last line, other choices below an empty line each, and what text cannot show."""
        self.end_line()
        for choice in response.choices[1:]:
            self.text("\n")
            self.text(choice.message.text)
            self.end_line()
        if response.tool_calls:
            note(f"the answer asks for {', '.join(call.name for call in response.tool_calls)}; --json shows the call")

    def end_line(self) -> None:
        """Begin a new line unless this is the start of one."""
        self._end_thought()
        if self._mid_line:
            self._mid_line = False
            _write(sys.stdout, "\n")

    def _end_thought(self) -> None:
        if self._mid_thought:
            self._mid_thought = False
            _write(sys.stderr, "\n")


def say(line: str) -> None:
    """Write one line to stdout."""
    _write(sys.stdout, f"{_one_line(line)}\n")


def note(text: str) -> None:
    """Write one line about the command itself to stderr."""
    _write(sys.stderr, f"asyncllm: {_one_line(text)}\n")


def tell(error: Exception, *, debug: bool = False) -> None:
    """Write an error as one line to stderr; its traceback above it only where `debug` or `ASYNCLLM_DEBUG` asks."""
    try:
        if debug or os.environ.get("ASYNCLLM_DEBUG", "") not in ("", "0"):
            traceback.print_exception(error)
        note(f"error: {error}")
    except (OutputError, OSError):
        pass  # nowhere left to say it; the exit status does


def print_json(value: Any) -> None:
    """Write one JSON document on one line of stdout."""
    # Characters that the output's encoding may lack are escaped, for a question mark in their place would be a lie.
    plain = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
    _write(sys.stdout, json.dumps(value, ensure_ascii=plain) + "\n")


def print_table(rows: Iterable[Sequence[str]]) -> None:
    """Write rows in columns as wide as they need."""
    rows = [[_one_line(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        _write(sys.stdout, "  ".join(map(str.ljust, row, widths)).rstrip() + "\n")


def flush_stdout() -> None:
    """Write what argparse may have left behind. Raises `OutputError`."""
    _write(sys.stdout, "")


def discard_stdout() -> None:
    """Lead stdout nowhere, where it cannot fail."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    except OSError:
        pass  # not a file, so there is nothing that could fail later


def _write(stream: TextIO, text: str) -> None:
    try:
        stream.write(text)
        stream.flush()
    except OSError as error:
        raise OutputError(error) from error


def _one_line(text: str) -> str:
    return " ".join(text.split()).translate(_CONTROL)


def _forgive(stream: TextIO) -> None:
    """Write a character that the terminal's encoding lacks as a question mark, rather than stop at it."""
    if isinstance(stream, TextIOWrapper):  # and not what a test or a notebook put in its place
        stream.reconfigure(errors="replace")
