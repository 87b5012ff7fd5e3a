"""How long vLLM in the process takes to start, and what is left of it when it ends or is ended.

`python -m bench.lifecycle first` says one token and waits to be told to end, as `bench.naked` does without asyncllm;
`... cycles` starts and stops in one process and counts what stays.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

import asyncllm
from asyncllm_vllm.machine import is_for_processors
from bench import procfs
from bench.report import Judged, Target, judge, number, progress, table
from bench.ways import child

_WITHIN = Target(bound=1.1)
_NONE = Target(bound=0, unit="")
_GONE_S = 3
_LOOK_S = 0.02


class Started(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds from the start of a process to its first token, in fresh processes that take turns."""

    ours_s: list[float]
    naked_s: list[float]
    ratio: Judged


class Left(msgspec.Struct, frozen=True, kw_only=True):
    """What a process has to show for itself."""

    processes: int
    threads: int
    files: int


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """What is left: more than after the first of the starts and stops, and of engines whose parent was killed."""

    times: int
    processes: Judged
    threads: Judged
    files: Judged
    orphans: Judged
    took_s: float


def starts(model: str, options: Mapping[str, Any], *, times: int) -> Started:
    """Start in both ways, each `times` times after one that is not counted."""
    given = json.dumps([model, dict(options), is_for_processors()])
    ways = {name: [sys.executable, "-m", *arguments, given] for name, arguments in _STARTS.items()}
    seen: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(times + 1):
        progress(f"starts, {turn} of {times}")
        for name in ways if turn % 2 else reversed(ways):
            began = time.perf_counter()
            with child(ways[name]) as process:
                assert process.stdout is not None
                if not process.stdout.readline():
                    raise RuntimeError(f"{name} did not start; its error stands above")
                seen[name].append(time.perf_counter() - began)
    ours_s, naked_s = seen["asyncllm"][1:], seen["naked"][1:]
    ratio = statistics.median(ours_s) / statistics.median(naked_s)
    return Started(ours_s=ours_s, naked_s=naked_s, ratio=judge(ratio, _WITHIN))


_STARTS = {"asyncllm": ("bench.lifecycle", "first"), "naked": ("bench.naked",)}


def ends(model: str, options: Mapping[str, Any], *, times: int) -> Ended:
    """Start and stop `times` times in one process, and kill `times` processes with an engine; some minutes."""
    given = json.dumps([model, dict(options), is_for_processors()])
    began = time.perf_counter()
    with child([sys.executable, "-m", "bench.lifecycle", "cycles", given, str(times)]) as process:
        assert process.stdout is not None
        first, last = (msgspec.json.decode(process.stdout.readline(), type=Left) for _ in range(2))
    orphans = 0
    for turn in range(times):
        progress(f"kill {turn + 1} of {times}")
        orphans += _orphans([sys.executable, "-m", "bench.lifecycle", "first", given])
    return Ended(
        times=times,
        processes=judge(last.processes, _NONE),
        threads=judge(last.threads - first.threads, _NONE),
        files=judge(last.files - first.files, _NONE),
        orphans=judge(orphans, _NONE),
        took_s=time.perf_counter() - began,
    )


def _orphans(command: Sequence[str]) -> int:
    """Engines that go on after their parent was killed."""
    with child(command) as process:
        assert process.stdout is not None
        if not process.stdout.readline():
            raise RuntimeError("asyncllm did not start; its error stands above")
        engines = procfs.descendants(process.pid)
        if not engines:
            raise RuntimeError("there is no engine to be left over")
        process.send_signal(signal.SIGKILL)
        process.wait()
        due = time.monotonic() + _GONE_S
        while any(map(procfs.is_running, engines)) and time.monotonic() < due:
            time.sleep(_LOOK_S)
        left = [pid for pid in engines if procfs.is_running(pid)]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        return len(left)


async def _first(model: str, options: Mapping[str, Any]) -> None:
    async with asyncllm.Client(model=f"vllm:{model}", options=options) as client:
        async for _ in client.stream_text("Hello", max_tokens=1):
            pass
        print(flush=True)
        await asyncio.to_thread(sys.stdin.readline)


async def _cycles(model: str, options: Mapping[str, Any], times: int) -> None:
    """Print what there is after the first start and stop, and after the last."""
    for turn in range(times):
        progress(f"start and stop {turn + 1} of {times}")
        async with asyncllm.Client(model=f"vllm:{model}", options=options) as client:
            await client.chat("Hello", max_tokens=4)
        if turn in (0, times - 1):
            gc.collect()
            pid = os.getpid()
            left = Left(processes=len(procfs.descendants(pid)), threads=procfs.threads(pid), files=procfs.files(pid))
            print(msgspec.json.encode(left).decode(), flush=True)


def starts_text(started: Started) -> str:
    """The starts as a table."""
    figures = [number(statistics.median(times)) for times in (started.naked_s, started.ours_s)]
    return "\n".join(
        (
            "From the start of a process to its first token, tiny model, s",
            table(("", "naked", "asyncllm", "ratio", "target", ""), [("median", *figures, *started.ratio.cells())]),
            f"each: naked {_list(started.naked_s)}; asyncllm {_list(started.ours_s)}",
        )
    )


def ends_text(ended: Ended) -> str:
    """What is left as a table."""
    rows = [
        (f"{name} after {ended.times} starts and stops", *judged.cells())
        for name, judged in (("processes", ended.processes), ("threads", ended.threads), ("files", ended.files))
    ]
    rows.append((f"engines after {ended.times} parents were killed", *ended.orphans.cells()))
    header = ("What is left", "more", "target", "")
    return f"{table(header, rows)}\ntook {number(ended.took_s, 0)} s"


def _list(times_s: Sequence[float]) -> str:
    return ", ".join(number(time_s) for time_s in times_s)


if __name__ == "__main__":
    _model, _options, _ = json.loads(sys.argv[2])
    asyncio.run(_first(_model, _options) if sys.argv[1] == "first" else _cycles(_model, _options, int(sys.argv[3])))
