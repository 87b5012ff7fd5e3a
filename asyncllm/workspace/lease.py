"""Who is at work on a batch, and whether they still are.

The truth is a number in the store, the fence, which grows with every runner: what an older one writes is refused. Two
things tell whether the runner of the newest fence is alive. It holds a lock on a file named after its fence, which the
kernel frees when the process ends, however it ends; a child that was forked meanwhile may keep it, so that the process
itself is looked for as well. And it beats in the store, so that one that stands still, with its lock held, is taken
over in the end.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

__all__ = ["LEASE_S", "Lock", "boot_id", "has_ended", "now_s", "this_process"]

LEASE_S = 30.0
"""Seconds without a beat after which a runner that holds its lock is taken to stand still."""

_BOOT = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """Tells one start of this machine from another, as `now_s` begins anew with each."""
    with suppress(OSError):
        return _BOOT.read_text("ascii").strip()
    return ""


def now_s() -> float:
    """Seconds since this machine was started, sleep included. Nobody sets this clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def this_process() -> str:
    """This process, as `has_ended` knows it again: number, time of its start, and where such numbers hold."""
    pid = os.getpid()
    return f"{pid}:{_started(pid)}:{_numbers()}"


def has_ended(process: str) -> bool:
    """Whether that process of this machine is certainly gone."""
    pid, started, numbers = process.split(":")
    return bool(numbers) and numbers == _numbers() and _started(int(pid)) != started


def _started(pid: int) -> str:
    """When a process was started, in ticks since the start of the machine; an empty text if there is none."""
    try:
        # The second field is a name in parentheses, in which anything may stand.
        told = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if told[0] in "ZX" else told[19]  # it has ended, and its parent has not looked yet


def _numbers() -> str:
    """Tells where numbers of processes hold: in a container they are others."""
    try:
        return str(os.stat("/proc/self/ns/pid").st_ino)  # noqa: PTH116  # no file, and followed on purpose
    except OSError:
        return ""


class Lock:
    """The lock of one runner of one batch."""

    def __init__(self, folder: Path, batch: int, fence: int) -> None:
        self.path = folder / f"batch-{batch}-{fence}.lock"
        self._file: int | None = None

    def take(self) -> bool:
        """Hold it until the process ends or `release`. False if somebody else holds it."""
        file = os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(file), self.path.stat()):
                raise FileNotFoundError  # it was given back meanwhile: what is locked is no file of anybody
        except (BlockingIOError, FileNotFoundError):
            os.close(file)
            return False
        self._file = file
        return True

    def is_held(self) -> bool:
        """Whether a runner that lives holds it."""
        try:
            file = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # two who look do not see each other
        except BlockingIOError:
            return True
        else:
            return False
        finally:
            os.close(file)

    def release(self) -> None:
        """Let go of it. Idempotent."""
        if self._file is not None:
            with suppress(OSError):
                self.path.unlink()
            os.close(self._file)
            self._file = None
