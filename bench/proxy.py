"""What our server costs between a client and an HTTP service: processor time of an event, and the wait for the first.

The service is the mock server, on a core that it shares with the clients, which count events on raw sockets; what
stands between them has the other core to itself. LiteLLM's proxy is measured beside it where `--litellm` names its
program, which wants a virtual environment of its own.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from bench.gateway import CLIENTS, Connection, started
from bench.processes import open_lab
from bench.procfs import cpu_s, descendants
from bench.report import Judged, Target, heading, judge, number, progress, table
from bench.server import PACE_S

_BURST = 256
_BURSTS, _QUICK_BURSTS = 8, 1
_SPOKEN = 32
_TALK_S = PACE_S * (_SPOKEN + 3)  # from one call of a client to its next: a little more than one takes
_TALKS, _QUICK_TALKS = 8, 2
_COST = Target(bound=30, unit=" us")
_MEDIAN = Target(bound=1, unit=" ms")
_SLOWEST = Target(bound=5, unit=" ms")
_STARTS_S = 60.0
_WITHOUT_KEYS = {"LITELLM_LOG": "ERROR", "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true"}


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One way from client to service; medians of the rounds."""

    way: str
    event_us: Judged
    """Processor time of what stands between, for each event that passes."""
    per_s: float
    """Events a second."""
    first_p50_ms: Judged
    """From request to first event; of what stands between, over the direct way."""
    first_p99_ms: Judged


class _Sample(msgspec.Struct, frozen=True):
    event_us: float
    per_s: float
    p50_ms: float
    p99_ms: float


def measure(*, quick: bool, rounds: int, litellm: str | None) -> list[Row]:
    """Every way in turn, `rounds` times."""
    ways = ["direct", "asyncllm", *(["litellm"] if litellm else [])]
    taken: dict[str, list[_Sample]] = {way: [] for way in ways}
    with open_lab() as lab:
        for turn in range(rounds):
            progress(f"proxy: round {turn + 1} of {rounds}")
            for way in ways:
                taken[way].append(asyncio.run(_sample(way, lab.url, lab.environment, litellm, quick=quick)))
    direct = taken["direct"]
    return [_row(way, samples, None if way == "direct" else direct) for way, samples in taken.items()]


def text(rows: list[Row]) -> str:
    """The rows as a table."""
    return "\n".join(
        (
            heading(f"Between {CLIENTS} clients and an HTTP service: CPU of an event, and what the first one waits."),
            table(
                ("", "CPU/event us", "target", "", "events/s", "first p50 ms", "target", "", "p99 ms", "target", ""),
                [
                    (
                        row.way,
                        *row.event_us.cells(),
                        number(row.per_s),
                        *row.first_p50_ms.cells(),
                        *row.first_p99_ms.cells(),
                    )
                    for row in rows
                ],
            ),
            "The first line is what it takes without anything between; the times of the others come on top of it.",
        )
    )


def _row(way: str, samples: Sequence[_Sample], direct: Sequence[_Sample] | None) -> Row:
    base = direct or [_Sample(0, 0, 0, 0)]

    def median(field: str) -> float:
        return float(statistics.median(getattr(one, field) for one in samples))

    def added(field: str) -> float:
        return median(field) - float(statistics.median(getattr(one, field) for one in base))

    is_ours = way == "asyncllm"
    return Row(
        way=way,
        event_us=judge(None if direct is None else median("event_us"), _COST if is_ours else None),
        per_s=median("per_s"),
        first_p50_ms=judge(added("p50_ms"), _MEDIAN if is_ours else None),
        first_p99_ms=judge(added("p99_ms"), _SLOWEST if is_ours else None),
    )


async def _sample(way: str, url: str, environment: dict[str, str], litellm: str | None, *, quick: bool) -> _Sample:
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[0]})
    try:
        async with _between(way, f"{url}/burst/{_BURST}/v1", environment, litellm, cores[-1]) as (port, path, pid):
            await _bursts(port, path, 1)
            before, began = _cpu_s(pid), time.perf_counter()
            calls = _QUICK_BURSTS if quick else _BURSTS
            await _bursts(port, path, calls)
            took_s, cpu = time.perf_counter() - began, _cpu_s(pid) - before
            events = CLIENTS * calls * _BURST
        async with _between(way, f"{url}/eager/{_SPOKEN}/v1", environment, litellm, cores[-1]) as (port, path, _):
            await _talks(port, path, 1)
            firsts = sorted(await _talks(port, path, _QUICK_TALKS if quick else _TALKS))
    finally:
        os.sched_setaffinity(0, set(cores))
    return _Sample(
        cpu / events * 1e6,
        events / took_s,
        statistics.median(firsts) * 1e3,
        firsts[int(len(firsts) * 0.99)] * 1e3,
    )


async def _bursts(port: int, path: str, calls: int) -> None:
    async def own() -> None:
        async with Connection.open(port) as connection:
            for _ in range(calls):
                await connection.ask(path, "word", _BURST)

    await asyncio.gather(*(own() for _ in range(CLIENTS)))


async def _talks(port: int, path: str, calls: int) -> list[float]:
    """Seconds to each first event, of callers that come one after the other at even distances, as many as are open."""
    began = time.perf_counter()

    async def own(client: int) -> list[float]:
        firsts: list[float] = []
        async with Connection.open(port) as connection:
            for call in range(calls):
                due = began + (call + client / CLIENTS) * _TALK_S
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                firsts.append(await connection.ask(path, "word", _SPOKEN))
        return firsts

    return [first for firsts in await asyncio.gather(*map(own, range(CLIENTS))) for first in firsts]


def _cpu_s(pid: int | None) -> float:
    return 0.0 if pid is None else cpu_s(pid) + sum(map(cpu_s, descendants(pid)))


@asynccontextmanager
async def _between(
    way: str, upstream: str, environment: dict[str, str], litellm: str | None, core: int
) -> AsyncGenerator[tuple[int, str, int | None]]:
    """Port and path to ask, and the process that stands between."""
    if way == "direct":
        host, _, path = upstream.removeprefix("http://").partition("/")
        yield int(host.rpartition(":")[2]), f"/{path}/chat/completions", None
        return
    if way == "asyncllm":
        command = [sys.executable, "-m", "bench.gateway", "asyncllm", str(core), upstream]
        async with started(command, environment) as (process, port):
            yield port, "/v1/chat/completions", process.pid
        return
    assert litellm is not None  # or else there is no such way
    async with _litellm(litellm, upstream, environment, core) as (port, pid):
        yield port, "/v1/chat/completions", pid


@asynccontextmanager
async def _litellm(
    program: str, upstream: str, environment: dict[str, str], core: int
) -> AsyncGenerator[tuple[int, int]]:
    """LiteLLM's proxy as its documentation starts it, with one worker."""
    import socket

    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
        free.close()
        config = Path(folder) / "config.yaml"
        place = {"model": "openai/word", "api_base": upstream, "api_key": "k"}
        config.write_bytes(msgspec.json.encode({"model_list": [{"model_name": "word", "litellm_params": place}]}))
        command = ["taskset", "-c", str(core), program, "--config", str(config), "--host", "127.0.0.1"]
        process = await asyncio.create_subprocess_exec(
            *command, "--port", str(port), env=environment | _WITHOUT_KEYS,
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            async with asyncio.timeout(_STARTS_S):
                while True:
                    try:
                        _, writer = await asyncio.open_connection("127.0.0.1", port)
                    except OSError:
                        await asyncio.sleep(0.2)
                    else:
                        writer.close()
                        break
            yield port, process.pid
        finally:
            process.kill()
            await process.wait()
