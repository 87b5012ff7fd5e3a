"""The command `asyncllm`: parse, run one command, and end with a status that scripts can use.

Each command lives in a file of its own, which is imported when it is the one to run: `--help` must not pay for a
client. Below `main` an error is an exception; here, and nowhere else, it becomes one line and a status.
"""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from importlib import import_module

from asyncllm.cli.output import OutputError, discard_stdout, flush_stdout, tell
from asyncllm.cli.parser import make_parser
from asyncllm.cli.signals import Signals
from asyncllm.cli.status import FAILED, INTERRUPTED, OK, OUTPUT_GONE, TERMINATED, status_of
from asyncllm.errors import AsyncLLMError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv`, by default that of this process, and return its exit status.

    Raises `SystemExit` after `--help` and `--version`, as argparse does.
    """
    _complete_streams()
    with Signals() as signals:
        try:
            try:
                status = _run(argv, signals)
            except KeyboardInterrupt:
                status = TERMINATED if signals.terminated else INTERRUPTED
            flush_stdout()
        except OutputError as error:
            status = _output_lost(error)
    return status


def _run(argv: Sequence[str] | None, signals: Signals) -> int:
    args = Namespace(debug=False)
    try:
        parser = make_parser()
        parser.parse_args(argv, args)
        if args.command is None:
            parser.print_help()
            return OK
        args.signals = signals
        args.argv = sys.argv[1:] if argv is None else list(argv)
        run: Callable[[Namespace], int] = import_module(f"asyncllm.cli.{args.module}").run
        return run(args)
    except AsyncLLMError as error:
        tell(error, debug=args.debug)
        return status_of(error)


def _output_lost(error: OutputError) -> int:
    """Nothing more can be written; only the interpreter, which flushes as it ends, must not find that out."""
    discard_stdout()
    if error.closed:
        return OUTPUT_GONE
    tell(error)
    return FAILED


def _complete_streams() -> None:
    """Make sure of three streams, as a process may be started with any of them closed."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # Open for as long as the process, as the real ones are.
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115
