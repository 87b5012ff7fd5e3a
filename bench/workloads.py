"""What is asked of a peer, and what is counted while it answers. Runs inside the measured process.

Every workload warms the peer up first (imports, caches, connections), counts only what follows, and checks that the
peer saw every event and character the server sent: a client that drops some must not look fast.
"""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Literal

import msgspec

from bench import wire
from bench.peers import Peer

Manner = Literal["plain", "burst", "coalesced", "paced", "lockstep", "hold", "slow"]

_WATCH_S = 0.05  # how often a watched counter is read: twenty cheap wake-ups a second


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """A load on one peer. The server plays the part named by `manner`."""

    manner: Manner
    in_flight: int
    """Calls open at the same time."""
    calls: int
    """Calls made after the warm-up, over all tasks."""
    tokens: int
    """Tokens in a reply, which is content events in a stream."""

    @property
    def path(self) -> str:
        """Where the server plays this part, up to and including `/v1`."""
        return f"/{self.manner}/{self.tokens}/v1"


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """What one child process saw. Process CPU: user and system, all threads, after the warm-up."""

    units: int
    """Plain calls, content events or open streams: whatever the workload counts."""
    cpu_s: float
    wall_s: float
    queued_s: float = 0
    """Time it was ready to run while its core was with another process: how much the machine was shared."""
    rss_bytes: int = 0
    """Growth of the resident set while the streams were open; only `hold` measures it."""


class _Meter:
    """CPU, wall and memory since it was made."""

    def __init__(self) -> None:
        gc.collect()
        self._rss = _rss_bytes()
        self._queued = _queued_s()
        self._wall = time.perf_counter()
        self._cpu = time.process_time()

    def read(self, units: int) -> Sample:
        cpu_s = time.process_time() - self._cpu
        wall_s = time.perf_counter() - self._wall
        queued_s = _queued_s() - self._queued
        rss_bytes = _rss_bytes() - self._rss
        return Sample(units=units, cpu_s=cpu_s, wall_s=wall_s, queued_s=queued_s, rss_bytes=rss_bytes)


def _rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _queued_s() -> float:
    """The main thread's time in the run queue, which is where a client's event loop is."""
    path = Path("/proc/self/schedstat")
    return int(path.read_bytes().split()[1]) / 1e9 if path.exists() else 0.0


async def _spread(call: Callable[[], Awaitable[None]], calls: int, in_flight: int) -> None:
    """Make `calls` calls from `in_flight` tasks, each starting its next as soon as its last is over."""

    async def work(share: int) -> None:
        for _ in range(share):
            await call()

    async with asyncio.TaskGroup() as tasks:
        for index in range(in_flight):
            tasks.create_task(work(calls // in_flight + (index < calls % in_flight)))


async def _until(peer: Peer, events: int) -> None:
    while peer.seen[0] < events:  # noqa: ASYNC110 - an asyncio.Event would cost the measured path a call per event
        await asyncio.sleep(_WATCH_S)


def _check(peer: Peer, load: Workload, calls: int, *, streamed: bool) -> None:
    expected_events = calls * load.tokens if streamed else 0
    expected_chars = calls * wire.reply_chars(load.tokens)
    if (peer.seen[0], peer.chars) != (expected_events, expected_chars):
        raise RuntimeError(
            f"wrong result: saw {peer.seen[0]} events and {peer.chars} characters of "
            f"{expected_events} and {expected_chars}"
        )


async def _plain(peer: Peer, load: Workload) -> Sample:
    warm_up = load.in_flight * 8
    await _spread(peer.chat, warm_up, load.in_flight)
    meter = _Meter()
    await _spread(peer.chat, load.calls, load.in_flight)
    sample = meter.read(load.calls)
    _check(peer, load, warm_up + load.calls, streamed=False)
    return sample


async def _streams(peer: Peer, load: Workload) -> Sample:
    await _spread(peer.stream, load.in_flight, load.in_flight)
    meter = _Meter()
    await _spread(peer.stream, load.calls, load.in_flight)
    sample = meter.read(load.calls * load.tokens)
    _check(peer, load, load.in_flight + load.calls, streamed=True)
    return sample


async def _paced(peer: Peer, load: Workload) -> Sample:
    """The steady state only: from a tenth of the events to nine tenths, with all streams open throughout."""
    total = load.calls * load.tokens
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_spread(peer.stream, load.calls, load.in_flight))
        await _until(peer, total // 10)
        meter, before = _Meter(), peer.seen[0]
        await _until(peer, total * 9 // 10)
        sample = meter.read(peer.seen[0] - before)
    _check(peer, load, load.calls, streamed=True)
    return sample


async def _fan_out(peer: Peer, load: Workload) -> Sample:
    await peer.chat()
    gc.collect()  # a full collection costs as much as a hundred calls: each peer has as long to its next one
    meter = _Meter()
    await _spread(peer.chat, load.calls, load.in_flight)
    sample = meter.read(load.calls)
    _check(peer, load, load.calls + 1, streamed=False)
    return sample


@asynccontextmanager
async def _held_open(peer: Peer, load: Workload, streams: int) -> AsyncGenerator[None]:
    """Keep `streams` streams open for the length of the block, each past its opening events and waiting for more."""
    seen = peer.seen[0]
    async with asyncio.TaskGroup() as tasks:
        readers = [tasks.create_task(peer.stream()) for _ in range(streams)]
        await _until(peer, seen + streams * load.tokens)
        yield
        for reader in readers:
            reader.cancel()


async def _hold(peer: Peer, load: Workload) -> Sample:
    """Growth of the resident set per open stream.

    The streams of the warm-up stay open and count among `load.calls`: no memory of theirs is reused, and a peer with a
    limit of as many connections is not asked for more.
    """
    warm_up = load.calls // 20
    async with _held_open(peer, load, warm_up):
        meter = _Meter()
        async with _held_open(peer, load, load.calls - warm_up):
            gc.collect()  # what a stream holds, not what the collector has yet to find
            return meter.read(load.calls - warm_up)


_RUNS: dict[Manner, Callable[[Peer, Workload], Awaitable[Sample]]] = {
    "plain": _plain,
    "burst": _streams,
    "coalesced": _streams,
    "paced": _paced,
    "lockstep": _streams,
    "hold": _hold,
    "slow": _fan_out,
}


async def run(client: AbstractAsyncContextManager[Peer], load: Workload) -> Sample:
    """Put `load` on a fresh client and report what it cost."""
    async with client as peer:
        return await _RUNS[load.manner](peer, load)
