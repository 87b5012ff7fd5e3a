"""What runs a snippet of code that nobody has read, and what is left of it."""

from __future__ import annotations

from typing import Literal, Protocol, TypeAlias

from msgspec import Struct

from asyncllm.errors import ConfigError
from asyncllm.types import Noun

__all__ = ["Ran", "RanStatus", "Sandbox", "SandboxLimits"]

RanStatus: TypeAlias = Literal["ok", "error", "timeout", "killed"]
"""`error` is a status other than 0, as after an exception; `killed` is a signal, as of a limit that was passed."""

_MIB = 1 << 20


class SandboxLimits(Struct, frozen=True, kw_only=True):
    """What one snippet may use; its wall time is an argument of `Sandbox.run`."""

    memory_bytes: int = 512 * _MIB
    """Address space of its one process, and memory where a cgroup can be made."""
    cpu_s: int | None = None
    """Processor time of all its threads; `None` for as much as its wall time."""
    threads: int = 32
    file_bytes: int = _MIB
    """Of the largest file."""
    disk_bytes: int = 16 * _MIB
    """Of all files, which are in memory."""
    open_files: int = 64
    stdout_bytes: int = 64 * 1024
    """What is kept of its standard output. The rest is read, and dropped."""
    stderr_bytes: int = 4 * 1024
    """What is kept of the end of its standard error."""
    code_bytes: int = _MIB

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            bound = getattr(self, name)
            if not (name == "cpu_s" and bound is None) and (type(bound) is not int or bound < 1):
                raise ConfigError(f"{name} of a sandbox is a whole number from 1 up; got {bound!r}", field=name)


class Ran(Noun, frozen=True, kw_only=True):
    """What a snippet did. All of it is the word of code that nobody has read."""

    status: RanStatus
    stdout: str = ""
    """What it printed, from the beginning, bytes that are no UTF-8 replaced."""
    stderr: str = ""
    """The end of its standard error."""
    exception: str | None = None
    """Name of the exception that ended it, as `stderr` has it."""
    exit_code: int | None = None
    """Its status, where it ended by itself."""
    truncated: bool = False
    """Whether it printed more than was kept."""
    elapsed_s: float = 0

    _private = frozenset({"stdout", "stderr", "exception"})


class Sandbox(Protocol):
    """A place in which code can do no harm. One instance serves many tasks at once, each snippet by itself."""

    async def run(self, code: str, /, *, timeout_s: float = 60) -> Ran:
        """Run `code` as a Python program in a fresh process, which is gone when this returns or is cancelled.

        Whatever the code does is a `Ran`, never an exception. `timeout_s` bounds its wall time, without that of
        waiting for other snippets.

        Raises: `InvalidRequestError` naming `code` or `timeout_s`; `SandboxError` where the machine could not make the
        process this time. Code is never run outside.
        """
        ...
