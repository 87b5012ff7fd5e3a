"""What the sandbox costs a snippet: `print(1)` from start to end, beside a plain `python -I -S -c` of the same.

Both are taken in turn, one at a time, in one process with one event loop; medians. Opening the sandbox with its
self-test is paid once by whoever opens it.
"""

from __future__ import annotations

import asyncio
import sys
import time
from asyncio.subprocess import PIPE
from statistics import median

import msgspec

from asyncllm.sandbox import open_sandbox
from bench.report import Judged, Target, heading, judge, number, table

_CODE = "print(1)"
_OVERHEAD = Target(bound=80, unit=" ms")


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds of wall time."""

    open_ms: float
    """Making the sandbox and trying to break out of it."""
    plain_ms: list[float]
    sandbox_ms: list[float]
    overhead: Judged


def measure(*, rounds: int) -> Outcome:
    """Run the snippet `rounds` times each way."""
    return asyncio.run(_measure(rounds))


async def _measure(rounds: int) -> Outcome:
    started = time.perf_counter()
    sandbox = await open_sandbox()
    open_ms = (time.perf_counter() - started) * 1e3
    plain_ms: list[float] = []
    sandbox_ms: list[float] = []
    for _ in range(rounds):
        started = time.perf_counter()
        plain = await asyncio.create_subprocess_exec(sys.executable, "-I", "-S", "-c", _CODE, stdout=PIPE, env={})
        out, _ = await plain.communicate()
        plain_ms.append((time.perf_counter() - started) * 1e3)
        started = time.perf_counter()
        ran = await sandbox.run(_CODE)
        sandbox_ms.append((time.perf_counter() - started) * 1e3)
        if ran.stdout != out.decode():
            raise RuntimeError(f"the snippet did not print what it does outside: {ran!r}")
    overhead = judge(median(sandbox_ms) - median(plain_ms), _OVERHEAD)
    return Outcome(open_ms=open_ms, plain_ms=plain_ms, sandbox_ms=sandbox_ms, overhead=overhead)


def text(outcome: Outcome) -> str:
    """The outcome as a table of one row."""
    header = ("wall time, ms", "plain", "sandbox", "overhead", "target", "")
    cells = (_CODE, number(median(outcome.plain_ms)), number(median(outcome.sandbox_ms)), *outcome.overhead.cells())
    title = f"A snippet in a fresh process, medians of {len(outcome.plain_ms)}."
    opened = f"opening the sandbox, self-test included: {number(outcome.open_ms, 0, ' ms')}"
    return "\n".join((heading(title), table(header, [cells]), opened))
