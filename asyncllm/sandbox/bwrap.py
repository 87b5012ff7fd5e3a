"""The command line of bubblewrap for a snippet: the same walls, put up by a program of the distribution's.

Source: man 1 bwrap, from version 0.5 on.
"""

from __future__ import annotations

from collections.abc import Sequence

from asyncllm.sandbox.interpreter import Interpreter
from asyncllm.sandbox.protocol import SandboxLimits
from asyncllm.sandbox.snippet import arguments

__all__ = ["SECCOMP_AT", "command"]

SECCOMP_AT = 9
"""The file descriptor on which bubblewrap finds the filter."""


def command(
    bwrap: str, python: Interpreter, binds: Sequence[tuple[str, str]], devices: Sequence[str], limits: SandboxLimits
) -> list[str]:
    """`bwrap` with the arguments that put Python into a place of its own."""
    files: list[str] = []
    for path, target in python.links:
        files += ("--symlink", target, path)
    for path, inside in binds:
        files += ("--ro-bind", path, inside)
    for path in devices:
        files += ("--dev-bind", path, path)
    for path in python.hidden:
        files += ("--size", "4096", "--tmpfs", path, "--remount-ro", path)
    return [
        bwrap,
        *("--unshare-user", "--unshare-all", "--uid", "65534", "--gid", "65534", "--hostname", "sandbox"),
        *("--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL"),
        *files,
        *("--size", str(limits.disk_bytes), "--tmpfs", "/tmp"),  # noqa: S108  # the sandbox's own
        *("--remount-ro", "/", "--chdir", "/tmp", "--seccomp", str(SECCOMP_AT), "--"),  # noqa: S108
        *arguments(python.program),
    ]
