"""Control groups, where this process may make them: the kernel's own count of a snippet's memory and threads.

A layer that is there or not: without it, the address space of one process and its threads are bounded by rlimits all
the same, since a snippet cannot start another process.

Sources: the kernel's admin-guide, cgroup-v2.rst, cgroup-v1/memory.rst and cgroup-v1/pids.rst.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Generator
from pathlib import Path

from asyncllm.sandbox.protocol import SandboxLimits

__all__ = ["Cgroups"]

_NEEDED = {"memory", "pids"}


class Cgroups:
    """The folders beneath which a group for each snippet is made; none where none may be."""

    def __init__(self, root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> None:
        self._numbers = itertools.count(1)
        self._folders = _folders(root, own)
        for folder in self._folders:
            _sweep(folder)

    def __bool__(self) -> bool:
        return bool(self._folders)

    @contextlib.contextmanager
    def group(self, limits: SandboxLimits) -> Generator[list[str]]:
        """Lend a new group, as the files that a process writes to in order to join it."""
        made: list[Path] = []
        try:
            for folder in self._folders:
                new = folder / f"asyncllm-{os.getpid()}-{next(self._numbers)}"
                new.mkdir()
                made.append(new)
                _limit(new, limits)
            yield [str(folder / "cgroup.procs") for folder in made]
        finally:
            for folder in made:
                # Busy only where a keeper was lost; what it kept ends with it, and the group is swept up later.
                with contextlib.suppress(OSError):
                    folder.rmdir()


def _folders(root: Path, own: Path) -> list[Path]:
    """One folder of version 2, else one for each controller of version 1, else none."""
    try:
        lines = [line.split(":", 2) for line in own.read_text("ascii", "replace").splitlines()]
    except OSError:
        return []
    told = [line for line in lines if len(line) == 3 and ".." not in line[2]]  # not of another namespace's groups
    groups = {name: path.strip("/") for _, names, path in told for name in names.split(",")}
    if "" in groups:
        unified = next((top for top in (root, root / "unified") if (top / "cgroup.controllers").is_file()), None)
        here = unified and unified / groups[""]
        # A group that holds processes cannot hold limited groups too, so the nearest above that may is taken.
        while unified is not None and here is not None and here.is_relative_to(unified):
            if _hands_down(here):
                return [here]
            here = here.parent
    folders = [root / name / groups[name] for name in sorted(_NEEDED & groups.keys())]
    usable = [folder for folder in folders if os.access(folder / "cgroup.procs", os.W_OK)]
    return usable if len(usable) == len(_NEEDED) else []


def _hands_down(folder: Path) -> bool:
    try:
        controllers = set((folder / "cgroup.subtree_control").read_text("ascii").split())
    except OSError:
        return False
    return controllers >= _NEEDED and os.access(folder, os.W_OK) and os.access(folder / "cgroup.procs", os.W_OK)


def _sweep(folder: Path) -> None:
    """Remove the groups of processes that were killed before they could."""
    for left in folder.glob("asyncllm-*-*"):
        number = left.name.split("-")[1]
        if number.isdecimal() and not Path(f"/proc/{number}").exists():
            with contextlib.suppress(OSError):
                left.rmdir()


def _limit(folder: Path, limits: SandboxLimits) -> None:
    bounds = {
        "memory.max": limits.memory_bytes,
        "memory.swap.max": 0,
        "memory.limit_in_bytes": limits.memory_bytes,
        "pids.max": limits.threads + 1,  # the keeper
    }
    for name, bound in bounds.items():
        if (folder / name).exists():
            (folder / name).write_text(str(bound), "ascii")
