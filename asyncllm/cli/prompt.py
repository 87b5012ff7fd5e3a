"""Where the prompt comes from: arguments, a pipe, or a terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from asyncllm.cli.options import readable
from asyncllm.cli.output import note
from asyncllm.errors import ConfigError

__all__ = ["is_conversation", "read_prompt"]


def is_conversation(words: Sequence[str]) -> bool:
    """Whether there is a person at both ends and no prompt yet."""
    return not words and sys.stdin.isatty() and sys.stdout.isatty()


def read_prompt(words: Sequence[str]) -> str:
    """The words of the command line, and below an empty line what was piped in. Raises `ConfigError`."""
    given = readable(" ".join(words), "the prompt")
    if sys.stdin.isatty():
        if words:
            return given
        note("reading the prompt; Ctrl-D on a line of its own ends it")
    piped = _stdin()
    return f"{given}\n\n{piped}" if given and piped else given or piped


def _stdin() -> str:
    """All of stdin, less the line breaks at its end, as the shell's `$(...)` takes a command's output."""
    try:
        text = sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError("what was piped in is not UTF-8 text", field="stdin") from None
    except OSError as error:
        raise ConfigError(f"stdin cannot be read: {error.strerror}", field="stdin") from None
    return text.rstrip("\r\n")
