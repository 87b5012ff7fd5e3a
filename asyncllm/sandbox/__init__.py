"""A place for code that nobody has read, such as what a model writes for a calculator.

    sandbox = await open_sandbox()
    ran = await sandbox.run("print(6 * 7)", timeout_s=10)

Each snippet gets a fresh process behind several walls: namespaces of its own for users, mounts, processes, network,
IPC, host name and cgroups; a root that holds one Python, read-only, and 16 MiB of `/tmp`; user 65534 without
capabilities or a way to regain them; Landlock, where the kernel has it; a list of allowed system calls, on which there
is no other process, no socket and no mount; rlimits, and a cgroup where one can be made; an empty environment; a wall
clock that ends all of it. There is no fallback: a machine that cannot put these up, or on which one turns out to be
missing when the self-test tries it, is a `ConfigError`.

All of this shares one kernel with everything else on the machine. It holds back code that is careless or opportunistic;
it is no boundary between tenants. Where those who have the code written do not trust each other, give each a virtual
machine.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from asyncllm.errors import ConfigError, SandboxError
from asyncllm.sandbox.protocol import Ran, RanStatus, Sandbox, SandboxLimits

__all__ = ["Ran", "RanStatus", "Sandbox", "SandboxError", "SandboxKind", "SandboxLimits", "open_sandbox"]

SandboxKind: TypeAlias = Literal["namespaces", "bwrap"]
"""`namespaces` needs nothing but the kernel; `bwrap` has bubblewrap put the walls up, and is without Landlock."""


async def open_sandbox(
    kind: SandboxKind = "namespaces",
    *,
    limits: SandboxLimits = SandboxLimits(),
    python: str | None = None,
    packages: str | os.PathLike[str] | None = None,
    concurrency: int | None = None,
) -> Sandbox:
    """Make a sandbox and try to break out of it, which takes about half a second.

    `python` is the interpreter that runs the code, by default this one. `packages` is a folder of packages that the
    code may import, as `pip install --target` makes it; without it there is the standard library alone. `concurrency`
    bounds the snippets that run at once, by default one for each core. There is nothing to close; the sandbox belongs
    to the event loop that it was opened on.

    Raises `ConfigError` naming the argument, or the layer that this machine lacks (`code` `sandbox_unavailable`).
    """
    if kind not in get_args(SandboxKind):
        raise ConfigError(
            f"a sandbox is one of {', '.join(map(repr, get_args(SandboxKind)))}; got {str(kind)[:40]!r}", field="kind"
        )
    if concurrency is not None and (type(concurrency) is not int or concurrency < 1):
        raise ConfigError(f"concurrency is a whole number from 1 up; got {concurrency!r}", field="concurrency")
    if sys.platform != "linux":
        raise ConfigError("a sandbox needs Linux", code="sandbox_unavailable", field="kind")
    # Parts of these exist on Linux alone, and nobody pays for them who runs no code.
    from asyncllm.sandbox.kept import KeptSandbox, make_plan
    from asyncllm.sandbox.selftest import require_sound

    folder = None if packages is None else Path(packages)
    plan = await asyncio.to_thread(make_plan, kind, limits, python, folder)
    sandbox = KeptSandbox(plan, limits, concurrency or len(os.sched_getaffinity(0)))
    await require_sound(sandbox, kind, limits)
    return sandbox
