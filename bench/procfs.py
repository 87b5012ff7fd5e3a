"""What Linux says of other processes: their children, processor time, threads and open files."""

from __future__ import annotations

import os
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PARENT, _USER, _SYSTEM = 1, 11, 12
"""Fields of /proc/PID/stat behind the name, which may hold anything; see proc_pid_stat(5)."""


def _stat(pid: int) -> list[str] | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:  # it has gone
        return None


def is_running(pid: int) -> bool:
    """Whether there is such a process, one that only waits to be counted left out."""
    stat = _stat(pid)
    return stat is not None and stat[0] not in "ZX"


def descendants(pid: int) -> list[int]:
    """Children of a process, and theirs."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (stat := _stat(int(entry.name))) is not None and stat[0] not in "ZX":
            parents.setdefault(int(stat[_PARENT]), []).append(int(entry.name))
    found: list[int] = []
    waiting = [pid]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found += children
        waiting += children
    return found


def cpu_s(pid: int) -> float:
    """Processor time that a process has had, in steps of 10 ms."""
    stat = _stat(pid)
    return 0.0 if stat is None else (int(stat[_USER]) + int(stat[_SYSTEM])) / _TICKS


def threads(pid: int) -> int:
    """Threads of a process."""
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def files(pid: int) -> int:
    """Open files of a process; asked by the process itself, the listing is one of them."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
