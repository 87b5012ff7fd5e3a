"""The sandbox itself: a plan for the keeper, made once, and a bounded number of keepers at a time."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path
from typing import Any

from asyncllm.errors import ConfigError, InvalidRequestError, SandboxError
from asyncllm.sandbox import bwrap, seccomp
from asyncllm.sandbox.cgroups import Cgroups
from asyncllm.sandbox.interpreter import find_interpreter
from asyncllm.sandbox.keeper import keep, rlimits
from asyncllm.sandbox.protocol import Ran, SandboxLimits
from asyncllm.sandbox.snippet import PACKAGES, arguments

__all__ = ["KeptSandbox", "make_plan"]

_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
_LONGEST_S = 24 * 3600


class KeptSandbox:
    """`Sandbox` by the keeper, through namespaces or through bubblewrap."""

    def __init__(self, plan: dict[str, Any], limits: SandboxLimits, concurrency: int) -> None:
        self._plan, self._limits = plan, limits
        self._cgroups = Cgroups()
        self._free = asyncio.Semaphore(concurrency)

    async def run(self, code: str, /, *, timeout_s: float = 60) -> Ran:
        """Run `code`, as `Sandbox` says."""
        if type(timeout_s) not in (int, float) or not 0 < timeout_s <= _LONGEST_S:
            raise InvalidRequestError(
                f"timeout_s is a number of seconds above zero, up to a day; got {timeout_s!r}", field="timeout_s"
            )
        try:
            data = code.encode()
        except UnicodeEncodeError:
            raise InvalidRequestError("code holds half a character (a lone surrogate)", field="code") from None
        if len(data) > self._limits.code_bytes:
            raise InvalidRequestError(
                f"code of {len(data)} bytes is longer than code_bytes={self._limits.code_bytes}", field="code"
            )
        async with self._free:
            try:
                with self._cgroups.group(self._limits) as joins:
                    bounds = rlimits(self._limits, timeout_s, count_threads=not self._plan["bwrap"])
                    plan = {**self._plan, "cgroups": joins, "rlimits": bounds}
                    return await keep(plan, data, self._limits, timeout_s)
            except OSError as error:
                raise SandboxError(
                    f"the sandbox could not be made: {error.strerror}", code="sandbox_refused"
                ) from error


def make_plan(kind: str, limits: SandboxLimits, python: str | None, packages: Path | None) -> dict[str, Any]:
    """What the keeper is told of every snippet. Raises `ConfigError` where a part of it is not there."""
    machine = os.uname().machine
    if machine not in seccomp.MACHINES:
        raise ConfigError(
            f"no sandbox on {machine}: its system calls are known for {', '.join(seccomp.MACHINES)} only",
            code="sandbox_unavailable",
            field="kind",
        )
    found = find_interpreter(python)
    binds = [(path, path) for path in found.paths]
    if packages is not None:
        if not packages.is_dir():
            raise ConfigError(f"packages is a folder, as `pip install --target` makes it: {packages}", field="packages")
        if not _is_readable(packages):
            raise ConfigError(f"packages cannot be read by the user that code runs as: {packages}", field="packages")
        binds.append((os.path.realpath(packages), PACKAGES))
    devices = [path for path in _DEVICES if Path(path).exists()]
    plan: dict[str, Any] = {
        "bwrap": kind == "bwrap",
        "python": found.program,
        "argv": arguments(found.program),
        "links": list(found.links),
        "binds": binds,
        "devices": devices,
        "masks": list(found.hidden),
        "disk_bytes": limits.disk_bytes,
        "seccomp": seccomp.program(machine),
        "seccomp_at": bwrap.SECCOMP_AT,
    }
    if kind == "bwrap":
        program = shutil.which("bwrap")
        if program is None:
            raise ConfigError(
                "no bubblewrap on this machine: install it, or take kind='namespaces'",
                code="sandbox_unavailable",
                field="kind",
            )
        plan["argv"] = bwrap.command(os.path.realpath(program), found, binds, devices, limits)
    return plan


def _is_readable(folder: Path) -> bool:
    """Whether the code may read `folder`. Root becomes nobody for it; any other user stays who he is."""
    return bool(folder.stat().st_mode & 0o005 == 0o005) if os.geteuid() == 0 else os.access(folder, os.R_OK | os.X_OK)
