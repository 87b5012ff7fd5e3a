"""One run of `jail.py`: started, listened to within bounds, and waited for until nothing of it is left."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import marshal
import os
import re
import resource
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asyncllm.errors import SandboxError
from asyncllm.finishing import finish
from asyncllm.sandbox.protocol import Ran, RanStatus, SandboxLimits

__all__ = ["keep", "rlimits"]

_JAIL = str(Path(__file__).with_name("jail.py"))
_GRACE_S = 5.0
"""What the keeper may take beyond the snippet's own time before it is taken for lost."""
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
_EXCEPTION = re.compile(r"^([A-Za-z_][\w.]*)(?::|$)")


def rlimits(limits: SandboxLimits, timeout_s: float, *, count_threads: bool) -> list[tuple[int, int]]:
    """What `setrlimit` is called with. Threads can be counted only where no other process is of the same user."""
    found = {
        resource.RLIMIT_AS: limits.memory_bytes,
        resource.RLIMIT_CPU: limits.cpu_s or int(timeout_s) + 1,
        resource.RLIMIT_FSIZE: limits.file_bytes,
        resource.RLIMIT_NOFILE: limits.open_files,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    if count_threads:
        found[resource.RLIMIT_NPROC] = limits.threads
    return list(found.items())


async def keep(plan: Mapping[str, Any], code: bytes, limits: SandboxLimits, timeout_s: float) -> Ran:
    """Run `code` by `plan`, to its end or that of its time.

    Raises `SandboxError` naming the layer that could not be had, with `code` `sandbox_refused`.
    """
    started = asyncio.get_running_loop().time()
    run = await _start({**plan, "parent": os.getpid(), "wall_s": timeout_s}, code)
    heard = asyncio.create_task(_hear(run, limits, timeout_s))
    try:
        stdout, stderr, whole = await asyncio.shield(heard)
    finally:
        # However this ends, the snippet has ended by then.
        run.stop()
        await finish(asyncio.create_task(_wait(heard)), _GRACE_S)
        word = run.close()
        if heard.done() and not heard.cancelled():
            heard.exception()  # asyncio reports an error that nobody looked at
    elapsed_s = asyncio.get_running_loop().time() - started
    return _told(word, stdout, stderr, truncated=not whole, elapsed_s=elapsed_s)


async def _wait(task: asyncio.Task[Any]) -> None:
    await asyncio.wait([task])


class _Run:
    """A keeper's process, with this end of the leash that it is on."""

    def __init__(self, process: Process, leash: int, status: int) -> None:
        self.process = process
        self._leash, self._status = leash, status

    def stop(self) -> None:
        """Have the snippet ended, if it has not."""
        with contextlib.suppress(OSError):  # it has ended already
            os.write(self._leash, b"x")

    def close(self) -> str:
        """Let go of the keeper, and return its last word."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
        os.close(self._leash)
        word = b""
        with contextlib.suppress(BlockingIOError):  # it has ended, or was ended, without one
            word = os.read(self._status, 4096)
        os.close(self._status)
        return word.decode("utf-8", "replace").partition("\n")[0]


async def _start(plan: dict[str, Any], code: bytes) -> _Run:
    leash, leash_here = os.pipe()
    status_here, status = os.pipe()
    given = [leash, status]
    try:
        os.set_blocking(leash_here, False)
        os.set_blocking(status_here, False)
        given += [_sealed("plan", marshal.dumps(plan, 2)), _sealed("snippet", code)]
        process = await asyncio.create_subprocess_exec(
            plan["python"],
            *("-I", "-S", _JAIL, str(given[2]), str(leash), str(status)),
            # No pipe, which asyncio makes a socket of in Python 3.11, with this process at its other end.
            stdin=given[3],
            stdout=PIPE,
            stderr=PIPE,
            pass_fds=given[:3],
            env={},
            cwd="/",
            start_new_session=True,
        )
    except BaseException as error:
        os.close(leash_here)
        os.close(status_here)
        if isinstance(error, OSError):
            raise SandboxError(f"no process for a snippet: {error.strerror}", code="sandbox_refused") from error
        raise
    finally:
        for file in given:
            os.close(file)
    return _Run(process, leash_here, status_here)


def _sealed(name: str, data: bytes) -> int:
    """A file in memory that holds `data` and cannot be changed, to be read from its beginning."""
    file = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with os.fdopen(file, "wb", closefd=False) as writing:
            writing.write(data)
        os.lseek(file, 0, os.SEEK_SET)
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(file)
        raise
    return file


async def _hear(run: _Run, limits: SandboxLimits, timeout_s: float) -> tuple[bytes, bytes, bool]:
    """What is kept of the two outputs of a process, once it has ended, and whether that is all of the first."""
    process = run.process
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        # The keeper has a clock of its own: this one is for a keeper that is stuck.
        async with asyncio.timeout(timeout_s + _GRACE_S):
            async with asyncio.TaskGroup() as group:
                out = group.create_task(_head(process.stdout, limits.stdout_bytes))
                err = group.create_task(_tail(process.stderr, limits.stderr_bytes))
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
        return b"", b"", False
    stdout, whole = out.result()
    return stdout, err.result(), whole


async def _head(pipe: asyncio.StreamReader, size: int) -> tuple[bytes, bool]:
    kept, whole = b"", True
    while piece := await pipe.read(65536):
        room = size - len(kept)
        whole = whole and len(piece) <= room
        kept += piece[:room]
    return kept, whole


async def _tail(pipe: asyncio.StreamReader, size: int) -> bytes:
    kept = b""
    while piece := await pipe.read(65536):
        kept = (kept + piece)[-size:]
    return kept


def _told(word: str, stdout: bytes, stderr: bytes, *, truncated: bool, elapsed_s: float) -> Ran:
    """The keeper's last word as a `Ran`."""
    how, _, what = word.partition(" ")
    if how == "refused" or not how:
        raise SandboxError(
            f"the sandbox could not be made: {what or 'its keeper ended without a word'}", code="sandbox_refused"
        )
    text = stderr.decode("utf-8", "replace")
    exit_code = int(what) if how == "exit" else None
    status: RanStatus = "timeout" if how == "timeout" else "killed"
    if exit_code is not None:
        status = "error" if exit_code else "ok"
    last = text.rstrip().rpartition("\n")[2]
    named = _EXCEPTION.match(last) if exit_code else None
    return Ran(
        status=status,
        stdout=stdout.decode("utf-8", "replace"),
        stderr=text,
        exception=named[1] if named else None,
        exit_code=exit_code,
        truncated=truncated,
        elapsed_s=elapsed_s,
    )
